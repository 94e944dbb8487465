"""Byte pairs, the subwords of DNABERT-2 and of language models, as a control: boundaries where their tokens begin.

Tokens are learned by ``tokenizers``. They are no setting of the model: they cost a trip to Python strings in every
forward pass. So a benchmark puts them in the place of a chunker for a while (``in_place_of_minimizer``).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from tokenizers import Tokenizer, models, trainers
from torch import nn

from hnet_ntv2 import hierarchy
from hnet_ntv2.chunkers import FixedChunker, build_chunker
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.levels import Level
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2Model
from hnet_ntv2.shapes import Float, Int, Tensor
from hnet_ntv2.vocabulary import FIRST_BASE

# Merges behind the boundaries of stage 1 and of stage 2. On human DNA their tokens have 3.5 and 5.7 bases, so that
# there are as many as peaks make chunks.
NUM_MERGES = (256, 8192)
_LONGEST = 12  # bases, the cap of the default model: it would cut longer tokens

_LETTERS = np.full(256, ord(" "), np.uint8)
_LETTERS[FIRST_BASE : FIRST_BASE + 4] = np.frombuffer(b"ACGT", np.uint8)


class BytePairs(NamedTuple):
    """Tokenizers of the stages, outermost first.

    The outer ones have the first of the inner one's merges. So every token of an inner stage begins where one of the
    outer stage begins.
    """

    tokenizers: tuple[Tokenizer, ...]

    def depth(self, input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        """For how many stages, counted from the outermost, a token begins at each base; 0 at what is no base.

        Each run of bases between masks (or N) is a text of its own.
        """
        found = np.zeros(input_ids.shape, np.float32)
        for row, letters in enumerate(_LETTERS[input_ids.cpu().numpy()]):
            text = letters.tobytes().decode()
            runs, starts = text.split(), np.flatnonzero((letters != 32) & (np.append(32, letters[:-1]) == 32))
            for tokenizer in self.tokenizers:
                for start, tokens in zip(starts, tokenizer.encode_batch(runs), strict=True):
                    found[row, [start + begin for begin, _ in tokens.offsets]] += 1
        return torch.from_numpy(found).to(input_ids.device)


def learn(rows: Int[Tensor, "rows length"], num_merges: Sequence[int] = NUM_MERGES) -> BytePairs:
    """Byte pairs of sequence without masks.

    Args:
        rows: Character ids.
        num_merges: Of each stage, outermost first.
    """
    text = [run for letters in _LETTERS[rows.cpu().numpy()] for run in letters.tobytes().decode().split()]
    alphabet = list("ACGT")
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + max(num_merges),
        initial_alphabet=alphabet,
        max_token_length=_LONGEST,
        show_progress=False,
    )
    whole = Tokenizer(models.BPE())
    whole.train_from_iterator(text, trainer)
    merges = [tuple(pair) for pair in json.loads(whole.to_str())["model"]["merges"]]
    return BytePairs(tuple(_tokenizer(alphabet, merges[:count]) for count in num_merges))


def _tokenizer(alphabet: Sequence[str], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    tokens = dict.fromkeys([*alphabet, *(left + right for left, right in merges)])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))


class TokenStarts(FixedChunker):
    """Boundaries where a token of this stage or an inner one begins, but none beside a forced one, as with peaks."""

    def __init__(self, inner: FixedChunker, stage: int):
        super().__init__(inner.limits, inner.target)
        self.stage = stage

    def wanted(self, level: Level) -> Tensor:
        assert level.score is not None  # ``BytePairs.depth``
        is_near = nn.functional.max_pool1d(level.is_forced_on.float()[:, None], 3, 1, padding=1)[:, 0] > 0
        return (level.score > self.stage) & ~is_near


@contextmanager
def in_place_of_minimizer(pairs: BytePairs) -> Iterator[None]:
    """Within it, models that are made with ``chunker="minimizer"`` cut at tokens. Outside their files mean a hash."""

    def build(config: HNetNTV2Config, stage: int, dim: int) -> nn.Module:
        chunker = build_chunker(config, stage, dim)
        return TokenStarts(chunker, stage) if isinstance(chunker, FixedChunker) else chunker

    with (
        patch.object(hierarchy, "build_chunker", build),
        patch.object(HNetNTV2Model, "_boundary_score", lambda _, input_ids: pairs.depth(input_ids)),
    ):
        yield

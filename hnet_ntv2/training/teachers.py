"""The teacher from the source model: its hidden states a few layers in.

Its weights are no part of the student: its parameters, optimizer and checkpoints do not know them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ..conversion.graft import sha256_of
from ..conversion.ledger import LEDGER_FILE, Ledger
from ..conversion.source import open_source
from ..errors import ConfigError
from ..kmers import grid_cells, source_token_ids
from ..levels import final_boundaries
from ..modeling_ntv2 import NTv2ForMaskedLM
from ..outputs import HNetNTV2MaskedLMOutput
from ..shapes import Bool, Float, Int, Tensor
from ..vocabulary import SOURCE_CLS, SOURCE_PAD
from .settings import WarmStartSettings

_EMBEDDING = "esm.embeddings.word_embeddings.weight"

Batch = Mapping[str, Tensor]


class SourceTokens(NamedTuple):
    """A batch as the source's tokens, without ``<cls>``, right-padded. All fields are [batch, tokens].

    Attributes:
        ids: Token ids.
        is_valid: False at padding.
        first: First base of each token.
        end: The base after its last one.
        is_whole: It is a whole k-mer (or the ``<mask>`` of one).
    """

    ids: Int[Tensor, "batch tokens"]
    is_valid: Bool[Tensor, "batch tokens"]
    first: Int[Tensor, "batch tokens"]
    end: Int[Tensor, "batch tokens"]
    is_whole: Bool[Tensor, "batch tokens"]


def cut_tokens(input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"], k: int) -> SourceTokens:
    """Cut rows as the source's own tokenizer does."""
    cells = grid_cells(input_ids, is_valid, k)
    longest = max(int(cells.is_start.sum(1).max()), 1)  # at least one column, for a batch without bases
    # A stable sort of "is no start" puts the starts first, in order.
    first = (~cells.is_start).to(torch.int8).argsort(dim=1, stable=True)[:, :longest]
    has_token = cells.is_start.gather(1, first)
    ids = source_token_ids(input_ids, is_valid, k).gather(1, first)
    is_whole = cells.is_whole.gather(1, first) & has_token
    end = first + torch.where(is_whole, k, 1)
    return SourceTokens(ids.masked_fill(~has_token, SOURCE_PAD), has_token, first, end, is_whole)


class HiddenStateTeacher:
    """Loss that pulls the trunk's states towards the source's, where a chunk is exactly one of the source's tokens.

    The idea is Bolmo's (Ai2, 2025): new inputs are learned fastest when they must reproduce what the old ones made of
    the first layers. The loss is ``mean |student - source|^2 / mean |source|^2`` over the chunks that begin and end
    where a token does.

    Args:
        source: The source with all its layers; set to evaluation mode, never trained.
        k: Length of its k-mers.
        layer: Trunk blocks before the comparison, at least 1.
        kept: Source blocks in the trunk, in order.
    """

    def __init__(self, source: NTv2ForMaskedLM, k: int, layer: int, kept: tuple[int, ...]):
        if not 1 <= layer <= len(kept):
            raise ConfigError(f"warm_start.teacher_layer={layer}: the trunk has layers 1..{len(kept)}")
        self.source = source.eval().requires_grad_(False)
        self.k = k
        self.layer = layer
        self.source_state = kept[layer - 1] + 1  # state 0 is the embedding

    def loss(self, output: HNetNTV2MaskedLMOutput, batch: Batch) -> Float[Tensor, ""]:
        """The relative squared error of one micro-batch; 0 where no chunk is a token."""
        assert output.stages is not None
        assert output.hidden_states is not None
        tokens, source_states = self._read(batch)
        chunk_of_token, is_same = tokens_that_are_chunks(final_boundaries(output.stages), tokens)
        states = output.hidden_states[f"trunk_{self.layer}"]
        chunk = (1 + chunk_of_token).masked_fill(~is_same, 0)  # position 0 of the trunk is <cls>
        student = states.gather(1, chunk[..., None].expand(-1, -1, states.shape[-1]))[is_same].float()
        source = source_states[is_same].float()
        # clamp: where no chunk is a token both sums are 0
        return (student - source).square().sum() / source.square().sum().clamp(min=1e-12)

    @torch.no_grad()
    def _read(self, batch: Batch) -> tuple[SourceTokens, Float[Tensor, "batch tokens dim"]]:
        """The source's tokens of a batch's masked input, and its states there, both without ``<cls>``."""
        input_ids = batch["input_ids"]
        if self.source.device != input_ids.device:  # Lightning does not move it: it is no part of the module
            torch.nn.Module.to(self.source, input_ids.device)
        mask = batch.get("attention_mask", torch.ones_like(input_ids))  # windows of the data module have no padding
        tokens = cut_tokens(input_ids, mask.bool(), self.k)
        front = tokens.ids.new_full((len(tokens.ids), 1), SOURCE_CLS)
        encoding = self.source.encode(
            torch.cat([front, tokens.ids], 1),
            torch.cat([torch.ones_like(front, dtype=torch.bool), tokens.is_valid], 1),
            output_hidden_states=True,
        )
        assert encoding.hidden_states is not None
        return tokens, encoding.hidden_states[self.source_state][:, 1:]


def tokens_that_are_chunks(
    is_boundary: Bool[Tensor, "batch length"], tokens: SourceTokens
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """For each token the chunk that holds its first base, and whether that chunk is exactly the token.

    Args:
        is_boundary: A final chunk begins at the base.
        tokens: The source's tokens of the same rows.
    """
    length = is_boundary.shape[1]
    # A boundary past the row's end: the last token ends there.
    started = torch.nn.functional.pad(is_boundary.long().cumsum(1), (1, 1))
    started[:, -1] = started[:, -2] + 1
    row_end = tokens.end.masked_fill(~tokens.is_valid, 0).amax(1, keepdim=True)
    chunk = started.gather(1, tokens.first + 1) - 1
    begins = is_boundary.gather(1, tokens.first)
    holds_one = started.gather(1, tokens.end) - started.gather(1, tokens.first) == 1
    next_begins = is_boundary.gather(1, tokens.end.clamp(max=length - 1)) | (tokens.end >= row_end)
    return chunk, begins & holds_one & next_begins & tokens.is_valid


def load_teacher(warm: WarmStartSettings, init: Path, kmer_size: int) -> HiddenStateTeacher:
    """Open the source model and make its teacher.

    Args:
        warm: Names the source, and the layer to compare at.
        init: Folder of the grafted model, with its ledger.
        kmer_size: Of the student.

    Raises:
        ConfigError: The student was not grafted from this source.
        WeightsError: The source cannot be read.
    """
    path = init / LEDGER_FILE
    if not path.is_file():
        raise ConfigError(
            f"a teacher needs a grafted model: {init} holds no {LEDGER_FILE}; make one with `hnet-ntv2 init`"
        )
    ledger = Ledger.from_file(path)
    described = ledger.source or {"name": "no source", "revision": None}
    name, revision = str(warm.teacher), warm.teacher_revision
    # A Hub name can move on: without a revision it means the commit of the graft.
    if revision is None and name == described["name"] and not Path(name).expanduser().is_dir():
        revision = described["revision"]
    opened = open_source(name, revision)
    digests = {entry.name: entry.sha256 for entry in ledger.source_tensors}
    # One tensor tells sources apart; hashing all would read gigabytes.
    if digests.get(_EMBEDDING) != sha256_of(opened.get(_EMBEDDING)):
        raise ConfigError(f"warm_start.teacher={name} is not what {init} was grafted from ({described['name']})")
    assert ledger.layers is not None
    source = NTv2ForMaskedLM.from_pretrained(opened.stored[_EMBEDDING].path.parent)
    return HiddenStateTeacher(source, kmer_size, warm.teacher_layer, tuple(ledger.layers["kept"]))

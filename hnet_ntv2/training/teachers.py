"""Two teachers from the source model: its hidden states a few layers in, and the marginals of all its layers.

A teacher's weights are no part of the student: its parameters, optimizer and checkpoints do not know them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..conversion.graft import sha256_of
from ..conversion.ledger import LEDGER_FILE, Ledger
from ..conversion.source import open_source
from ..errors import ConfigError
from ..kmers import grid_cells, kmer_marginals, source_token_ids
from ..levels import final_boundaries
from ..modeling_ntv2 import NTv2ForMaskedLM
from ..outputs import HNetNTV2MaskedLMOutput
from ..shapes import Bool, Float, Int, Tensor
from ..vocabulary import BASE_IDS, MASK_ID, SOURCE_CLS, SOURCE_PAD

_EMBEDDING = "esm.embeddings.word_embeddings.weight"

Batch = Mapping[str, Tensor]


class Teacher(ABC):
    """A further term of the loss."""

    needs_hidden_states = False

    @abstractmethod
    def loss(self, output: HNetNTV2MaskedLMOutput, batch: Batch) -> Float[Tensor, ""]:
        """What the student is off, for one micro-batch: a mean, so that micro-batches weigh alike."""


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
    longest = max(int(cells.is_start.sum(1).max()), 1)
    first = (~cells.is_start).to(torch.int8).argsort(dim=1, stable=True)[:, :longest]
    has_token = cells.is_start.gather(1, first)
    ids = source_token_ids(input_ids, is_valid, k).gather(1, first)
    is_whole = cells.is_whole.gather(1, first) & has_token
    end = first + torch.where(is_whole, k, 1)
    return SourceTokens(ids.masked_fill(~has_token, SOURCE_PAD), has_token, first, end, is_whole)


class SourceReading(NamedTuple):
    """What the source makes of a batch; states and vectors without ``<cls>``.

    Attributes:
        tokens: Its tokens.
        states: Token vectors, then the output of every block, each [batch, tokens, dim].
        last: After the final norm, [batch, tokens, dim].
    """

    tokens: SourceTokens
    states: tuple[Float[Tensor, "batch tokens dim"], ...]
    last: Float[Tensor, "batch tokens dim"]


class SourceReader:
    """Runs the source on a batch, once for all teachers that ask.

    Args:
        model: The source with all its layers; set to evaluation mode, never trained.
        k: Length of its k-mers.
    """

    def __init__(self, model: NTv2ForMaskedLM, k: int):
        self.model = model.eval().requires_grad_(False)
        self.k = k
        self._last: tuple[Tensor, SourceReading] | None = None

    @torch.no_grad()
    def read(self, batch: Batch) -> SourceReading:
        """The source's states for the masked input of a batch."""
        input_ids = batch["input_ids"]
        if self._last is not None and self._last[0] is input_ids:
            return self._last[1]
        if self.model.device != input_ids.device:
            torch.nn.Module.to(self.model, input_ids.device)
        tokens = cut_tokens(input_ids, _is_valid(batch), self.k)
        front = tokens.ids.new_full((len(tokens.ids), 1), SOURCE_CLS)
        encoding = self.model.encode(
            torch.cat([front, tokens.ids], 1),
            torch.cat([torch.ones_like(front, dtype=torch.bool), tokens.is_valid], 1),
            output_hidden_states=True,
        )
        assert encoding.hidden_states is not None
        states = tuple(state[:, 1:] for state in encoding.hidden_states)
        reading = SourceReading(tokens, states, encoding.last_hidden_state[:, 1:])
        self._last = (input_ids, reading)
        return reading


class HiddenStateTeacher(Teacher):
    """The trunk's state a few layers in is to be the source's, wherever a chunk is one of the source's tokens.

    The idea is Bolmo's (Ai2, 2025): new inputs are learned fastest when they must reproduce what the old ones made of
    the first layers. The loss is ``mean |student - source|^2 / mean |source|^2`` over the chunks that begin and end
    where a token does.

    Args:
        reader: The source.
        layer: Trunk blocks before the comparison, at least 1.
        kept: Source blocks in the trunk, in order.
    """

    needs_hidden_states = True

    def __init__(self, reader: SourceReader, layer: int, kept: tuple[int, ...]):
        if not 1 <= layer <= len(kept):
            raise ConfigError(f"warm_start.teacher_layer={layer}: the trunk has layers 1..{len(kept)}")
        self.reader = reader
        self.layer = layer
        self.source_state = kept[layer - 1] + 1

    def loss(self, output: HNetNTV2MaskedLMOutput, batch: Batch) -> Float[Tensor, ""]:
        """The relative squared error; 0 where no chunk is a token."""
        assert output.stages is not None
        assert output.hidden_states is not None
        reading = self.reader.read(batch)
        chunk_of_token, is_same = tokens_that_are_chunks(final_boundaries(output.stages), reading.tokens)
        states = output.hidden_states[f"trunk_{self.layer}"]
        chunk = (1 + chunk_of_token).masked_fill(~is_same, 0)
        student = states.gather(1, chunk[..., None].expand(-1, -1, states.shape[-1]))[is_same].float()
        source = reading.states[self.source_state][is_same].float()
        return (student - source).square().sum() / source.square().sum().clamp(min=1e-12)


def tokens_that_are_chunks(
    is_boundary: Bool[Tensor, "batch length"], tokens: SourceTokens
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """For each token the chunk that holds its first base, and whether that chunk is exactly the token.

    Args:
        is_boundary: A final chunk begins at the base.
        tokens: The source's tokens of the same rows.
    """
    length = is_boundary.shape[1]
    # Past the row's end a boundary counts as given.
    started = torch.nn.functional.pad(is_boundary.long().cumsum(1), (1, 1))
    started[:, -1] = started[:, -2] + 1
    row_end = tokens.end.masked_fill(~tokens.is_valid, 0).amax(1, keepdim=True)
    chunk = started.gather(1, tokens.first + 1) - 1
    begins = is_boundary.gather(1, tokens.first)
    holds_one = started.gather(1, tokens.end) - started.gather(1, tokens.first) == 1
    next_begins = is_boundary.gather(1, tokens.end.clamp(max=length - 1)) | (tokens.end >= row_end)
    return chunk, begins & holds_one & next_begins & tokens.is_valid


class MarginalsTeacher(Teacher):
    """The per-base distribution at masked bases is to be that of the full source, all of its layers.

    Compared are the bases of whole k-mers of which every base is shown as [MASK] and is a target: there both models
    know the same. The loss is the mean of KL(source || student) over these bases, in nats.

    Args:
        reader: The source.
    """

    def __init__(self, reader: SourceReader):
        self.reader = reader

    def loss(self, output: HNetNTV2MaskedLMOutput, batch: Batch) -> Float[Tensor, ""]:
        """Mean KL divergence per base; 0 where no whole token is masked."""
        assert output.logits is not None
        reading, k = self.reader.read(batch), self.reader.k
        is_hidden = (batch["input_ids"] == MASK_ID) & (batch["labels"] != -100)
        columns = reading.tokens.first[..., None] + torch.arange(k, device=is_hidden.device)
        inside = columns.clamp(max=is_hidden.shape[1] - 1)
        rows = torch.arange(len(is_hidden), device=is_hidden.device)[:, None, None].expand_as(inside)
        is_compared = reading.tokens.is_whole & is_hidden[rows, inside].all(-1)
        with torch.no_grad():
            source = kmer_marginals(self.reader.model.lm_head(reading.last[is_compared]), k)
        student = output.logits[rows[is_compared], inside[is_compared]][..., BASE_IDS[0] : BASE_IDS[-1] + 1].float()
        divergence = (source.exp() * (source - student.log_softmax(-1))).sum(-1)
        return divergence.sum() / max(divergence.numel(), 1)


def load_teachers(
    names: tuple[str, ...], source: str, revision: str | None, init: Path, config: HNetNTV2Config, layer: int
) -> dict[str, Teacher]:
    """Open the source model and make the teachers that are asked for.

    Args:
        names: "hidden_state", "marginals".
        source: Folder or Hub name of the source model.
        revision: Of a Hub name; None is the commit that the ledger names.
        init: Folder of the grafted model, with its ledger.
        config: Of the student.
        layer: For the hidden-state teacher.

    Raises:
        ConfigError: The student was not grafted from this source.
        WeightsError: The source cannot be read.
    """
    path = init / LEDGER_FILE
    if not path.is_file():
        raise ConfigError(
            f"teachers need a grafted model: {init} holds no {LEDGER_FILE}; make one with `hnet-ntv2 init`"
        )
    ledger = Ledger.from_file(path)
    described = ledger.source or {"name": "no source", "revision": None}
    grafted_from = described["name"]
    if revision is None and source == grafted_from and not Path(source).expanduser().is_dir():
        revision = described["revision"]
    opened = open_source(source, revision)
    digests = {entry.name: entry.sha256 for entry in ledger.source_tensors}
    if digests.get(_EMBEDDING) != sha256_of(opened.get(_EMBEDDING)):
        raise ConfigError(f"warm_start.teacher={source} is not what {init} was grafted from ({grafted_from})")
    assert ledger.layers is not None
    reader = SourceReader(NTv2ForMaskedLM.from_pretrained(opened.stored[_EMBEDDING].path.parent), config.kmer_size)
    kept = tuple(ledger.layers["kept"])
    makers = {
        "hidden_state": lambda: HiddenStateTeacher(reader, layer, kept),
        "marginals": lambda: MarginalsTeacher(reader),
    }
    return {name: makers[name]() for name in names}


def _is_valid(batch: Batch) -> Bool[Tensor, "batch length"]:
    if "attention_mask" in batch:
        return batch["attention_mask"].bool()
    return torch.ones_like(batch["input_ids"], dtype=torch.bool)

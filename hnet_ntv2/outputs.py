"""Typed outputs of the models."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import ClassVar

from transformers.utils.generic import ModelOutput

from .levels import Chunking, Level
from .shapes import Tensor


class HiddenStates(dict[str, Tensor]):
    """Inner states by name, outermost first, or by position as elsewhere: ``states["trunk_0"]``, ``states[-1]``."""

    def __missing__(self, key: str | int) -> Tensor:
        if isinstance(key, int):
            return list(self.values())[key]
        raise KeyError(f"{key!r} is no state; there are {', '.join(self)}")


class _Output(ModelOutput):
    """What the outputs below have in common: which fields other tools see.

    Trainer, pipelines and DataParallel iterate over an output's items and expect tensors whose first dimension is the
    batch. So the items are the loss, the results per row and the hidden states; all other fields have a name only.
    """

    names_only: ClassVar[tuple[str, ...]] = ()
    hidden_states: dict[str, Tensor] | None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names_only:
            if name in self.keys():
                OrderedDict.__delitem__(self, name)  # ModelOutput forbids ``del``
        if self.hidden_states is not None:  # FSDP and accelerate hand back a plain dict
            self.hidden_states = HiddenStates(self.hidden_states)

    def __getitem__(self, key):
        return getattr(self, key) if key in self.names_only else super().__getitem__(key)


@dataclass
class HNetNTV2ModelOutput(_Output):
    """Output of ``HNetNTV2Model``.

    Attributes:
        last_hidden_state: [batch, length, d_base] one vector per base; the mean over strands in the forward frame.
        hidden_states: Named states of the forward strand, from outside in and back, if asked for: ``embeddings`` and
            ``stage1_encoder`` per base, ``stage2_encoder`` per stage-1 chunk, ``trunk_0`` .. ``trunk_n`` per final
            chunk with ``<cls>`` in front (the last one before the final norm), ``stage2_decoder``, ``stage1_decoder``.
            ``hidden_states[-1]`` is ``stage1_decoder``, [batch, length, d_base].
        stages: Chunking of the forward strand, outermost stage first.
        reverse_stages: Chunking of the reverse-complement strand in that strand's own frame, if it was run.
        final_chunks: The final chunks of the forward strand behind the trunk's final norm.
    """

    names_only: ClassVar[tuple[str, ...]] = ("stages", "reverse_stages", "final_chunks")

    last_hidden_state: Tensor | None = None
    hidden_states: dict[str, Tensor] | None = None
    stages: tuple[Chunking, ...] | None = None
    reverse_stages: tuple[Chunking, ...] | None = None
    final_chunks: Level | None = None


@dataclass
class HNetNTV2MaskedLMOutput(_Output):
    """Output of ``HNetNTV2ForMaskedLM``; as a tuple (loss, logits, hidden_states), without what is None.

    Attributes:
        loss: ``task_loss + ratio_loss_weight x ratio_loss``, if labels were given.
        logits: [batch, length, vocab] float32; only the columns of A, C, G, T are not excluded.
        hidden_states: See ``HNetNTV2ModelOutput``.
        task_loss: Weighted cross-entropy in nats over A, C, G, T.
        ratio_loss: Sum over stages of the mean ratio loss per row; 1 per stage at its target. 0 for chunkers that hold
            their ratios by construction.
        ratio_losses: [stages] the addends of ``ratio_loss``.
        boundary_counts: [rows, stages, 2] boundaries and positions behind F of the ratio loss (``ratio_control``).
        stages: See ``HNetNTV2ModelOutput``.
        reverse_stages: See ``HNetNTV2ModelOutput``.
    """

    names_only: ClassVar[tuple[str, ...]] = (
        *("task_loss", "ratio_loss", "ratio_losses", "boundary_counts", "stages", "reverse_stages"),
    )

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: dict[str, Tensor] | None = None
    task_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    ratio_losses: Tensor | None = None
    boundary_counts: Tensor | None = None
    stages: tuple[Chunking, ...] | None = None
    reverse_stages: tuple[Chunking, ...] | None = None


@dataclass
class HNetNTV2ClassifierOutput(_Output):
    """Output of the classifiers; as a tuple (loss, logits, hidden_states), without what is None.

    Attributes:
        loss: Cross-entropy (or the loss of ``config.problem_type``), if labels were given.
        logits: [batch, num_labels] of sequences, [batch, length, num_labels] of bases; the mean over strands.
        hidden_states: See ``HNetNTV2ModelOutput``.
        stages: See ``HNetNTV2ModelOutput``.
        reverse_stages: See ``HNetNTV2ModelOutput``.
    """

    names_only: ClassVar[tuple[str, ...]] = ("stages", "reverse_stages")

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: dict[str, Tensor] | None = None
    stages: tuple[Chunking, ...] | None = None
    reverse_stages: tuple[Chunking, ...] | None = None

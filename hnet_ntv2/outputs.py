"""Typed outputs of the models."""

from dataclasses import dataclass

from transformers.utils.generic import ModelOutput

from .levels import Chunking, Level
from .shapes import Tensor


@dataclass
class HNetNTV2ModelOutput(ModelOutput):
    """Output of ``HNetNTV2Model``.

    Attributes:
        last_hidden_state: [batch, length, d_base] one vector per base; the mean over strands in the forward frame.
        hidden_states: Named states of the forward strand, from outside in and back, if asked for: ``embeddings`` and
            ``stage1_encoder`` per base, ``stage2_encoder`` per stage-1 chunk, ``trunk_0`` .. ``trunk_n`` per final
            chunk with ``<cls>`` in front (the last one before the final norm), ``stage2_decoder``, ``stage1_decoder``.
        stages: Chunking of the forward strand, outermost stage first.
        reverse_stages: Chunking of the reverse-complement strand in that strand's own frame, if it was run.
        final_chunks: The final chunks of the forward strand behind the trunk's final norm.
    """

    last_hidden_state: Tensor | None = None
    hidden_states: dict[str, Tensor] | None = None
    stages: tuple[Chunking, ...] | None = None
    reverse_stages: tuple[Chunking, ...] | None = None
    final_chunks: Level | None = None


@dataclass
class HNetNTV2MaskedLMOutput(ModelOutput):
    """Output of ``HNetNTV2ForMaskedLM``.

    Attributes:
        loss: ``task_loss + ratio_loss_weight x ratio_loss``, if labels were given.
        task_loss: Weighted cross-entropy in nats over A, C, G, T.
        ratio_loss: Sum over stages of the mean ratio loss per row; 1 per stage at its target.
        ratio_losses: [stages] the addends of ``ratio_loss``.
        logits: [batch, length, vocab] float32; only the columns of A, C, G, T are not excluded.
        hidden_states: See ``HNetNTV2ModelOutput``.
        stages: See ``HNetNTV2ModelOutput``.
        reverse_stages: See ``HNetNTV2ModelOutput``.
    """

    loss: Tensor | None = None
    task_loss: Tensor | None = None
    ratio_loss: Tensor | None = None
    ratio_losses: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: dict[str, Tensor] | None = None
    stages: tuple[Chunking, ...] | None = None
    reverse_stages: tuple[Chunking, ...] | None = None


@dataclass
class HNetNTV2ClassifierOutput(ModelOutput):
    """Output of ``HNetNTV2ForSequenceClassification``.

    Attributes:
        loss: Cross-entropy (or the loss of ``config.problem_type``), if labels were given.
        logits: [batch, num_labels], the mean over strands.
        hidden_states: See ``HNetNTV2ModelOutput``.
        stages: See ``HNetNTV2ModelOutput``.
        reverse_stages: See ``HNetNTV2ModelOutput``.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: dict[str, Tensor] | None = None
    stages: tuple[Chunking, ...] | None = None
    reverse_stages: tuple[Chunking, ...] | None = None

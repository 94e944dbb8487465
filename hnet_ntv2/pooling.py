"""One vector per row from one vector per position, and the classifier on top. Knows nothing of DNA."""

from typing import Literal

import torch
from torch import nn

from .errors import ConfigError, InputError
from .shapes import Bool, Float, Int, Shaped, Tensor

Pooling = Literal["mean", "max", "first", "bins"]
ClassifierPooling = Literal["mean", "max", "first", "bins", "attention", "convolution"]

# Channels of the convolutions: enough for the motifs of one task, and few beside a wide model's own weights.
_MOST_CHANNELS = 128


def pool(
    hidden: Float[Tensor, "batch length dim"],
    is_counted: Bool[Tensor, "batch length"],
    how: str,
    num_bins: int = 8,
) -> Float[Tensor, "batch pooled"]:
    """One vector per row from the vectors of its counted positions; NaN, without a gradient, for a row that has none.

    Args:
        hidden: Finite, also where nothing counts.
        is_counted: False at padding, special tokens and N.
        how: "mean"; "max" of each column; "first" counted position; "bins", the means of ``position_bins`` side by
            side. A bin without a counted position, as in rows shorter than ``num_bins``, gets the mean of its row.
        num_bins: Of "bins", whose vectors are ``num_bins`` times as wide.

    Raises:
        ConfigError: ``how`` is none of these.
    """
    mask = is_counted[..., None]
    if how == "max":
        pooled = hidden.masked_fill(~mask, -torch.inf).amax(1)
    elif how == "first":
        first = is_counted.long().argmax(1)
        pooled = hidden.gather(1, first[:, None, None].expand(-1, 1, hidden.shape[-1]))[:, 0]
    elif how in ("mean", "bins"):
        pooled = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
        if how == "bins":
            member = nn.functional.one_hot(position_bins(is_counted, num_bins), num_bins) * mask
            sums, counts = member.to(hidden.dtype).transpose(1, 2) @ hidden, member.sum(1)[..., None]
            pooled = torch.where(counts > 0, sums / counts.clamp(min=1), pooled[:, None]).flatten(1)
    else:
        raise ConfigError(f"pooling {how!r} is unknown; choose mean, max, first or bins")
    return pooled.masked_fill(~mask.any(1), torch.nan)


def position_bins(is_counted: Bool[Tensor, "batch length"], num_bins: int) -> Int[Tensor, "batch length"]:
    """The bin, 0 to ``num_bins`` - 1, of each position: equal parts from a row's first counted position to its last.

    So ``<cls>``, padding and N at either end move no bin, and N inside keeps its place.
    """
    index = torch.arange(is_counted.shape[1], device=is_counted.device)
    first = is_counted.long().argmax(1, keepdim=True)
    last = len(index) - 1 - is_counted.flip(1).long().argmax(1, keepdim=True)
    return ((index - first) * num_bins // (last - first + 1)).clamp(0, num_bins - 1)


class AttentionPooling(nn.Module):
    """A learned weighted mean of the counted positions: one query, a softmax over them; it starts as the plain mean."""

    def __init__(self, dim: int, layer_norm_eps: float):
        super().__init__()
        self.width = dim
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.importance = nn.Linear(dim, 1, bias=False)  # not "query", which adapters of LoRA go by
        self.importance.starts_at_zero = True  # pyright: ignore[reportArgumentType]  (a plain attribute)

    def forward(
        self, hidden: Float[Tensor, "batch length dim"], is_counted: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch dim"]:
        """Zeros for a row without a counted position."""
        scores = self.importance(self.norm(hidden))
        # The least finite number: a softmax over nothing but minus infinity has NaN as gradient.
        weights = scores.masked_fill(~is_counted[..., None], torch.finfo(scores.dtype).min).softmax(1)
        return (weights.to(hidden.dtype) * is_counted[..., None] * hidden).sum(1)


class ConvolutionPooling(nn.Module):
    """Two convolutions over positions, then their maximum over the row beside their means in ``num_bins`` parts of it.

    The maximum finds a motif anywhere, the parts tell where it lies.
    """

    def __init__(self, dim: int, num_bins: int, layer_norm_eps: float):
        super().__init__()
        channels = min(dim, _MOST_CHANNELS)
        self.num_bins = num_bins
        self.width = (1 + num_bins) * channels
        self.norm = nn.LayerNorm(dim, eps=layer_norm_eps)
        self.first = nn.Conv1d(dim, channels, 9, padding=4)
        self.second = nn.Conv1d(channels, channels, 5, padding=2)

    def forward(
        self, hidden: Float[Tensor, "batch length dim"], is_counted: Bool[Tensor, "batch length"]
    ) -> Float[Tensor, "batch pooled"]:
        """Zeros for a row without a counted position."""
        mask = is_counted[:, None]
        # Masked before each convolution, so that padding is the zeros that lie beyond an unpadded row's end.
        hidden = self.norm(hidden).transpose(1, 2) * mask
        hidden = nn.functional.gelu(self.first(hidden)) * mask
        hidden = nn.functional.gelu(self.second(hidden)).transpose(1, 2)
        pooled = torch.cat([pool(hidden, is_counted, "max"), pool(hidden, is_counted, "bins", self.num_bins)], 1)
        return pooled.masked_fill(~mask.any(-1), 0)


class SequenceClassifier(nn.Sequential):
    """Pooling, then a layer norm ("0" in the names of tensors) and a linear layer ("1").

    One module, so that adapters of PEFT train and save a learned pooling with the layers behind it.
    """

    def __init__(self, dim: int, num_labels: int, layer_norm_eps: float, how: str, num_bins: int):
        learned = None
        if how == "attention":
            learned = AttentionPooling(dim, layer_norm_eps)
        elif how == "convolution":
            learned = ConvolutionPooling(dim, num_bins, layer_norm_eps)
        width = learned.width if learned is not None else num_bins * dim if how == "bins" else dim
        super().__init__(nn.LayerNorm(width, eps=layer_norm_eps), nn.Linear(width, num_labels))
        self.how, self.num_bins = how, num_bins
        if learned is not None:
            self.pooling = learned

    def forward(
        self, hidden: Float[Tensor, "... dim"], is_counted: Bool[Tensor, "batch length"] | None = None
    ) -> Float[Tensor, "... labels"]:
        """Logits of rows.

        Args:
            hidden: A vector per position; per row, pooled already, where ``is_counted`` is left out.
            is_counted: See ``pool``.

        Raises:
            InputError: A row has no counted position.
        """
        if is_counted is not None:
            require_counted(is_counted)
            is_learned = self.how in ("attention", "convolution")
            hidden = (
                self.pooling(hidden, is_counted) if is_learned else pool(hidden, is_counted, self.how, self.num_bins)
            )
        return self[1](self[0](hidden))


def require_counted(is_counted: Bool[Tensor, "batch length"]) -> None:
    """Stop at a row that has nothing to classify.

    Raises:
        InputError: With the row's number in the batch.
    """
    is_empty = ~is_counted.any(1)
    if bool(is_empty.any()):
        row = int(is_empty.nonzero()[0, 0])
        raise InputError(f"row {row} holds no A, C, G or T, so that there is nothing to classify; leave it out")


def classification_loss(
    logits: Float[Tensor, "batch labels"], labels: Shaped[Tensor, "batch ..."], problem: str | None
) -> Float[Tensor, ""]:
    """Squared error, cross-entropy per label, or cross-entropy over classes, by ``config.problem_type``.

    Args:
        logits: float32.
        labels: Numbers, 0 and 1 per label, or class indices.
        problem: None for regression on one logit, and classes on several.
    """
    if problem == "multi_label_classification":
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    if problem == "regression" or (problem is None and logits.shape[-1] == 1):
        logits = logits.squeeze(-1)
        return nn.functional.mse_loss(logits, labels.float().reshape(logits.shape))
    return nn.functional.cross_entropy(logits, labels.long())

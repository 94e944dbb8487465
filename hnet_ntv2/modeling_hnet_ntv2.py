"""The Hugging Face classes: embeddings, hierarchy and heads from checked ids to losses and typed outputs.

They stay in one file, because a saved folder names it for each of them (``auto_map``).
"""

import logging
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .base_embeddings import BaseEmbeddings, base_level
from .chunkers import BranchingEntropy, hash_bases, hash_positions
from .chunking import Router
from .configuration_hnet_ntv2 import HNetNTV2Config
from .heads import Heads
from .hierarchy import ChunkStage, NetworkOutput, States, build_hierarchy
from .input_checks import check_input, check_labels, refuse_unknown_keywords
from .levels import Chunking, Level, final_chunk_of
from .outputs import HNetNTV2ClassifierOutput, HNetNTV2MaskedLMOutput, HNetNTV2ModelOutput
from .parameter_names import parameter_part
from .pooling import SequenceClassifier, classification_loss
from .pretrained_base import HNetNTV2PreTrainedModel, drop_former_buffer
from .ratio_control import count_boundaries, move_offsets, ratio_losses
from .shapes import Bool, Float, Int, Shaped, Tensor
from .strands import (
    Strands,
    average_letters,
    average_strands,
    in_forward_frame,
    select_rows,
    split_strands,
    stack_flag,
    stack_strands,
)
from .upsampling import input_dtype
from .vocabulary import FIRST_BASE, LAST_BASE, is_clean_base

logger = logging.getLogger(__name__)

# Value of all output columns but A, C, G, T: as good as minus infinity, yet finite in every float type.
EXCLUDED_LOGIT = -1e4

# Training counts boundaries on the first bases of each row as they were before masking. Of each row, so that the count
# does not depend on how a batch is split. Not on all bases, because encoders and routers run twice there.
_COUNTED_BASES = 512


class HNetNTV2Model(HNetNTV2PreTrainedModel):
    """Bases in, one vector per base out, with the learned chunks on the way."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__(config)
        self.embeddings = BaseEmbeddings(config)
        self.hierarchy = build_hierarchy(config)
        self.branching = BranchingEntropy(config.kmer_size) if config.counts_kmers else None
        self._warned_of_length = False
        self._warned_of_training_length = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.base

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.embeddings.base = value

    @property
    def routers(self) -> tuple[Router, ...]:
        """The chunkers that learn, outermost stage first; none where ``config.chunker`` is a fixed one."""
        return tuple(stage.router for stage in self.stages if isinstance(stage.router, Router))

    @property
    def stages(self) -> tuple[ChunkStage, ...]:
        """The stages of chunking, outermost first."""
        stages, network = [], self.hierarchy
        while isinstance(network, ChunkStage):
            stages.append(network)
            network = network.main
        return tuple(stages)

    def forward(
        self,
        input_ids: Shaped[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "batch length"] | None = None,
        *,
        on_grid: Bool[Tensor, "batch length"] | bool | None = None,
        anchors: Bool[Tensor, "batch length"] | bool | None = None,
        strands: Strands | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **keywords: Any,
    ) -> HNetNTV2ModelOutput | tuple:
        """Embed bases.

        Args:
            input_ids: Character ids, right-padded.
            attention_mask: 1 at real positions; inferred from padding ids when absent.
            on_grid: Force NTv2's own tokens as chunks: everywhere, nowhere (default), or in the marked cells.
            anchors: One clean chunk of k bases on each side of masked runs; default ``config.use_anchors``.
            strands: "forward" or "both"; by default both in ``eval()`` of a bidirectional model.
            output_hidden_states: Also return named inner states.
            return_dict: False for a plain tuple.
            **keywords: What scripts for other models pass: None, or without effect here.

        Raises:
            InputError: For left padding, ids outside the vocabulary, or an unknown keyword that is not None.
        """
        refuse_unknown_keywords(keywords)
        states: States | None = {} if self._wants_states(output_hidden_states) else None
        _, (hidden, chunkings, final) = self.run_strands(
            input_ids, attention_mask, on_grid=on_grid, anchors=anchors, strands=strands, states=states
        )
        fields = strand_fields(chunkings, states, len(input_ids))
        output = HNetNTV2ModelOutput(
            last_hidden_state=average_strands(hidden, fields["stages"][0].is_valid),
            final_chunks=select_rows(final, slice(len(input_ids))),
            **fields,
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _wants_states(self, output_hidden_states: bool | None) -> bool:
        return bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)

    def _wants_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict if return_dict is None else return_dict)

    def run_strands(
        self,
        input_ids: Shaped[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "batch length"] | None = None,
        *,
        on_grid: Bool[Tensor, "batch length"] | bool | None = None,
        anchors: Bool[Tensor, "batch length"] | bool | None = None,
        strands: Strands | None = None,
        states: States | None = None,
    ) -> tuple[Int[Tensor, "rows length"], NetworkOutput]:
        """Stack both strands where both are wanted, and run the network on all rows.

        ``split_strands`` and ``average_strands`` bring the rows of both strands together again.

        Args:
            input_ids: See ``forward``, like the next four.
            attention_mask: 1 at real positions.
            on_grid: Of the forward strand.
            anchors: Of the forward strand.
            strands: "forward" or "both".
            states: Gets the named inner states of all rows.

        Returns:
            The rows' ids, and what the network makes of them: forward rows first, then the reverse ones.
        """
        input_ids, is_valid = self._check_input(input_ids, attention_mask)
        anchors = self.config.use_anchors if anchors is None else anchors
        on_grid = False if on_grid is None else on_grid
        if strands is None:
            strands = "both" if self.config.bidirectional and not self.training else "forward"
        row_ids, row_is_valid = stack_strands(input_ids, is_valid, strands)
        on_grid, anchors = (stack_flag(flag, is_valid, len(row_ids)) for flag in (on_grid, anchors))
        embedded, cls_vector = self.embeddings(row_ids, row_is_valid)
        if states is not None:
            states["embeddings"] = embedded
        level = base_level(
            embedded,
            row_ids,
            row_is_valid,
            self.config,
            on_grid=on_grid,
            anchors=anchors,
            score=self._boundary_score(row_ids),
        )
        output = self.hierarchy(level, cls_vector, states)
        self._warn_of_length(output[-1])
        return row_ids, output

    def chunk(
        self, input_ids: Shaped[Tensor, "batch length"], attention_mask: Shaped[Tensor, "batch length"] | None = None
    ) -> tuple[Chunking, ...]:
        """How the forward strand is cut, outermost stage first, without running trunk and decoders.

        No grid, no anchors: the chunks of ``forward(..., strands="forward", anchors=False).stages``.

        Args:
            input_ids: Character ids, right-padded.
            attention_mask: See ``forward``.
        """
        return self.hierarchy.chunk(self.base_level(input_ids, attention_mask))

    def base_level(
        self, input_ids: Shaped[Tensor, "batch length"], attention_mask: Shaped[Tensor, "batch length"] | None = None
    ) -> Level:
        """The level that the outermost stage works on: forward strand, no grid, no anchors. See ``chunk``."""
        input_ids, is_valid = self._check_input(input_ids, attention_mask)
        embedded, _ = self.embeddings(input_ids, is_valid)
        return base_level(embedded, input_ids, is_valid, self.config, score=self._boundary_score(input_ids))

    def _boundary_score(self, input_ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length"] | None:
        """What a chunker that reads the bases compares; None for the others."""
        if self.branching is not None:
            return self.branching(input_ids)
        hashes = {"minimizer": hash_bases, "shuffled": hash_positions}
        return hashes[self.config.chunker](input_ids) if self.config.chunker in hashes else None

    def _check_input(
        self, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        checked = check_input(input_ids, attention_mask, self.config)
        self._warn_of_training_length(input_ids.shape[1])
        return checked

    def _warn_of_training_length(self, length: int) -> None:
        trained = self.config.training_length
        if trained is not None and length > trained and not self._warned_of_training_length:
            self._warned_of_training_length = True
            logger.warning(
                "a row of %s bases: this model was trained on windows of %s, and longer ones can cost accuracy (the "
                "model that ships with the package: 1.849 bits per masked base at 768, 1.928 at 6,144)",
                *(f"{each:,}" for each in (length, trained)),
            )

    def _warn_of_length(self, final: Level) -> None:
        num_positions = (1 + final.is_valid.shape[1]) / self.config.rope_scaling_factor
        if num_positions > self.config.max_trunk_positions and not self._warned_of_length:
            self._warned_of_length = True
            logger.warning(
                "%d chunks in a row: the source model saw %d positions; see rope_scaling_factor",
                final.is_valid.shape[1],
                self.config.max_trunk_positions,
            )


def strand_fields(chunkings: tuple[Chunking, ...], states: States | None, batch_size: int) -> dict[str, Any]:
    """What all outputs hold besides results: the chunkings of each strand, and the forward strand's named states."""
    stages, reverse_stages = split_strands(chunkings, batch_size)
    hidden_states = None if states is None else {name: state[:batch_size] for name, state in states.items()}
    return {"stages": stages, "reverse_stages": reverse_stages, "hidden_states": hidden_states}


class HNetNTV2ForMaskedLM(HNetNTV2PreTrainedModel):
    """Masked language model: NTv2's head, marginalised to bases, plus what the decoders add."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__(config)
        self.model = HNetNTV2Model(config)
        self.head = Heads(config)
        self.register_load_state_dict_pre_hook(drop_former_buffer)
        self.moves_offsets = True  # see move_offsets
        self.post_init()

    def count_parameters(self) -> dict[str, int]:
        """Number of parameters per part; the values add up to the whole model."""
        counts: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            part = parameter_part(name)
            counts[part] = counts.get(part, 0) + parameter.numel()
        return counts

    def forward(
        self,
        input_ids: Shaped[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "batch length"] | None = None,
        labels: Shaped[Tensor, "batch length"] | None = None,
        loss_weights: Float[Tensor, "batch length"] | None = None,
        *,
        loss_denominator: float | None = None,
        only_targets: bool = False,
        on_grid: Bool[Tensor, "batch length"] | bool | None = None,
        anchors: Bool[Tensor, "batch length"] | bool | None = None,
        strands: Strands | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **keywords: Any,
    ) -> HNetNTV2MaskedLMOutput | tuple:
        """Predict bases.

        Args:
            input_ids: Character ids, right-padded.
            attention_mask: 1 at real positions; inferred from padding ids when absent.
            labels: Ids of the bases at targets, -100 elsewhere. N and special tokens are no targets either.
            loss_weights: Weight of each target in the loss; 1 when absent.
            loss_denominator: Divides the weighted sum of cross-entropies; the number of targets when absent.
            only_targets: Spare the source head where there is no label: logits elsewhere are not meant to be used.
            on_grid: See ``HNetNTV2Model.forward``.
            anchors: See ``HNetNTV2Model.forward``.
            strands: See ``HNetNTV2Model.forward``; log-probabilities are averaged.
            output_hidden_states: Also return named inner states.
            return_dict: False for a plain tuple.
            **keywords: See ``HNetNTV2Model.forward``.

        Raises:
            InputError: For left padding, ids or labels outside the vocabulary, or an unknown keyword that is not None.
        """
        refuse_unknown_keywords(keywords)
        if labels is not None:
            labels = check_labels(labels, self.config)
            if attention_mask is None:  # a random replacement may be [PAD]: where there is a target, there is a base
                attention_mask = (input_ids != self.config.pad_token_id) | (labels >= FIRST_BASE)
            labels = labels.masked_fill(~is_clean_base(labels), -100)
        states: States | None = {} if self.model._wants_states(output_hidden_states) else None
        row_ids, output = self.model.run_strands(
            input_ids, attention_mask, on_grid=on_grid, anchors=anchors, strands=strands, states=states
        )
        chunkings = output[1]
        fields = strand_fields(chunkings, states, len(input_ids))
        is_valid = fields["stages"][0].is_valid
        is_wanted = None
        if only_targets and labels is not None:
            is_wanted = stack_flag(labels != -100, is_valid, len(row_ids))
        letters = average_letters(self.letter_log_probs(row_ids, output, is_wanted), is_valid)
        counts = self._count_boundaries(chunkings, input_ids, attention_mask, labels)
        losses = counts.new_zeros(len(chunkings))
        if self.config.has_offsets:  # other chunkers hold their ratios by construction
            losses = ratio_losses(chunkings, counts, self.config.target_ratios)
        loss = task_loss = None
        if labels is not None:
            task_loss = self._task_loss(letters, labels, loss_weights, loss_denominator)
            loss = task_loss + self.config.ratio_loss_weight * losses.sum()
            if self.training and self.moves_offsets and torch.is_grad_enabled():
                self.move_offsets(counts.sum(0))
        result = HNetNTV2MaskedLMOutput(
            loss=loss,
            logits=self._widen_logits(letters),
            task_loss=task_loss,
            ratio_loss=losses.sum(),
            ratio_losses=losses,
            boundary_counts=counts,
            **fields,
        )
        return result if self.model._wants_dict(return_dict) else result.to_tuple()

    def letter_log_probs(
        self,
        row_ids: Int[Tensor, "rows length"],
        output: NetworkOutput,
        is_wanted: Shaped[Tensor, "rows length"] | bool | None = None,
    ) -> Float[Tensor, "rows length 4"]:
        """Log-probabilities of A, C, G, T at each row's bases, along the row's own strand.

        ``average_letters`` gives their mean over strands. That mean is not normalised: take its softmax for
        probabilities.

        Args:
            row_ids: What ``model.run_strands`` returned first.
            output: What it returned second.
            is_wanted: Spare the source head elsewhere; everywhere when absent.
        """
        hidden, chunkings, final = output
        is_valid = chunkings[0].is_valid
        is_wanted = is_valid if is_wanted is None else is_wanted
        source = self.head.source(final, final_chunk_of(chunkings), row_ids, is_wanted, is_valid)
        # float32 despite autocast: near -1.4, the log-probability of chance, bfloat16 has steps of 0.008.
        with torch.autocast(source.device.type, enabled=False):
            residual = self.head.residual(hidden.to(input_dtype(self.head.residual.output)))
            return (source + residual).log_softmax(-1)

    def _count_boundaries(
        self, chunkings: tuple[Chunking, ...], input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None
    ) -> Float[Tensor, "rows stages 2"]:
        """See ``ratio_control.count_boundaries``: in training of each row's first bases as they were before masking.

        Chunkers that hold their ratios by construction are spared that second pass of the encoders.
        """
        is_step = self.training and torch.is_grad_enabled()
        if labels is None or not is_step or not self.config.has_offsets:
            return count_boundaries(chunkings)
        bases = torch.where(labels == -100, input_ids, labels)[:, :_COUNTED_BASES]
        is_valid = None if attention_mask is None else attention_mask[:, :_COUNTED_BASES]
        with torch.no_grad():
            counts = count_boundaries(self.model.chunk(bases, is_valid))
        # A row's two strands share the count of its forward strand.
        return counts.repeat(len(chunkings[0].is_valid) // len(input_ids), 1, 1)

    def move_offsets(self, counts: Float[Tensor, "stages 2"]) -> None:
        """Move the routers' offsets by ``config.router_offset_rate``. See ``ratio_control.move_offsets``.

        ``forward`` does so itself in ``train()`` with labels, unless ``moves_offsets`` is False. Our own training loop
        sets that, and moves them once per optimiser step by the counts of all micro-batches and ranks.
        """
        if self.config.has_offsets:
            move_offsets(self.model.routers, counts, self.config.target_ratios, self.config.router_offset_rate)

    def _widen_logits(self, letters: Float[Tensor, "batch length 4"]) -> Float[Tensor, "batch length vocab"]:
        after = self.config.vocab_size - LAST_BASE - 1
        return nn.functional.pad(letters, (FIRST_BASE, after), value=EXCLUDED_LOGIT)

    @staticmethod
    def _task_loss(
        letters: Float[Tensor, "batch length 4"],
        labels: Int[Tensor, "batch length"],
        loss_weights: Float[Tensor, "batch length"] | None,
        loss_denominator: float | None,
    ) -> Float[Tensor, ""]:
        is_target = labels != -100
        # -100 is no index; what is gathered there has weight 0.
        classes = (labels - FIRST_BASE).clamp(min=0)
        # A mean of log-probabilities over strands is not normalised.
        cross_entropy = -letters.log_softmax(-1).gather(-1, classes[..., None])[..., 0]
        weight = is_target.to(letters.dtype) if loss_weights is None else loss_weights * is_target
        # A batch without targets has a loss of 0, not NaN.
        denominator = is_target.sum().clamp(min=1) if loss_denominator is None else loss_denominator
        return (cross_entropy * weight).sum() / denominator


class _Classifier(HNetNTV2PreTrainedModel):
    """Class logits from vectors of bases, by a head of its own; the strands of ``config.classification_strands``."""

    classifier: nn.Module

    def __init__(self, config: HNetNTV2Config):
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        self.model = HNetNTV2Model(config)
        self.classifier = self._head(config, self.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Shaped[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "batch length"] | None = None,
        labels: Shaped[Tensor, "batch ..."] | None = None,
        *,
        strands: Strands | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **keywords: Any,
    ) -> HNetNTV2ClassifierOutput | tuple:
        """Classify sequences, or bases in the frame of the forward strand.

        Args:
            input_ids: Character ids, right-padded.
            attention_mask: 1 at real positions; inferred from padding ids when absent.
            labels: Of sequences: class indices, or floats where ``config.problem_type`` says so. Of bases: the class
                index of each base of the forward strand, -100 where none is asked for (padding).
            strands: "forward" or "both", whose logits are averaged; ``config.classification_strands`` by default.
            output_hidden_states: Also return named inner states.
            return_dict: False for a plain tuple.
            **keywords: See ``HNetNTV2Model.forward``.

        Raises:
            InputError: For a sequence to classify without any A, C, G or T, and as in ``HNetNTV2Model.forward``.
        """
        refuse_unknown_keywords(keywords)
        states: States | None = {} if self.model._wants_states(output_hidden_states) else None
        # Unlike the masked model, train() and eval() run the same strands unless told otherwise.
        strands = strands or self.config.classification_strands
        row_ids, (hidden, chunkings, _) = self.model.run_strands(
            input_ids, attention_mask, strands=strands, states=states
        )
        fields = strand_fields(chunkings, states, len(input_ids))
        logits = self._logits(hidden, row_ids, fields["stages"][0].is_valid)
        loss = None if labels is None else self._loss(logits.float(), labels)
        output = HNetNTV2ClassifierOutput(loss=loss, logits=logits, **fields)
        return output if self.model._wants_dict(return_dict) else output.to_tuple()

    def _head(self, config: HNetNTV2Config, num_labels: int) -> nn.Module:
        raise NotImplementedError

    def _logits(self, hidden: Tensor, row_ids: Tensor, is_valid: Tensor) -> Tensor:
        """The mean over strands, from the vectors and ids of all rows, and the validity of the forward ones."""
        raise NotImplementedError

    def _loss(self, logits: Tensor, labels: Tensor) -> Float[Tensor, ""]:
        raise NotImplementedError


class HNetNTV2ForSequenceClassification(_Classifier):
    """Class logits of a sequence from the vectors of its A, C, G and T, pooled by ``config.classification_pooling``."""

    def _head(self, config: HNetNTV2Config, num_labels: int) -> nn.Module:
        how, num_bins = config.classification_pooling, config.classification_bins
        return SequenceClassifier(config.base_dim, num_labels, config.layer_norm_eps, how, num_bins)

    def _logits(
        self,
        hidden: Float[Tensor, "rows length dim"],
        row_ids: Int[Tensor, "rows length"],
        is_valid: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch labels"]:
        num_rows = len(is_valid)
        is_base = is_clean_base(row_ids[:num_rows]) & is_valid
        # Each strand is pooled in the forward frame, since some poolings depend on positions.
        hidden = in_forward_frame(hidden, is_valid)
        logits = self.classifier(hidden, is_base.repeat(len(hidden) // num_rows, 1))
        return logits.unflatten(0, (-1, num_rows)).mean(0)

    def _loss(self, logits: Float[Tensor, "batch labels"], labels: Shaped[Tensor, "batch ..."]) -> Float[Tensor, ""]:
        return classification_loss(logits, labels, self.config.problem_type)


class HNetNTV2ForTokenClassification(_Classifier):
    """Class logits of every base."""

    def _head(self, config: HNetNTV2Config, num_labels: int) -> nn.Module:
        width = config.base_dim
        return nn.Sequential(nn.LayerNorm(width, eps=config.layer_norm_eps), nn.Linear(width, num_labels))

    def _logits(
        self,
        hidden: Float[Tensor, "rows length dim"],
        row_ids: Int[Tensor, "rows length"],
        is_valid: Bool[Tensor, "batch length"],
    ) -> Float[Tensor, "batch length labels"]:
        return average_strands(self.classifier(hidden), is_valid)

    def _loss(
        self, logits: Float[Tensor, "batch length labels"], labels: Shaped[Tensor, "batch length"]
    ) -> Float[Tensor, ""]:
        return nn.functional.cross_entropy(logits.flatten(0, 1), labels.long().flatten())


for _auto, _model in (
    (AutoModel, HNetNTV2Model),
    (AutoModelForMaskedLM, HNetNTV2ForMaskedLM),
    (AutoModelForSequenceClassification, HNetNTV2ForSequenceClassification),
    (AutoModelForTokenClassification, HNetNTV2ForTokenClassification),
):
    _model.register_for_auto_class(_auto.__name__)
HNetNTV2Config.register_for_auto_class()

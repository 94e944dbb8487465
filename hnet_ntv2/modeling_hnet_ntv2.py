"""The Hugging Face classes: input checks, losses and typed outputs around embeddings, hierarchy and heads."""

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from .base_embeddings import BaseEmbeddings, KmerEmbedding
from .chunking import Router
from .configuration_hnet_ntv2 import HNetNTV2Config
from .errors import InputError, WeightsError
from .forced_boundaries import force_boundaries
from .heads import Heads, SourceHead
from .hierarchy import ChunkStage, build_hierarchy
from .kmers import flip_rows, holds_mask, reverse_complement
from .levels import Chunking, Level, final_chunk_of
from .model_files import check_before_loading
from .outputs import HNetNTV2ClassifierOutput, HNetNTV2MaskedLMOutput, HNetNTV2ModelOutput
from .parameter_names import parameter_part
from .ratio_control import count_boundaries, move_offsets, ratio_losses
from .shapes import Bool, Float, Int, Shaped, Tensor
from .strands import StrandRun, Strands, both_strands
from .upsampling import input_dtype
from .vocabulary import BASE_IDS, is_clean_base

logger = logging.getLogger(__name__)

# Value of all output columns but A, C, G, T: as good as minus infinity, yet finite in every float type.
EXCLUDED_LOGIT = -1e4

# Tensors of task heads, which another task's model may leave behind.
_HEAD_TENSORS = ("head.", "classifier.")

# F of the ratio loss was kept in a buffer of this name; files and checkpoints that still have it load without it.
_FORMER_BUFFER = "boundary_shares"

# Keywords that scripts for other models pass, and that say nothing here: the model is no decoder, sequence pairs are
# refused by the tokenizer, and the loss does not depend on the number of micro-batches.
_WITHOUT_EFFECT = frozenset(["encoder_attention_mask", "token_type_ids", "use_cache", "num_items_in_batch"])

# In training, chunks of sequence without masks are counted on so many first bases of each row: of every row, so that
# the count does not depend on how a batch is split, and not on all bases, since encoders and routers run twice there.
_COUNTED_BASES = 512

_FIRST_BASE, _LAST_BASE = BASE_IDS[0], BASE_IDS[-1]


def _refuse_unknown(keywords: Mapping[str, Any]) -> None:
    """Keywords of ``forward`` that it does not know may be None or False (PEFT passes many), or have no effect.

    Raises:
        InputError: With the first name that would be expected to do something.
    """
    for name, value in keywords.items():
        if name not in _WITHOUT_EFFECT and value is not None and value is not False:
            raise InputError(f"forward() has no argument {name!r}; leave it out, or pass None")


class HNetNTV2PreTrainedModel(PreTrainedModel):
    """Initialisation and strict loading for all HNet-NTv2 models."""

    config_class = HNetNTV2Config
    config: HNetNTV2Config
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # forward() takes **keywords, which would make Trainer divide the loss by a number that it passes in them.
    accepts_loss_kwargs = False
    _keys_to_ignore_on_load_unexpected = [rf"^{_FORMER_BUFFER}$"]  # noqa: RUF012  (the base class declares a plain list)
    _no_split_modules = ["NTv2Block", "LocalBlock"]  # noqa: RUF012  (the base class declares a plain list)

    def _init_weights(self, module: nn.Module) -> None:
        """Random weights; what is marked ``starts_at_zero`` (encoder outputs, skips, base embedding) starts at zero.

        The base class calls this only for modules that own parameters, children first.
        """
        if getattr(module, "starts_at_zero", False):
            for parameter in module.parameters(recurse=False):
                nn.init.zeros_(parameter)
        elif isinstance(module, Router | KmerEmbedding):
            module.reset_parameters()
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=self.config.initializer_gain * module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, SourceHead):
            nn.init.zeros_(module.bias)
        elif isinstance(module, ChunkStage) and module.widening is not None:
            nn.init.zeros_(module.widening)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *model_args, **kwargs) -> Any:
        """Load a saved model; safetensors only, and a missing, superfluous or misshapen tensor is an error.

        The only tensors that may be missing are those of a new task head (``classifier.``), and the only ones that may
        be left over are those of another task's head. With ``ignore_mismatched_sizes=True`` misshapen ones start anew.

        Raises:
            WeightsError: With the names of the tensors that do not fit, or as ``check_before_loading``.
            ConfigError: A setting in ``config.json`` that cannot be.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs["use_safetensors"] = True
        check_before_loading(pretrained_model_name_or_path, HNetNTV2Config, kwargs)
        accepts_misshapen = kwargs.pop("ignore_mismatched_sizes", False)
        kwargs["ignore_mismatched_sizes"] = True  # so that the names come back and can be reported
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *model_args, output_loading_info=True, **kwargs
        )
        model, info = loaded
        problems = {
            "missing": [name for name in info["missing_keys"] if not name.startswith("classifier.")],
            "superfluous": [name for name in info["unexpected_keys"] if not name.startswith(_HEAD_TENSORS)],
            "misshapen": [] if accepts_misshapen else [str(entry) for entry in info["mismatched_keys"]],
        }
        found = [f"{kind}: {', '.join(sorted(names)[:5])}" for kind, names in problems.items() if names]
        if found:
            raise WeightsError(f"{pretrained_model_name_or_path} does not fit {cls.__name__}; {'; '.join(found)}")
        return (model, info) if wants_info else model


class HNetNTV2Model(HNetNTV2PreTrainedModel):
    """Bases in, one vector per base out, with the learned chunks on the way."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__(config)
        self.embeddings = BaseEmbeddings(config)
        self.hierarchy = build_hierarchy(config)
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
        """The routers, outermost stage first."""
        return tuple(stage.router for stage in self.stages)

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
        _refuse_unknown(keywords)
        run = self.run_strands(
            input_ids, attention_mask, on_grid, anchors, strands, self._wants_states(output_hidden_states)
        )
        stages, reverse_stages = run.strand_stages()
        output = HNetNTV2ModelOutput(
            last_hidden_state=run.join(run.hidden),
            hidden_states=run.forward_states(),
            stages=stages,
            reverse_stages=reverse_stages,
            final_chunks=run.forward_chunks(),
        )
        return output if self._wants_dict(return_dict) else output.to_tuple()

    def _wants_states(self, output_hidden_states: bool | None) -> bool:
        return bool(self.config.output_hidden_states if output_hidden_states is None else output_hidden_states)

    def _wants_dict(self, return_dict: bool | None) -> bool:
        return bool(self.config.return_dict if return_dict is None else return_dict)

    def run_strands(
        self,
        input_ids: Shaped[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "batch length"] | None,
        on_grid: Bool[Tensor, "batch length"] | bool | None,
        anchors: Bool[Tensor, "batch length"] | bool | None,
        strands: Strands | None,
        output_hidden_states: bool = False,
    ) -> StrandRun:
        """Run one strand, or both stacked into one batch (forward rows first)."""
        input_ids, is_valid = self._check_input(input_ids, attention_mask)
        anchors = self.config.use_anchors if anchors is None else anchors
        on_grid = False if on_grid is None else on_grid
        if strands is None:
            strands = "both" if self.config.bidirectional and not self.training else "forward"
        if strands == "both":
            on_grid, anchors = (both_strands(flag, is_valid) for flag in (on_grid, anchors))
            input_ids = torch.cat([input_ids, reverse_complement(input_ids, is_valid)])
            is_valid = is_valid.repeat(2, 1)
        elif strands != "forward":
            raise InputError(f"strands={strands!r}; choose 'forward' or 'both'")

        embedded, cls_vector = self.embeddings(input_ids, is_valid)
        states = {"embeddings": embedded} if output_hidden_states else None
        bases = self._base_level(embedded, input_ids, is_valid, on_grid, anchors)
        hidden, chunkings, final = self.hierarchy(bases, cls_vector, states)
        self._warn_of_length(final)
        num_strands = 2 if strands == "both" else 1
        return StrandRun(input_ids, is_valid, hidden, chunkings, final, states or {}, num_strands)

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
        return self._base_level(embedded, input_ids, is_valid, False, False)

    def _check_input(
        self, input_ids: Tensor, attention_mask: Tensor | None
    ) -> tuple[Int[Tensor, "batch length"], Bool[Tensor, "batch length"]]:
        if input_ids.dim() != 2 or 0 in input_ids.shape:
            raise InputError(f"input_ids has shape {tuple(input_ids.shape)}; expected [batch, length], both at least 1")
        self._warn_of_training_length(input_ids.shape[1])
        input_ids = input_ids.long()
        if attention_mask is None:
            is_valid = input_ids != self.config.pad_token_id
        elif attention_mask.shape != input_ids.shape:
            shapes = f"{tuple(attention_mask.shape)}, input_ids {tuple(input_ids.shape)}"
            raise InputError(f"attention_mask has shape {shapes}; they must be the same")
        else:
            is_valid = attention_mask.bool()
        gap_rows = (is_valid[:, 1:] & ~is_valid[:, :-1]).any(1)
        foreign = (input_ids < 0) | (input_ids >= self.config.vocab_size)
        if bool(gap_rows.any()):
            row = int(gap_rows.nonzero()[0, 0])
            raise InputError(
                f"row {row} has padding in front of real positions; pad on the right (padding_side='right')"
            )
        if bool(foreign.any()):
            row, column = foreign.nonzero()[0].tolist()
            value = int(input_ids[row, column])
            raise InputError(
                f"input_ids[{row}, {column}] = {value} is outside the vocabulary of {self.config.vocab_size}"
            )
        return input_ids, is_valid

    def _base_level(
        self,
        embedded: Float[Tensor, "batch length dim"],
        input_ids: Int[Tensor, "batch length"],
        is_valid: Bool[Tensor, "batch length"],
        on_grid: Bool[Tensor, "batch length"] | bool,
        anchors: Bool[Tensor, "batch length"] | bool,
    ) -> Level:
        forced_boundary, forced_reason = force_boundaries(
            input_ids,
            is_valid,
            k=self.config.kmer_size,
            num_stages=self.config.num_stages,
            on_grid=on_grid,
            anchors=anchors,
            protect_masks=self.config.mask_protection,
        )
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        is_masked = (input_ids == self.config.mask_token_id) & is_valid
        sees_mask = holds_mask(is_masked, self.config.kmer_size)
        is_clear = ~(sees_mask | torch.nn.functional.pad(sees_mask[:, :-1], (1, 0)))
        width = self.config.base_dim
        return Level(
            hidden=embedded[..., :width],
            is_valid=is_valid,
            first_base=positions,
            num_bases=is_valid.sum(1),
            is_masked=is_masked,
            is_clear=is_clear,
            forced_boundary=forced_boundary,
            forced_reason=forced_reason,
            tail=embedded[..., width:] if width < self.config.d_model else None,
        )

    def _warn_of_training_length(self, length: int) -> None:
        trained = self.config.training_length
        if trained is not None and length > trained and not self._warned_of_training_length:
            self._warned_of_training_length = True
            logger.warning(
                "a row of %s bases: this model was trained on windows of %s, and longer ones can cost accuracy (the "
                "model that ships with the package: 1.842 bits per masked base at 768, 1.920 at 6,144)",
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


class HNetNTV2ForMaskedLM(HNetNTV2PreTrainedModel):
    """Masked language model: NTv2's head, marginalised to bases, plus what the decoders add."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__(config)
        self.model = HNetNTV2Model(config)
        self.head = Heads(config)
        self.register_load_state_dict_pre_hook(_drop_former_buffer)
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
        _refuse_unknown(keywords)
        if labels is not None:
            labels = self._checked_labels(labels)
            if attention_mask is None:  # a random replacement may be [PAD]: where there is a target, there is a base
                attention_mask = (input_ids != self.config.pad_token_id) | (labels >= _FIRST_BASE)
            labels = labels.masked_fill(~is_clean_base(labels), -100)
        wants_states = self.model._wants_states(output_hidden_states)
        run = self.model.run_strands(input_ids, attention_mask, on_grid, anchors, strands, wants_states)
        is_wanted = self._wanted_bases(run, labels if only_targets else None)
        letters = self.letter_log_probs(run, is_wanted)
        stages, reverse_stages = run.strand_stages()
        counts = self._count_boundaries(run, input_ids, attention_mask, labels)
        losses = ratio_losses(run.stages, counts, self.config.target_ratios)
        loss = task_loss = None
        if labels is not None:
            task_loss = self._task_loss(letters, labels, loss_weights, loss_denominator)
            loss = task_loss + self.config.ratio_loss_weight * losses.sum()
            if self.training and self.moves_offsets and torch.is_grad_enabled():
                self.move_offsets(counts.sum(0))
        output = HNetNTV2MaskedLMOutput(
            loss=loss,
            logits=self._widen_logits(letters),
            hidden_states=run.forward_states(),
            task_loss=task_loss,
            ratio_loss=losses.sum(),
            ratio_losses=losses,
            boundary_counts=counts,
            stages=stages,
            reverse_stages=reverse_stages,
        )
        return output if self.model._wants_dict(return_dict) else output.to_tuple()

    def letter_log_probs(
        self, run: StrandRun, is_wanted: Bool[Tensor, "rows length"] | None = None
    ) -> Float[Tensor, "batch length 4"]:
        """Log-probabilities of A, C, G, T after ``model.run_strands``; the mean over strands in the forward frame.

        That mean is not normalised again: take its softmax for probabilities.

        Args:
            run: What ``model.run_strands`` gave.
            is_wanted: Spare the source head elsewhere; everywhere when absent.
        """
        is_wanted = run.is_valid if is_wanted is None else is_wanted
        source = self.head.source(run.final, final_chunk_of(run.stages), run.input_ids, is_wanted, run.is_valid)
        with torch.autocast(source.device.type, enabled=False):
            residual = self.head.residual(run.hidden.to(input_dtype(self.head.residual.output)))
            return self._join_letters((source + residual).log_softmax(-1), run)

    @staticmethod
    def _wanted_bases(run: StrandRun, labels: Tensor | None) -> Bool[Tensor, "rows length"]:
        if labels is None:
            return run.is_valid
        is_target = labels != -100
        if run.num_strands == 2:
            is_target = torch.cat([is_target, flip_rows(is_target, run.is_valid.chunk(2)[1])])
        return is_target

    def _count_boundaries(
        self, run: StrandRun, input_ids: Tensor, attention_mask: Tensor | None, labels: Tensor | None
    ) -> Float[Tensor, "rows stages 2"]:
        """See ``ratio_control.count_boundaries``: in training of each row's first bases as they were before masking."""
        if labels is None or not (self.training and torch.is_grad_enabled()):
            return count_boundaries(run.stages)
        bases = torch.where(labels == -100, input_ids, labels)[:, :_COUNTED_BASES]
        is_valid = None if attention_mask is None else attention_mask[:, :_COUNTED_BASES]
        with torch.no_grad():
            counts = count_boundaries(self.model.chunk(bases, is_valid))
        return counts.repeat(run.num_strands, 1, 1)

    def move_offsets(self, counts: Float[Tensor, "stages 2"]) -> None:
        """Move the routers' offsets by ``config.router_offset_rate``. See ``ratio_control.move_offsets``.

        ``forward`` does so itself in ``train()`` with labels, unless ``moves_offsets`` is False. Our own training loop
        sets that, and moves them once per optimiser step by the counts of all micro-batches and ranks.
        """
        move_offsets(self.model.routers, counts, self.config.target_ratios, self.config.router_offset_rate)

    @staticmethod
    def _join_letters(log_probs: Float[Tensor, "rows length 4"], run: StrandRun) -> Float[Tensor, "batch length 4"]:
        """Average log-probabilities over strands; A C G T of the reverse strand are T G C A of the forward one."""
        if run.num_strands == 1:
            return log_probs
        forward, reverse = log_probs.chunk(2)
        return run.join(torch.cat([forward, reverse.flip(-1)]))

    def _widen_logits(self, letters: Float[Tensor, "batch length 4"]) -> Float[Tensor, "batch length vocab"]:
        after = self.config.vocab_size - _LAST_BASE - 1
        return nn.functional.pad(letters, (_FIRST_BASE, after), value=EXCLUDED_LOGIT)

    def _checked_labels(self, labels: Shaped[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
        labels = labels.long()
        is_foreign = (labels != -100) & ((labels < 0) | (labels >= self.config.vocab_size))
        if bool(is_foreign.any()):
            row, column = is_foreign.nonzero()[0].tolist()
            raise InputError(
                f"labels[{row}, {column}] = {int(labels[row, column])} is no token id; targets are A, C, G, T "
                f"({_FIRST_BASE} to {_LAST_BASE}), -100 elsewhere"
            )
        return labels

    @staticmethod
    def _task_loss(
        letters: Float[Tensor, "batch length 4"],
        labels: Int[Tensor, "batch length"],
        loss_weights: Float[Tensor, "batch length"] | None,
        loss_denominator: float | None,
    ) -> Float[Tensor, ""]:
        is_target = labels != -100
        classes = (labels - _FIRST_BASE).clamp(min=0)
        cross_entropy = -letters.log_softmax(-1).gather(-1, classes[..., None])[..., 0]
        weight = is_target.to(letters.dtype) if loss_weights is None else loss_weights * is_target
        denominator = is_target.sum().clamp(min=1) if loss_denominator is None else loss_denominator
        return (cross_entropy * weight).sum() / denominator


def _drop_former_buffer(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    state.pop(prefix + _FORMER_BUFFER, None)


class _Classifier(HNetNTV2PreTrainedModel):
    """A layer norm and a linear layer on vectors of bases; the strands of ``config.classification_strands``."""

    def __init__(self, config: HNetNTV2Config):
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        self.model = HNetNTV2Model(config)
        self.classifier = nn.Sequential(
            nn.LayerNorm(config.base_dim, eps=config.layer_norm_eps), nn.Linear(config.base_dim, self.num_labels)
        )
        self.post_init()

    def _run_strands(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        strands: Strands | None,
        output_hidden_states: bool | None,
    ) -> StrandRun:
        """Unlike the masked model, train() and eval() run the same strands unless told otherwise."""
        strands = strands or self.config.classification_strands
        wants_states = self.model._wants_states(output_hidden_states)
        return self.model.run_strands(input_ids, attention_mask, None, None, strands, wants_states)

    def _output(
        self, run: StrandRun, logits: Tensor, loss: Tensor | None, return_dict: bool | None
    ) -> HNetNTV2ClassifierOutput | tuple:
        stages, reverse_stages = run.strand_stages()
        output = HNetNTV2ClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=run.forward_states(),
            stages=stages,
            reverse_stages=reverse_stages,
        )
        return output if self.model._wants_dict(return_dict) else output.to_tuple()


class HNetNTV2ForSequenceClassification(_Classifier):
    """Class logits from the mean vector of a sequence's bases."""

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
        """Classify sequences by the mean vector of their A, C, G and T, as ``embed`` takes it.

        Args:
            input_ids: Character ids, right-padded.
            attention_mask: 1 at real positions; inferred from padding ids when absent.
            labels: Class indices, or floats where ``config.problem_type`` says so.
            strands: "forward" or "both", whose logits are averaged; ``config.classification_strands`` by default.
            output_hidden_states: Also return named inner states.
            return_dict: False for a plain tuple.
            **keywords: See ``HNetNTV2Model.forward``.

        Raises:
            InputError: For a row without any A, C, G or T, and as in ``HNetNTV2Model.forward``.
        """
        _refuse_unknown(keywords)
        run = self._run_strands(input_ids, attention_mask, strands, output_hidden_states)
        is_base = is_clean_base(run.input_ids) & run.is_valid
        count = is_base.sum(1, keepdim=True)
        if not bool(count.all()):
            row = int((count == 0).nonzero()[0, 0])
            raise InputError(f"row {row} holds no A, C, G or T, so that there is nothing to classify; leave it out")
        mean = (run.hidden * is_base[..., None]).sum(1) / count
        logits = torch.stack(self.classifier(mean).chunk(run.num_strands)).mean(0)
        return self._output(run, logits, None if labels is None else self._loss(logits.float(), labels), return_dict)

    def _loss(self, logits: Float[Tensor, "batch labels"], labels: Shaped[Tensor, "batch ..."]) -> Float[Tensor, ""]:
        problem = self.config.problem_type
        if problem is None:
            problem = "regression" if self.num_labels == 1 else "single_label_classification"
        if problem == "regression":
            return nn.functional.mse_loss(logits.squeeze(-1), labels.float().reshape(logits.squeeze(-1).shape))
        if problem == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        return nn.functional.cross_entropy(logits, labels.long())


class HNetNTV2ForTokenClassification(_Classifier):
    """Class logits of every base."""

    def forward(
        self,
        input_ids: Shaped[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "batch length"] | None = None,
        labels: Shaped[Tensor, "batch length"] | None = None,
        *,
        strands: Strands | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **keywords: Any,
    ) -> HNetNTV2ClassifierOutput | tuple:
        """Classify bases.

        Args:
            input_ids: Character ids, right-padded.
            attention_mask: 1 at real positions; inferred from padding ids when absent.
            labels: Class index of each base of the forward strand, -100 where none is asked for (padding).
            strands: "forward" or "both", whose logits are averaged in the forward frame;
                ``config.classification_strands`` by default.
            output_hidden_states: Also return named inner states.
            return_dict: False for a plain tuple.
            **keywords: See ``HNetNTV2Model.forward``.

        Raises:
            InputError: As in ``HNetNTV2Model.forward``.
        """
        _refuse_unknown(keywords)
        run = self._run_strands(input_ids, attention_mask, strands, output_hidden_states)
        logits = run.join(self.classifier(run.hidden))
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.long().flatten())
        return self._output(run, logits, loss, return_dict)


for _auto, _model in (
    (AutoModel, HNetNTV2Model),
    (AutoModelForMaskedLM, HNetNTV2ForMaskedLM),
    (AutoModelForSequenceClassification, HNetNTV2ForSequenceClassification),
    (AutoModelForTokenClassification, HNetNTV2ForTokenClassification),
):
    _model.register_for_auto_class(_auto.__name__)
HNetNTV2Config.register_for_auto_class()

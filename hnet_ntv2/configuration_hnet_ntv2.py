"""The only schema of the architecture: every model setting, its default and its checks."""

import dataclasses
import difflib
import functools
import logging
import math
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Literal

from transformers import PreTrainedConfig

from .errors import ConfigError
from .pooling import ClassifierPooling
from .vocabulary import MASK_ID, PAD_ID, source_vocab_size

logger = logging.getLogger(__name__)

# Settings that transformers 5, Trainer and PEFT know for every model and may leave in a config. All that begins with an
# underscore is theirs as well.
_INHERITED_KEYS = frozenset(
    [
        "attn_implementation",
        "auto_map",
        "bos_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "experts_implementation",
        "model_type",
        "name_or_path",
        "num_labels",
        "output_attentions",
        "prefix",
        "quantization_config",
        "torch_dtype",
        "use_cache",
    ]
)

# The least and the largest value of each size. The largest are far above any use, and small enough that nothing takes
# minutes or all memory.
_SIZES = {
    "vocab_size": (0, 1 << 16),
    "d_model": (1, 1 << 16),
    "n_head": (1, 1 << 12),
    "intermediate_size": (1, 1 << 20),
    "n_main_layer": (0, 1 << 10),
    "n_enc_layer": (0, 1 << 10),
    "n_dec_layer": (0, 1 << 10),
    "max_chunk_length": (0, 1 << 20),
    "max_trunk_positions": (1, 1 << 24),
    "window": (1, 1 << 20),
    "kmer_size": (1, 8),  # the vocabulary has 4^k rows
    "num_labels": (0, 1 << 16),
    "classification_bins": (1, 1 << 10),
}
_MOST_VALUES = 20_000_000_000

# What else must hold, beside the stages' ratios and guards: a test of the config, and the message where it fails.
_RULES: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (lambda c: c.d_model % (2 * c.n_head) == 0, "d_model={c.d_model} must be a multiple of 2 x n_head={c.n_head}"),
    (lambda c: c.intermediate_size % 2 == 0, "intermediate_size={c.intermediate_size} counts both GLU halves: even"),
    (
        lambda c: 0 < c.base_dim <= c.d_model and c.base_dim % (c.d_model // c.n_head) == 0,
        "d_base={c.d_base} must be a multiple of d_model / n_head = {c.d_model} / {c.n_head} and at most d_model",
    ),
    (
        lambda c: c.target_ratio_stage3 is None or c.target_ratio_stage2 is not None,
        "target_ratio_stage3 needs target_ratio_stage2",
    ),
    (
        lambda c: c.max_chunk_length is None or c.max_chunk_length >= c.kmer_size,
        "max_chunk_length={c.max_chunk_length} must be at least kmer_size={c.kmer_size}",
    ),
    (lambda c: 0 < c.mask_rate < 1, "mask_rate={c.mask_rate} must lie between 0 and 1"),
    (lambda c: c.rope_scaling_factor >= 1, "rope_scaling_factor={c.rope_scaling_factor} must be at least 1"),
    (lambda c: c.ratio_loss_weight >= 0, "ratio_loss_weight={c.ratio_loss_weight} must not be negative"),
    (lambda c: 0 <= c.router_offset_rate <= 1, "router_offset_rate={c.router_offset_rate} must lie between 0 and 1"),
    (
        lambda c: c.training_length is None or c.training_length > 0,
        "training_length={c.training_length} must be positive",
    ),
    (lambda c: c.vocab_size >= 12, "vocab_size={c.vocab_size} must hold the 12 character ids"),
)

# An unknown name this similar to one of ours is taken for a slip (1 is the same).
_SIMILAR = 0.8

# Settings that earlier versions had: the value at which a saved config still loads, and the last version that had it
# (docs/decisions/0018).
REMOVED_SETTINGS = {
    "local_mixer": ("attention", "0.1.0"),
    "state_size": (64, "0.1.0"),
    "bidirectional_strategy": ("add", "0.1.0"),
    "tokenizer_type": ("default", "0.1.0"),
    "chunk_pooling": ("first", "0.1.0"),
    "forced_probability": ("one", "0.1.0"),
}

# Settings whose default changed after they came: what a saved config without them means.
_BEFORE_THE_SETTING = {"chunker": "learned"}

# What a saved folder can be loaded as with trust_remote_code, whichever of these classes was saved.
_AUTO_MAP = {
    "AutoConfig": "configuration_hnet_ntv2.HNetNTV2Config",
    "AutoModel": "modeling_hnet_ntv2.HNetNTV2Model",
    "AutoModelForMaskedLM": "modeling_hnet_ntv2.HNetNTV2ForMaskedLM",
    "AutoModelForSequenceClassification": "modeling_hnet_ntv2.HNetNTV2ForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_hnet_ntv2.HNetNTV2ForTokenClassification",
}


class HNetNTV2Config(PreTrainedConfig):
    """Architecture of HNet-NTv2. The defaults are the model of 436 million parameters on the trunk of NTv2-500M.

    Attributes:
        vocab_size: Rows of the base embedding: 12 character ids padded to 16 (Caduceus-compatible).
        d_model: Width of the chunk-resolution layers and of the trunk.
        d_base: Width of the base-resolution layers; None means ``d_model``. Narrower vectors are widened for the
            chunks by the remaining coordinates of the k-mer embedding and a learned vector, and sliced on the way back.
        n_head: Attention heads of the trunk and of the layers of width ``d_model``.
        intermediate_size: Rows of NTv2's fused GLU (twice its ``intermediate_size``) and the MLP width of encoder and
            decoder layers of width ``d_model``.
        n_main_layer: Blocks of the trunk; 0 is the control without one.
        n_enc_layer: Encoder layers of all stages together; a remainder goes to the inner stages.
        n_dec_layer: Decoder layers, distributed likewise.
        target_ratio_stage1: Wanted stage-1 chunks per base.
        target_ratio_stage2: Wanted stage-2 chunks per stage-1 chunk; None means one stage.
        target_ratio_stage3: A third stage, off by default.
        guard_stage1: Least and greatest number of chunks per base that the guard lets through.
        guard_stage2: The same per stage-1 chunk.
        guard_stage3: The same per stage-2 chunk.
        max_chunk_length: Cap of the final chunks, in bases; None for no cap.
        chunker: What decides where chunks begin (``chunkers``). "peak": the router, at local maxima of its score.
            "learned": the router, where p is over 0.5 (H-Net). "minimizer": a hash of 4 bases, at its local maxima.
            "entropy": counts of k-mers say that something known ends. Controls: "shuffled" (local maxima of a hash of
            the position), "ruler" (even distances from forced boundaries), "grid" (NTv2's tokens), "none" (cap and
            guard alone).
        kmer_size: k of the source model's tokens (vocabulary of 4^k + 11).
        position_mode: Rotary position of a chunk: "base" = 1 + (first base) / k, "rank" = 1 + index of the chunk.
        rope_theta: Rotary base of the trunk and of the local layers.
        rope_scaling_factor: Divides the trunk's rotary positions (linear interpolation), for long sequences.
        max_trunk_positions: Longest rotary position that the source model saw; beyond it the model warns.
        window: Local attention sees this many positions on each side. Far past a chunk's length, equal chunks at
            different places get different vectors (docs/decisions/0024).
        layer_norm_eps: Of every layer norm; NTv2's published files say 1e-12.
        bidirectional: Average both strands in ``eval()``; training draws the strand per window in the data.
        classification_strands: What classifiers run in ``train()`` and in ``eval()``: the "forward" strand, or "both",
            whose logits are averaged. Forward suits tasks with an orientation, such as promoters.
        classification_pooling: How a sequence classifier makes one vector of a sequence's A, C, G and T: their "mean",
            "max" or "first", the means of "bins" along the sequence, or, learned, by "attention" or "convolution".
        classification_bins: Parts of a sequence that "bins" and "convolution" tell apart.
        ratio_loss_weight: Weight of the summed ratio losses in ``loss``; for the "learned" chunker only.
        router_offset_rate: Each training step adds ``rate x (target - ratio)`` to a router's offset; in other trainers
            than ours each forward pass in ``train()`` with labels does. 0 holds the offsets. "learned" only.
        mask_rate: Share of bases that training masks; only the normaliser of the training loss uses it.
        use_anchors: Default of ``forward(anchors=...)``: one clean chunk of k bases on each side of a masked run.
        mask_protection: Forced chunk boundaries around and inside masked runs.
        residual_gating: Zero the skip path where a chunk holds a mask.
        smoothing: Smooth chunk vectors over their neighbours (H-Net's EMA, both directions).
        initializer_range: Standard deviation of random embeddings; at 0.02 the routers collapse (docs/decisions).
        initializer_gain: Random matrices have the standard deviation gain / sqrt(inputs): 0.02 at 1,024 inputs, and
            small models pass their signals on as large ones do.
        training_length: Bases of the windows that the weights were last trained on; None where that is not known.
            Longer rows bring a warning, and the windows of ``embed`` and ``segment`` default to it.
    """

    model_type = "hnet_ntv2"
    attribute_map = {  # noqa: RUF012  (the base class annotates it)
        "hidden_size": "d_model",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_main_layer",
    }
    # Their resolutions differ from batch to batch, so that Trainer cannot join them over an evaluation.
    keys_to_ignore_at_inference = ["hidden_states"]  # noqa: RUF012  (the base class declares a plain list)

    vocab_size: int = 16
    pad_token_id: int = PAD_ID
    mask_token_id: int = MASK_ID
    d_model: int = 1024
    d_base: int | None = None
    n_head: int = 16
    intermediate_size: int = 8192
    n_main_layer: int = 20
    n_enc_layer: int = 2
    n_dec_layer: int = 2
    target_ratio_stage1: float = 0.3
    target_ratio_stage2: float | None = 0.5
    target_ratio_stage3: float | None = None
    guard_stage1: list[float] | tuple[float, ...] = (0.15, 0.6)
    guard_stage2: list[float] | tuple[float, ...] = (0.25, 0.9)
    guard_stage3: list[float] | tuple[float, ...] = (0.25, 0.9)
    max_chunk_length: int | None = 12
    chunker: Literal["learned", "peak", "ruler", "grid", "minimizer", "entropy", "shuffled", "none"] = "peak"
    kmer_size: int = 6
    position_mode: Literal["base", "rank"] = "base"
    rope_theta: float = 10000.0
    rope_scaling_factor: float = 1.0
    max_trunk_positions: int = 2048
    window: int = 128
    layer_norm_eps: float = 1e-12
    bidirectional: bool = True
    classification_strands: Literal["forward", "both"] = "forward"
    classification_pooling: ClassifierPooling = "mean"
    classification_bins: int = 8
    ratio_loss_weight: float = 0.03
    router_offset_rate: float = 0.1
    mask_rate: float = 0.15
    use_anchors: bool = True
    mask_protection: bool = True
    residual_gating: bool = True
    smoothing: bool = True
    initializer_range: float = 0.5
    initializer_gain: float = 0.64
    training_length: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any):
        kwargs = _drop_removed(kwargs)
        unknown = _unknown_names(kwargs)
        if unknown:
            raise ConfigError(_describe_unknown(unknown))
        self._check_types()
        self._check_sizes(kwargs.get("num_labels"))
        super().__post_init__(**kwargs)
        self._check_values()

    @property
    def target_ratios(self) -> tuple[float, ...]:
        """Target chunks per position of the stages in use, outermost first."""
        ratios = (self.target_ratio_stage1, self.target_ratio_stage2, self.target_ratio_stage3)
        return tuple(ratio for ratio in ratios if ratio is not None)

    @property
    def num_stages(self) -> int:
        return len(self.target_ratios)

    @property
    def has_offsets(self) -> bool:
        """Whether the chunker's ratios must be held: by the ratio loss, and by offsets that calibration sets."""
        return self.chunker == "learned"

    @property
    def counts_kmers(self) -> bool:
        """Whether the chunker has tables of counts, which ``conversion.calibrate`` fills from real sequence."""
        return self.chunker == "entropy"

    @property
    def guards(self) -> tuple[tuple[float, float], ...]:
        """(least, greatest) chunks per position of the stages in use."""
        all_guards = (self.guard_stage1, self.guard_stage2, self.guard_stage3)
        return tuple((float(low), float(high)) for low, high in all_guards[: self.num_stages])

    @property
    def base_dim(self) -> int:
        """Width of the base-resolution layers."""
        return self.d_model if self.d_base is None else self.d_base

    @property
    def kmer_vocab_size(self) -> int:
        """Tokens of the source model: 6 specials, 4^k k-mers, A T C G N."""
        return source_vocab_size(self.kmer_size)

    @property
    def least_values(self) -> int:
        """Values in the trunk's matrices and the k-mer table: the model has some more."""
        per_block = 4 * self.d_model**2 + 3 * self.d_model * self.intermediate_size // 2
        return self.n_main_layer * per_block + self.kmer_vocab_size * self.d_model

    def layers_per_stage(self, total: int) -> tuple[int, ...]:
        """Number of encoder or decoder layers of each stage, outermost first. A remainder goes to the inner stages."""
        share, rest = divmod(total, self.num_stages)
        return tuple(share + (stage >= self.num_stages - rest) for stage in range(self.num_stages))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A config from what a file holds. Settings of other tools are left out with a warning.

        A file is known by its ``model_type``. Those that were written before there was a choice of ``chunker`` mean the
        learned router with a threshold.

        Raises:
            ConfigError: A name is nearly one of ours, or a value does not fit, or is one of a removed setting.
        """
        config_dict = _drop_removed(config_dict)
        if "model_type" in config_dict:
            config_dict = _BEFORE_THE_SETTING | config_dict
        foreign = [name for name in _unknown_names(config_dict) if _nearest(name) is None]
        if foreign:
            _warn_of_foreign(tuple(foreign))
        return super().from_dict({k: v for k, v in config_dict.items() if k not in foreign}, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything is written to ``config.json``, so that a later default never changes a saved model."""
        written = super().to_diff_dict()
        everything = self.to_dict()
        written.update({name: everything[name] for name in own_field_names()})
        if "auto_map" in written:  # the base class names the class that is saved and no other
            written["auto_map"] = dict(_AUTO_MAP)
        return written

    def _check_types(self) -> None:
        for name, annotation in HNetNTV2Config.__annotations__.items():
            value = getattr(self, name)
            if not _matches(value, annotation):
                expected = (
                    annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")
                )
                raise ConfigError(f"model setting {name}={value!r} must be {expected}")

    def _check_sizes(self, num_labels: Any) -> None:
        """Sizes that cannot be, or would take minutes or all memory, before anything is made of them."""
        for name, (least, largest) in _SIZES.items():
            value = num_labels if name == "num_labels" else getattr(self, name)
            if not isinstance(value, int):  # None, or for num_labels the base class's to refuse
                continue
            if value < least:
                raise ConfigError(f"model setting {name}={value} must {'be positive' if least else 'not be negative'}")
            if value > largest:
                raise ConfigError(f"model setting {name}={value} is over the most that is possible here, {largest:,}")
        if self.least_values > _MOST_VALUES:
            raise ConfigError(
                f"d_model={self.d_model}, intermediate_size={self.intermediate_size} and n_main_layer="
                f"{self.n_main_layer} make a model of over {self.least_values:,} parameters; at most "
                f"{_MOST_VALUES:,} are possible here"
            )

    def _check_values(self) -> None:
        for holds, message in _RULES:
            if not holds(self):
                raise ConfigError(message.format(c=self))
        guards = (self.guard_stage1, self.guard_stage2, self.guard_stage3)
        for stage, (ratio, guard) in enumerate(zip(self.target_ratios, guards, strict=False), start=1):
            if not 0 < ratio < 1:
                raise ConfigError(f"target_ratio_stage{stage}={ratio} must lie between 0 and 1")
            if len(guard) != 2:
                raise ConfigError(f"guard_stage{stage}={guard!r} must be [least, greatest]")
            if not 0 <= guard[0] < ratio < guard[1] <= 1:
                raise ConfigError(
                    f"guard_stage{stage}={list(guard)} must enclose target_ratio_stage{stage}={ratio} within 0..1"
                )


def _drop_removed(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without removed ones, each of which must hold the only value that is left of it."""
    for name in REMOVED_SETTINGS.keys() & settings:
        only_value, last_version = REMOVED_SETTINGS[name]
        if settings[name] != only_value:
            raise ConfigError(
                f"model setting {name}={settings[name]!r} was removed: version {last_version} of hnet-ntv2 is the last "
                f"that had it, and this one loads {only_value!r} only"
            )
    return {name: value for name, value in settings.items() if name not in REMOVED_SETTINGS}


def _unknown_names(names: Iterable[str]) -> list[str]:
    """The names that are settings neither of this class nor of the base class."""
    known = _INHERITED_KEYS.union(field.name for field in dataclasses.fields(HNetNTV2Config))
    return sorted(name for name in names if name not in known and not name.startswith("_"))


def _nearest(name: str) -> str | None:
    """The setting of ours that a name was probably meant to be."""
    other_spelling = HNetNTV2Config.attribute_map.get(name)
    similar = difflib.get_close_matches(name, own_field_names(), n=1, cutoff=_SIMILAR)
    return other_spelling or (similar[0] if similar else None)


def _describe_unknown(unknown: list[str]) -> str:
    nearest = {name: _nearest(name) for name in unknown}
    meant = "; ".join(f"{name!r} is probably {near!r}" for name, near in nearest.items() if near)
    names = f"unknown model setting(s) {', '.join(map(repr, unknown))}"
    return f"{names}; {meant}" if meant else f"{names}; the model knows: {', '.join(sorted(own_field_names()))}"


@functools.cache
def _warn_of_foreign(names: tuple[str, ...]) -> None:
    """Warn once per process: loading a model reads its settings several times."""
    logger.warning("the saved config has settings that this model does not know: %s", ", ".join(names))


def own_field_names() -> tuple[str, ...]:
    """Names of the settings that this class adds to the Hugging Face base class."""
    return tuple(HNetNTV2Config.__annotations__)


def _matches(value: Any, annotation: Any) -> bool:
    """Whether a plain value (as YAML or JSON gives it) fits a field's annotation."""
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in typing.get_args(annotation))
    if origin is Literal:
        return value in typing.get_args(annotation)
    if origin in (list, tuple):
        return isinstance(value, origin) and all(_matches(item, float) for item in value)
    if annotation is float:  # JSON as Python reads it and YAML have words for NaN and infinity
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < math.inf
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, annotation)

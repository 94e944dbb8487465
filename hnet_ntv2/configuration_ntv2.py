"""The settings of a published Nucleotide Transformer v2 model, read from its ``config.json``."""

import dataclasses
import math
import os
import typing
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from .errors import ConfigError
from .model_files import on_one_line, read_json
from .pooling import ClassifierPooling

# A published file must state these; the rest may be left out.
_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "layer_norm_eps",
    "pad_token_id",
)

# The only value of a setting that changes the function and that our blocks compute.
_IMPLEMENTED: dict[str, Any] = {
    "position_embedding_type": "rotary",
    "token_dropout": False,
    "add_bias_fnn": False,
    "emb_layer_norm_before": False,
    "tie_word_embeddings": False,
    "is_folding_model": False,
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}

# The largest values that are let through: far above any published model, and nothing of them takes minutes to look at.
_LARGEST = {
    "vocab_size": 1 << 17,
    "hidden_size": 1 << 16,
    "num_hidden_layers": 1 << 10,
    "num_attention_heads": 1 << 12,
    "intermediate_size": 1 << 20,
    "max_position_embeddings": 1 << 24,
    "classification_bins": 1 << 10,
}

# Keys that Hugging Face tools write into any config; none of them changes the function.
_TOOL_KEYS = frozenset(
    {"_name_or_path", "_commit_hash", "_attn_implementation", "attn_implementation"}
    | {"auto_map", "model_type", "name_or_path", "num_labels", "torch_dtype", "transformers_version"}
    | {"bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "unk_token_id"}  # Trainer takes the tokenizer's
)


class NTv2Config(PreTrainedConfig):
    """Keys of a published NTv2 ``config.json``; the defaults are those of the 500M model.

    Attributes:
        vocab_size: 4^k + 11 tokens.
        hidden_size: Width.
        num_hidden_layers: Blocks.
        num_attention_heads: Heads per block.
        intermediate_size: F, half the rows of the fused gated matrix.
        max_position_embeddings: Rows of a stored table that the model does not use; its first two are special.
        layer_norm_eps: Of every norm. It differs between files, so it is always read and never assumed.
        pad_token_id: Marks positions that are not part of a sequence.
        mask_token_id: Stands for a hidden token.
        initializer_range: Standard deviation of random weights.
        classification_pooling: How a sequence classifier makes one vector of tokens, as in ``HNetNTV2Config``.
        classification_bins: Parts of a sequence that "bins" and "convolution" tell apart.
    """

    model_type = "ntv2"

    vocab_size: int = 4107
    hidden_size: int = 1024
    num_hidden_layers: int = 29
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    max_position_embeddings: int = 2050
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 1
    mask_token_id: int = 2
    initializer_range: float = 0.02
    classification_pooling: ClassifierPooling = "mean"
    classification_bins: int = 8
    position_embedding_type: str = "rotary"
    token_dropout: bool = False
    add_bias_fnn: bool = False
    emb_layer_norm_before: bool = False
    tie_word_embeddings: bool = False
    hidden_dropout_prob: float = 0.0
    attention_probs_dropout_prob: float = 0.0
    is_folding_model: bool = False
    esmfold_config: dict | None = None
    vocab_list: list | None = None
    use_cache: bool = False

    def __post_init__(self, **kwargs: Any):
        _require_known(set(kwargs))
        _check_types({name: getattr(self, name) for name in _own_names()})
        for name, value in _IMPLEMENTED.items():
            if getattr(self, name) != value:
                raise ConfigError(
                    f"NTv2 setting {name}={getattr(self, name)!r} is not implemented, only {value!r} is, "
                    "which all published v2 models use"
                )
        for name, largest in _LARGEST.items():
            if not 0 < getattr(self, name) <= largest:
                raise ConfigError(f"NTv2 setting {name}={getattr(self, name)} must lie between 1 and {largest:,}")
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ConfigError(
                f"hidden_size={self.hidden_size} must be a multiple of 2 x num_attention_heads="
                f"{self.num_attention_heads}: rotary turns pairs of coordinates"
            )
        super().__post_init__(**kwargs)

    @classmethod
    def from_json_file(cls, json_file: str | os.PathLike[str], **changes: Any) -> "NTv2Config":
        """Read a published ``config.json``.

        Args:
            json_file: Its path.
            **changes: Settings that are not those of the file, such as ``num_labels``.

        Raises:
            ConfigError: If it is no JSON object, lacks a setting, or holds one that is unknown or not implemented.
        """
        settings = read_json(Path(json_file), ConfigError)
        missing = [name for name in _REQUIRED if name not in settings]
        if missing:
            raise ConfigError(f"{json_file} lacks {', '.join(missing)}; is it the config.json of an NTv2 model?")
        own = {name: value for name, value in settings.items() if name not in _TOOL_KEYS} | changes
        _require_known(set(own) - _BASE_FIELDS)
        num_labels = own.pop("num_labels", None)
        try:
            config = cls(**own)
            if num_labels is not None:
                config.num_labels = num_labels  # here, since names of other labels would stop it above
            return config
        except ConfigError as error:
            raise ConfigError(f"{json_file}: {error}") from error
        except Exception as error:  # transformers checks its own settings, and raises many kinds
            raise ConfigError(f"{json_file} holds a setting that transformers refuses: {on_one_line(error)}") from error

    def to_diff_dict(self) -> dict[str, Any]:
        """Everything is written to ``config.json``: what a model needs is never left to a default."""
        written, everything = super().to_diff_dict(), self.to_dict()
        written.update({name: everything[name] for name in _own_names()})
        return written


_BASE_FIELDS = frozenset(field.name for field in dataclasses.fields(PreTrainedConfig))


def _require_known(names: set[str]) -> None:
    unknown = sorted(names - _TOOL_KEYS - set(_own_names()))
    if unknown:
        raise ConfigError(f"unknown NTv2 setting(s) {', '.join(unknown)}; known are {', '.join(_own_names())}")


def _own_names() -> list[str]:
    return sorted(name for name in NTv2Config.__annotations__ if name != "model_type")


def _check_types(settings: dict[str, Any]) -> None:
    for name in set(settings) & set(_own_names()):
        value, annotation = settings[name], NTv2Config.__annotations__[name]
        accepted = int | float if annotation is float else annotation
        expected = getattr(annotation, "__name__", annotation)
        if annotation is ClassifierPooling:
            fits, expected = value in typing.get_args(annotation), f"one of {', '.join(typing.get_args(annotation))}"
        else:
            is_bool_by_mistake = isinstance(value, bool) and annotation is not bool
            is_finite = not isinstance(value, float) or math.isfinite(value)  # JSON, as Python reads it, can say NaN
            fits = isinstance(value, accepted) and is_finite and not is_bool_by_mistake
        if not fits:
            raise ConfigError(f"NTv2 setting {name}={value!r} must be {expected}")

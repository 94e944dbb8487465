"""Nucleotide Transformer v2 as published: the same keys, the same function, loaded from a directory of safetensors."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.utils.generic import ModelOutput

from .attention import pack_rows, rotary_cos_sin, unpack_rows
from .backbone import NTv2Block, TrunkOutput, run_blocks
from .configuration_ntv2 import NTv2Config
from .errors import InputError, WeightsError
from .input_checks import refuse_unknown_keywords
from .model_files import read_tensors, require_finite, weight_files
from .pooling import SequenceClassifier, classification_loss
from .shapes import Bool, Float, Int, Shaped, Tensor
from .vocabulary import NUM_SOURCE_SPECIALS

_NAMES_SHOWN = 5


@dataclass
class NTv2MaskedLMOutput(ModelOutput):
    """What the model computes; everything is 0 at positions outside ``attention_mask``.

    Attributes:
        logits: Scores of every token, [batch, length, vocab].
        last_hidden_state: After the final norm, [batch, length, dim].
        hidden_states: Token embeddings, then the output of every block before the final norm; None unless asked for.
    """

    logits: Tensor | None = None
    last_hidden_state: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class _StoredFrequencies(nn.Module):
    """A rotary buffer that published files hold for every block; the model computes its own."""

    def __init__(self, head_dim: int):
        super().__init__()
        frequencies = 10000.0 ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        self.register_buffer("inv_freq", frequencies)


class _Embeddings(nn.Module):
    """Token embeddings, and the table of positions that is stored but not used."""

    def __init__(self, config: NTv2Config):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)


class _Encoder(nn.Module):
    """The blocks and the final norm, under their published names."""

    def __init__(self, config: NTv2Config):
        super().__init__()
        width, heads = config.hidden_size, config.num_attention_heads
        blocks = [
            NTv2Block(width, heads, config.intermediate_size, config.layer_norm_eps)
            for _ in range(config.num_hidden_layers)
        ]
        for block in blocks:
            block.attention.self.add_module("rotary_embeddings", _StoredFrequencies(width // heads))
        self.layer = nn.ModuleList(blocks)
        self.emb_layer_norm_after = nn.LayerNorm(width, eps=config.layer_norm_eps)


class _ContactHead(nn.Module):
    """Stored in published files, used by nothing here."""

    def __init__(self, config: NTv2Config):
        super().__init__()
        self.regression = nn.Linear(config.num_hidden_layers * config.num_attention_heads, 1)


class _Body(nn.Module):
    """What published files keep under ``esm.``."""

    def __init__(self, config: NTv2Config):
        super().__init__()
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.contact_head = _ContactHead(config)


class NTv2Head(nn.Module):
    """Masked language model head: ``decoder(LN(gelu(dense(x)))) + bias``, the exact (erf) GELU."""

    def __init__(self, config: NTv2Config):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Float[Tensor, "total dim"]) -> Float[Tensor, "total vocab"]:
        return self.decoder(self.layer_norm(F.gelu(self.dense(hidden)))) + self.bias


class NTv2PreTrainedModel(PreTrainedModel):
    """What the models of this file have in common: ``esm``, from tokens to their vectors, and strict loading."""

    config_class = NTv2Config
    config: NTv2Config
    base_model_prefix = "esm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    # forward() takes **keywords, which would make Trainer divide the loss by a number that it passes in them.
    accepts_loss_kwargs = False
    _no_split_modules = ["NTv2Block"]  # noqa: RUF012  (the base class declares a plain list)

    def __init__(self, config: NTv2Config):
        super().__init__(config)
        self.esm = _Body(config)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if getattr(module, "starts_at_zero", False):
            nn.init.zeros_(module.weight)  # pyright: ignore[reportArgumentType]

    def get_input_embeddings(self) -> nn.Module:
        return self.esm.embeddings.word_embeddings

    def encode(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "..."] | None = None,
        output_hidden_states: bool = False,
    ) -> TrunkOutput:
        """The same without the head, whose matrix over all k-mers can cost more than small models' layers.

        Args:
            input_ids: Tokens, ``<cls>`` first.
            attention_mask: See ``forward``.
            output_hidden_states: Also return the state before each block and after the last.

        Returns:
            Padded: [batch, length, dim], 0 outside ``attention_mask``.

        Raises:
            InputError: As ``forward``.
        """
        return self._encode(input_ids, self._valid_positions(input_ids, attention_mask), output_hidden_states)

    def _encode(
        self,
        input_ids: Int[Tensor, "batch length"],
        is_valid: Bool[Tensor, "batch length"],
        output_hidden_states: bool,
    ) -> TrunkOutput:
        hidden, layout = pack_rows(self.esm.embeddings.word_embeddings(input_ids), is_valid)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)[is_valid].float()
        rotary = rotary_cos_sin(positions, self.config.hidden_size // self.config.num_attention_heads)
        encoder = self.esm.encoder
        trunk = run_blocks(encoder.layer, encoder.emb_layer_norm_after, hidden, rotary, layout, output_hidden_states)
        states = trunk.hidden_states
        return TrunkOutput(
            unpack_rows(trunk.last_hidden_state, is_valid),
            None if states is None else tuple(unpack_rows(state, is_valid) for state in states),
        )

    def _valid_positions(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Shaped[Tensor, "..."] | None
    ) -> Bool[Tensor, "batch length"]:
        vocab_size = self.config.vocab_size
        if input_ids.numel() and not 0 <= int(input_ids.min()) <= int(input_ids.max()) < vocab_size:
            found = f"{int(input_ids.min())}..{int(input_ids.max())}"
            raise InputError(f"token ids {found} do not fit NTv2's vocabulary of {vocab_size}; use its NTv2Tokenizer")
        if attention_mask is None:
            return input_ids != self.config.pad_token_id
        if attention_mask.shape != input_ids.shape:
            shapes = f"{tuple(attention_mask.shape)} and {tuple(input_ids.shape)}"
            raise InputError(f"attention_mask and input_ids differ in shape: {shapes}")
        return attention_mask != 0

    def counted_tokens(
        self, input_ids: Int[Tensor, "batch length"], attention_mask: Shaped[Tensor, "..."] | None = None
    ) -> Bool[Tensor, "batch length"]:
        """Which tokens are k-mers or single A, C, G, T: no special token, no N, no padding."""
        is_n = input_ids == self.config.vocab_size - 1
        return self._valid_positions(input_ids, attention_mask) & (input_ids >= NUM_SOURCE_SPECIALS) & ~is_n

    @classmethod
    def from_pretrained(
        cls,
        directory: str | os.PathLike[str],
        *,
        config: NTv2Config | None = None,
        dtype: torch.dtype = torch.float32,
        ignore_mismatched_sizes: bool = False,
        local_files_only: bool = True,
        **settings: Any,
    ) -> Any:
        """Load ``config.json`` and ``model.safetensors`` (or its shards) from a directory, in eval mode.

        Nothing is downloaded, no pickle is opened, no remote code is run. Nothing stays random, but for the head of a
        classifier where the directory holds none.

        Args:
            directory: A downloaded snapshot of a published model, or one written by ``save_pretrained``.
            config: Instead of the directory's.
            dtype: Of the loaded weights.
            ignore_mismatched_sizes: A classifier's head of another shape starts anew.
            local_files_only: Without effect; what scripts for other models pass.
            **settings: Of the config, such as ``num_labels``.

        Raises:
            WeightsError: If a file is absent or damaged, or a tensor missing, superfluous, misshapen or not
                finite (by name).
            ConfigError: If the config states something that is not implemented.
        """
        folder = Path(directory)
        path = _config_file(folder)
        config = NTv2Config.from_json_file(path, **settings) if config is None else config
        stored = [(path, name, tensor) for path in weight_files(folder) for name, tensor in read_tensors(path)]
        # Without memory or random draws: every tensor is assigned from the file.
        with torch.device("meta"):
            model = cls(config)
        tensors = model._with_head({name: tensor for _, name, tensor in stored}, ignore_mismatched_sizes)
        require_layout(_key_shapes(model), tensors, folder)
        # After the layout check, so that the file of another model is reported as such.
        for path, name, tensor in stored:
            require_finite(name, tensor, path)
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, strict=True, assign=True)
        return model.eval()

    def _with_head(self, tensors: dict[str, Tensor], ignore_mismatched_sizes: bool) -> dict[str, Tensor]:
        """The tensors of a file with those of a new head, if the model may have one."""
        return tensors


class NTv2ForMaskedLM(NTv2PreTrainedModel):
    """Nucleotide Transformer v2 with its masked language model head."""

    def __init__(self, config: NTv2Config):
        super().__init__(config)
        self.lm_head = NTv2Head(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head.decoder

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "..."] | None = None,
        output_hidden_states: bool = False,
    ) -> NTv2MaskedLMOutput:
        """Score every token at every position.

        Args:
            input_ids: Tokens, ``<cls>`` first.
            attention_mask: Non-zero where a token belongs to the sequence; taken from the padding id when left out.
            output_hidden_states: Also return the state before each block and after the last.

        Raises:
            InputError: If ids lie outside the vocabulary, or the mask has another shape.
        """
        is_valid = self._valid_positions(input_ids, attention_mask)
        encoding = self._encode(input_ids, is_valid, output_hidden_states)
        # Valid positions only: the head's matrix over all tokens is large.
        logits = self.lm_head(encoding.last_hidden_state[is_valid])
        return NTv2MaskedLMOutput(unpack_rows(logits, is_valid), encoding.last_hidden_state, encoding.hidden_states)


class NTv2ForSequenceClassification(NTv2PreTrainedModel):
    """Class logits of a sequence from the vectors of its k-mers and letters, by ``config.classification_pooling``.

    ``from_pretrained`` starts it from a masked language model, with a new head.
    """

    def __init__(self, config: NTv2Config):
        super().__init__(config)
        assert config.num_labels is not None
        self.num_labels = config.num_labels
        how, num_bins = config.classification_pooling, config.classification_bins
        self.classifier = SequenceClassifier(config.hidden_size, self.num_labels, config.layer_norm_eps, how, num_bins)
        self.post_init()

    def forward(
        self,
        input_ids: Int[Tensor, "batch length"],
        attention_mask: Shaped[Tensor, "..."] | None = None,
        labels: Shaped[Tensor, "batch ..."] | None = None,
        *,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **keywords: Any,
    ) -> SequenceClassifierOutput | tuple:
        """Classify sequences.

        Args:
            input_ids: Tokens, ``<cls>`` first. Special tokens and N do not count.
            attention_mask: Non-zero where a token belongs to the sequence; taken from the padding id when left out.
            labels: Class indices, or floats where ``config.problem_type`` says so.
            output_hidden_states: Also return the state before each block and after the last.
            return_dict: False for a plain tuple.
            **keywords: What scripts for other models pass: None, or without effect here.

        Raises:
            InputError: For a row without a token that counts, and as in ``NTv2ForMaskedLM.forward``.
        """
        refuse_unknown_keywords(keywords)
        encoding = self.encode(input_ids, attention_mask, bool(output_hidden_states))
        logits = self.classifier(encoding.last_hidden_state, self.counted_tokens(input_ids, attention_mask))
        loss = None if labels is None else classification_loss(logits.float(), labels, self.config.problem_type)
        output = SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=encoding.hidden_states)
        return output.to_tuple() if return_dict is False else output

    def _with_head(self, tensors: dict[str, Tensor], ignore_mismatched_sizes: bool) -> dict[str, Tensor]:
        expected = {name: shape for name, shape in _key_shapes(self).items() if name.startswith("classifier.")}
        head = {name: tensor for name, tensor in tensors.items() if name.startswith("classifier.")}
        fits = {name: tuple(tensor.shape) for name, tensor in head.items()} == expected
        if not head or (ignore_mismatched_sizes and not fits):
            self.classifier.to_empty(device="cpu").apply(self._init_weights)
            head = self.classifier.state_dict(prefix="classifier.")
        return {
            name: tensor for name, tensor in tensors.items() if not name.startswith(("lm_head.", "classifier."))
        } | head


def published_key_shapes(config: NTv2Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a published file of this size, unused ones included, with its shape."""
    with torch.device("meta"):
        return _key_shapes(NTv2ForMaskedLM(config))


def _key_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _config_file(folder: Path) -> Path:
    path = folder / "config.json"
    if not path.is_file():
        raise WeightsError(
            f"{path} does not exist; give the directory of a downloaded NTv2 model, which holds config.json and "
            "model.safetensors (nothing is downloaded here)"
        )
    return path


def require_layout(expected: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Stop unless names and shapes are exactly those that the config implies.

    Raises:
        WeightsError: With the names of tensors that are missing, superfluous, misshapen or not floating point.
    """
    problems = {
        "missing": [name for name in expected if name not in tensors],
        "superfluous": [name for name in tensors if name not in expected],
        "misshapen": [
            f"{name} {tuple(tensors[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in tensors and tuple(tensors[name].shape) != shape
        ],
        "not floating point": [name for name, tensor in tensors.items() if not tensor.is_floating_point()],
    }
    found = [_summary(kind, names) for kind, names in problems.items() if names]
    if found:
        raise WeightsError(f"the weights in {folder} do not fit its config.json; {'; '.join(found)}")


def _summary(kind: str, names: list[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{kind}: {', '.join(names[:_NAMES_SHOWN])}{more}"

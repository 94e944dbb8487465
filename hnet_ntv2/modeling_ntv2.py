"""Nucleotide Transformer v2 as published: the same keys, the same function, loaded from a directory of safetensors."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from .attention import pack_rows, rotary_cos_sin, unpack_rows
from .backbone import NTv2Block, TrunkOutput, run_blocks
from .configuration_ntv2 import NTv2Config
from .errors import InputError, WeightsError
from .model_files import read_tensors, require_finite, weight_files
from .shapes import Bool, Float, Int, Shaped, Tensor

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


class NTv2ForMaskedLM(PreTrainedModel):
    """Nucleotide Transformer v2 with its masked language model head."""

    config_class = NTv2Config
    config: NTv2Config
    base_model_prefix = "esm"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["NTv2Block"]  # noqa: RUF012  (the base class declares a plain list)

    def __init__(self, config: NTv2Config):
        super().__init__(config)
        self.esm = _Body(config)
        self.lm_head = NTv2Head(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.esm.embeddings.word_embeddings

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

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, dtype: torch.dtype = torch.float32
    ) -> "NTv2ForMaskedLM":
        """Load ``config.json`` and ``model.safetensors`` (or its shards) from a directory, in eval mode.

        Nothing is downloaded, no pickle is opened, no remote code is run, and nothing stays random.

        Args:
            directory: A downloaded snapshot of a published model, or one written by ``save_pretrained``.
            dtype: Of the loaded weights.

        Raises:
            WeightsError: If a file is absent or damaged, or a tensor missing, superfluous, misshapen or not
                finite (by name).
            ConfigError: If the config states something that is not implemented.
        """
        folder = Path(directory)
        config = NTv2Config.from_json_file(_config_file(folder))
        stored = [(path, name, tensor) for path in weight_files(folder) for name, tensor in read_tensors(path)]
        tensors = {name: tensor for _, name, tensor in stored}
        require_layout(published_key_shapes(config), tensors, folder)
        # After the layout check, so that the file of another model is reported as such.
        for path, name, tensor in stored:
            require_finite(name, tensor, path)
        # Without memory or random draws: every tensor is assigned from the file.
        with torch.device("meta"):
            model = cls(config)
        model.load_state_dict({name: tensor.to(dtype) for name, tensor in tensors.items()}, strict=True, assign=True)
        return model.eval()


def published_key_shapes(config: NTv2Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a published file of this size, unused ones included, with its shape."""
    with torch.device("meta"):
        model = NTv2ForMaskedLM(config)
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

"""Vectors of sequences from every layer of a frozen model, pooled, and kept on disk for the next seed."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoConfig, AutoModel, AutoTokenizer

from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..configuration_ntv2 import NTv2Config
from ..conversion.calibrate import calibrate_routers
from ..embedding import EmbedSettings, NamedSequence, embed_sequences, layer_names
from ..errors import ConfigError, HNetNTV2Error, InputError, WeightsError
from ..genome import decode, file_digest
from ..inference.model import choose_device, load_model
from ..inference.windows import DEFAULT_BATCH_BASES, batches_by_length
from ..kmers import flip_rows
from ..model_files import loaded_files, on_one_line, read_config, read_json
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..modeling_ntv2 import NTv2ForMaskedLM
from ..pooling import pool
from ..resources import bundled_model
from ..shapes import Bool, Tensor
from ..storage import appearing_file
from ..strands import Strands
from ..tokenization_hnet_ntv2 import NTv2Tokenizer
from ..vocabulary import BASE_BITS, FIRST_BASE, LAST_BASE, reverse_complement, source_kmer_size
from .results import HUB, RANDOM

POOLS = ("mean", "max", "first", "bins")
NUM_BINS = 8
_CALIBRATION_BASES = 4096
# Part of each cache file's name: raise it when features of the same model and rows change.
_CACHE_VERSION = 1

Bases = Sequence[NDArray[np.uint8]]
Features = dict[tuple[str, str], NDArray[np.float32]]
"""[rows, dim] by layer and pool; "bins" are ``NUM_BINS`` times as wide. NaN for a row without A, C, G and T."""


class Encoder(ABC):
    """A frozen model that gives the vectors of all its layers in one forward pass.

    Attributes:
        layers: Their names, from the embeddings to "last".
        dim: Of the widest layer.
        digest: Of what decides its vectors.
        num_parameters: Of the model without a head.
    """

    layers: tuple[str, ...]
    dim: int
    digest: str
    num_parameters: int

    @abstractmethod
    def encode(
        self, rows: Bases, layers: Sequence[str], pools: Sequence[str], strands: Strands
    ) -> Iterator[tuple[list[int], Features]]:
        """The features of some rows with their numbers, until all rows came."""


class HNetEncoder(Encoder):
    """HNet-NTv2: the layers of ``embedding.layer_names``, each spread to the bases."""

    def __init__(self, model: HNetNTV2ForMaskedLM, digest: str) -> None:
        self._model, self.digest = model, digest
        self.layers, self.dim = layer_names(model.config), model.config.d_model
        self.num_parameters = model.model.num_parameters()

    def encode(
        self, rows: Bases, layers: Sequence[str], pools: Sequence[str], strands: Strands
    ) -> Iterator[tuple[list[int], Features]]:
        settings = EmbedSettings(tuple(layers), tuple(pools), strands)
        sequences = (NamedSequence("", row) for row in rows)
        for number, embedding in enumerate(embed_sequences(self._model, sequences, settings)):
            names = [(layer, how) for layer in layers for how in pools]
            yield [number], {(layer, how): embedding.vectors[f"{layer}_{how}"][None] for layer, how in names}


class TokenEncoder(Encoder):
    """A model with states per token: NTv2, or what ``AutoModel`` loads. Special tokens and tokens of N do not count.

    Layers are "embeddings", "block_1" and so on, and "last".
    """

    def __init__(self, model: Any, tokenizer: Any, digest: str) -> None:
        self._model, self._tokenizer, self.digest = model.eval(), tokenizer, digest
        tokenizer.padding_side = "right"
        self._is_ntv2 = isinstance(model, NTv2ForMaskedLM)
        num_blocks, self.dim = model.config.num_hidden_layers, model.config.hidden_size
        # transformers gives the last block behind the final norm; ours gives both.
        num_inner = num_blocks if self._is_ntv2 else num_blocks - 1
        self.layers = ("embeddings", *(f"block_{block}" for block in range(1, num_inner + 1)), "last")
        self.num_parameters = sum(each.numel() for each in (model.esm if self._is_ntv2 else model).parameters())
        special = set(tokenizer.all_special_tokens)
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        # By letters, since tokenizers mark the starts of words in many ways.
        is_counted = [token not in special and not set("ACGTU").isdisjoint(token.upper()) for token in tokens]
        self._is_counted = torch.tensor(is_counted, device=model.device)

    def encode(
        self, rows: Bases, layers: Sequence[str], pools: Sequence[str], strands: Strands
    ) -> Iterator[tuple[list[int], Features]]:
        for chosen in batches_by_length([len(row) for row in rows], DEFAULT_BATCH_BASES):
            batch = [(rows[index] & BASE_BITS).astype(np.uint8) for index in chosen]
            features = self._pooled(batch, layers, pools, is_reverse=False)
            if strands == "both":
                reverse = self._pooled([reverse_complement(row) for row in batch], layers, pools, is_reverse=True)
                features = {key: (value + reverse[key]) / np.float32(2) for key, value in features.items()}
            yield chosen, features

    def _pooled(self, batch: Bases, layers: Sequence[str], pools: Sequence[str], is_reverse: bool) -> Features:
        """Pools of a batch, of the reverse strand in the forward frame."""
        states, is_counted, is_valid = self._states(batch)
        if is_reverse:
            is_counted = flip_rows(is_counted, is_valid)
        features: Features = {}
        for layer in layers:
            state = flip_rows(states[layer], is_valid) if is_reverse else states[layer]
            for how in pools:
                features[layer, how] = pool(state.float(), is_counted, how, NUM_BINS).cpu().numpy()
        return features

    @torch.inference_mode()
    def _states(self, batch: Bases) -> tuple[dict[str, Tensor], Bool[Tensor, "batch length"], Bool[Tensor, "..."]]:
        """States by layer, which tokens count, and which are no padding."""
        texts = [decode(row).decode() for row in batch]
        read = self._tokenizer(texts, padding=True, return_tensors="pt").to(self._model.device)
        ids, is_valid = read["input_ids"], read["attention_mask"].bool()
        if ids.shape[1] > self._tokenizer.model_max_length:
            most = self._tokenizer.model_max_length
            raise InputError(f"a row of {max(map(len, texts)):,} bases has {ids.shape[1]:,} tokens; at most {most:,}")
        run = self._model.encode if self._is_ntv2 else self._model
        output = run(input_ids=ids, attention_mask=read["attention_mask"], output_hidden_states=True)
        inner = output.hidden_states if self._is_ntv2 else output.hidden_states[:-1]
        states = dict(zip(self.layers, (*inner, output.last_hidden_state), strict=True))
        return states, self._is_counted[ids] & is_valid, is_valid


def open_encoder(source: str | Path | None = None, *, seed: int = 0, device: str = "auto") -> Encoder:
    """The encoder of a model.

    Args:
        source: A folder of HNet-NTv2, NTv2, or any model that ``AutoModel`` loads, with its tokenizer; None for the
            bundled model; ``hf:ID`` for a model on the Hub; ``random:FOLDER`` for a folder's settings with random
            weights. No remote code is run, no pickle is loaded.
        seed: Of random weights. Routers of random weights are calibrated on random bases.
        device: As ``load_model`` takes it.

    Raises:
        WeightsError: There is no such model, or it cannot be loaded.
        ConfigError: A setting or the device cannot be used.
    """
    place, text = choose_device(device), "" if source is None else str(source)
    if text.startswith(HUB):
        return _open_auto(text.removeprefix(HUB), place, f"{text}@", local_files_only=False)
    is_random = text.startswith(RANDOM)
    text = text.removeprefix(RANDOM)
    folder = Path(text).expanduser() if text else bundled_model()
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder} is no folder with a config.json; name a model folder, or {HUB}ID for the Hub")
    kind = read_json(folder / "config.json").get("model_type")
    digest = f"{RANDOM}{seed}:{file_digest(folder / 'config.json')}" if is_random else _digest(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == HNetNTV2Config.model_type:
            return HNetEncoder(_random_hnet(folder, seed, place) if is_random else load_model(folder, device), digest)
        if kind == "ntv2" or (kind in (None, "esm") and _is_ntv2(folder)):
            config = NTv2Config.from_json_file(folder / "config.json")
            model: Any = NTv2ForMaskedLM(config) if is_random else NTv2ForMaskedLM.from_pretrained(folder)
            tokenizer = NTv2Tokenizer(k=source_kmer_size(config.vocab_size))
            return TokenEncoder(model.to(place), tokenizer, digest)
        return _open_auto(str(folder), place, digest, is_random=is_random)


def pooled_features(
    encoder: Encoder,
    rows: Bases,
    layers: Sequence[str],
    pools: Sequence[str] = POOLS,
    *,
    strands: Strands = "forward",
    cache: Path | None = None,
) -> Features:
    """The features of rows of encoded bases, in their order, from one forward pass for all layers and pools.

    Args:
        encoder: From ``open_encoder``.
        rows: Encoded bases of each.
        layers: Of ``encoder.layers``.
        pools: Of ``POOLS``.
        strands: "both" averages the vectors of both strands in the forward frame.
        cache: Folder in which features are looked up, and to which they are written; None for neither.

    Raises:
        ConfigError: A layer or a pool is unknown.
    """
    for what, names, known in (("layer", layers, encoder.layers), ("pool", pools, POOLS)):
        for name in names:
            if name not in known:
                raise ConfigError(f"{what} {name!r} is unknown; choose from {', '.join(known)}")
    path = None if cache is None else cache / f"{_cache_key(encoder, rows, layers, pools, strands)}.npz"
    if path is not None and path.is_file():
        with np.load(path, allow_pickle=False) as stored:  # a pickle could run code
            return {(layer, how): stored[f"{layer}_{how}"] for layer in layers for how in pools}
    features: Features = {}
    for numbers, found in encoder.encode(rows, layers, pools, strands):
        for key, vectors in found.items():
            if key not in features:
                features[key] = np.empty((len(rows), vectors.shape[1]), np.float32)
            features[key][numbers] = vectors
    if path is not None:
        with appearing_file(path) as partial, partial.open("wb") as file:
            arrays: dict[str, Any] = {f"{layer}_{how}": vectors for (layer, how), vectors in features.items()}
            np.savez(file, **arrays)
    return features


def _cache_key(encoder: Encoder, rows: Bases, layers: Sequence[str], pools: Sequence[str], strands: str) -> str:
    settings = [_CACHE_VERSION, encoder.digest, list(layers), list(pools), NUM_BINS, strands]
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    for row in rows:
        digest.update(len(row).to_bytes(8, "little"))
        digest.update((row & BASE_BITS).tobytes())
    return digest.hexdigest()


def _digest(folder: Path) -> str:
    """Digest of the files that are loaded, those of a tokenizer included."""
    names = [*loaded_files(folder), *sorted(folder.glob("*token*.json")), *sorted(folder.glob("vocab*"))]
    return hashlib.blake2b("".join(map(file_digest, names)).encode(), digest_size=16).hexdigest()


def _is_ntv2(folder: Path) -> bool:
    """Whether a folder that calls itself ESM holds NTv2: its blocks have gated units, and ESM's do not."""
    try:
        NTv2Config.from_json_file(folder / "config.json")
    except ConfigError:
        return False
    return True


def _random_hnet(folder: Path, seed: int, place: torch.device) -> HNetNTV2ForMaskedLM:
    config: Any = read_config(folder, HNetNTV2Config)
    model: Any = HNetNTV2ForMaskedLM(config).eval()
    drawn = torch.Generator().manual_seed(seed)
    # Rows of the training length: the model warns of longer ones.
    length = min(config.training_length or _CALIBRATION_BASES, _CALIBRATION_BASES)
    bases = torch.randint(FIRST_BASE, LAST_BASE + 1, (_CALIBRATION_BASES // length, length), generator=drawn)
    calibrate_routers(model.model, [bases])
    return model.to(place)


def _open_auto(
    name: str, place: torch.device, digest: str, *, local_files_only: bool = True, is_random: bool = False
) -> TokenEncoder:
    where = {"local_files_only": local_files_only, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
        config = AutoConfig.from_pretrained(name, **where)
        if is_random:
            model = AutoModel.from_config(config)
        else:
            model = AutoModel.from_pretrained(name, config=config, use_safetensors=True, dtype=torch.float32, **where)
    except HNetNTV2Error:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds
        raise WeightsError(f"the model {name} cannot be loaded: {on_one_line(error)}") from error
    # The commit of what was loaded: a name on the Hub can lead to other files tomorrow.
    commit = getattr(config, "_commit_hash", None) or ""
    return TokenEncoder(model.to(place), tokenizer, f"{digest}{commit}" if not local_files_only else digest)

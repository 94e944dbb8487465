"""Build the model that training starts from: copy the source, zero the residual head, set the routers, list it all."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from .. import __version__
from ..configuration_hnet_ntv2 import HNetNTV2Config, own_field_names
from ..errors import ConfigError, WeightsError
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..parameter_names import parameter_part
from ..shapes import Tensor
from . import DEFAULT_SEED
from .calibrate import boundary_rates, calibrate_routers
from .keys import ZEROED_KEYS, copied_targets, destination
from .layers import choose_layers, parse_layers, source_states
from .ledger import Ledger, ModelEntry, SourceEntry
from .sequence import RealSequence, mask_cells
from .source import ROPE_THETA, NTv2Source

logger = logging.getLogger(__name__)

MAX_MAIN_LAYERS = 20
_BATCH = 4  # windows per pass: the encoders' memory grows with it
_SAFETENSORS_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


class Start(NamedTuple):
    """A model that training can start from, and its ledger."""

    model: HNetNTV2ForMaskedLM
    ledger: Ledger


def config_for(
    source: NTv2Source, settings: Mapping[str, Any] | None = None, num_layers: int | None = None
) -> HNetNTV2Config:
    """Settings of our model for a source: the source's sizes, then the user's settings, then the defaults.

    Args:
        source: The source model.
        settings: The user's model settings; what they leave out follows the source.
        num_layers: Blocks of the trunk if the settings have none; min(20, those of the source) by default.

    Raises:
        ConfigError: A setting that the source contradicts, with both sides.
    """
    theirs = source.config
    # What the copied weights fix; a user may name it, but not change it.
    shape: dict[str, Any] = {
        "d_model": theirs.hidden_size,
        "n_head": theirs.num_attention_heads,
        # Theirs counts the gated half, ours both halves of the GLU's first matrix.
        "intermediate_size": 2 * theirs.intermediate_size,
        "kmer_size": source.kmer_size,
        "layer_norm_eps": theirs.layer_norm_eps,
        "rope_theta": ROPE_THETA,
    }
    given = dict(settings or {})
    for name, value in shape.items():
        if name in given and given[name] != value:
            raise ConfigError(f"--config says {name}={given[name]!r}, the source model {source.name} has {value!r}")
    wanted = given.get("n_main_layer", 0)
    # Another type than int is the config class's to refuse, in its own words.
    if isinstance(wanted, int) and wanted > theirs.num_hidden_layers:
        raise ConfigError(
            f"--config says n_main_layer={wanted}, the source model {source.name} has {theirs.num_hidden_layers}"
        )
    follows: dict[str, Any] = {
        "n_main_layer": num_layers or min(MAX_MAIN_LAYERS, theirs.num_hidden_layers),
        # The first two rows of the source's position table are special tokens' (see NTv2Config).
        "max_trunk_positions": theirs.max_position_embeddings - 2,
    }
    return HNetNTV2Config(**(follows | shape | given))


def graft(
    source: NTv2Source,
    sequence: RealSequence,
    *,
    settings: Mapping[str, Any] | None = None,
    layers: str = "auto",
    seed: int = DEFAULT_SEED,
    device: torch.device | str = "cpu",
) -> Start:
    """A start from NTv2: its blocks, k-mer embeddings and head copied, the rest new, the routers calibrated.

    Args:
        source: The source model.
        sequence: Real sequence, to compare the source's blocks and to calibrate the routers.
        settings: The user's model settings; None takes the source's shape and the defaults.
        layers: "auto", "first", "last", "spread", or block numbers such as "0,1,5".
        seed: Of what is random.
        device: Where to compute; the model comes back on the CPU.

    Raises:
        ConfigError: Settings or layers that do not fit the source.
        WeightsError: Anything about a tensor that does not fit, by name.
    """
    wanted, config = check_choice(source, settings, layers)
    logger.info("comparing the %d blocks of %s on real sequence", source.config.num_hidden_layers, source.name)
    states = source_states(source, sequence.calibration, device)
    choice = choose_layers(wanted, config.n_main_layer, states)
    del states  # gigabytes, which the model needs next
    logger.info("copying blocks %s", ", ".join(map(str, choice.kept)))
    model = build_model(config, seed)
    about = {
        "source": _describe_source(source),
        "layers": dataclasses.asdict(choice),
        "source_tensors": copy_source(model, source, choice.kept),
    }
    copies = copied_targets(choice.kept, config.num_stages)
    return _calibrate_and_list(model, sequence, device, seed, copies, set(source.stored), **about)


def random_start(
    config: HNetNTV2Config,
    sequence: RealSequence,
    *,
    seed: int = DEFAULT_SEED,
    device: torch.device | str = "cpu",
) -> Start:
    """A model without a source: all weights random, the routers calibrated.

    Args:
        config: Its settings.
        sequence: To calibrate the routers.
        seed: Of the weights.
        device: Where to compute.
    """
    return _calibrate_and_list(build_model(config, seed), sequence, device, seed, {}, set(), source=None, layers=None)


def check_choice(
    source: NTv2Source, settings: Mapping[str, Any] | None, layers: str
) -> tuple[str | tuple[int, ...], HNetNTV2Config]:
    """Read ``layers`` for this source, and build the settings of our model; no weights are read.

    Raises:
        ConfigError: Settings, layers and source contradict each other.
    """
    wanted = parse_layers(layers, source.config.num_hidden_layers)
    num_listed = len(wanted) if isinstance(wanted, tuple) else None
    config = config_for(source, settings, num_listed)
    if num_listed not in (None, config.n_main_layer):
        raise ConfigError(f"--layers names {num_listed} blocks, --config says n_main_layer={config.n_main_layer}")
    return wanted, config


def build_model(config: HNetNTV2Config, seed: int) -> HNetNTV2ForMaskedLM:
    """A model with random weights from a seed, in eval mode; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HNetNTV2ForMaskedLM(config).eval()


@torch.no_grad()
def copy_source(model: HNetNTV2ForMaskedLM, source: NTv2Source, layers: tuple[int, ...]) -> tuple[SourceEntry, ...]:
    """Copy the source into a model tensor by tensor, and zero the output of its residual head.

    Args:
        model: Changed in place.
        source: Read one tensor at a time.
        layers: Source blocks that are kept, in order.

    Returns:
        One entry per source tensor.

    Raises:
        WeightsError: A tensor that is in no table, has another shape than its place, or has no place.
    """
    # The tensors of state_dict() are the model's own, so copying into them changes the model.
    places, entries = model.state_dict(), []
    for name, tensor in source.tensors():
        target, reason = destination(name, layers, model.config.num_stages)
        if target is not None:
            place = places.get(target)
            if place is None or place.shape != tensor.shape:
                found = "no such tensor" if place is None else f"shape {tuple(place.shape)}"
                raise WeightsError(f"{name} {tuple(tensor.shape)} does not fit {target}: {found}")
            place.copy_(tensor)
        stored = source.stored[name]
        entries.append(SourceEntry(name, stored.dtype, stored.shape, sha256_of(tensor), target, reason))
    for name in ZEROED_KEYS:
        places[name].zero_()
    return tuple(entries)


def _calibrate_and_list(
    model: HNetNTV2ForMaskedLM,
    sequence: RealSequence,
    device: torch.device | str,
    seed: int,
    copies: dict[str, str],
    source_names: set[str],
    **about: Any,
) -> Start:
    ledger = Ledger(
        calibration=_calibrate(model, sequence, device, seed),
        config={name: getattr(model.config, name) for name in own_field_names()},
        seed=seed,
        version=__version__,
        model_tensors=model_entries(model, copies),
        **about,
    )
    ledger.require_complete(copies, source_names)
    # As its file will hold it, and as config.json does, which ``verify`` compares: JSON has no tuples.
    return Start(model, Ledger.from_json(ledger.to_json()))


def _calibrate(
    model: HNetNTV2ForMaskedLM, sequence: RealSequence, device: torch.device | str, seed: int
) -> dict[str, Any]:
    """Set the routers' offsets, and measure boundary rates on held-out sequence, without masks and with."""
    logger.info("calibrating the routers on %s", sequence.origin)
    config = model.config
    generator = torch.Generator().manual_seed(seed)
    masked = mask_cells(sequence.held_out, config.kmer_size, config.mask_rate, generator)
    model.to(device)  # pyright: ignore[reportArgumentType]  (transformers narrows the signature)
    offsets = calibrate_routers(model.model, list(sequence.calibration.split(_BATCH)), sequence.text)
    rates = {
        name: boundary_rates(model.model, list(windows.split(_BATCH)))._asdict()
        for name, windows in {"held_out": sequence.held_out, "held_out_masked": masked}.items()
    }
    # Checksums are taken of the bytes in memory, which numpy reads on the CPU only.
    model.to("cpu")  # pyright: ignore[reportArgumentType]
    return {
        "sequence": sequence.origin,
        "windows": len(sequence.calibration),
        "length": sequence.calibration.shape[1],
        "targets": config.target_ratios,
        "offsets": offsets,
        **rates,
    }


def _describe_source(source: NTv2Source) -> dict[str, Any]:
    names = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size")
    settings = {name: getattr(source.config, name) for name in (*names, "max_position_embeddings", "layer_norm_eps")}
    about = {"name": source.name, "revision": source.revision, "is_local": source.is_local}
    return about | {"kmer_size": source.kmer_size} | settings


def model_entries(model: HNetNTV2ForMaskedLM, copies: Mapping[str, str]) -> tuple[ModelEntry, ...]:
    """One entry per tensor of a finished model; the kind of what is not in ``copies`` is read from its values."""
    parameters = dict(model.named_parameters())
    return tuple(
        ModelEntry(
            name=name,
            part=parameter_part(name) if name in parameters else "buffers",
            kind="copied" if name in copies else _kind(name, tensor),
            source=copies.get(name),
            is_parameter=name in parameters,
            dtype=_SAFETENSORS_TYPES[tensor.dtype],
            shape=tuple(tensor.shape),
            num_values=tensor.numel(),
            sha256=sha256_of(tensor),
        )
        for name, tensor in model.state_dict().items()
    )


def _kind(name: str, tensor: Tensor) -> str:
    """Origin of a tensor that was not copied, classified by inspecting its values."""
    # By its name: router.beta is the only tensor that calibration sets, and any value is possible.
    if name.endswith("router.beta"):
        return "calibrated"
    if bool((tensor == 1).all()):
        return "constant"
    if not bool(tensor.any()):
        return "zero"
    is_square = tensor.dim() == 2 and tensor.shape[0] == tensor.shape[1]
    return "constant" if is_square and torch.equal(tensor, torch.eye(len(tensor))) else "random"


def sha256_of(tensor: Tensor) -> str:
    """SHA-256 of a CPU tensor's bytes, as they stand in a safetensors file."""
    # As uint8, since numpy has no bfloat16.
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy().data).hexdigest()

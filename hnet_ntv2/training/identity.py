"""What a run is: settings that a resume compares, the source of its weights, its code, data and machine."""

import dataclasses
import json
import logging
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config, own_field_names
from ..conversion.ledger import LEDGER_FILE, Ledger
from ..errors import CheckpointError
from ..storage import open_text
from ..storage.git import git_state
from .devices import BatchPlan, Precision
from .settings import CallbackSettings, LoggerSettings, PretrainSettings

logger = logging.getLogger(__name__)


_SILENTLY = None
_ROUNDING = "the same training up to rounding, not to the last digit"
_NUMBERS = "training goes on from the same weights in another arithmetic"
_VALIDATIONS = "validations before and after cannot be compared, nor can the best checkpoint"

# Settings that may differ from the checkpoint's, with the warning that is logged then. All others must agree, new ones
# included, until somebody adds them here.
MAY_DIFFER: dict[str, str | None] = {
    # Names, places, and what only the start of a run looks at.
    "experiment_name": _SILENTLY,
    "output_dir": _SILENTLY,
    "resume": _SILENTLY,
    "allow_changed_max_steps": _SILENTLY,
    "overwrite": _SILENTLY,
    "calibration_windows": _SILENTLY,
    "data.bundled": _SILENTLY,  # the digests of the files are compared
    "data.cache_dir": _SILENTLY,
    "data.num_workers": _SILENTLY,  # sample k is a function of the seed and k alone
    # The micro-batch that they lead to is compared.
    "batch.cpu_micro_batch_size": _SILENTLY,
    "batch.cuda_start": _SILENTLY,
    # When something is saved, measured, shown or given up; not what is learned.
    "validation.every": _SILENTLY,
    **{
        f"{group}.{field.name}": _SILENTLY
        for group, settings in {"callbacks": CallbackSettings, "logger": LoggerSettings}.items()
        for field in dataclasses.fields(settings)
    },
    # How a step is computed. A run may move to another machine, which changes the order of sums.
    "batch.micro_batch_size": _ROUNDING,
    "threads": _ROUNDING,
    "trainer.accelerator": _ROUNDING,
    "trainer.devices": _ROUNDING,
    "trainer.num_nodes": _ROUNDING,
    "trainer.strategy": _ROUNDING,
    "trainer.gradient_checkpointing": _ROUNDING,
    # The weights are fp32 in each; which half precision there is depends on the machine.
    "trainer.precision": _NUMBERS,
    "validation.windows": _VALIDATIONS,
    "validation.anchors": _VALIDATIONS,
    "validation.grid": _VALIDATIONS,
    "validation.strands": _VALIDATIONS,
}

_LENGTH = "trainer.max_steps"

# Names in checkpoints of the first version, which compared a list of settings only.
_FIRST_NAMES = {
    _LENGTH: "max_steps",
    "batch.global_size": "batch_size",
    "data.seq_length": "seq_length",
    "data.repeat_weight": "repeat_weight",
    "trainer.gradient_clip": "gradient_clip",
    "data.mask.": "mask.",
}
_MISSING = object()


def run_identity(
    settings: PretrainSettings,
    config: HNetNTV2Config,
    digests: Mapping[str, str | None],
    plan: BatchPlan,
    precision: Precision,
    kind: str,
) -> dict[str, Any]:
    """Every setting that is compared on resume, by its dotted name, as plain values.

    A setting that depends on the machine has its outcome as its value: digests for files, the precision in use, "cpu"
    or "cuda", the micro-batch, the model's settings with their defaults, the source of a graft for ``init``.

    Args:
        settings: The whole run.
        config: The model's settings.
        digests: Of the data's files, by setting ("fasta", "intervals", "repeats").
        plan: How the global batch is split.
        precision: The arithmetic in use.
        kind: "cpu" or "cuda".
    """
    found = {
        **setting_values(settings),
        **{f"model.{name}": plain(getattr(config, name)) for name in own_field_names()},
        **{f"data.{name}": digest for name, digest in digests.items()},
        "batch.micro_batch_size": plan.micro_batch_size,
        "trainer.precision": precision.lightning,
        "trainer.accelerator": kind,
        "threads": torch.get_num_threads() if kind == "cpu" else None,
        "init": graft_source(settings.init),
        "warm_start.grafted": is_graft(settings.init),
    }
    return {name: value for name, value in found.items() if MAY_DIFFER.get(name, _ROUNDING) is not _SILENTLY}


def setting_values(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting but the model's by its dotted name; a dict (of learning-rate multipliers) is one value."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        name, value = prefix + field.name, getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            found |= setting_values(value, f"{name}.")
        elif name != "model":  # it has only what was given; run_identity takes the model's whole configuration
            found[name] = plain(value)
    return found


def check_identity(saved: dict[str, Any], current: dict[str, Any], path: Path, allow_changed_max_steps: bool) -> None:
    """Refuse to resume from a checkpoint of a run with other settings; warn of those that may differ.

    Names that only one of the two has cannot be compared (a setting that is new, or gone).

    Args:
        saved: Identity stored in the checkpoint.
        current: Identity of the run that wants to go on from it.
        path: The checkpoint, for the message.
        allow_changed_max_steps: Let ``trainer.max_steps`` differ.

    Raises:
        CheckpointError: Every difference, with both values.
    """
    before = {name: _saved_value(saved, name) for name in current}
    unknown = [name for name in current if before[name] is _MISSING]
    differing = [name for name in current if name not in unknown and plain(before[name]) != plain(current[name])]
    refused = [
        name for name in differing if name not in MAY_DIFFER and not (name == _LENGTH and allow_changed_max_steps)
    ]
    if refused:
        lines = "; ".join(f"{name}: {before[name]!r} in the checkpoint, {current[name]!r} now" for name in refused)
        hint = ""
        if _LENGTH in refused:
            hint = ", or allow another length with `-- allow_changed_max_steps=true` (its learning rates then differ)"
        raise CheckpointError(
            f"cannot resume from {path}: {lines}. Use the settings of that run{hint}; to start a new run from its "
            "weights use --init"
        )
    for name in differing:
        if name in MAY_DIFFER:
            logger.warning(
                "%s was %r in the checkpoint and is %r now: %s", name, before[name], current[name], MAY_DIFFER[name]
            )
    unsaid = [name for name in unknown if name not in MAY_DIFFER]
    if unsaid:
        logger.warning("%s was written by another version and does not say: %s", path, ", ".join(unsaid))


def _saved_value(saved: dict[str, Any], name: str) -> Any:
    if name in saved:
        return saved[name]
    for new, first in _FIRST_NAMES.items():
        if name == new or (new.endswith(".") and name.startswith(new)):
            name = first + name.removeprefix(new)
    value: Any = saved
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


# Packages that decide what a run computes.
PACKAGES = ("hnet-ntv2", "torch", "lightning", "transformers", "safetensors", "numpy", "hydra-core", "omegaconf")


def describe_environment(data: dict[str, Any]) -> dict[str, Any]:
    """Everything besides the settings that a run can depend on, as plain values.

    Args:
        data: The data module's description, digests included.
    """
    return {
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_state(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["cpu"],
        "data": data,
    }


def write_environment(folder: Path, environment: dict[str, Any]) -> Path:
    """Write ``environment.json`` into ``folder``.

    Raises:
        ConfigError: It cannot be written.
    """
    path = folder / "environment.json"
    with open_text(path) as file:
        file.write(json.dumps(environment, indent=2, ensure_ascii=False) + "\n")
    return path


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


# Ledger of the weights that a trained model started from.
ORIGIN_FILE = "ntv2_origin.json"


def is_graft(folder: str | None) -> bool:
    """Whether a folder of a saved model holds the ledger of a graft (``init`` with a source writes one).

    Raises:
        WeightsError: The ledger cannot be read.
    """
    return folder is not None and _source_of(Path(folder) / LEDGER_FILE) is not None


def graft_source(folder: str | None) -> str | None:
    """Name and revision of the model that a folder's weights descend from; None without one."""
    for name in (LEDGER_FILE, ORIGIN_FILE):
        source = None if folder is None else _source_of(Path(folder) / name)
        if source is not None:
            return f"{source['name']} {source['revision'] or ''}".rstrip()
    return None


def _source_of(ledger: Path) -> dict[str, Any] | None:
    """Name and revision of a graft's source; None for a random trunk, which has a ledger too."""
    return Ledger.from_file(ledger).source if ledger.is_file() else None


def copy_ledger(start: Path, folder: Path) -> None:
    """Copy the ledger of a graft beside a model trained from it, as ``ntv2_origin.json``: its hashes hold no longer.

    Args:
        start: Folder of the weights that training started from.
        folder: Folder of the trained model.
    """
    for name in (LEDGER_FILE, ORIGIN_FILE):
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / ORIGIN_FILE)
            return


def plain(value: Any) -> Any:
    """A value as JSON returns it: a list for a tuple."""
    return list(value) if isinstance(value, tuple) else value

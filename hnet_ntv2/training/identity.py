"""What a run is: settings that a resume compares, the source of its weights, its code, data and machine."""

import dataclasses
import json
import logging
import platform
import shutil
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..configuration_hnet_ntv2 import HNetNTV2Config, own_field_names
from ..conversion.ledger import LEDGER_FILE, Ledger
from ..errors import CheckpointError
from ..storage import open_text
from .devices import BatchPlan, Precision
from .settings import PretrainSettings

logger = logging.getLogger(__name__)


_SILENTLY = None
_ROUNDING = "the same training up to rounding, not to the last digit"
_NUMBERS = "training goes on from the same weights in another arithmetic"
_VALIDATIONS = "validations before and after cannot be compared, nor can the best checkpoint"

# Settings that may differ from the checkpoint's, and what is told then. All others must agree: a new one as well, until
# somebody decides that it belongs here.
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
    "callbacks.checkpoint_every": _SILENTLY,
    "callbacks.keep_checkpoints": _SILENTLY,
    "callbacks.log_every": _SILENTLY,
    "callbacks.router_gradients_every": _SILENTLY,
    "callbacks.progress_bar": _SILENTLY,
    "callbacks.plain_log_every": _SILENTLY,
    "callbacks.collapse_patience": _SILENTLY,
    "callbacks.collapse_factor": _SILENTLY,
    "logger.wandb_project": _SILENTLY,
    "logger.wandb_entity": _SILENTLY,
    "logger.wandb_mode": _SILENTLY,
    # How a step is computed. A run may move to another machine, which changes the order of sums.
    "batch.micro_batch_size": _ROUNDING,
    "threads": _ROUNDING,
    "trainer.accelerator": _ROUNDING,
    "trainer.devices": _ROUNDING,
    "trainer.num_nodes": _ROUNDING,
    "trainer.strategy": _ROUNDING,
    "trainer.gradient_checkpointing": _ROUNDING,
    "trainer.deterministic": _ROUNDING,
    # The weights are fp32 in each; which half precision there is depends on the machine.
    "trainer.precision": _NUMBERS,
    "validation.windows": _VALIDATIONS,
    "validation.anchors": _VALIDATIONS,
    "validation.mask_free": _VALIDATIONS,
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

    What a setting comes to on this machine stands in its place: digests for files, the precision in use, "cpu" or
    "cuda", the micro-batch, the model's settings with their defaults, the source of a graft for ``init``.

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


def setting_values(settings: PretrainSettings) -> dict[str, Any]:
    """Every setting but the model's by its dotted name; dicts (of learning-rate multipliers) are one value."""
    values = _leaves(settings)
    del values["model"]  # only what was given; the model's configuration has them all
    return values


def check_identity(saved: dict[str, Any], current: dict[str, Any], path: Path, allow_changed_max_steps: bool) -> None:
    """Refuse to resume from a checkpoint of a run that was set up differently; warn of what may differ.

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


def _leaves(values: Any, prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        if dataclasses.is_dataclass(value):
            found.update(_leaves(value, f"{prefix}{field.name}."))
        else:
            found[prefix + field.name] = plain(value)
    return found


PACKAGES = (
    "hnet-ntv2",
    "torch",
    "lightning",
    "transformers",
    "safetensors",
    "numpy",
    "hydra-core",
    "omegaconf",
)


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide what a run computes."""
    return {name: _version(name) for name in PACKAGES}


def git_state(folder: Path | None = None) -> dict[str, Any]:
    """Commit of the checkout that this package runs from, and whether files differ from it; None without a checkout."""
    folder = folder or Path(__file__).resolve().parents[2]
    top = _git(folder, "rev-parse", "--show-toplevel")
    if top is None or Path(top).resolve() != folder.resolve():
        return {"commit": None, "modified": None}  # installed as a package, perhaps inside someone else's checkout
    return {"commit": _git(folder, "rev-parse", "HEAD"), "modified": bool(_git(folder, "status", "--porcelain"))}


def describe_environment(data: dict[str, Any]) -> dict[str, Any]:
    """Everything besides the settings that a run can depend on, as plain values.

    Args:
        data: The data module's description, digests included.
    """
    return {
        "packages": package_versions(),
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


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


# The ledger of the weights that a trained model started from.
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
    """A random trunk has a ledger too, but no source."""
    return Ledger.from_file(ledger).source if ledger.is_file() else None


def copy_ledger(start: Path, folder: Path) -> None:
    """Copy the ledger of a graft beside a model trained from it, under a name that claims nothing about its tensors.

    Args:
        start: Folder of the weights that training started from.
        folder: Folder of the trained model.
    """
    for name in (LEDGER_FILE, ORIGIN_FILE):
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / ORIGIN_FILE)
            return


def plain(value: Any) -> Any:
    """A value as it comes back from a file: lists for tuples."""
    return list(value) if isinstance(value, tuple) else value

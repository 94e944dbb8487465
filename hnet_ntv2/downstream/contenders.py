"""What is evaluated: baselines and models by name, how each mode runs one, and what its result depends on."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..genome import file_digest
from ..model_files import loaded_files, read_json
from ..resources import bundled_model
from ..tasks.table import TaskData
from .results import HUB, RANDOM, UnitResult

BASELINE = "baseline"
MODES = ("probe", "finetune", "lora")
BUNDLED = "bundled"
# Settings of fine-tuning that change no result.
_SHOWN_ONLY = ("progress", "report_to")


@dataclass(frozen=True)
class Model:
    """A model by the name that reports use.

    Attributes:
        name: Of the rows; also of a baseline.
        source: Folder, ``random:FOLDER`` or ``hf:ID`` as the runners take it.
        digest: Of the files that decide what it computes; the id itself for the Hub.
    """

    name: str
    source: str
    digest: str


@dataclass(frozen=True)
class RunSettings:
    """How units are run, beyond data and model.

    Attributes:
        layers: That the probe chooses from.
        pools: That the probe chooses from.
        finetune: Fields of ``FinetuneSettings`` that differ from its defaults.
        device: "auto", "cpu", "cuda" ...
        cache: Folder for the probe's features, or None.
    """

    layers: str | tuple[str, ...] = "all"
    pools: tuple[str, ...] = ("mean", "max", "first", "bins")
    finetune: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    device: str = "auto"
    cache: Path | None = None


Runner = Callable[[str, TaskData, int, RunSettings], UnitResult]


def read_model(text: str) -> Model:
    """A model from ``SOURCE`` or ``NAME=SOURCE``, with source a folder, ``bundled``, ``random:SOURCE`` or ``hf:ID``.

    Raises:
        ConfigError, WeightsError: The folder holds no model.
    """
    name, separator, source = text.partition("=")
    if not separator or "/" in name:  # folders of runs can be named lr=0.1
        name = source = text
    if not name or not source:
        raise ConfigError(f"--models {text!r}: write SOURCE or NAME=SOURCE")
    prefix = RANDOM if source.startswith(RANDOM) else ""
    folder = source.removeprefix(prefix)
    if folder.startswith(HUB):
        return Model(name, source, source)
    path = bundled_model() if folder == BUNDLED else Path(folder).expanduser().resolve()
    if prefix:
        read_json(path / "config.json")
        files = [path / "config.json"]
    else:
        files = loaded_files(path)
    digest = hashlib.blake2b(prefix.encode(), digest_size=16)
    for file in files:
        digest.update(f"{file.name} {file_digest(file)}\n".encode())
    return Model(name, f"{prefix}{path}", digest.hexdigest())


def needs_seeds(mode: str, model: Model) -> bool:
    """Whether a fit depends on the seed: the others are done once per fold, with the first seed."""
    if mode == BASELINE:
        from .baselines import SEEDED

        return model.name in SEEDED
    return mode != "probe" or model.source.startswith(RANDOM)


def baseline_names() -> tuple[str, ...]:
    """Names of all baselines."""
    from .baselines import BASELINES

    return tuple(BASELINES)


def mode_settings(mode: str, settings: RunSettings) -> dict[str, Any]:
    """The settings that a mode's result depends on, as plain values."""
    if mode == "probe":
        return {"layers": settings.layers, "pools": list(settings.pools)}
    if mode == BASELINE:
        return {}
    fields = dataclasses.asdict(_finetune_settings(mode, settings))
    return {name: value for name, value in fields.items() if name not in _SHOWN_ONLY}


def _finetune_settings(mode: str, settings: RunSettings) -> Any:
    from .finetune_settings import FinetuneSettings

    known = {field.name for field in dataclasses.fields(FinetuneSettings)}
    if unknown := sorted(set(settings.finetune) - known):
        raise ConfigError(f"fine-tuning has no setting {unknown[0]!r}; choose from {', '.join(sorted(known))}")
    return FinetuneSettings(**{**settings.finetune, "report_to": "none", "mode": "lora" if mode == "lora" else "full"})


def _run_baseline(source: str, data: TaskData, seed: int, settings: RunSettings) -> UnitResult:
    from .baselines import BASELINES

    return BASELINES[source](data, seed)


def _run_probe(source: str, data: TaskData, seed: int, settings: RunSettings) -> UnitResult:
    from .probe import run_probe

    return run_probe(
        source,
        data,
        seed,
        layers=settings.layers,
        pools=settings.pools,
        device=settings.device,
        cache=settings.cache,
    )


def _run_finetune(mode: str) -> Runner:
    def run(source: str, data: TaskData, seed: int, settings: RunSettings) -> UnitResult:
        from .finetune import finetune

        chosen = _finetune_settings(mode, settings)
        return finetune(data, chosen, None, seed=seed, folder=source, device=settings.device).unit

    return run


RUNNERS: dict[str, Runner] = {
    BASELINE: _run_baseline,
    "probe": _run_probe,
    "finetune": _run_finetune("finetune"),
    "lora": _run_finetune("lora"),
}

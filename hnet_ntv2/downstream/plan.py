"""What an evaluation is to do: its settings, and the units that follow from them and from the data."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..genome import file_digest, open_genome
from ..tasks import suites
from ..tasks.table import TaskData
from .contenders import BASELINE, MODES, Model, RunSettings, baseline_names, mode_settings, needs_seeds, read_model
from .units import AUDIT, Unit, digest_data


@dataclass(frozen=True)
class EvaluateSettings:
    """What to evaluate, and how.

    Attributes:
        suite: nt, nt-original, gue, genomic-benchmarks, or a folder of tasks.
        data: The folder with the suite's files; None for a suite that is a folder.
        genome: FASTA or .2bit, for tasks of intervals.
        tasks: Names of tasks, or the ends of their paths; empty for all.
        models: Each as ``read_model`` reads it.
        modes: probe, finetune, lora; each model is run in each.
        baselines: Names of baselines.
        seeds: Of fits.
        folds: From 0; empty for all folds of the suite.
        max_train_rows: Train on so many rows, drawn with the seed 0 for all; None for all rows.
        audit: Whether to look for leaks between the splits.
        pretraining: Genomes and BEDs of the intervals that the models were pre-trained on, for the audit.
        run: How units are run.
    """

    suite: str
    data: Path | None = None
    genome: Path | None = None
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ("bundled",)
    modes: tuple[str, ...] = ("probe",)
    baselines: tuple[str, ...] = field(default_factory=baseline_names)
    seeds: tuple[int, ...] = (0,)
    folds: tuple[int, ...] = ()
    max_train_rows: int | None = None
    audit: bool = True
    pretraining: tuple[tuple[Path, Path], ...] = ()
    run: RunSettings = field(default_factory=RunSettings)


@dataclass(frozen=True)
class Plan:
    """All units of an evaluation, in the order of the report.

    Attributes:
        settings: That it was made from.
        units: Audits first, then baselines and models, task by task.
        metrics: What each task reports, by its name.
        warnings: What was found in the data, by task.
        sources: What ``contenders`` loads, by name of model.
    """

    settings: EvaluateSettings
    units: tuple[Unit, ...]
    metrics: Mapping[str, str]
    warnings: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, str]


def make_plan(settings: EvaluateSettings) -> Plan:
    """The units of an evaluation; reads every task and the digests of every model, so that bad input is told at once.

    Raises:
        ConfigError: An unknown mode, baseline or fold, or two models of one name.
        DataError: A task cannot be read.
        WeightsError: A model's folder holds no model.
    """
    _check(settings)
    models = [read_model(text) for text in settings.models]
    entrants = [(BASELINE, Model(name, name, "")) for name in settings.baselines]
    entrants += [(mode, model) for model in models for mode in settings.modes]
    names = [model.name for mode, model in entrants if mode != BASELINE]
    if len(set(names)) < len(models) or set(names) & set(settings.baselines):
        raise ConfigError(f"two of {', '.join(names)} have the same name; write --models NAME=SOURCE")
    if not entrants:
        raise ConfigError("there is nothing to evaluate; name a model in --models, or baselines in --baselines")
    audited = _identify_audit(settings) if settings.audit else {}
    units, metrics, warnings = [], {}, {}
    for task in _open_tasks(settings):
        data = task_data(settings, task.name, 0, settings.seeds[0])
        metrics[task.name], warnings[task.name] = data.metric, data.warnings
        identity = {"data": digest_data(data), "max_train_rows": settings.max_train_rows}
        if settings.audit:
            units.append(Unit(task.name, 0, 0, AUDIT, AUDIT, {"data": identity["data"], **audited}))
        for mode, model in entrants:
            wanted = identity | {"weights": model.digest} | mode_settings(mode, settings.run)
            seeds = settings.seeds if needs_seeds(mode, model) else settings.seeds[:1]
            units += [
                Unit(task.name, fold, seed, model.name, mode, wanted)
                for fold in _folds(settings, task)
                for seed in seeds
            ]
    sources = {model.name: model.source for _, model in entrants}
    return Plan(settings, tuple(units), metrics, warnings, sources)


def _check(settings: EvaluateSettings) -> None:
    if unknown := sorted(set(settings.modes) - set(MODES)):
        raise ConfigError(f"--mode {unknown[0]} is unknown; choose from {', '.join(MODES)}")
    if unknown := sorted(set(settings.baselines) - set(baseline_names())):
        raise ConfigError(f"--baselines {unknown[0]} is unknown; choose from {', '.join(baseline_names())}")
    if not settings.seeds:
        raise ConfigError("there is no seed; give at least one --seeds")
    if settings.max_train_rows is not None and settings.max_train_rows < 1:
        raise ConfigError(f"--max-train-rows {settings.max_train_rows} leaves no row to train on")
    if settings.audit and find_spec("seqleak") is None:
        raise ConfigError('the leak audit needs seqleak: pip install "hnet-ntv2[evaluate]", or give --no-audit')
    for option in ("tasks", "models", "modes", "baselines", "seeds", "folds"):
        values = getattr(settings, option)
        if len(set(values)) < len(values):
            raise ConfigError(f"--{option} names one twice: {', '.join(map(str, values))}")


def _identify_audit(settings: EvaluateSettings) -> dict[str, Any]:
    """What an audit depends on besides the task's rows."""
    pairs = [[open_genome(genome).fingerprint, file_digest(intervals)] for genome, intervals in settings.pretraining]
    return {"pretraining": pairs, "seqleak": version("seqleak")}


def _folds(settings: EvaluateSettings, task: suites.Task) -> Sequence[int]:
    if outside := [fold for fold in settings.folds if not 0 <= fold < task.num_folds]:
        raise ConfigError(f"{task.name} has the folds 0 to {task.num_folds - 1}; --folds {outside[0]} is not one")
    return settings.folds or range(task.num_folds)


def _open_tasks(settings: EvaluateSettings) -> Sequence[suites.Task]:
    genome = None if settings.genome is None else open_genome(settings.genome)
    return suites.open_suite(settings.suite, settings.data, settings.tasks or None, genome=genome)


@lru_cache(maxsize=2)  # units of one fold follow each other, and read its tables once
def _load(suite: str, root: Path | None, genome: Path | None, name: str, fold: int, seed: int) -> TaskData:
    (task,) = _open_tasks(EvaluateSettings(suite, root, genome, (name,), baselines=()))
    data = task.load(fold, seed)
    if data.test is None or data.dev is None:
        raise DataError(f"{name} has no {'test' if data.test is None else 'dev'} table; an evaluation needs both")
    return data


def task_data(settings: EvaluateSettings, name: str, fold: int, seed: int) -> TaskData:
    """One fold of a task, cut to ``max_train_rows``."""
    data = _load(settings.suite, settings.data, settings.genome, name, fold, seed)
    if settings.max_train_rows is None:
        return data
    # Seed 0 for all: every model and seed trains on the same rows.
    return dataclasses.replace(data, train=data.train.draw(settings.max_train_rows, seed=0))

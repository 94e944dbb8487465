"""A tiny suite and models that fit nothing: their scores are the truth with as much noise as their name says."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hnet_ntv2.downstream import contenders, evaluate, plan, summary
from hnet_ntv2.downstream.contenders import Model
from hnet_ntv2.downstream.metrics import metric_interval, paired_difference
from hnet_ntv2.downstream.plan import EvaluateSettings
from hnet_ntv2.downstream.results import UnitResult
from hnet_ntv2.tasks import suites
from hnet_ntv2.tasks.table import LabelScheme, Split, Table, TaskData

# How often a model is right on test, and the metric on dev that it claims.
SKILLS = {"good": (0.95, 0.9), "poor": (0.6, 0.2), "kmers": (0.75, 0.4), "onehot": (0.65, 0.5), "cnn": (0.5, 0.1)}
AUDIT = {"verdict": "pass", "told": ["no copies"], "overlap": 0.25}


@dataclass(frozen=True)
class TinyTask(suites.Task):
    suite: str = "tiny"
    metric: str | None = "mcc"
    num_folds: int = 2
    files: dict[str, Path] = field(default_factory=dict)
    first_row: int = 0

    def load(self, fold: int, seed: int) -> TaskData:
        scheme = LabelScheme("classification", ("no", "yes"))
        splits = [self._split(name, rows, fold) for name, rows in (("train", 30), ("dev", 20), ("test", 60))]
        return TaskData(self.name, "mcc", scheme, *splits, warnings=("2 rows were empty",))

    def _split(self, name: str, rows: int, fold: int) -> Split:
        random = np.random.default_rng([len(name), fold if name != "test" else 0, self.first_row])
        names = tuple(f"{name}{row}" for row in range(rows))
        bases = tuple(random.integers(7, 11, 12, dtype=np.uint8) for _ in range(rows))
        table = Table(f"{name}.csv", names, bases, None, names)
        return Split(table, random.integers(0, 2, rows))


class Fakes:
    """Stand in for tasks, models and runners; ``calls`` are the units that were run."""

    def __init__(self) -> None:
        self.tasks = [TinyTask("first"), TinyTask("second", num_folds=1)]
        self.calls: list[tuple[str, str, int]] = []
        self.broken: set[str] = set()
        self.killed_at: int | None = None
        self.audit = dict(AUDIT)
        self.skills = dict(SKILLS)

    def run(self, source, data, seed, settings) -> UnitResult:
        self.calls.append((source, data.name, seed))
        if self.killed_at is not None and len(self.calls) > self.killed_at:
            raise KeyboardInterrupt
        if source in self.broken:
            raise ValueError("nothing fits")
        skill, dev = self.skills[source]
        targets = data.test.targets
        random = np.random.default_rng([seed, len(source), len(data.name)])
        chosen = np.where(random.random(len(targets)) < skill, targets, 1 - targets)
        history = [{"epoch": epoch, "dev_mcc": dev * epoch} for epoch in (1, 2)]
        return UnitResult(np.eye(2, dtype=np.float32)[chosen], dev, {"C": 1.0}, 0.5, 10, history)


@pytest.fixture
def fakes(monkeypatch) -> Fakes:
    fake = Fakes()
    plan._load.cache_clear()
    monkeypatch.setattr(
        suites,
        "open_suite",
        lambda suite, root, names, genome=None: [each for each in fake.tasks if not names or each.name in names],
    )
    monkeypatch.setattr(plan, "baseline_names", lambda: ("kmers", "onehot", "cnn"))
    monkeypatch.setattr(plan, "read_model", lambda text: Model(text, text, f"digest of {text}"))
    monkeypatch.setattr(evaluate, "_audit", lambda unit, plan: (dict(fake.audit), {}))
    monkeypatch.setattr(evaluate, "metric_interval", partial(metric_interval, draws=100))
    for name, function in (("metric_interval", metric_interval), ("paired_difference", paired_difference)):
        monkeypatch.setattr(summary, name, partial(function, draws=100))
    for mode in contenders.RUNNERS:
        monkeypatch.setitem(contenders.RUNNERS, mode, fake.run)
    return fake


def settings(**changes) -> EvaluateSettings:
    return EvaluateSettings(
        **({"suite": "tiny", "models": ("good", "poor"), "baselines": ("kmers", "onehot", "cnn")} | changes)
    )

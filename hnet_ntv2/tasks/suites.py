"""The benchmark suites of the field, and folders of one's own tasks: find their files, load a fold of a task."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, DataError
from ..genome import Genome
from .intervals import class_files, read_class_intervals
from .published import SUITES, Published, Suite
from .reading import FORMATS, read_table
from .splits import make_task
from .table import Table, TaskData

_SPLIT_OF = {"train": "train", "test": "test"} | dict.fromkeys(("dev", "valid", "val", "validation"), "dev")
_SETTINGS = ("metric", "kind", "sequence_column", "label_column", "name_column")
_SETTINGS_FILES = ("task.json", "task.yaml", "task.yml")
_MOST_BYTES = 10_000  # of a file with five settings


@dataclass(frozen=True)
class Task:
    """One task of a suite, found but not read.

    Attributes:
        name: Its folder within the suite's, such as ``prom/prom_core_tata``.
        suite: nt, nt-original, gue, genomic-benchmarks, or the name of a folder.
        metric: What the suite reports; None if the labels decide.
        num_folds: Ten where the suite has dev rotate through train, else one.
        files: File of each split, or folder of one interval file for each class.
        published: What is known of the published task; None for one's own.
        genome: Which interval files are read from.
        settings: Of one's own task: kind and names of columns.
    """

    name: str
    suite: str
    metric: str | None
    num_folds: int
    files: dict[str, Path]
    published: Published | None = None
    genome: Genome | None = None
    settings: dict[str, str] = field(default_factory=dict)

    def load(self, fold: int, seed: int) -> TaskData:
        """Read the task's files.

        Args:
            fold: Which part of train is dev, where there are several; the parts are the same for all seeds.
            seed: Draws dev from train, where there is one fold and no dev file.

        Raises:
            ConfigError: The fold does not exist, or the metric does not suit the labels.
            DataError, GenomeError: As ``read_table`` and ``label_scheme``.
        """
        if not 0 <= fold < self.num_folds:
            raise ConfigError(f"{self.suite}/{self.name} has the folds 0 to {self.num_folds - 1}, not {fold}")
        tables = {split: self._read(path) for split, path in self.files.items()}
        notes = []
        if "train" not in tables:
            tables["train"] = tables.pop("dev")
            notes.append(
                f"there is no train file: {tables['train'].source} is trained on, and figures are no published ones"
            )
        if self.published is not None:
            notes += compare_with_published(self.published, tables)
        return make_task(
            f"{self.suite}/{self.name}",
            tables["train"],
            tables.get("dev"),
            tables["test"],
            kind=self.settings.get("kind", "auto"),
            metric=self.metric,
            fold=fold,
            # Folds must part train in one way, whatever the seed.
            seed=seed if self.num_folds == 1 else 0,
            warnings=tuple(notes),
        )

    def _read(self, path: Path) -> Table:
        if path.is_dir():
            return read_class_intervals(path, self.genome)
        columns: Any = {name: value for name, value in self.settings.items() if name.endswith("_column")}
        return read_table(path, genome=self.genome, **columns)


def open_suite(
    name: str, root: Path | None = None, tasks: Sequence[str] | None = None, *, genome: Genome | None = None
) -> list[Task]:
    """The tasks of a suite, in the alphabet's order, found but not read.

    A task is a folder with the files train, dev (or valid, val, validation) and test in any format of ``read_table``,
    or with folders train and test of one interval file for each class. One's own task may say in a ``task.json`` or
    ``task.yaml`` its metric, its kind, and its sequence_column, label_column and name_column.

    Args:
        name: nt, nt-original, gue, genomic-benchmarks, or a folder of tasks, which may be a task itself.
        root: Where a published suite lies; None for a folder.
        tasks: Which to take, by their folder or the end of its path; None takes all.
        genome: For interval files.

    Raises:
        ConfigError: A task or the suite is unknown, or a settings file is malformed; the message lists what there is.
        DataError: A folder is missing, holds no tasks, or a task lacks a file.
    """
    suite = SUITES.get(name)
    if suite is None and root is not None:
        raise ConfigError(f"the suite {name!r} is none of {', '.join(SUITES)}; give a folder of tasks without a root")
    if root is None and suite is not None:
        raise ConfigError(f"the suite {name!r} needs the folder that its files lie in")
    root = Path(name if root is None else root).expanduser()
    if not root.is_dir():
        raise DataError(f"{root} is no folder; give one of {', '.join(SUITES)}, or a folder of tasks")
    folders = dict(sorted(_find_folders(root)))
    if not folders:
        raise DataError(f"{root} holds no tasks: no folder in it has a test file; it holds {_listing(root)}")
    chosen = list(folders) if tasks is None else [_match(task, folders, root) for task in tasks]
    return [_open_task(task, root, name, suite, folders[task], genome) for task in dict.fromkeys(chosen)]


def compare_with_published(published: Published, tables: dict[str, Table]) -> list[str]:
    """Warnings that count what differs from the published task; figures of other models are then no measure."""
    notes = []
    rows = [bases for table in tables.values() for bases in table.bases]
    if published.length and (others := sum(len(bases) != published.length for bases in rows)):
        notes.append(f"{others:,} of {len(rows):,} sequences differ from the published {published.length:,} bases")
    labels = {label for table in tables.values() for label in table.labels or ()}
    if len(labels) != published.num_classes:
        notes.append(f"there are {len(labels):,} classes, {published.num_classes} in the published task")
    for split, count in (("train", published.num_train), ("test", published.num_test)):
        if count and len(tables[split]) != count:
            notes.append(f"{split} has {len(tables[split]):,} rows, {count:,} in the published task")
    return [f"{note}: not comparable with published figures" for note in notes]


def _find_folders(root: Path) -> list[tuple[str, dict[str, Path]]]:
    """Name and files of each task folder at or below ``root``."""
    found = []
    for folder, subfolders, names in os.walk(root):
        if files := _find_files(Path(folder), [*subfolders, *names]):
            relative = Path(folder).relative_to(root).as_posix()
            found.append((root.resolve().name if relative == "." else relative, files))
            subfolders[:] = [name for name in subfolders if name not in _SPLIT_OF]
    return found


def _find_files(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for name in sorted(names):
        path = folder / name
        split = _SPLIT_OF.get(name.split(".")[0])
        is_table = Path(name.removesuffix(".gz")).suffix.lower() in FORMATS
        if split is None or not (class_files(path) if path.is_dir() else is_table):
            continue
        if split in files:
            raise DataError(f"{folder} has both {files[split].name} and {name} for {split}; remove one")
        files[split] = path
    return files


def _match(task: str, folders: dict[str, dict[str, Path]], root: Path) -> str:
    """The name of the folder that a user means by the end of its path."""
    wanted = task.strip("/")
    found = [wanted] if wanted in folders else [name for name in folders if name.endswith(f"/{wanted}")]
    if len(found) != 1:
        fault = f"could be {', '.join(found)}" if found else f"is none of those in {root}: {', '.join(folders)}"
        raise ConfigError(f"the task {task!r} {fault}")
    return found[0]


def _open_task(
    name: str, root: Path, suite_name: str, suite: Suite | None, files: dict[str, Path], genome: Genome | None
) -> Task:
    folder = next(iter(files.values())).parent
    if "test" not in files or len(files) == 1:
        missing = "train" if "test" in files else "test"
        raise DataError(f"{folder} has no {missing} file; it holds {_listing(folder)}")
    if suite is None:
        settings = _read_settings(folder)
        return Task(name, root.resolve().name, settings.pop("metric", None), 1, files, None, genome, settings)
    published = next((task for end, task in suite.tasks.items() if f"/{name}".endswith(f"/{end}")), None)
    metric = published.metric if published and published.metric else suite.metric
    num_folds = 1 if "dev" in files else suite.num_folds
    return Task(name, suite_name, metric, num_folds, files, published, genome)


def _listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 10:,} more" if len(names) > 10 else ""
    return (", ".join(names[:10]) or "nothing") + more


def _read_settings(folder: Path) -> dict[str, str]:
    """Settings of one's own task; empty where it has no settings file."""
    path = next((folder / name for name in _SETTINGS_FILES if (folder / name).is_file()), None)
    if path is None:
        return {}
    if path.stat().st_size > _MOST_BYTES:
        raise ConfigError(f"{path} has more than {_MOST_BYTES:,} bytes; it takes {', '.join(_SETTINGS)} only")
    try:
        text = path.read_text(encoding="utf-8")
        values: Any = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    is_good = isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
    if not is_good or not set(values) <= set(_SETTINGS):
        raise ConfigError(f"{path} must hold `name: text` for some of {', '.join(_SETTINGS)}, nothing else")
    return values

"""The units of an evaluation: one result folder each, written once, by whichever process claims it first.

A unit's folder holds ``scores.npz`` (scores and targets of the test rows), and ``result.json``, which is written last:
a unit is finished if it has one. ``error.json`` says what the last attempt failed with. The folder's name ends in a
digest of all that the result depends on, so that other data, weights or settings are other units.
"""

import hashlib
import io
import json
import math
import re
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..model_files import on_one_line, read_json
from ..storage import appearing_file, folder_lock
from ..tasks.table import TaskData

RESULT, SCORES, ERROR = "result.json", "scores.npz", "error.json"
AUDIT = "audit"
_UNSAFE = re.compile(r"[^A-Za-z0-9.+-]+")
_LONGEST_NAME = 120


@dataclass(frozen=True)
class Unit:
    """One fit and test of one model, or the leak audit of one task.

    Attributes:
        task: Such as ``gue/prom_core_tata``.
        fold: From 0.
        seed: Of the fit.
        model: As the report names it.
        mode: baseline, probe, finetune or lora; ``audit`` is no fit.
        identity: Digests of data and weights, and the settings that the result depends on.
    """

    task: str
    fold: int
    seed: int
    model: str
    mode: str
    identity: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, int, int, str, str]:
        """What tells a unit from the others of a plan."""
        return self.task, self.fold, self.seed, self.model, self.mode

    @property
    def name(self) -> str:
        """The name of its folder: readable, then a digest of the key and the identity."""
        readable = "__".join(_UNSAFE.sub("-", str(part)).strip("-.") for part in self.key)
        content = json.dumps([self.key, dict(self.identity)], sort_keys=True)
        return f"{readable[:_LONGEST_NAME]}__{hashlib.blake2b(content.encode(), digest_size=6).hexdigest()}"

    def place(self, output: Path) -> Path:
        """Its folder in the output folder."""
        return output / "units" / self.name

    def is_finished(self, output: Path) -> bool:
        """Whether its result is complete."""
        return (self.place(output) / RESULT).is_file()

    def read_error(self, output: Path) -> str | None:
        """What the last attempt failed with, on one line; None if it did not."""
        path = self.place(output) / ERROR
        return str(read_json(path, DataError)["error"]) if path.is_file() else None

    def forget_error(self, output: Path) -> None:
        """Let the unit be tried again."""
        (self.place(output) / ERROR).unlink(missing_ok=True)


@dataclass(frozen=True)
class UnitRecord:
    """A finished unit.

    Attributes:
        unit: Which.
        content: Of ``result.json``.
        scores: float32 [test rows, columns]; empty for an audit.
        targets: Of the test rows, as in ``Split``.
    """

    unit: Unit
    content: Mapping[str, Any]
    scores: NDArray
    targets: NDArray


def digest_data(data: TaskData) -> str:
    """Digest of everything that a fit and its test read: bases, targets, label names and metric; no file names."""
    digest = hashlib.blake2b(json.dumps([data.metric, data.scheme.kind, data.scheme.names]).encode(), digest_size=16)
    for split in (data.train, data.dev, data.test):
        if split is None:
            digest.update(b"none")
            continue
        digest.update(np.array([len(row) for row in split.table.bases], np.int64).tobytes())
        for row in split.table.bases:
            digest.update(row.tobytes())
        digest.update(split.targets.dtype.str.encode() + np.ascontiguousarray(split.targets).tobytes())
    return digest.hexdigest()


def shard(units: Sequence[Unit], part: tuple[int, int]) -> list[Unit]:
    """Every n-th unit for part i of n, i from 1: the parts are disjoint, and together all units.

    Raises:
        ConfigError: There is no such part.
    """
    index, count = part
    if not 1 <= index <= count:
        raise ConfigError(f"--shard {index}/{count}: write I/N with I from 1 to N, such as 2/8")
    return list(units[index - 1 :: count])


def do_unit(unit: Unit, output: Path, make: Callable[[], tuple[dict[str, Any], dict[str, NDArray]]]) -> None:
    """Make and write a unit's result, unless it is finished or another process is at it.

    An error of ``make`` is recorded in ``error.json``: it stops no other unit, and the next run tries again.

    Args:
        unit: Which.
        output: The evaluation's folder.
        make: Gives the content of ``result.json`` and the arrays of ``scores.npz``.
    """
    place = unit.place(output)
    place.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        try:
            stack.enter_context(folder_lock(place))
        except ConfigError:
            return  # another process does it, and its result will be found
        if unit.is_finished(output):
            return
        try:
            content, arrays = make()
            text = to_json({"unit": dict(zip(_KEY, unit.key, strict=True)), **content})
        except Exception as error:  # of any kind: hours of other units must not be lost to one
            trace = "".join(traceback.format_exception(error))
            told = {"error": f"{type(error).__name__}: {on_one_line(error)}", "trace": trace}
            _write(place / ERROR, to_json(told))
            return
        if arrays:
            with appearing_file(place / SCORES) as partial, partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
        # Last: where it is, all is.
        _write(place / RESULT, text)


def read_unit(unit: Unit, output: Path) -> UnitRecord:
    """A finished unit's record.

    Raises:
        DataError: A file is missing or damaged.
    """
    place = unit.place(output)
    content = read_json(place / RESULT, DataError)
    if unit.mode == AUDIT:
        return UnitRecord(unit, content, np.empty((0, 0), np.float32), np.empty(0))
    try:
        # Bytes: numpy leaves a damaged file open. No pickle: it could run code.
        with np.load(io.BytesIO((place / SCORES).read_bytes()), allow_pickle=False) as stored:
            return UnitRecord(unit, content, stored["scores"], stored["targets"])
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{place / SCORES} cannot be read ({error}); remove {place} to do the unit again") from error


_KEY = ("task", "fold", "seed", "model", "mode")


def to_json(content: Mapping[str, Any]) -> str:
    """JSON of plain and numpy values; numbers that it has no word for, such as NaN, are null."""
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    with appearing_file(path) as partial:
        partial.write_text(text, encoding="utf-8")

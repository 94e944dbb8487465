"""The ledger of a start: the target of every source tensor, the origin of every model tensor, and their checksums.

A *start* is the model that training begins from. ``verify`` reads the saved files alone.
"""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import WeightsError
from ..model_files import read_json
from .stored import StoredTensor, read_headers

LEDGER_FILE = "ntv2_graft.json"
TABLE_FILE = "ntv2_graft.txt"
KINDS = ("copied", "calibrated", "zero", "constant", "random")
# Reading a file that is no ledger must not fill the memory.
_MOST_LEDGER_BYTES = 1 << 26


@dataclass(frozen=True)
class SourceEntry:
    """One tensor of the source and its place in our model, or the reason why it has none.

    Attributes:
        name: Its key.
        dtype: As safetensors calls it.
        shape: Its shape.
        sha256: Of its bytes in the file.
        target: Key in our model; None if it was not copied.
        reason: "copied", or why it was not.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    sha256: str
    target: str | None
    reason: str


@dataclass(frozen=True)
class ModelEntry:
    """One tensor of our model and the origin of its values.

    Attributes:
        name: Its key.
        part: Part of the model.
        kind: "copied", "calibrated" (from real sequence), "zero", "constant" (ones, an identity, a setting), "random".
        source: The source's key if it was copied.
        is_parameter: False for buffers.
        dtype: As safetensors calls it.
        shape: Its shape.
        num_values: Product of the shape.
        sha256: Of its bytes.
    """

    name: str
    part: str
    kind: str
    source: str | None
    is_parameter: bool
    dtype: str
    shape: tuple[int, ...]
    num_values: int
    sha256: str


@dataclass(frozen=True)
class Ledger:
    """The origin of a model's first weights.

    Attributes:
        source: Name, revision, settings of the source model; None for a random trunk.
        layers: Method, kept blocks, similarity of every block, distances of the runs; None for a random trunk.
        calibration: Sequence, offsets and boundary rates of the routers.
        config: Settings of our model.
        seed: Of what is random.
        version: Of this package.
        source_tensors: Every tensor of the source.
        model_tensors: Every tensor of our model.
    """

    source: dict[str, Any] | None
    layers: dict[str, Any] | None
    calibration: dict[str, Any]
    config: dict[str, Any]
    seed: int
    version: str
    source_tensors: tuple[SourceEntry, ...] = ()
    model_tensors: tuple[ModelEntry, ...] = ()

    def parameters_per_part(self) -> dict[str, dict[str, int]]:
        """Count the parameters of each part by kind, with their "total"; the totals add up to the model."""
        parts: dict[str, Counter[str]] = {}
        for entry in self.model_tensors:
            if entry.is_parameter:
                counts = parts.setdefault(entry.part, Counter())
                counts.update({entry.kind: entry.num_values, "total": entry.num_values})
        return {part: dict(counts) for part, counts in parts.items()}

    def require_complete(self, expected_copies: dict[str, str], expected_source: set[str]) -> None:
        """Check that every source tensor has a target or a reason, and every model tensor an origin.

        Args:
            expected_copies: Keys of our model that must be copied, with the source's keys.
            expected_source: Every key of the source.

        Raises:
            WeightsError: With the names of the tensors that have none, or more than one.
        """
        targets = {entry.name: entry.target for entry in self.source_tensors}
        copied = {entry.name: entry.source for entry in self.model_tensors if entry.kind == "copied"}
        names = {entry.name for entry in self.model_tensors}
        problems = {
            "source tensors without an entry": sorted(expected_source - set(targets)),
            "entries that are no source tensor": sorted(set(targets) - expected_source),
            "left without a reason": sorted(e.name for e in self.source_tensors if not e.target and not e.reason),
            "not copied": sorted(name for name, source in expected_copies.items() if copied.get(name) != source),
            "copied against the table": sorted(set(copied) - set(expected_copies)),
            "unknown targets": sorted(str(target) for target in targets.values() if target and target not in names),
            "copied to two places": _repeated([target for target in targets.values() if target]),
            "listed twice": _repeated([entry.name for entry in (*self.source_tensors, *self.model_tensors)]),
            "of an unknown kind": sorted(e.name for e in self.model_tensors if e.kind not in KINDS),
            "changed on the way": _changed(self),
        }
        found = [f"{kind}: {', '.join(entries[:5])}" for kind, entries in problems.items() if entries]
        if found:
            raise WeightsError(f"the graft is incomplete; {'; '.join(found)}")

    def to_json(self) -> str:
        """The ledger with its counts, as the text of ``ntv2_graft.json``."""
        content = {"parameters": self.parameters_per_part(), **dataclasses.asdict(self)}
        return json.dumps(content, indent=1) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> "Ledger":
        """Read a file that holds what ``to_json`` wrote.

        Raises:
            WeightsError: It cannot be read, or is no ledger.
        """
        try:
            if (size := path.stat().st_size) > _MOST_LEDGER_BYTES:
                raise WeightsError(f"{path} has {size:,} bytes, more than any ledger needs")
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, WeightsError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error

    @classmethod
    def from_json(cls, text: str) -> "Ledger":
        """Read what ``to_json`` wrote.

        Raises:
            WeightsError: It is no ledger.
        """
        try:
            content = json.loads(text)
            content.pop("parameters")  # counted from the tensors again
            # Dataclasses do not check types, and the report would fail at a list with a traceback.
            if not all(isinstance(content[name], dict | None) for name in ("source", "layers")):
                raise TypeError("source and layers are objects or null")
            for name, kind in (("source_tensors", SourceEntry), ("model_tensors", ModelEntry)):
                # JSON has lists only; shapes are compared with tuples.
                content[name] = tuple(kind(**(entry | {"shape": tuple(entry["shape"])})) for entry in content[name])
            return cls(**content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise WeightsError(f"not a ledger of this package: {error!r}") from error


def _repeated(names: list[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _changed(ledger: Ledger) -> list[str]:
    """Names of copies whose shape or bytes differ from the source's."""
    sources = {entry.name: entry for entry in ledger.source_tensors}
    changed = []
    for entry in ledger.model_tensors:
        origin = sources.get(entry.source or "")
        if entry.kind != "copied" or origin is None:
            continue
        # A source in half precision is copied into float32: same values, other bytes.
        same_bytes = origin.dtype != entry.dtype or origin.sha256 == entry.sha256
        if origin.shape != entry.shape or not same_bytes:
            changed.append(entry.name)
    return changed


def verify(folder: str | os.PathLike[str]) -> Ledger:
    """Read a saved folder and compare every tensor and setting with its ledger.

    Args:
        folder: With ``ntv2_graft.json``, ``config.json`` and safetensors.

    Raises:
        WeightsError: A file is missing, or a tensor or setting is not what the ledger says (named).
    """
    folder = Path(folder)
    path = folder / LEDGER_FILE
    if not path.is_file():
        raise WeightsError(f"{path} does not exist; only folders that `init` saved can be verified")
    ledger = Ledger.from_file(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise WeightsError(f"{folder} holds no .safetensors file")
    problems = _wrong_tensors(ledger, read_headers(files))
    saved = read_json(folder / "config.json")
    problems += [
        f"config.json says {name}={saved.get(name)!r} instead of {value!r}"
        for name, value in ledger.config.items()
        if saved.get(name) != value
    ]
    problems += [f"{name} differs from its source" for name in _changed(ledger)]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise WeightsError(f"{folder} is not what its ledger says: {'; '.join(problems[:5])}{more}")
    return ledger


def _wrong_tensors(ledger: Ledger, saved: dict[str, StoredTensor]) -> list[str]:
    listed = {entry.name for entry in ledger.model_tensors}
    problems = [f"{name} is not in the ledger" for name in saved if name not in listed]
    for entry in ledger.model_tensors:
        found = saved.get(entry.name)
        if found is None:
            problems.append(f"{entry.name} is missing")
        elif (found.dtype, found.shape) != (entry.dtype, entry.shape):
            problems.append(f"{entry.name} is {found.dtype} {found.shape} instead of {entry.dtype} {entry.shape}")
        elif hashlib.sha256((values := found.values()).tobytes()).hexdigest() != entry.sha256:
            problems.append(f"the values of {entry.name} differ")
        # Besides the checksum: a ledger that calls a tensor zero in error has the checksum of what was saved.
        elif entry.kind == "zero" and values.any():
            problems.append(f"{entry.name} is not zero")
    return problems

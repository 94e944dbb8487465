"""Figures of other models, as their papers print them: other protocols, so that they stand beside ours, never among."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import ConfigError, DataError

BUILTIN, NONE = "builtin", "none"


class Published(NamedTuple):
    """One figure; ``task`` is empty for the mean over a suite."""

    suite: str
    task: str
    metric: str
    model: str
    value: float
    paper: str

    @property
    def heading(self) -> str:
        """Of the column that it may stand in."""
        return f"{self.model} (copied from {self.paper}, other protocol)"


_OTHERS = "the literature"
_BUILTIN = (
    Published("nt-original", "", "mcc", "MergeDNA", 0.784, "the MergeDNA paper"),
    Published("nt-original", "", "mcc", "MxDNA", 0.781, "the MxDNA paper"),
    Published("nt-original", "", "mcc", "DNAChunker", 0.772, "the DNAChunker paper"),
    Published("nt-original", "", "mcc", "Caduceus-PS", 0.725, _OTHERS),
    Published("nt-original", "", "mcc", "NTv2-500M", 0.711, _OTHERS),
    Published("nt", "", "mcc", "DNAChunker", 0.660, "the DNAChunker paper"),
    Published("nt", "", "mcc", "NT-multi", 0.650, _OTHERS),
    Published("genomic-benchmarks", "", "accuracy", "MergeDNA", 0.909, "the MergeDNA paper"),
    Published("genomic-benchmarks", "", "accuracy", "GENERator", 0.907, "the GENERator paper"),
    Published("genomic-benchmarks", "", "accuracy", "DNAChunker", 0.885, "the DNAChunker paper"),
)


def read_published(source: str, suite: str) -> Sequence[Published]:
    """The figures for a suite: ``builtin``, ``none``, or a CSV with the columns of ``Published``.

    Raises:
        ConfigError: There is no such file.
        DataError: A column is missing, or a value is no number.
    """
    if source == NONE:
        return ()
    rows = _BUILTIN if source == BUILTIN else _read(Path(source).expanduser())
    return tuple(row for row in rows if row.suite == suite)


def _read(path: Path) -> tuple[Published, ...]:
    if not path.is_file():
        raise ConfigError(f"--published {path}: there is no such file; give a CSV, {BUILTIN} or {NONE}")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if missing := [name for name in Published._fields if name not in (rows.fieldnames or ())]:
            raise DataError(f"{path} has no column {missing[0]!r}; it needs {', '.join(Published._fields)}")
        found = []
        for row in rows:
            try:
                value = float(row["value"])
            except (TypeError, ValueError) as error:
                raise DataError(f"{path}, line {rows.line_num}: {row['value']!r} is no number") from error
            found.append(Published(**{name: row[name] for name in Published._fields if name != "value"}, value=value))
    return tuple(found)

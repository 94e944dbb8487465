"""Audit a task: leaks between its splits, by the seqleak package, and test rows that a model was pre-trained on."""

import os
import tempfile
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..genome import Interval, SpanIndex, open_genome, read_split_intervals
from ..genome.contigs import canonical
from ..tasks.table import Split, Table, TaskData
from ..vocabulary import decode
from .counts import both_strand_codes, digits, kmer_codes, kmers_by_row

Status = Literal["pass", "warn", "fail", "skip", "info"]

OVERLAP_KMER = 31
OVERLAP_SHARE = 0.5
"""Share of a row's 31-mers from which it counts as seen: single ones are shared by repeats all over a genome."""


@dataclass(frozen=True)
class Finding:
    """What one check of seqleak found.

    Attributes:
        check: Its name, such as ``overlap.exact``.
        status: Against seqleak's own thresholds; ``skip`` where the task lacks what it needs.
        value: The statistic: a share of test rows, or the metric of a rule without a model.
        count: Test rows concerned, where the statistic is a share.
        message: What it is, in words.
        example: One row concerned, and the row of train or dev that it comes from; empty if there is none.
    """

    check: str
    status: Status
    value: float | None
    count: int | None
    message: str
    example: str = ""

    def __str__(self) -> str:
        return f"{self.status} {self.check}: {self.message}{f'; for example {self.example}' if self.example else ''}"


@dataclass(frozen=True)
class Audit:
    """Leaks and shortcuts of one task.

    Attributes:
        verdict: The worst status of the findings. After ``fail`` no result on the task is credible.
        findings: One per check, in seqleak's order.
        version: Of seqleak.
        seconds: Wall-clock time.
    """

    verdict: Literal["pass", "warn", "fail"]
    findings: tuple[Finding, ...]
    version: str
    seconds: float


class Pretraining(NamedTuple):
    """What a model was pre-trained on: the ``train`` intervals of a BED file, and the genome that they are of."""

    genome: str | os.PathLike[str] | None
    intervals: str | os.PathLike[str]


@dataclass(frozen=True)
class Overlap:
    """Test rows that were seen in pre-training.

    Attributes:
        how: By ``coordinates``, by ``31-mers``, or both where the intervals are of several genomes.
        num_rows: Rows of the table.
        num_seen: Rows that share a base by coordinates, or half of their 31-mers on either strand.
        num_unknown: Rows compared by 31-mers that have none, being short or full of N.
        example: Place of the first row seen; empty if there is none.
    """

    how: str
    num_rows: int
    num_seen: int
    num_unknown: int
    example: str

    @property
    def share(self) -> float:
        """Share of all rows that were seen."""
        return self.num_seen / max(self.num_rows, 1)


def audit_task(data: TaskData, *, seed: int = 0) -> Audit:
    """Check the splits of a task for leaks and shortcuts with seqleak, at its own thresholds.

    Of tasks with several labels or columns, the overlap of splits alone is checked, since seqleak reads one label.
    Homology needs BLAST+ or MMseqs2 on the PATH, and takes 2,000 test rows at most.

    Args:
        data: The task. Rows are named by their places.
        seed: Of seqleak's folds, bootstrap and samples.

    Raises:
        ConfigError: seqleak is not installed.
        DataError: There are no test rows, or seqleak cannot use the task.
    """
    try:
        import seqleak
        from seqleak.audit import InputError, load_task, run_audit
    except ImportError as error:
        raise ConfigError('the leak audit needs seqleak: pip install "hnet-ntv2[evaluate]", or leave it out') from error

    if data.test is None:
        raise DataError(f"{data.name} has no test rows to audit")
    started = time.perf_counter()
    has_one_label = data.scheme.kind == "classification" or len(data.scheme.names) == 1
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # seqleak's: of statistics that are undefined, which it reports as such
        rows = Path(folder) / "rows.parquet"
        _write_rows(data, rows, has_one_label)
        task_type = "classification" if data.scheme.kind == "classification" else "regression"
        try:
            task = load_task(data=[str(rows)], task_name=data.name, task_type=task_type)
            checks = None if has_one_label else ["overlap"]
            report, _ = run_audit(task, checks=checks, seed=seed, examples=1, workdir=folder, quiet=True)
        except InputError as error:
            raise DataError(f"{data.name} cannot be audited: {error}") from error
    findings = tuple(_finding(check, found) for check, found in report["checks"].items())
    verdict = report["verdict"]["status"].lower()
    return Audit(verdict, findings, seqleak.__version__, time.perf_counter() - started)


def _write_rows(data: TaskData, path: Path, has_one_label: bool) -> None:
    """All rows of a task as one table that seqleak reads."""
    import pyarrow as pa
    from pyarrow import parquet

    splits = {name: split for name in ("train", "dev", "test") if (split := getattr(data, name)) is not None}
    columns = {
        "split": [name for name, split in splits.items() for _ in split.table.places],
        "id": [place for split in splits.values() for place in split.table.places],
        "sequence": [decode(bases).decode() for split in splits.values() for bases in split.table.bases],
        "label": np.concatenate([_single_labels(split, has_one_label) for split in splits.values()]),
    }
    if all(split.table.coordinates is not None for split in splits.values()):
        places = [place for split in splits.values() for place in split.table.coordinates]
        columns["chrom"] = [canonical(place.contig) for place in places]
        columns["start"], columns["end"] = [place.start for place in places], [place.end for place in places]
    parquet.write_table(pa.table(columns), path)


def _single_labels(split: Split, has_one_label: bool) -> NDArray:
    if has_one_label:
        return split.targets.reshape(-1)
    return np.arange(len(split.table)) + 0.5  # seqleak wants labels, and the checks of overlaps need none


def _finding(check: str, found: Mapping[str, Any]) -> Finding:
    value, rows = found["value"], found["n"]
    is_share = value is not None and rows and str(found["statistic"]).startswith("share of test")
    example = ", ".join(f"{key} {value}" for key, value in found["examples"][0].items()) if found["examples"] else ""
    count = round(value * rows) if is_share else None
    return Finding(check, found["status"].lower(), value, count, found["reason"], example)


def overlap_with_pretraining(table: Table, pretraining: Sequence[Pretraining]) -> Overlap:
    """Count the rows that lie in the intervals that a model was pre-trained on.

    By coordinates where the table has them and shares contig names with the intervals, in any naming style: both must
    be of the same assembly. Else by 31-mers of both strands. Memory grows with the table, not with the intervals.

    Args:
        table: The test rows.
        pretraining: Genome and intervals, several of them where a model saw several genomes.

    Raises:
        ConfigError: 31-mers are needed, and a genome is missing.
        GenomeError: A file cannot be read as what it should be.
    """
    seen, is_unknown, ways = np.zeros(len(table), bool), np.zeros(len(table), bool), []
    by_kmers = []
    for one in pretraining:
        intervals = [interval for interval in read_split_intervals(one.intervals) if interval.split == "train"]
        contigs = {canonical(interval.contig) for interval in intervals}
        if table.coordinates is not None and contigs & {canonical(place.contig) for place in table.coordinates}:
            seen |= _overlap_by_coordinates(table.coordinates, intervals)
            ways.append("coordinates")
        elif one.genome is None:
            raise ConfigError(
                f"the rows of {table.source} have no coordinates in common with {one.intervals}: give its genome, so "
                "that 31-mers can be compared"
            )
        else:
            by_kmers.append(one)
    if by_kmers:
        ways.append(f"{OVERLAP_KMER}-mers")
        seen_kmers, is_unknown = _overlap_by_kmers(table, by_kmers)
        seen |= seen_kmers
    example = table.places[int(seen.argmax())] if seen.any() else ""
    how = " and ".join(dict.fromkeys(ways))
    return Overlap(how, len(table), int(seen.sum()), int((is_unknown & ~seen).sum()), example)


def _overlap_by_coordinates(places: Sequence[Interval], intervals: Iterable[Interval]) -> NDArray[np.bool_]:
    spans: dict[str, tuple[list[int], list[int]]] = {}
    for interval in intervals:
        starts, ends = spans.setdefault(canonical(interval.contig), ([], []))
        starts.append(interval.start)
        ends.append(interval.end)
    index = {contig: SpanIndex(*ends) for contig, ends in spans.items()}
    counts = [
        index[contig].count([place.start], [place.end])[0] if (contig := canonical(place.contig)) in index else 0
        for place in places
    ]
    return np.array(counts) > 0


def _overlap_by_kmers(table: Table, pretraining: Sequence[Pretraining]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Rows that share half of their 31-mers with the intervals, and rows that have none."""
    codes, rows = kmers_by_row(table, OVERLAP_KMER)
    wanted, places = np.unique(both_strand_codes(codes, OVERLAP_KMER), return_inverse=True)
    is_found = np.zeros(len(wanted), dtype=bool)
    may_be_wanted = np.zeros(1 << _FILTER_BITS, dtype=bool)
    may_be_wanted[_hash(wanted)] = True
    for one in pretraining:
        assert one.genome is not None
        genome = open_genome(one.genome)
        for interval in read_split_intervals(one.intervals, genome.contigs):
            if interval.split == "train":
                found, is_whole = kmer_codes(digits(genome.read(interval)), OVERLAP_KMER)
                found = both_strand_codes(found[is_whole], OVERLAP_KMER)
                found = found[may_be_wanted[_hash(found)]]  # a search costs 20 times more
                place = np.minimum(np.searchsorted(wanted, found), max(len(wanted) - 1, 0))
                is_found[place[wanted[place] == found]] = True
    num_kmers = np.bincount(rows, minlength=len(table))
    num_found = np.bincount(rows, weights=is_found[places], minlength=len(table))
    return (num_found >= OVERLAP_SHARE * num_kmers) & (num_kmers > 0), num_kmers == 0


_FILTER_BITS = 24


def _hash(codes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Fibonacci hashing to 24 bits."""
    return (codes * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _FILTER_BITS)

"""Read interval files (BED), assign each interval to a split, check that the splits share no base."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import ContigNotFound, DataError, GenomeError, IntervalError, shown
from .contigs import ContigResolver, canonical
from .files import text_rows, whole_number
from .interval import Interval

SPLITS = ("train", "valid", "test")
_SPLIT_NAMES = {"train": "train", "training": "train", "valid": "valid", "validation": "valid", "val": "valid",
                "dev": "valid", "test": "test"}  # fmt: skip
_FOLD = re.compile(r"fold\d+")

DEFAULT_VALID = ("21",)
DEFAULT_TEST = ("20", "22")
DEFAULT_TRAIN = tuple(name for name in [*map(str, range(1, 23)), "X"] if name not in DEFAULT_VALID + DEFAULT_TEST)


@dataclass(frozen=True, slots=True)
class SplitInterval(Interval):
    """An interval that belongs to ``train``, ``valid`` or ``test``."""

    split: str = "train"


@dataclass(frozen=True, slots=True)
class StrandedInterval(Interval):
    """An interval on strand ``+``, ``-``, or ``.`` where the file does not say."""

    strand: str = "."


class BedRow(NamedTuple):
    """A place such as ``a.bed, line 3``, and fields of which the first three are contig, start and end."""

    place: str
    fields: list[str]


def bed_rows(path: str | os.PathLike[str], min_columns: int) -> Iterator[BedRow]:
    """Data lines of a BED file, split at tabs (or at spaces where there are none)."""
    is_empty = True
    for number, line in text_rows(path):
        if not line.strip() or line.startswith("#") or _is_header(line):
            continue
        fields = line.split("\t") if "\t" in line else line.split()
        place = f"{path}, line {number}"
        if len(fields) < min_columns:
            raise GenomeError(f"{place}: {len(fields)} columns, at least {min_columns} are needed, split by tabs")
        is_empty = False
        yield BedRow(place, fields)
    if is_empty:
        raise GenomeError(f"{path} holds no intervals")


def _is_header(line: str) -> bool:
    """Whether it is a ``track`` or ``browser`` line."""
    if not line.startswith(("track", "browser")):
        return False
    words = line.split(maxsplit=2)
    # A contig may be called "track"; a whole number follows it then.
    return words[0] in ("track", "browser") and (len(words) == 1 or whole_number(words[1]) is None)


class RowChecker:
    """Translate contig names to those of the genome and check ends; without a genome only the numbers are checked."""

    def __init__(self, contigs: Mapping[str, int] | None) -> None:
        self._contigs = contigs
        self._resolve = ContigResolver(contigs) if contigs is not None else None

    def __call__(self, row: BedRow) -> tuple[str, int, int]:
        """Contig, start and end of a row.

        Raises:
            ContigNotFound, IntervalError, GenomeError: with the file and line.
        """
        place, fields = row
        contig, start, end = fields[0], whole_number(fields[1]), whole_number(fields[2])
        if start is None or end is None:
            numbers = f"start {shown(fields[1])} and end {shown(fields[2])}"
            raise GenomeError(f"{place}: {numbers} must be whole numbers")
        try:
            if self._resolve is not None:
                contig = self._resolve(contig)
            Interval(contig, start, end)
        except (ContigNotFound, IntervalError) as error:
            # The same class, so that callers can leave out what does not fit and still refuse malformed lines.
            raise type(error)(f"{place}: {error}") from None
        if self._contigs is not None and end > self._contigs[contig]:
            past = f"{contig}:{start}-{end} goes past the contig's end at {self._contigs[contig]}"
            raise IntervalError(f"{place}: {past}; does the file belong to another assembly?")
        return contig, start, end


def read_bed(
    path: str | os.PathLike[str],
    contigs: Mapping[str, int] | None = None,
    on_misfit: Callable[[ContigNotFound | IntervalError], None] | None = None,
    stranded: bool = False,
) -> list[Interval]:
    """Read the intervals of a BED file (plain or gzip); columns after the third are ignored, but for the strand.

    Args:
        path: BED file or pipe; comment, ``track`` and ``browser`` lines are skipped.
        contigs: Contig lengths of the genome: names are translated to its own, ends are checked.
        on_misfit: Called with the error of an interval that does not fit the genome, which is then left out; None
            raises it.
        stranded: Read column 6 too, and return each interval as a ``StrandedInterval``.

    Raises:
        GenomeError: if the file cannot be read, is empty, or a line is malformed (the error names it).
        ContigNotFound: if a contig is unknown.
        IntervalError: if an interval is reversed, empty, or goes past its contig's end.
    """
    check = RowChecker(contigs)
    intervals = []
    for row in bed_rows(path, 3):
        try:
            place = check(row)
            intervals.append(StrandedInterval(*place, strand=_strand(row)) if stranded else Interval(*place))
        except (ContigNotFound, IntervalError) as error:
            if on_misfit is None:
                raise
            on_misfit(error)
    if not intervals:
        raise GenomeError(f"{path}: none of its intervals fits the genome; does it belong to another assembly?")
    return intervals


def _strand(row: BedRow) -> str:
    strand = row.fields[5].strip() if len(row.fields) > 5 else "."
    if strand not in ("+", "-", "."):
        raise GenomeError(f"{row.place}: {shown(strand)} in column 6 is no strand; use +, - or ., or three columns")
    return strand


def read_split_intervals(
    path: str | os.PathLike[str],
    contigs: Mapping[str, int] | None = None,
    folds: Mapping[str, str] | None = None,
) -> list[SplitInterval]:
    """Read ``chrom start end split`` (tab-separated, plain or gzip, no header).

    Args:
        path: The file. ``split`` is train, valid (or validation, val, dev) or test.
        contigs: Contig lengths of the genome: names are translated to its own, ends are checked.
        folds: For a file with ``foldN`` instead of splits, the folds that are not for training, such as
            ``{"fold3": "valid", "fold4": "test"}``; all others train.

    Raises:
        GenomeError: if the file cannot be read, is empty, or the fourth column is no split.
        ContigNotFound: if a contig is unknown.
        IntervalError: if an interval is reversed, empty, or goes past its contig's end.
    """
    check = RowChecker(contigs)
    for fold, split in (folds or {}).items():
        if split not in SPLITS:
            raise GenomeError(f"folds: {fold!r} is assigned to {split!r}; use train, valid or test")
    intervals, seen = [], set()
    for row in bed_rows(path, 4):
        span, value = check(row), row.fields[3].strip()
        split = _split_of_fold(row.place, value, folds) if folds else _split_of(row.place, value)
        intervals.append(SplitInterval(*span, split=split))
        seen.add(value)
    # A misspelt fold would leave the split that it was meant for empty, or train on what should be held out.
    if missing := sorted(set(folds or ()) - seen):
        raise GenomeError(f"{path} has no {', '.join(missing)}; its folds are {', '.join(sorted(seen))}")
    return intervals


def _split_of(place: str, value: str) -> str:
    split = _SPLIT_NAMES.get(value.lower())
    if split is None and _FOLD.fullmatch(value):
        raise GenomeError(
            f"{place}: {shown(value)} is a cross-validation fold (as in Borzoi's file), not a split; name the folds "
            'that are held out, as in folds={"fold3": "valid", "fold4": "test"}'
        )
    if split is None:
        raise GenomeError(f"{place}: {shown(value)} in the fourth column is no split; use train, valid or test")
    return split


def _split_of_fold(place: str, fold: str, folds: Mapping[str, str]) -> str:
    if not _FOLD.fullmatch(fold):
        raise GenomeError(f"{place}: {shown(fold)} in the fourth column is no fold, but folds were given")
    return folds.get(fold, "train")


def default_split(contigs: Mapping[str, int]) -> list[SplitInterval]:
    """The split used where no interval file is given: by whole chromosomes of GRCh38.

    Train: chromosomes 1-19 and X. Valid: chromosome 21 (about 1.5 % of the genome). Test: chromosomes 20 and 22. Left
    out: Y (its pseudo-autosomal regions are also on X, much of the rest is repeated or N), the mitochondrion, and
    every alternate, unplaced or decoy contig (copies of chromosomal sequence would leak between the splits).

    Args:
        contigs: Contig lengths of the genome, in any naming style.

    Raises:
        DataError: if train or valid would be empty.
    """
    # By chromosome: windows of one chromosome in two splits would share repeats and linked sequence.
    split_of = dict.fromkeys(DEFAULT_TRAIN, "train") | dict.fromkeys(DEFAULT_VALID, "valid")
    split_of |= dict.fromkeys(DEFAULT_TEST, "test")
    intervals = [
        SplitInterval(name, 0, length, split=split_of[canonical(name)])
        for name, length in contigs.items()
        if canonical(name) in split_of
    ]
    found = {interval.split for interval in intervals}
    for split, wanted in (("train", DEFAULT_TRAIN), ("valid", DEFAULT_VALID)):
        if split not in found:
            names = f"chromosome {', '.join(wanted)}, but the genome has {', '.join(list(contigs)[:5])}"
            raise DataError(f"the default split of {split} takes {names}; give an interval file with --intervals")
    return intervals


def check_disjoint(intervals: Sequence[SplitInterval]) -> None:
    """Check that no base belongs to two splits.

    Raises:
        DataError: naming the first two intervals of different splits that overlap.
    """
    # Sorted by start, an interval overlaps an earlier one of a split only if it overlaps the one that ends last.
    furthest: dict[tuple[str, str], SplitInterval] = {}
    for interval in sorted(intervals, key=lambda item: (item.contig, item.start)):
        for split in SPLITS:
            other = furthest.get((interval.contig, split))
            if other is not None and split != interval.split and other.overlaps(interval):
                both = f"{other} ({other.split}) and {interval} ({interval.split})"
                raise DataError(f"{both} overlap; make the splits disjoint, so that held-out bases stay unseen")
        own = furthest.get((interval.contig, interval.split))
        if own is None or interval.end > own.end:
            furthest[interval.contig, interval.split] = interval

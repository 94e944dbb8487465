"""Read sequences and their labels from tables, FASTA and BED. Every error names file, row, value and a way out."""

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, GenomeError, shown
from ..genome import Genome, Interval, encode, read_fasta_records, reverse_complement
from ..genome.bed import BedRow, RowChecker, bed_rows
from ..genome.files import MAX_LINE, open_sequence_file, text_rows
from .table import Table

FORMATS = {".csv": "text", ".tsv": "text", ".txt": "text", ".parquet": "parquet", ".bed": "bed",
           ".fa": "fasta", ".fna": "fasta", ".fasta": "fasta"}  # fmt: skip
"""Format of a file by its suffix, which ``.gz`` may follow."""
_BED_NAME = 4  # column, from 1
_BED_STRAND = 6


class Columns(NamedTuple):
    """Names of a table's columns; ``label`` may hold several, split by commas. In BED they are numbers from 1."""

    sequence: str = "sequence"
    label: str = "label"
    name: str = "name"


class Record(NamedTuple):
    """One row of a file: where it stands and what it says; an empty name stands for the row's number."""

    place: str
    bases: NDArray[np.uint8]
    label: str | None = None
    name: str = ""
    interval: Interval | None = None
    strand: str | None = None


def read_table(
    path: str | os.PathLike[str],
    *,
    genome: Genome | None = None,
    need_labels: bool = True,
    sequence_column: str = "sequence",
    label_column: str = "label",
    name_column: str = "name",
) -> Table:
    """Sequences with their labels from a file, whose suffix says how to read it; ``.gz`` may follow.

    A header line names the columns of CSV (``.csv``), TSV (``.tsv``, ``.txt``) and parquet. Columns ``chrom``,
    ``start`` (or ``start0``) and ``end``, 0-based and half-open, give coordinates, and ``strand`` the strand of the
    sequences. In FASTA (``.fa``, ``.fna``, ``.fasta``) the label stands behind the last ``|`` of the header. BED
    (``.bed``) gives intervals of a genome with labels in column 4; what column 6 puts on ``-`` is
    reverse-complemented.

    Args:
        path: The file.
        genome: What the intervals of a BED file are read from.
        need_labels: False takes labels where a table or BED file has them, and none from FASTA.
        sequence_column: Column of sequences.
        label_column: Column of labels, or several, split by commas; in BED the column's number from 1.
        name_column: Column of names; without a column ``name`` rows are numbered from 1.

    Raises:
        DataError: The file is no such table, or a row has no sequence, no label, or a letter that is no nucleotide.
        GenomeError: The file cannot be opened or decompressed, or an interval does not lie in the genome.
    """
    path = Path(path).expanduser()
    records = _records(path, genome, Columns(sequence_column, label_column, name_column), need_labels)
    several = tuple(label_column.split(",")) if "," in label_column else None
    return make_table(str(path), records, several, need_labels)


def read_records(
    path: str | os.PathLike[str], genome: Genome | None = None, columns: Columns | None = None
) -> Iterator[Record]:
    """Sequences from a file one by one, without labels; arguments and errors are those of ``read_table``."""
    path, number = Path(path).expanduser(), 0
    for number, record in enumerate(_records(path, genome, columns or Columns(), need_labels=False), 1):
        _check_record(record, need_labels=False)
        yield record._replace(name=record.name or str(number))
    if number == 0:
        raise _no_rows(path)


def _records(path: Path, genome: Genome | None, columns: Columns, need_labels: bool) -> Iterator[Record]:
    format_ = format_of(path)
    if format_ == "fasta":
        return _fasta_records(path, need_labels)
    if format_ == "bed":
        return _bed_records(path, genome, columns.label, need_labels)
    header, rows = read_parquet(path) if format_ == "parquet" else read_text(path)
    return _column_records(path, header, rows, columns, need_labels)


def format_of(path: Path) -> str:
    """How to read a file, by its suffix; raises DataError for one that is missing or has another suffix."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path}: the suffix {suffix!r} says no format; use {', '.join(FORMATS)}, each also with .gz")
    if not path.exists():
        raise DataError(f"{path} does not exist; give a table, FASTA or BED file")
    return FORMATS[suffix]


def make_table(
    source: str, records: Iterator[Record], label_columns: tuple[str, ...] | None, need_labels: bool
) -> Table:
    """Check the records of a file and put them into a table; raises DataError as ``read_table``."""
    rows = list(records)
    if not rows:
        raise _no_rows(source)
    for row in rows:
        _check_record(row, need_labels)
    first = rows[0]
    return Table(
        source=source,
        names=tuple(row.name or str(number) for number, row in enumerate(rows, 1)),
        bases=tuple(row.bases for row in rows),
        labels=None if first.label is None else tuple(row.label or "" for row in rows),
        places=tuple(row.place for row in rows),
        coordinates=None if first.interval is None else tuple(row.interval for row in rows if row.interval),
        strands=None if first.strand is None else tuple(row.strand or "." for row in rows),
        label_columns=label_columns if first.label is not None else None,
    )


def _no_rows(source: object) -> DataError:
    return DataError(f"{source} holds no rows; give a file with at least one sequence")


def _check_record(row: Record, need_labels: bool) -> None:
    if not len(row.bases):
        raise DataError(f"{row.place}: the sequence is empty; remove the row or fill it in")
    if need_labels and not row.label:
        raise DataError(f"{row.place}: the label is empty; remove the row or fill it in")
    for text in (row.name, row.label or ""):
        if not text.isprintable():  # it goes into tables, where a tab would add a column
            raise DataError(f"{row.place}: {shown(text)} holds a tab or control character; remove it")


Rows = Iterator[tuple[str, list[str]]]
"""Place and fields of each row."""


def read_text(path: Path) -> tuple[list[str], Rows]:
    """Header and rows of a CSV or TSV file, which may quote its fields."""
    suffix = Path(path.name.removesuffix(".gz")).suffix.lower()
    rows = _text_rows(path, {".csv": ",", ".tsv": "\t"}.get(suffix))
    _, header = next(rows, (str(path), None))
    if header is None:
        raise DataError(f"{path} holds no text; give a table whose first line names its columns")
    return [name.strip() for name in header], rows


def _text_rows(path: Path, delimiter: str | None) -> Rows:
    """Place and fields of each line that is not blank; without a delimiter the first line tells whether it is a tab."""
    # For good: csv's own limit, 131,072, is shorter than a window of a genome, and two readers may take turns.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    lines = text_rows(path)
    number, first = next(((number, line) for number, line in lines if line.strip()), (1, ""))
    delimiter = delimiter or ("\t" if "\t" in first else ",")
    texts = (line + "\n" for line in chain([first], (line for _, line in lines)))
    reader = csv.reader(texts, delimiter=delimiter, strict=True)
    try:
        # A row is named by its last line: a quoted field may hold line ends.
        yield from ((f"{path}, line {reader.line_num + number - 1}", row) for row in reader if _has_text(row))
    except csv.Error as error:
        line = reader.line_num + number - 1
        raise DataError(f"{path}, line {line}: {error}; is it {delimiter!r} that splits its fields?") from error


def _has_text(fields: list[str]) -> bool:
    """False for a blank line, not for one with delimiters alone: that is a row with nothing in it."""
    return len(fields) > 1 or bool("".join(fields).strip())


def read_parquet(path: Path) -> tuple[list[str], Rows]:
    """Header and rows of a parquet file without its lists; numbers and truth values become text, nulls empty text."""
    import pyarrow as pa
    from pyarrow import parquet

    with open_sequence_file(path) as (stream, _):
        content = stream.read()
    with _arrow_as_data_error(path):
        file = parquet.ParquetFile(pa.BufferReader(content))
    # Lists are no text; a table of embeddings may hold gigabytes of them.
    header = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
    return header, _parquet_rows(path, file, header)


def _parquet_rows(path: Path, file: Any, header: list[str]) -> Rows:
    places = (f"{path}, row {number}" for number in count(1))
    with _arrow_as_data_error(path):
        for batch in file.iter_batches(columns=header):
            texts = [["" if value is None else str(value) for value in values.to_pylist()] for values in batch.columns]
            # The fields first: at the end of a batch they take no place.
            yield from ((place, list(fields)) for fields, place in zip(zip(*texts, strict=True), places, strict=False))


@contextmanager
def _arrow_as_data_error(path: Path) -> Iterator[None]:
    from pyarrow import ArrowException

    try:
        yield
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable parquet file: {' '.join(str(error).split())}") from error


def find_column(path: Path, header: Sequence[str], name: str, option: str | None = None) -> int:
    """Place of a column in a header; raises DataError where it is missing or stands there twice.

    ``option`` is what names the column, if anything does.
    """
    if header.count(name) != 1:
        fault = "no column" if name not in header else "more than one column"
        way_out = f"name another with {option}, or mend the first line" if option else "mend the first line"
        raise DataError(f"{path} has {fault} {name!r}; its first line names {shown(', '.join(header))}: {way_out}")
    return header.index(name)


def _column_records(
    path: Path, header: Sequence[str], rows: Rows, columns: Columns, need_labels: bool
) -> Iterator[Record]:
    sequence_at = find_column(path, header, columns.sequence, "--sequence-column")
    labels = columns.label.split(",")
    has_labels = need_labels or all(name in header for name in labels)
    labels_at = [find_column(path, header, name, "--label-column") for name in labels] if has_labels else []
    is_named = columns.name in header or columns.name != Columns().name
    name_at = find_column(path, header, columns.name, "--name-column") if is_named else None
    start = "start0" if "start0" in header else "start"
    has_place = all(name in header for name in ("chrom", start, "end"))
    place_at = [header.index(name) for name in ("chrom", start, "end")] if has_place else []
    strand_at = header.index("strand") if "strand" in header else None
    check = RowChecker(None)
    for place, fields in rows:
        check_width(place, fields, header)
        fields = [field.strip() for field in fields]
        label = [fields[at] for at in labels_at]
        bases = encode_sequence(place, fields[sequence_at])
        yield Record(
            place=place,
            bases=bases,
            # Empty if any of several is: a row without one of its labels has none.
            label=(",".join(label) if all(label) else "") if has_labels else None,
            name=fields[name_at] if name_at is not None else "",
            interval=_interval(check, place, [fields[at] for at in place_at], len(bases)) if has_place else None,
            strand=check_strand(place, fields[strand_at]) if strand_at is not None else None,
        )


def check_width(place: str, fields: Sequence[str], header: Sequence[str]) -> None:
    """Raise DataError for a row that has more or fewer fields than the header."""
    if len(fields) != len(header):
        raise DataError(
            f"{place}: {len(fields)} fields, but the first line names {len(header)} columns; quote a field that holds "
            "the character that splits them"
        )


def encode_sequence(place: str, sequence: str) -> NDArray[np.uint8]:
    """Bases of a sequence; raises DataError for a letter that is no nucleotide."""
    try:
        return encode(sequence.encode("ascii"))
    except UnicodeEncodeError as error:
        letter = sequence[error.start]
        raise DataError(f"{place}: letter {letter!r} at position {error.start} is no nucleotide") from None
    except GenomeError as error:
        raise DataError(f"{place}: {error}") from None


def _interval(check: RowChecker, place: str, fields: list[str], length: int) -> Interval:
    interval = Interval(*check(BedRow(place, fields)))
    if len(interval) != length:
        raise DataError(
            f"{place}: {interval} has {len(interval):,} bases, the sequence {length:,}; coordinates are 0-based and "
            "half-open: correct the columns, or rename them to have them ignored"
        )
    return interval


def check_strand(place: str, strand: str) -> str:
    """``+``, ``-`` or, also for no text, ``.``; raises DataError for anything else."""
    if strand not in ("+", "-", ".", ""):
        raise DataError(f"{place}: the strand is {shown(strand)}; use +, - or .")
    return strand or "."


def _fasta_records(path: Path, need_labels: bool) -> Iterator[Record]:
    for number, (header, bases) in enumerate(read_fasta_records(path), 1):
        place = f"{path}, record {number}"
        name, bar, label = header.rpartition("|")
        if need_labels and not bar:
            raise DataError(f"{place}: the header {shown(header)} has no label; write it behind a '|' at the end")
        words = (name if need_labels else header).split()
        yield Record(place, bases, label.strip() if need_labels else None, words[0] if words else "")


def _bed_records(path: Path, genome: Genome | None, label_column: str, need_labels: bool) -> Iterator[Record]:
    if genome is None:
        raise DataError(f"{path} holds intervals, not sequences; give their genome with --genome")
    if label_column == Columns().label:
        labels_at = [_BED_NAME] if need_labels else []
    elif all(number.isdecimal() and int(number) > 3 for number in label_column.split(",")):
        labels_at = [int(number) for number in label_column.split(",")]
    else:
        raise DataError(f"{path}: the label column of a BED file is a number from 4 on, not {label_column!r}")
    check = RowChecker(genome.contigs)
    for place, fields in bed_rows(path, max([3, *labels_at])):
        # A dot is BED's word for nothing.
        fields = ["" if field.strip() == "." else field.strip() for field in fields]
        interval = Interval(*check(BedRow(place, fields)))
        has_strand = len(fields) >= _BED_STRAND and _BED_STRAND not in labels_at
        strand = check_strand(place, fields[_BED_STRAND - 1]) if has_strand else "."
        has_name = len(fields) >= _BED_NAME and _BED_NAME not in labels_at
        label = [fields[at - 1] for at in labels_at]
        yield Record(
            place=place,
            bases=read_interval(genome, interval, strand),
            label=(",".join(label) if all(label) else "") if labels_at else None,
            name=(fields[_BED_NAME - 1] if has_name else "") or str(interval),
            interval=interval,
            strand=strand,
        )


def read_interval(genome: Genome, interval: Interval, strand: str) -> NDArray[np.uint8]:
    """Bases of an interval as its strand reads them."""
    bases = genome.read(interval)
    return reverse_complement(bases) if strand == "-" else bases

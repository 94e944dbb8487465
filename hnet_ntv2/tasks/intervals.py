"""Read Genomic Benchmarks' interval files: one CSV for each class, against a genome."""

from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from ..genome import Genome, Interval
from ..genome.bed import BedRow, RowChecker
from .reading import Record, check_strand, check_width, find_column, make_table, read_interval, read_text
from .table import Table

_COLUMNS = ("id", "region", "start", "end", "strand")


def read_class_intervals(folder: Path, genome: Genome | None) -> Table:
    """Sequences of all ``CLASS.csv`` or ``CLASS.csv.gz`` files of a folder; the label is the class.

    Their columns are id, region, start, end, strand, 0-based and half-open; strand ``-`` is reverse-complemented.

    Raises:
        DataError: No genome is given, there is no such file, or a row is malformed.
        GenomeError: An interval does not lie in the genome.
    """
    if genome is None:
        raise DataError(f"{folder} holds intervals, not sequences; give their genome with --genome")
    records = (record for path in class_files(folder) for record in _records(path, genome))
    return make_table(str(folder), records, None, need_labels=True)


def class_files(folder: Path) -> list[Path]:
    """The files of a folder that may be a class each."""
    return sorted(path for path in folder.iterdir() if path.name.removesuffix(".gz").endswith(".csv"))


def _records(path: Path, genome: Genome) -> Iterator[Record]:
    header, rows = read_text(path)
    name_at, *place_at, strand_at = (find_column(path, header, column) for column in _COLUMNS)
    check = RowChecker(genome.contigs)
    for place, fields in rows:
        check_width(place, fields, header)
        interval = Interval(*check(BedRow(place, [fields[at].strip() for at in place_at])))
        strand = check_strand(place, fields[strand_at].strip())
        yield Record(
            place=place,
            bases=read_interval(genome, interval, strand),
            label=path.name.removesuffix(".gz").removesuffix(".csv"),
            name=fields[name_at].strip(),
            interval=interval,
            strand=strand,
        )

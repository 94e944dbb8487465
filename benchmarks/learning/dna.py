"""Join several FASTA and BED files into the one genome and split of the experiment."""

import gzip
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.errors import DataError
from hnet_ntv2.resources import bundled_genome, bundled_split
from hnet_ntv2.storage import appearing_file

WORKLOAD_SEED = 2222


class Dna(NamedTuple):
    """Where the joined genome and its split lie."""

    fasta: Path
    intervals: Path


def join_dna(fastas: Sequence[Path], beds: Sequence[Path], folder: Path) -> Dna:
    """Join files into ``folder``; without any, the human sequence that comes with the package.

    Args:
        fastas: FASTA files (plain or gzip) with different contigs.
        beds: ``chrom start end split`` files over them.
        folder: Gets ``dna.fa`` and ``dna.bed``.

    Raises:
        DataError: A file is missing, or only one of the two kinds was given.
    """
    if not fastas and not beds:
        return Dna(bundled_genome(), bundled_split())
    if missing := [str(path) for path in (*fastas, *beds) if not path.is_file()]:
        raise DataError(f"no such file: {', '.join(missing)}")
    if not fastas or not beds:
        raise DataError("give both --fasta and --intervals, or neither")
    folder.mkdir(parents=True, exist_ok=True)
    joined = Dna(folder / "dna.fa", folder / "dna.bed")
    for target, sources in ((joined.fasta, fastas), (joined.intervals, beds)):
        if not target.exists():
            _concatenate(sources, target)
    return joined


def _concatenate(sources: Sequence[Path], target: Path) -> None:
    with appearing_file(target) as partial, partial.open("wb") as out:
        for source in sources:
            opener = gzip.open if source.suffix == ".gz" else open
            with opener(source, "rb") as file:
                shutil.copyfileobj(file, out)
            out.write(b"\n")  # a file without a final newline would run into the next header


def open_data(dna: Dna, folder: Path, seq_length: int, batch_size: int, **options) -> HG38DataModule:
    """A data module over the joined DNA. Repeats weigh as much as other bases, since the report weighs them so.

    Args:
        dna: The files.
        folder: Gets the cache of the genome.
        seq_length: Bases per window.
        batch_size: Windows per batch.
        options: Further settings of ``HG38DataModule``.
    """
    settings = {"seed": WORKLOAD_SEED, "repeat_weight": 1.0, **options}
    data = HG38DataModule(
        dna.fasta,
        dna.intervals,
        seq_length=seq_length,
        micro_batch_size=batch_size,
        cache_dir=folder / "cache",
        show_progress=False,
        **settings,
    )
    data.prepare_data()
    data.setup()
    return data

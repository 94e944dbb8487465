"""Cut the bundled demo data out of a GRCh38 FASTA: a .2bit file of one interval and its split into tiles.

python scripts/make_demo_data.py hg38.fa.gz hnet_ntv2/resources
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import GenomeError, HNetNTV2Error, shown
from hnet_ntv2.genome import Interval, open_genome
from hnet_ntv2.genome.interval import find_runs
from hnet_ntv2.genome.twobit import BASE_OF_CODE, SIGNATURE, TwoBitFile
from hnet_ntv2.storage import appearing_file
from hnet_ntv2.vocabulary import BASE_BITS, SOFT_MASK, is_n

TILE = 131_072
SPLIT_STARTS = {"train": 2_097_152, "valid": 7_340_032, "test": 7_864_320}
END = 8_388_608


def main() -> int:
    """Write the two files and check them against the FASTA."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fasta", help="GRCh38, with chromosome 20 in its native coordinates")
    parser.add_argument("folder", type=Path, help="where chr20_demo.2bit and chr20_demo.bed go")
    parser.add_argument("--cache-dir", help="where the genome cache lives")
    arguments = parser.parse_args()
    try:
        write_demo(arguments.fasta, arguments.folder, arguments.cache_dir)
    except HNetNTV2Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def write_demo(fasta: str, folder: Path, cache_dir: str | None) -> None:
    """Write ``chr20_demo.2bit`` and ``chr20_demo.bed``; the BED is in the coordinates of the piece."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Interval("chr20", SPLIT_STARTS["train"], END)
    contig = f"GRCh38_{source.contig}_{source.start}-{source.end}"
    bases = open_genome(fasta, cache_dir).read(source)
    target = folder / "chr20_demo.2bit"
    write_twobit(target, {contig: bases})
    back = np.concatenate(list(TwoBitFile(target).blocks(contig, 1 << 20)))
    assert np.array_equal(back, bases), "the .2bit file does not give back what was written"
    (folder / "chr20_demo.bed").write_text("".join(bed_lines(contig, source)))
    print(f"{target}: {len(bases)} bases, md5 {hashlib.md5(target.read_bytes()).hexdigest()}")


def bed_lines(contig: str, source: Interval) -> list[str]:
    """Tiles of the piece, each with the last split that starts at or before it."""
    lines = []
    for start in range(source.start, source.end, TILE):
        split = max((begin, name) for name, begin in SPLIT_STARTS.items() if begin <= start)[1]
        lines.append(f"{contig}\t{start - source.start}\t{start - source.start + TILE}\t{split}\n")
    return lines


def write_twobit(path: str | os.PathLike[str], contigs: Mapping[str, NDArray[np.uint8]]) -> None:
    """Write encoded contigs as a little-endian .2bit file of version 0; N and soft-mask runs are kept.

    Args:
        path: File to write.
        contigs: Encoded bases by contig name.

    Raises:
        GenomeError: if a contig is empty, or a name is longer than the format's 255 bytes.
        ConfigError: if the place cannot be written.
    """
    names = {name: name.encode() for name in contigs}
    for name, bases in contigs.items():
        if len(bases) == 0 or not 0 < len(names[name]) <= 255:
            raise GenomeError(f"contig {shown(name)} of {len(bases)} bases cannot be stored in a .2bit file")
    records = [_packed_record(bases) for bases in contigs.values()]
    offset = 16 + sum(5 + len(name) for name in names.values())
    with appearing_file(path) as partial, partial.open("wb") as file:
        file.write(np.array([SIGNATURE, 0, len(records), 0], dtype="<u4").tobytes())
        for name, record in zip(names.values(), records, strict=True):
            file.write(bytes([len(name)]) + name + np.array([offset], dtype="<u4").tobytes())
            offset += len(record)
        file.writelines(records)


def _packed_record(bases: NDArray[np.uint8]) -> bytes:
    header = b"".join(_packed_runs(flags) for flags in (is_n(bases), bases >= SOFT_MASK))
    # N is packed as T (0); its run says what it is.
    code_of_base = np.zeros(BASE_BITS + 1, dtype=np.uint8)
    code_of_base[BASE_OF_CODE] = np.arange(4, dtype=np.uint8)
    codes = np.zeros((len(bases) + 3) // 4 * 4, dtype=np.uint8)
    codes[: len(bases)] = code_of_base[bases & BASE_BITS]
    first, second, third, fourth = codes.reshape(-1, 4).T
    packed = first << 6 | second << 4 | third << 2 | fourth
    zero = b"\0\0\0\0"
    return np.array([len(bases)], dtype="<u4").tobytes() + header + zero + packed.tobytes()


def _packed_runs(flags: NDArray[np.bool_]) -> bytes:
    starts, ends = find_runs(flags)
    return np.concatenate(([len(starts)], starts, ends - starts)).astype("<u4").tobytes()


if __name__ == "__main__":
    sys.exit(main())

"""Cut the bundled demo data out of a GRCh38 FASTA: a .2bit file of one interval and its split into tiles.

python scripts/make_demo_data.py hg38.fa.gz hnet_ntv2/resources
"""

import argparse
import hashlib
import sys
from pathlib import Path

import numpy as np

from hnet_ntv2.errors import HNetNTV2Error
from hnet_ntv2.genome import Interval, TwoBitFile, open_genome, write_twobit

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


if __name__ == "__main__":
    sys.exit(main())

"""Genome files of every accepted format give the same bases; every broken one is an error that says where."""

import gzip
import struct
import zlib

import numpy as np
import pytest

from hnet_ntv2.errors import GenomeError
from hnet_ntv2.genome import decode, read_genome_blocks
from hnet_ntv2.genome.fasta import MAX_HEADER
from scripts.make_demo_data import write_twobit
from tests.builders import piped

FASTA = b">chr1 first contig\nACGTNN\nacgtnn\n\n>chr2\r\nUUryAC\r\nG\r\n>chr3\nT"
CONTIGS = {"chr1": b"ACGTNNacgtnn", "chr2": b"TTnnACG", "chr3": b"T"}


def bgzip(data: bytes, block: int = 20, end_marker: bool = True) -> bytes:
    """BGZF: gzip members with a BC field that tells the member's size."""
    out = b""
    for start in [*range(0, len(data), block), len(data)] if end_marker else range(0, len(data), block):
        part = data[start : start + block]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        size = len(body) + 25
        out += b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x06\0BC\x02\0" + struct.pack("<H", size) + body
        out += struct.pack("<II", zlib.crc32(part), len(part))
    return out


def read_all(path, **options) -> dict[str, bytes]:
    found: dict[str, list[np.ndarray]] = {}
    for contig, bases in read_genome_blocks(path, **options):
        found.setdefault(contig, []).append(bases)
    return {contig: decode(np.concatenate(blocks)) for contig, blocks in found.items()}


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 16, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bgzip], ids=["plain", "gzip", "bgzip"])
def test_every_packing_and_block_size_gives_the_same_contigs(tmp_path, pack, block_size):
    path = tmp_path / "genome.fa"
    path.write_bytes(pack(FASTA))
    assert read_all(path, block_size=block_size) == CONTIGS


def test_twobit_gives_the_same_contigs_whatever_the_block_size(tmp_path):
    path = tmp_path / "genome.2bit"
    fasta = tmp_path / "genome.fa"
    fasta.write_bytes(FASTA)
    write_twobit(path, dict(read_genome_blocks(fasta)))
    for block_size in (4, 8, 1 << 20):
        assert read_all(path, block_size=block_size) == CONTIGS


WHITE_SPACE = {
    "trailing blanks": b">chr1 first \nACGT \nACG\t\n",
    "blank lines": b"\n>chr1\nACGT\n  \nACG\n \t\n",
    "blocks of ten": b">chr1\nAC GT\n AC G\n",
    "byte order mark": b"\xef\xbb\xbf>chr1\nACGTACG\n",
    "windows": b">chr1\r\nACGT\r\nACG\r\n\r\n",
    "old mac": b">chr1 x\rACGT\rACG\r",
    "old mac without a last end": b">chr1\rACGT\rACG",
    "mixed": b"\xef\xbb\xbf\r\n>chr1\r\nACGT \r\r\nACG\n",
}


@pytest.mark.parametrize("block_size", [1, 2, 3, 7, 1 << 20])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("content", WHITE_SPACE.values(), ids=WHITE_SPACE)
def test_white_space_and_line_ends_do_not_matter(tmp_path, content, pack, block_size):
    path = tmp_path / "genome.fa"
    path.write_bytes(pack(content + b">chr2\nT" if content.endswith(b"\n") else content))
    assert read_all(path, block_size=block_size)["chr1"] == b"ACGTACG"


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bgzip], ids=["plain", "gzip", "bgzip"])
def test_a_pipe_gives_the_same_contigs_as_the_file(pack):
    with piped(pack(FASTA)) as path:
        assert read_all(path) == CONTIGS


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (bgzip(FASTA, end_marker=False), "end marker"),
        (gzip.compress(FASTA)[:-12], "truncated"),
        (b"\x43\x27\x41\x1a", "cannot come from a pipe"),
    ],
    ids=[
        "empty",
        "no end marker",
        "truncated",
        "2bit",
    ],  # gzip's header holds the time: workers would name it differently
)
def test_what_is_wrong_with_a_pipe_is_told(content, problem):
    with piped(content) as path, pytest.raises(GenomeError, match=problem):
        read_all(path)


def test_an_endless_header_is_refused_before_it_fills_the_memory(tmp_path):
    path = tmp_path / "bomb.fa.gz"
    path.write_bytes(gzip.compress(b">" + b"x" * (MAX_HEADER + 1)))
    with pytest.raises(GenomeError, match="line 1: a header longer than 1,048,576 bytes"):
        read_all(path)


def test_progress_ends_at_the_size_of_the_file(tmp_path):
    path = tmp_path / "genome.fa.gz"
    path.write_bytes(gzip.compress(FASTA))
    seen: list[tuple[int, int]] = []
    read_all(path, progress=lambda done, size: seen.append((done, size)), block_size=8)
    size = path.stat().st_size
    assert seen == sorted(seen)
    assert seen[-1] == (size, size)


LONG = b">chr1\n" + b"ACGTTGCA" * 99 + b"\n"
BROKEN = {
    "empty": (b"", "is empty"),
    "only blank lines": (b"\n\n \n", "is empty"),
    "no fasta": (b"chr1\t0\t5\n", "not a FASTA"),
    "html": (b"<!DOCTYPE html>", "download page"),
    "zip": (b"PK\x03\x04rest", "zip archive"),
    "fastq": (b"@read\nACGT\n+\nIIII\n", "FASTQ"),
    "empty gzip": (gzip.compress(b""), "is empty"),
    "truncated gzip": (gzip.compress(LONG)[:-12], "truncated"),
    "damaged gzip": (gzip.compress(FASTA)[:-8] + b"\0" * 8, "damaged"),
    "garbage after gzip": (gzip.compress(FASTA) + b"garbage", "damaged"),
    "bgzip without end": (bgzip(FASTA, end_marker=False), "end marker"),
    "letter": (b">chr1\nACGT\nAC-T\n", "'chr1', line 3: letter '-'"),
    "letter after crlf": (b">chr1\r\nACGT\r\n>chr2\r\n\r\nACZT", "'chr2', line 5: letter 'Z'"),
    "protein": (b">p1\nMKVLAE\n", "letter 'L'"),
    "header in a line": (b">chr1\nACG>T\n", "letter '>'"),
    "form feed": (b">chr1\nAC\x0cGT\n", r"letter '\\x0c'"),
    "utf-16": (">chr1\nACGT\n".encode("utf-16"), "UTF-16"),
    "2bit in gzip": (gzip.compress(b"\x43\x27\x41\x1a\0\0\0\0"), "a .2bit file, which cannot"),
    "escape sequence": (b">\x1b]0;pwned\x07chr1\nACGT\n", r"contig name '\\x1b\]0;pwned\\x07chr1' is empty or holds"),
    "bgzip of nothing, cut": (bgzip(b"", end_marker=False), "is empty"),
    "twice": (b">chr1\nA\n>chr2\nC\n>chr1\nG\n", "'chr1' twice"),
    "no sequence": (b">chr1\n>chr2\nACG\n", "'chr1' has no sequence"),
    "no sequence at the end": (b">chr1\nACG\n>chr2", "'chr2' has no sequence"),
    "no name": (b">\nACG\n", "without a contig name"),
}


@pytest.mark.parametrize("block_size", [3, 1 << 20])
@pytest.mark.parametrize(("content", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_by_name(tmp_path, content, problem, block_size):
    path = tmp_path / "genome.fa"
    path.write_bytes(content)
    with pytest.raises(GenomeError, match=problem) as caught:
        read_all(path, block_size=block_size)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(GenomeError, match="does not exist"):
        read_all(tmp_path / "missing.fa")
    with pytest.raises(GenomeError, match="not a file"):
        read_all(tmp_path)

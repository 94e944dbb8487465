"""What is compressed reads as bgzip's own output does."""

import gzip
import io
import random

import pysam
import pytest

from hnet_ntv2.storage import open_text
from hnet_ntv2.storage.bgzip import BLOCK_BYTES, bgzip_writer


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES])
@pytest.mark.parametrize("letters", [b"ACGT", bytes(range(256))])
def test_bytes_come_back_whatever_the_size(size, letters):
    data = bytes(random.Random(size).choices(letters, k=size))
    file = io.BytesIO()
    with bgzip_writer(file) as writer:
        for start in range(0, size, 10_007):
            writer.write(data[start : start + 10_007])
    assert gzip.decompress(file.getvalue()) == data
    assert file.getvalue().endswith(bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000"))


def test_tabix_finds_lines_in_the_middle(tmp_path):
    path = tmp_path / "chunks.bed.gz"
    with open_text(path) as file:
        file.writelines(f"chr1\t{start}\t{start + 10}\tchunk{start}\n" for start in range(0, 200_000, 10))
    pysam.tabix_index(str(path), preset="bed")
    with pysam.TabixFile(str(path)) as table:
        assert list(table.fetch("chr1", 150_000, 150_015)) == [
            "chr1\t150000\t150010\tchunk150000",
            "chr1\t150010\t150020\tchunk150010",
        ]


def _fail(*_: object) -> None:
    raise ZeroDivisionError


def test_an_error_leaves_no_end_marker_that_would_say_all_is_there():
    file = io.BytesIO()
    with pytest.raises(ZeroDivisionError), bgzip_writer(file) as writer:
        _fail(writer.write(b"x" * BLOCK_BYTES))
    assert file.getvalue()
    assert not file.getvalue().endswith(bytes.fromhex("1b0003000000000000000000"))

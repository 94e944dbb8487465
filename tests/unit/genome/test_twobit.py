"""Our .2bit reader and writer against py2bit, and broken files."""

import random
import time

import numpy as np
import py2bit
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_ntv2.errors import GenomeError
from hnet_ntv2.genome import Interval, decode, encode, open_genome
from hnet_ntv2.genome.twobit import TwoBitFile
from scripts.make_demo_data import write_twobit


@settings(deadline=None, max_examples=100)
@given(sequences=st.lists(st.text("ACGTNacgt", min_size=1, max_size=70), min_size=1, max_size=4))
def test_py2bit_reads_what_we_write_and_so_do_we(tmp_path_factory, sequences):
    # No masked N: py2bit shows it in upper case.
    path = tmp_path_factory.mktemp("twobit") / "some.2bit"
    contigs = {f"contig{number}": text for number, text in enumerate(sequences)}
    write_twobit(path, {name: encode(text.encode()) for name, text in contigs.items()})
    with py2bit.open(str(path), True) as reference:
        assert reference.chroms() == {name: len(text) for name, text in contigs.items()}
        assert {name: reference.sequence(name) for name in contigs} == contigs
    ours = TwoBitFile(path)
    assert ours.lengths == {name: len(text) for name, text in contigs.items()}
    for name, text in contigs.items():
        assert decode(np.concatenate(list(ours.blocks(name, 8)))).decode() == text


def test_the_other_byte_order_is_read(tmp_path):
    header = np.array([0x1A412743, 0, 1, 0], dtype=">u4").tobytes()
    name = b"\x02c1" + np.array([23], dtype=">u4").tobytes()
    record = np.array([5, 1, 1, 2, 0, 0], dtype=">u4").tobytes() + bytes([0b10000011, 0b01000000])
    (tmp_path / "big.2bit").write_bytes(header + name + record)
    file = TwoBitFile(tmp_path / "big.2bit")
    assert decode(next(file.blocks("c1", 100))) == b"ANNGC"


def test_runs_are_found_whatever_block_they_lie_in(tmp_path):
    letters = "".join(random.Random(0).choice("ACGTacgtN") for _ in range(500))
    write_twobit(tmp_path / "some.2bit", {"c1": encode(letters.encode())})
    for size in (4, 20, 256, 1000):
        found = list(TwoBitFile(tmp_path / "some.2bit").blocks("c1", size))
        assert decode(np.concatenate(found)).decode() == letters


def test_many_contigs_take_time_in_proportion(tmp_path):
    """As in a draft assembly; a search through all names for each took minutes for 40,000."""
    bases = encode(b"ACGTNNNNacgtACGT")
    names = [f"scaffold_{number}" for number in range(10_000)]
    write_twobit(tmp_path / "some.2bit", dict.fromkeys(names, bases))
    start = time.process_time()
    genome = open_genome(tmp_path / "some.2bit", tmp_path / "cache")
    assert [genome.resolve(f"chr{name}") for name in names] == names
    assert time.process_time() - start < 2
    assert decode(genome.read(Interval("scaffold_9999", 2, 10))) == b"GTNNNNac"


def test_a_name_that_would_break_a_bed_line_is_refused(tmp_path):
    write_twobit(tmp_path / "some.2bit", {"chr1\t0\t9\nchr2": encode(b"ACGT")})
    with pytest.raises(GenomeError, match=r"contig name 'chr1\\t0\\t9\\nchr2' is empty or holds a tab"):
        open_genome(tmp_path / "some.2bit", tmp_path / "cache")


@pytest.mark.parametrize("kept", [4, 15, 20, 30, 60, 75])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "some.2bit"
    write_twobit(path, {"c1": encode(b"ACGTNNNNacgt" * 9)})
    content = path.read_bytes()
    assert kept < len(content)
    path.write_bytes(content[:kept])
    with pytest.raises(GenomeError, match="truncated"):
        TwoBitFile(path)


def test_an_unknown_version_and_an_empty_contig_are_refused(tmp_path):
    path = tmp_path / "some.2bit"
    path.write_bytes(np.array([0x1A412743, 7, 0, 0], dtype="<u4").tobytes())
    with pytest.raises(GenomeError, match="version"):
        TwoBitFile(path)
    with pytest.raises(GenomeError, match="cannot be stored"):
        write_twobit(path, {"c1": encode(b"")})

"""Bases that were said before, against a slow search; rows of intervals."""

import numpy as np
import pytest

from benchmarks.copies import main, merged, rows_of, said_before
from hnet_ntv2.errors import DataError
from hnet_ntv2.genome import Interval, open_genome


def slowly(bases, k, distance):
    found = np.zeros(len(bases), bool)
    for at in range(len(bases) - k + 1):
        kmer = tuple(bases[at : at + k])
        if all(0 <= base < 4 for base in kmer) and any(
            kmer == tuple(bases[earlier : earlier + k]) for earlier in range(at - distance + 1)
        ):
            found[at : at + k] = True
    return found


@pytest.mark.parametrize("seed", range(8))
def test_said_before_is_what_a_search_finds(seed):
    random = np.random.default_rng(seed)
    bases = random.integers(0, 2, 120)  # two letters: many repeats
    bases[random.random(120) < 0.05] = 4  # N
    assert np.array_equal(said_before(bases, 5, 20), slowly(bases, 5, 20))


def test_a_copy_is_found_on_its_second_place_alone():
    random = np.random.default_rng(1)
    bases = random.integers(0, 4, 400)
    bases[300:360] = bases[100:160]
    assert np.flatnonzero(said_before(bases)).tolist() == list(range(300, 360))
    assert not said_before(bases[:10]).any()


@pytest.fixture
def genome(tmp_path):
    random = np.random.default_rng(2)
    part = "".join(random.choice(list("ACGT"), 200))
    fasta, bed = tmp_path / "g.fa", tmp_path / "g.bed"
    fasta.write_text(f">a\n{part.lower()}{part}\n>b\n{''.join(random.choice(list('ACGT'), 400))}\n")
    bed.write_text("a\t0\t400\ttrain\nb\t0\t400\tvalid\nb\t0\t400\ttrain\n")
    return fasta, bed


def test_rows_lie_side_by_side_and_neighbours_are_merged(genome):
    opened = open_genome(genome[0])
    (whole,) = rows_of(opened, [Interval("a", 0, 400)], 400)
    assert whole == (Interval("a", 0, 400), 0.5)
    # The copy is in another row.
    halves = rows_of(opened, [Interval("a", 0, 400), Interval("b", 10, 399)], 200)
    assert [row.said for row in halves] == [0, 0, 0]
    assert merged(halves) == [Interval("a", 0, 400), Interval("b", 10, 210)]
    with pytest.raises(DataError, match="no interval holds a row of 500 bases"):
        rows_of(opened, [Interval("a", 0, 400)], 500)


def test_a_split_is_written_without_its_rows_that_say_nothing_twice(genome, tmp_path, capsys):
    written = tmp_path / "copies.bed"
    main([*map(str, genome), "--split", "train", "--length", "400", "--write", str(written)])
    assert "| 400 | 2 | 25.00% |" in capsys.readouterr().out
    assert written.read_text() == "a\t0\t400\ttrain\nb\t0\t400\tvalid\n"
    with pytest.raises(SystemExit):
        main([*map(str, genome), "--write", str(tmp_path / "other.bed")])
    assert "--write takes the rows of one length" in capsys.readouterr().err
    assert not (tmp_path / "other.bed").exists()
    with pytest.raises(SystemExit):
        main([*map(str, genome), "--length", "500"])
    assert "no interval holds a row of 500 bases" in capsys.readouterr().err

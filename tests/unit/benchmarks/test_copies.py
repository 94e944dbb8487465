"""Bases that were said before, against a slow search; rows of intervals of one split."""

import numpy as np
import pytest

from benchmarks.copies import main, said_before, share
from hnet_ntv2.errors import DataError


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
    bed.write_text("a\t0\t400\tvalid\nb\t0\t400\ttrain\n")
    return fasta, bed


def test_rows_are_those_of_the_split(genome, capsys):
    assert share(*genome, "valid", 400) == (0.5, 1)
    assert share(*genome, "valid", 200) == (0.0, 2)  # the copy is in another row
    assert share(*genome, "train", 400) == (0.0, 1)
    with pytest.raises(DataError, match="no test interval of 400 bases"):
        share(*genome, "test", 400)
    main([*map(str, genome), "--length", "400"])
    assert "| 400 | 1 | 50.00% |" in capsys.readouterr().out

"""Chromosome names in three styles."""

import time

import pytest

from hnet_ntv2.errors import ContigNotFound
from hnet_ntv2.genome.contigs import ContigResolver, canonical
from tests.unit.genome.hg38 import HG38_LENGTHS

UCSC = ["chr1", "chr2", "chr22", "chrX", "chrM", "chr1_KI270706v1_random"]
ENSEMBL = ["1", "2", "22", "X", "MT", "KI270706.1"]
NCBI = ["NC_000001.11", "NC_000002.12", "NC_000022.11", "NC_000023.11", "NC_012920.1", "NT_187361.1"]


@pytest.mark.parametrize("known", [UCSC, ENSEMBL, NCBI], ids=["ucsc", "ensembl", "ncbi"])
@pytest.mark.parametrize("position", range(5))
def test_every_style_finds_the_same_chromosome(known, position):
    for style in (UCSC, ENSEMBL, NCBI):
        assert ContigResolver(known)(style[position]) == known[position]


@pytest.mark.parametrize("name", ["chr3", "3", "NC_000001.10", "", "chr", "KI270706v1", "chr01"])
def test_an_unknown_name_is_refused_with_examples(name):
    with pytest.raises(ContigNotFound, match="chr1, chr2, chr22") as caught:
        ContigResolver(UCSC, source="hg38.fa")(name)
    assert repr(name) in str(caught.value)
    assert "hg38.fa" in str(caught.value)


def test_a_name_that_could_be_two_contigs_is_refused_unless_it_is_exact():
    known = ["chr1", "NC_000001.11"]
    assert ContigResolver(known)("chr1") == "chr1"
    with pytest.raises(ContigNotFound, match="could be any"):
        ContigResolver(known)("1")


def test_many_names_over_many_contigs_are_found_in_proportion():
    known = [f"scaffold_{number}" for number in range(10_000)]
    resolve_name = ContigResolver(known)
    start = time.process_time()
    assert [resolve_name(f"chr{name}") for name in known] == known
    assert time.process_time() - start < 1


def test_names_of_other_genomes_only_lose_chr():
    assert canonical("chrIV") == canonical("IV") == "IV"
    assert ContigResolver(["I", "IV"])("chrIV") == "IV"


def test_the_length_table_is_grch38():
    assert len(HG38_LENGTHS) == 25
    assert sum(HG38_LENGTHS.values()) == 3_088_286_401

"""Whatever the intervals, a drawn window lies inside one of its split and shares no base with another split."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_ntv2.data.windows import WindowIndex
from hnet_ntv2.errors import DataError
from hnet_ntv2.genome import SplitInterval, check_disjoint, open_genome

CONTIG_LENGTHS = {"chr1": 700, "chr2": 500}


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    text = "".join(
        f">{name}\n{'ACGTTGCA' * 20}{'N' * 90}{'G' * (length - 250)}\n" for name, length in CONTIG_LENGTHS.items()
    )
    (folder / "genome.fa").write_text(text)
    return open_genome(folder / "genome.fa", folder / "cache")


@st.composite
def disjoint_intervals(draw):
    """Contigs cut at random places; each piece belongs to a random split or is left out."""
    intervals = []
    for contig, length in CONTIG_LENGTHS.items():
        cuts = sorted({0, length, *draw(st.lists(st.integers(1, length - 1), max_size=8))})
        for start, end in itertools.pairwise(cuts):
            split = draw(st.sampled_from(["train", "valid", "test", None]))
            if split is not None:
                intervals.append(SplitInterval(contig, start, end, split))
    return draw(st.permutations(intervals))


def bases_of(genome, intervals) -> set[int]:
    return {genome.locate(item) + offset for item in intervals for offset in range(len(item))}


@settings(deadline=None, max_examples=60)
@given(
    intervals=disjoint_intervals(),
    length=st.integers(1, 120),
    seed=st.integers(0, 2**63),
    first=st.integers(0, 2**40),
    split=st.sampled_from(["train", "valid", "test"]),
)
def test_a_window_never_leaves_its_interval(genome, intervals, length, seed, first, split):
    check_disjoint(intervals)
    own = [item for item in intervals if item.split == split]
    try:
        index = WindowIndex.build(genome, intervals, length, split=split)
    except DataError:
        return
    drawn = index.draw(np.arange(first, first + 64), seed)
    fixed = index.fixed(np.arange(len(index)))
    held_out = bases_of(genome, [item for item in intervals if item.split != split])
    spans = [(genome.locate(item), genome.locate(item) + len(item)) for item in own]
    for start in {*drawn.start.tolist(), *fixed.start.tolist()}:
        assert any(low <= start and start + length <= high for low, high in spans)
        assert held_out.isdisjoint(range(start, start + length))
        assert genome.n_runs.count([start], [start + length])[0] <= 0.5 * length

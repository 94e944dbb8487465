"""Intervals refuse nonsense; span lookups against a slow definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_ntv2.errors import IntervalError
from hnet_ntv2.genome import Interval, SpanIndex


@pytest.mark.parametrize(
    ("start", "end", "problem"), [(-1, 5, "negative"), (5, 4, "reversed"), (5, 5, "empty"), (-3, -1, "negative")]
)
def test_an_interval_that_is_none_is_refused(start, end, problem):
    with pytest.raises(IntervalError, match=rf"chr1:{start}-{end}.*{problem}"):
        Interval("chr1", start, end)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (Interval("chr1", 0, 10), False),
        (Interval("chr1", 0, 11), True),
        (Interval("chr1", 19, 30), True),
        (Interval("chr1", 20, 30), False),
        (Interval("chr2", 10, 20), False),
    ],
)
def test_overlap_is_half_open_and_per_contig(other, expected):
    interval = Interval("chr1", 10, 20)
    assert len(interval) == 10
    assert interval.overlaps(other) is expected
    assert other.overlaps(interval) is expected


@settings(deadline=None, max_examples=100)
@given(
    spans=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 15)), max_size=12),
    start=st.integers(0, 70),
    length=st.integers(1, 40),
)
def test_span_lookups_equal_painting_one_base_at_a_time(spans, start, length):
    painted = np.zeros(200, dtype=bool)
    for first, size in spans:
        painted[first : first + size] = True
    index = SpanIndex([first for first, _ in spans], [first + size for first, size in spans])
    assert index.count([0], [200]).tolist() == [painted.sum()]
    assert np.array_equal(index.mask(start, start + length), painted[start : start + length])
    assert index.count([start], [start + length]).tolist() == [painted[start : start + length].sum()]

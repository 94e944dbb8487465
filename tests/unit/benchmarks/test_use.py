"""The benchmark of use: every way gives vectors of all sequences, and says what it measured."""

import pytest

from benchmarks import use
from tests.builders import lively_model


@pytest.mark.parametrize("way", use.WAYS)
def test_every_way_is_measured(way, tmp_path, monkeypatch):
    lively_model().save_pretrained(tmp_path)
    monkeypatch.setitem(use.LOADS, "short", use.Load(8, 40, 4))
    start, on_part = use.WAYS[way]
    rows = start(tmp_path, "cpu")(use.LOADS["short"].sequences(3))
    assert sum(1 if way.startswith("embed") else len(row) for row in rows) == 3
    found = use.measure(way, "short", tmp_path, "cpu", 0.5)
    assert found["measured_on"] == (2 if on_part else 4)
    assert found["sequences_per_second"] > 0
    assert found["peak_memory_mib"] > 0

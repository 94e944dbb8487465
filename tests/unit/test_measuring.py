"""Sums add up and mean what they say, against counts by hand."""

import math
from types import SimpleNamespace

import pytest
import torch

from hnet_ntv2.measuring import (
    add_sums,
    final_chunk_lengths,
    length_metrics,
    stage_metrics,
    target_metrics,
    target_sums,
)


def test_uniform_logits_are_two_bits():
    labels = torch.tensor([[7, -100, 10, 9]])
    sums = target_sums(torch.zeros(1, 4, 16), labels, torch.ones(1, 4, dtype=torch.bool), "all")
    assert target_metrics({name: float(value) for name, value in sums.items()}, "all")["bits"] == pytest.approx(2.0)
    assert float(sums["all_count"]) == 3


def test_other_columns_and_other_places_do_not_count():
    logits = torch.full((1, 3, 16), 50.0)
    logits[..., 7:11] = 0
    logits[0, 0, 7] = 100.0
    where = torch.tensor([[True, False, False]])
    sums = target_sums(logits, torch.tensor([[7, 8, 9]]), where, "t")
    metrics = target_metrics({name: float(value) for name, value in sums.items()}, "t", "_x")
    assert metrics == {"bits_x": pytest.approx(0.0), "accuracy_x": 1.0}


def test_no_targets_are_not_zero_bits():
    metrics = target_metrics({"t_nats": 0.0, "t_hits": 0.0, "t_count": 0.0}, "t")
    assert math.isnan(metrics["bits"])


def test_sums_add():
    one = {"a": torch.tensor(1.0)}
    assert add_sums(None, one) == one
    assert float(add_sums(one, one)["a"]) == 2.0


def test_ratios_and_shares():
    sums = dict.fromkeys(("mask", "anchor", "grid", "cap", "guard"), 2.0)
    sums = {f"stage1_{name}": value for name, value in sums.items()}
    sums |= {
        "stage1_positions": 20.0,
        "stage1_boundaries": 5.0,
        "stage1_counted": 8.0,
        "stage1_wanted": 2.0,
        "stage1_kept": 3.0,
        "bases": 20.0,
    }
    metrics = stage_metrics(sums, 1)
    assert metrics["stage1/ratio"] == 0.25
    assert metrics["stage1/chunk_length"] == 4.0
    assert metrics["stage1/router_share"] == 0.25
    assert metrics["stage1/boundary_share"] == 0.375
    assert metrics["stage1/guarded"] == metrics["stage1/forced_grid"] == 0.1


def test_chunk_lengths_by_hand():
    chunk_of = torch.tensor([[0, 0, 0, 1, 1, 2], [0, 1, 1, 0, 0, 0]])
    is_valid = torch.tensor([[True] * 6, [True] * 3 + [False] * 3])
    lengths = final_chunk_lengths(chunk_of, is_valid)
    assert lengths.tolist() == [[3, 2, 1, 0, 0, 0], [1, 2, 0, 0, 0, 0]]


def test_percentiles_of_a_histogram():
    histogram = torch.zeros(20, dtype=torch.float64)
    histogram[2], histogram[5], histogram[12] = 60, 36, 4
    assert length_metrics(histogram) == {"chunk_length_p50": 2.0, "chunk_length_p95": 5.0, "chunk_length_max": 12.0}
    assert SimpleNamespace(**length_metrics(torch.zeros(3, dtype=torch.float64))).chunk_length_max != 0

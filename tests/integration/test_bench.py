"""`hnet-ntv2 bench` at a tiny size: it runs, extrapolates along layers, and writes what it prints."""

import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

from hnet_ntv2.cli.main import app
from hnet_ntv2.evaluation.speed import Contestant, _Timing, kmer_tokens
from tests.builders import ids

TINY = {"d_model": 32, "n_head": 2, "intermediate_size": 64, "n_main_layer": 4, "kmer_size": 3, "window": 16}


def test_bench_prints_and_writes_three_contestants(tmp_path):
    config = tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump(TINY))
    arguments = ["bench", "--config", str(config), "--bases", "300", "--rounds", "1", "--backward-layers", "0.5"]
    result = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out" / "speed.json")])
    assert result.exit_code == 0, result.output
    assert "scaled to full depth" in result.output
    written = json.loads((tmp_path / "out" / "speed.json").read_text())
    assert [row["name"] for row in written["measurements"]] == [
        "HNet-NTv2",
        "NTv2 on k-mers",
        "single nucleotides, windowed",
    ]
    assert all(row["forward"] > 0 and row["megaflops_per_base"] > 0 for row in written["measurements"])


def test_extrapolation_is_exact_for_equal_layers():
    entry = Contestant("x", 20, lambda depth: torch.nn.Identity(), lambda model, ids: ids)
    timing = _Timing(entry, 0.2)
    assert timing.depths == (2, 4)
    assert timing.to_full_depth({depth: 3.0 + 0.5 * depth for depth in timing.depths}) == pytest.approx(13.0)
    assert _Timing(entry, 1.0).depths == (20,)


def test_kmer_tokens_are_those_of_ntv2():
    assert kmer_tokens(ids("ATCGATC"), 3).tolist() == [[3, 6 + 6, 6 + 3 * 16 + 0 * 4 + 1]]

"""`hnet-ntv2 bench` at a tiny size: whole models in turn, fewer layers only where memory forces it, and all is told."""

import json

import pytest
import torch
import yaml
from typer.testing import CliRunner

from hnet_ntv2.cli.bench import render
from hnet_ntv2.cli.main import app
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.evaluation import speed
from hnet_ntv2.evaluation.speed import (
    Contestant,
    Measurement,
    available_memory,
    kmer_tokens,
    measure_speed,
    our_model,
    plan,
    random_bases,
    source_model,
)
from tests.builders import ids, tiny_model
from tests.unit.conversion.sources import TINY as SOURCE

TINY = {"d_model": 32, "n_head": 2, "intermediate_size": 64, "n_main_layer": 4, "kmer_size": 4, "window": 16}
CPU = torch.device("cpu")


def test_bench_prints_and_writes_every_round_of_whole_models(tmp_path):
    for name, changes in {"wide": {}, "narrow": {"d_base": 16}}.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(TINY | changes))
    configs = [f"--config={tmp_path / name}.yaml" for name in ("wide", "narrow")]
    options = ["--ntv2-config", str(SOURCE / "config.json"), "--bases", "300", "--rounds", "3", "--single-bases", "2"]
    result = CliRunner().invoke(app, ["bench", *configs, *options, "--output", str(tmp_path / "out" / "speed.json")])
    assert result.exit_code == 0, result.output
    assert "scaled" not in result.output
    written = json.loads((tmp_path / "out" / "speed.json").read_text())
    rows = {row["name"]: row for row in written["measurements"]}
    assert list(rows) == ["wide", "narrow", "NTv2, 4 layers", "2 windowed layers, single bases"]
    for row in rows.values():
        assert row["timed_depths"] == [row["depth"]]
        assert [len(row["seconds"][kind]) for kind in ("forward", "step")] == [3, 3]
        assert row["megaflops_per_base"] > 0
    model = tiny_model(n_main_layer=4, max_chunk_length=None)  # on random letters the cap is off
    assert rows["wide"]["num_parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert "narrow / NTv2, 4 layers: forward" in result.output


def test_bench_refuses_what_cannot_be_compared(tmp_path):
    config = tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump(TINY))
    for arguments, message in {
        (f"--config={config}",): "kmer_size=4 does not fit an NTv2 of 4107 tokens",
        (f"--config={config}", f"--config={config}"): "have the same name",
        ("--device=abacus",): "--device abacus cannot be used here",
        ("--precision=fp8",): "precision is 'fp8'",
        (f"--ntv2-config={config}",): "cannot be read as JSON",
    }.items():
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, ["bench", *arguments], catch_exceptions=False)


def test_contestants_run_in_turn(monkeypatch):
    order = []

    def note(entry, model, bases, kind, precision):
        order.append((entry.name, kind))
        return 2.0 if entry.name == "a" else 1.0

    monkeypatch.setattr(speed, "_time_once", note)
    entries = [
        Contestant(name, 1, lambda depth: torch.nn.Linear(2, 2), lambda model, bases: model(torch.ones(1, 2)))
        for name in "ab"
    ]
    report = measure_speed(
        entries, num_bases=8, rounds=2, device=CPU, precision="fp32", report_progress=lambda line: None
    )
    assert order == 3 * [("a", "forward"), ("b", "forward"), ("a", "step"), ("b", "step")]
    first, second = report.measurements
    assert first.speed_beside(second, "step") == (0.5, 0.5, 0.5)
    assert "a / b: forward 0.50 [0.50, 0.50], step 0.50 [0.50, 0.50]" in render(report, second)


def test_ratios_are_of_rounds_and_not_of_medians():
    ours, theirs = (Measurement(name, 1, (1,)) for name in "ab")
    ours.seconds["step"], theirs.seconds["step"] = [1.0, 10.0, 4.0], [2.0, 11.0, 2.0]
    assert ours.speed_beside(theirs, "step") == (1.1, 0.5, 2.0)


def layers(depth: int) -> torch.nn.Module:
    return torch.nn.Sequential(*(torch.nn.Linear(100, 100, bias=False) for _ in range(depth)))


def test_only_what_does_not_fit_is_timed_with_fewer_layers():
    entry = Contestant("x", 20, layers, lambda model, bases: model(bases[..., None].float().repeat(1, 1, 100)))
    bases, weights = random_bases(64), 100 * 100 * 4
    one = 64 * 100 * 4  # what each layer keeps: its input
    fits = 20 * weights + 20 * weights + 20 * one
    (whole,) = plan([entry], bases, "fp32", fits)
    assert whole.timed_depths == (20,)
    (sliced,) = plan([entry], bases, "fp32", fits - 10 * (weights + one))
    assert sliced.timed_depths == (5, 10)
    both = plan([entry, Contestant("y", 2, layers, entry.logits)], bases, "fp32", fits - 10 * (weights + one))
    assert [measured.timed_depths for measured in both] == [(4, 8), (2,)]
    with pytest.raises(ConfigError, match=r"x needs .* for a backward pass of 2 layers over 64 bases"):
        plan([entry], bases, "fp32", 20 * weights)


def test_scaling_is_exact_for_equal_layers_and_is_told():
    measured = Measurement("x", 20, (2, 4))
    assert measured.whole({depth: 3.0 + 0.5 * depth for depth in (2, 4)}) == pytest.approx(13.0)
    entries = [
        our_model("ours", HNetNTV2Config(**TINY, chunker="learned")),
        source_model("theirs", NTv2Config.from_json_file(SOURCE / "config.json"), 4),
    ]
    one, two = ([speed._count_bytes(entry, n, random_bases(200), "fp32") for entry in entries] for n in (1, 2))
    ours, theirs = (one[i] + 3 * (two[i] - one[i]) for i in (0, 1))  # weights and saved bytes of 4 layers
    fits = int(ours[0] + theirs[0] + ours.sum())
    options = {"num_bases": 200, "rounds": 1, "device": CPU, "precision": "fp32", "report_progress": lambda line: None}
    whole, sliced = (measure_speed(entries, **options, memory=memory) for memory in (fits, fits * 97 // 100))
    assert [each.timed_depths for each in whole.measurements] == [(4,), (4,)]
    assert [each.timed_depths for each in sliced.measurements] == [(1, 3), (4,)]
    assert "ours: its 4 layers do not fit the memory; timed with 1 and 3 of them" in render(
        sliced, sliced.measurements[1]
    )
    for ours, theirs in zip(sliced.measurements, whole.measurements, strict=True):
        assert ours.num_parameters == theirs.num_parameters
        # Random routers of another depth make a few chunks more or fewer.
        rel = 0.3 if ours.ratios else 1e-9
        assert ours.megaflops_per_base == pytest.approx(theirs.megaflops_per_base, rel=rel)


def test_memory_is_some():
    assert 1 << 20 < available_memory(CPU) < 1 << 50


def test_kmer_tokens_are_those_of_ntv2():
    assert kmer_tokens(ids("ATCGATC"), 3).tolist() == [[3, 6 + 6, 6 + 3 * 16 + 0 * 4 + 1]]

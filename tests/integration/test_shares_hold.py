"""Chunk ratios stay at their targets from the start through the first hundreds of steps (docs/decisions/0016)."""

from importlib.resources import files
from pathlib import Path

import pytest

from hnet_ntv2.conversion.graft import graft
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.sequence import read_sequence
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.training.display import TRAIN, VALIDATION, read_history
from hnet_ntv2.training.run import pretrain

from .tiny_training import tiny_settings

CONTIG, LENGTH = "GRCh38_chr20_2097152-8388608", 6_291_456
TARGETS = (0.3, 0.5)
RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
STILL = {"trunk": 0.0, "kmer_embedding": 0.0, "source_head": 0.0}
SLOW = {"trunk": 0.1, "kmer_embedding": 0.1, "source_head": 0.1}


def deviations(row, name: str) -> list[float]:
    """How far the shares of boundaries without masks are off their targets, relative to them."""
    return [abs(row[name.format(stage)] / target - 1) for stage, target in enumerate(TARGETS, start=1)]


def write_alternating_intervals(folder: Path) -> Path:
    """Every fifth block of the bundled sequence is for validation.

    Regions differ: trained on the piece's own training intervals (42 % GC), with its share at the target there, such a
    model cuts the validation intervals behind them (37 % GC) finer by a sixth.
    """
    block = 100_000
    parts = [(start, "valid" if start // block % 5 == 4 else "train") for start in range(0, LENGTH, block)]
    path = folder / "alternating.bed"
    path.write_text("".join(f"{CONTIG}\t{start}\t{min(start + block, LENGTH)}\t{split}\n" for start, split in parts))
    return path


def run(folder: Path, **changes):
    """200 steps on the bundled piece of chromosome 20, validated at every 40th."""
    resources = files("hnet_ntv2") / "resources"
    settings = tiny_settings(
        folder,
        data__fasta=str(resources / "chr20_demo.2bit"),
        data__intervals=str(write_alternating_intervals(folder)),
        optimizer__learning_rate=1.5e-3,
        trainer__max_steps=200,
        validation={"every": 40, "windows": 96, "strands": "forward", "anchors": [True], "grid": False},
        callbacks__checkpoint_every=1000,
        callbacks__log_every=1,
        callbacks__router_gradients_every=0,
        **changes,
    )
    return pretrain(settings)


def assert_ratios_held(result) -> None:
    validation = read_history(result.history[VALIDATION])
    assert [row["step"] for row in validation] == list(range(40, 201, 40))
    off = [max(deviations(row, "mask_free/stage{}/ratio")) for row in validation]
    assert max(off) < 0.2
    assert off[-1] < 0.1
    # Between validations: single steps look at few windows, which differ, so ten of them are averaged.
    steps = read_history(result.history[TRAIN])
    for first in range(0, 200, 10):
        mean = {
            name: sum(row[name] for row in steps[first : first + 10]) / 10
            for name in ("stage1/mask_free_share", "stage2/mask_free_share")
        }
        assert max(deviations(mean, "stage{}/mask_free_share")) < 0.2, first


@pytest.mark.slow
def test_ratios_hold_from_random_weights(tmp_path):
    small = {"d_model": 32, "n_head": 2, "intermediate_size": 64, "kmer_size": 6, "chunker": "learned"}
    assert_ratios_held(
        run(
            tmp_path,
            model=small,
            data__seq_length=384,
            batch={"global_size": 8, "micro_batch_size": 8},
        )
    )


@pytest.mark.slow
def test_ratios_hold_through_a_warm_start_from_a_trained_source(tmp_path):
    """The source is the one that the learning experiment trained; its routers see content, not noise."""
    source = open_source(str(RESULTS / "2026-11-25-learning-cpu" / "source"))
    settings = {"n_main_layer": 4, "window": 32, "chunker": "learned"}
    start = graft(source, read_sequence(), settings=settings, layers="auto")
    held_out = start.ledger.calibration["held_out"]["achieved"]
    assert max(abs(ratio / target - 1) for ratio, target in zip(held_out, TARGETS, strict=True)) < 0.1
    save_start(start, tmp_path / "start")
    assert_ratios_held(
        run(
            tmp_path,
            init=str(tmp_path / "start"),
            model={},
            data__seq_length=512,
            batch={"global_size": 8, "micro_batch_size": 8},
            optimizer__multipliers={"base": 2.45, "stage1": 1.34, "stage2": 0.95, **SLOW},
            warm_start__align={"steps": 10, "multipliers": STILL, "grid_share": [1.0], "ratio_weight": [0.0]},
            warm_start__release={"steps": 110, "grid_share": [1.0, 0.0], "ratio_weight": [0.0, 1.0]},
        )
    )

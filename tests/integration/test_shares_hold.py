"""Chunk ratios stay at their targets from the first steps on, and end there: what the offsets are moved for."""

from importlib.resources import files

import pytest

from hnet_ntv2.training.history import VALIDATION, read_history
from hnet_ntv2.training.run import pretrain

from .tiny_training import tiny_settings

TARGETS = (0.3, 0.5)


def deviations(row) -> list[float]:
    """How far the achieved ratios without masks are off their targets, relative to them."""
    return [abs(row[f"mask_free/stage{stage}/ratio"] / target - 1) for stage, target in enumerate(TARGETS, start=1)]


@pytest.mark.slow
def test_ratios_without_masks_hold_through_the_first_hundreds_of_steps(tmp_path):
    resources = files("hnet_ntv2") / "resources"
    settings = tiny_settings(
        tmp_path,
        data__fasta=str(resources / "chr20_demo.2bit"),
        data__intervals=str(resources / "chr20_demo.bed"),
        data__seq_length=384,
        batch={"global_size": 8, "micro_batch_size": 8},
        model__d_model=32,
        model__n_head=2,
        model__intermediate_size=64,
        model__kmer_size=6,
        optimizer__learning_rate=1.5e-3,
        trainer__max_steps=200,
        validation={"every": 20, "windows": 64},
        callbacks__checkpoint_every=1000,
        callbacks__log_every=20,
        callbacks__router_gradients_every=0,
    )
    rows = read_history(pretrain(settings).history[VALIDATION])
    assert [row["step"] for row in rows] == list(range(20, 201, 20))
    assert max(max(deviations(row)) for row in rows) < 0.2
    assert max(deviations(rows[-1])) < 0.1

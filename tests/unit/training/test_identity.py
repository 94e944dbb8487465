"""What a resumed run must have in common with its checkpoint, and what a run notes about itself."""

import copy
import dataclasses
import json
import logging
import subprocess
from pathlib import Path

import pytest

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.errors import CheckpointError
from hnet_ntv2.training.devices import BatchPlan, Precision
from hnet_ntv2.training.identity import (
    MAY_DIFFER,
    check_identity,
    describe_environment,
    git_state,
    run_identity,
    setting_values,
    write_environment,
)
from hnet_ntv2.training.settings import DataSettings, PretrainSettings

CHECKPOINT = Path("a.ckpt")
DIGESTS = {"fasta": "f", "intervals": "i", "repeats": None}


def identity_of(
    settings: PretrainSettings, micro_batch: int = 2, precision: str = "32-true", kind: str = "cpu"
) -> dict:
    return run_identity(settings, HNetNTV2Config(), DIGESTS, BatchPlan(8, micro_batch), Precision(precision, ""), kind)


def replaced(settings, name: str, value):
    """Settings with another value under a dotted name, of whatever type."""
    first, _, rest = name.partition(".")
    changed = copy.copy(settings)
    object.__setattr__(changed, first, replaced(getattr(settings, first), rest, value) if rest else value)
    return changed


# Whoever adds a setting decides here: must a resumed run agree with it (then its name goes here, and nothing else is to
# be done), or does it belong into MAY_DIFFER?
MUST_AGREE = {
    "seed", "init", "data.fasta", "data.intervals", "data.repeats", "data.seq_length", "data.repeat_weight",
    "data.max_n_share", "data.mask.rate", "data.mask.span", "data.mask.mask_share", "data.mask.random_share",
    "batch.global_size", "optimizer.learning_rate", "optimizer.betas", "optimizer.eps", "optimizer.weight_decay",
    "optimizer.multipliers", "scheduler.warmup_fraction", "scheduler.final_divisor", "warm_start.when",
    "warm_start.teacher", "warm_start.teacher_revision", "warm_start.teacher_layer", "trainer.max_steps",
    "trainer.gradient_clip",
    *(f"warm_start.{phase}.{name}" for phase in ("align", "release", "joint") for name in (
        "steps", "multipliers", "grid_share", "anchor_share", "ratio_weight", "hidden_state_weight"
    )),
}  # fmt: skip


def test_every_setting_has_been_decided_on():
    names = set(setting_values(PretrainSettings()))
    assert names == MUST_AGREE | (set(MAY_DIFFER) - {"threads"})
    assert not MUST_AGREE & set(MAY_DIFFER)


def test_a_setting_that_nobody_decided_on_must_agree(monkeypatch):
    """So that whoever forgets the table gets an error on resume, not a run of two halves."""
    monkeypatch.delitem(MAY_DIFFER, "data.num_workers")
    before = identity_of(PretrainSettings())
    now = identity_of(replaced(PretrainSettings(), "data.num_workers", 7))
    with pytest.raises(CheckpointError, match=r"data\.num_workers: None in the checkpoint, 7 now"):
        check_identity(before, now, CHECKPOINT, False)


@pytest.mark.parametrize("name", sorted(MUST_AGREE - {"init", "data.fasta", "data.intervals", "data.repeats"}))
def test_what_must_agree_is_refused_with_both_values(name):
    before = identity_of(PretrainSettings())
    with pytest.raises(CheckpointError, match=rf"{name}: .* in the checkpoint, 'other' now"):
        check_identity(before, identity_of(replaced(PretrainSettings(), name, "other")), CHECKPOINT, False)


@pytest.mark.parametrize("name", sorted(set(MAY_DIFFER) - {"threads", "batch.micro_batch_size", "trainer.precision",
                                                           "trainer.accelerator"}))  # fmt: skip
def test_what_may_differ_is_told_or_not_as_the_table_says(name, caplog):
    before = identity_of(PretrainSettings())
    with caplog.at_level(logging.WARNING):
        check_identity(before, identity_of(replaced(PretrainSettings(), name, "other")), CHECKPOINT, False)
    assert [name in record.getMessage() for record in caplog.records] == [True] * (MAY_DIFFER[name] is not None)


def test_what_a_setting_comes_to_is_compared(monkeypatch, caplog):
    """A measured micro-batch, the precision and the device of this machine, the content of files."""
    settings = PretrainSettings(data=DataSettings(fasta="here.fa"))
    before = identity_of(settings)
    check_identity(before, identity_of(replaced(settings, "data.fasta", "there.fa")), CHECKPOINT, False)
    assert not caplog.records
    check_identity(before, identity_of(settings, 4, "bf16-mixed", "cuda"), CHECKPOINT, False)
    told = [record.getMessage() for record in caplog.records]
    assert [message.split()[0] for message in told] == [
        "batch.micro_batch_size",
        "trainer.accelerator",
        "trainer.precision",
        "threads",
    ]
    monkeypatch.setitem(DIGESTS, "fasta", "other")
    with pytest.raises(CheckpointError, match=r"data\.fasta: 'f' in the checkpoint, 'other' now"):
        check_identity(before, identity_of(settings), CHECKPOINT, False)


def test_every_difference_is_named_with_both_values():
    saved = {"seed": 1, "model.d_model": 8, "model.guard": (0.1, 0.6), "trainer.max_steps": 10}
    current = {"seed": 2, "model.d_model": 16, "model.guard": [0.1, 0.6], "trainer.max_steps": 10}
    with pytest.raises(CheckpointError, match=r"seed: 1 in the checkpoint, 2 now; model\.d_model: 8 .*, 16 now\. Use"):
        check_identity(saved, current, CHECKPOINT, False)


def test_only_the_length_can_be_allowed_to_differ():
    before, now = {"trainer.max_steps": 10, "seed": 1}, {"trainer.max_steps": 20, "seed": 1}
    check_identity(before, now, CHECKPOINT, True)
    with pytest.raises(CheckpointError, match="allow_changed_max_steps"):
        check_identity(before, now, CHECKPOINT, False)
    with pytest.raises(CheckpointError, match="seed: 1 in the checkpoint, 3 now"):
        check_identity(before, {**now, "seed": 3}, CHECKPOINT, True)


def first_identity(settings: PretrainSettings) -> dict:
    """As the first version of this package wrote it."""
    plain = dataclasses.asdict(settings)
    return {
        "max_steps": settings.trainer.max_steps,
        "batch_size": settings.batch.global_size,
        "seq_length": settings.data.seq_length,
        "seed": settings.seed,
        "gradient_clip": settings.trainer.gradient_clip,
        "model": {name: getattr(HNetNTV2Config(), name) for name in ("d_model", "guard_stage1")},
        "mask": plain["data"]["mask"],
        "repeat_weight": settings.data.repeat_weight,
        "optimizer": plain["optimizer"],
        "scheduler": plain["scheduler"],
        "warm_start": plain["warm_start"] | {"grafted": False},
        "data": dict(DIGESTS),
    }


def test_a_checkpoint_of_the_first_version_is_compared_where_both_have_a_name(caplog):
    settings = PretrainSettings()
    check_identity(first_identity(settings), identity_of(settings), CHECKPOINT, False)
    (record,) = caplog.records
    unknown = record.getMessage().split(": ")[1].split(", ")
    assert {name for name in unknown if name in MUST_AGREE} == {"data.max_n_share", "init"}
    assert not set(unknown) & set(MAY_DIFFER)
    changes = {"trainer.max_steps": 1, "batch.global_size": 1, "data.seq_length": 9, "seed": 1,
               "trainer.gradient_clip": 9.0, "data.mask.rate": 0.9, "data.repeat_weight": 0.9, "optimizer.eps": 0.9,
               "optimizer.multipliers": {}, "warm_start.align.steps": 9, "scheduler.warmup_fraction": 0.9}  # fmt: skip
    for name, value in changes.items():
        with pytest.raises(CheckpointError, match=rf"from a\.ckpt: {name}: "):
            check_identity(first_identity(replaced(settings, name, value)), identity_of(settings), CHECKPOINT, False)


def test_the_environment_is_plain_json(tmp_path):
    path = write_environment(tmp_path / "configs", describe_environment({"fasta": "genome.fa"}))
    written = json.loads(path.read_text())
    assert written["data"] == {"fasta": "genome.fa"}
    assert written["packages"]["torch"] != "not installed"


def test_the_commit_of_a_checkout_and_whether_it_was_modified(tmp_path):
    assert git_state(tmp_path)["commit"] is None
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "file").write_text("1")
    subprocess.run(["git", "-C", tmp_path, "add", "file"], check=True)
    subprocess.run(["git", "-C", tmp_path, *identity, "commit", "-qm", "one"], check=True)
    state = git_state(tmp_path)
    assert len(state["commit"]) == 40
    assert state["modified"] is False
    (tmp_path / "file").write_text("2")
    assert git_state(tmp_path)["modified"] is True

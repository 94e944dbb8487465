"""Ranks, accumulated micro-batches and one batch are the same training, also where ranks hold unequal micro-batches."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.run import pretrain

from .tiny_training import tiny_settings

REPOSITORY = Path(__file__).resolve().parents[2]

STEPS = 3
OPTIONS = {
    "trainer__max_steps": STEPS,
    "batch__global_size": 4,
    "validation__every": None,
    "validation__windows": 3,
    "callbacks__router_gradients_every": 0,
    "data__max_n_share": 0.9,
    "model__guard_stage1": [0.01, 0.95],  # so that chunk counts are not those of the guard
}

_WORKER = """
import os
import sys
from pathlib import Path
from tests.integration.test_ddp import OPTIONS
from tests.integration.tiny_training import tiny_settings
from hnet_ntv2.training.run import pretrain

folder, name, rank = Path(sys.argv[1]), sys.argv[2], int(os.environ["RANK"])
micro = {"batch__micro_batch_size": 2}
if name == "unequal":  # as if one device had measured half of what the other holds
    micro = {"batch__micro_batch_size": None, "batch__cpu_micro_batch_size": 2 - rank}
pretrain(tiny_settings(folder, name, **OPTIONS, **micro, trainer__devices=2))
"""


def write_uneven_genome(folder: Path) -> None:
    """Windows differ in how much of them is N, and so in the numbers of their targets and chunks."""
    generator = np.random.default_rng(3)
    with (folder / "genome.fa").open("w") as file:
        for contig, length in (("chr1", 12_000), ("chr2", 4_000)):
            letters = generator.choice(list("ACGTacgt"), length)
            for start in range(0, length, 250):
                letters[start : start + generator.integers(1, 140)] = "N"
            file.write(f">{contig}\n{''.join(letters)}\n")
    (folder / "intervals.bed").write_text("chr1\t0\t12000\ttrain\nchr2\t0\t4000\tvalid\n")


def run_two_ranks(folder: Path, name: str) -> None:
    """Start two processes as torchrun would."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    script = folder / "worker.py"
    script.write_text(_WORKER)
    shared = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "error::UserWarning:hnet_ntv2",
    }
    command = [sys.executable, str(script), str(folder), name]
    ranks = [
        subprocess.Popen(
            command, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        errors = [rank.communicate(timeout=240)[1][-3000:] for rank in ranks]
        assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    finally:
        for rank in ranks:
            rank.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ddp")
    write_uneven_genome(folder)
    return folder


@pytest.fixture(scope="module")
def one_batch(folder):
    return pretrain(tiny_settings(folder, "one", **OPTIONS, batch__micro_batch_size=4))


def assert_same_training(folder: Path, name: str, one_batch) -> None:
    expected = read_history(one_batch.history["train"])
    found = read_history(folder / name / "logs" / "train.csv")
    assert [row["step"] for row in found] == [row["step"] for row in expected] == list(range(1, STEPS + 1))
    for left, right in zip(expected, found, strict=True):
        compared = [key for key in left if "second" not in key and "memory" not in key]
        for key in compared:
            assert right[key] == pytest.approx(left[key], rel=1e-3, abs=1e-4), key
        for key in ("loss", "task_loss", "stage1/ratio_loss", "stage2/ratio_loss", "bits"):
            assert right[key] == pytest.approx(left[key], rel=1e-5), key
        assert right["bases"] == left["bases"] == 4 * 96
    state = HNetNTV2ForMaskedLM.from_pretrained(folder / name / "checkpoints" / "hf").state_dict()
    for key, tensor in one_batch.model.state_dict().items():
        assert torch.allclose(state[key], tensor, atol=1e-4), key


def test_the_halves_of_a_batch_differ(folder, one_batch):
    """Else the tests below would prove little."""
    datamodule = one_batch.datamodule
    datamodule.set_position(0)
    batch = next(iter(datamodule.train_dataloader()))
    with torch.no_grad():
        output = one_batch.model(batch["input_ids"].long(), strands="forward")
    targets = (batch["labels"] != -100).sum(1)
    assert targets[:2].sum() != targets[2:].sum()
    for stage in output.stages:
        counts = stage.is_counted.sum(1)
        assert counts[:2].sum() != counts[2:].sum()


def test_two_accumulated_micro_batches_equal_one_batch(folder, one_batch):
    pretrain(tiny_settings(folder, "accumulated", **OPTIONS, batch__micro_batch_size=2))
    assert_same_training(folder, "accumulated", one_batch)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "accumulation"), [("ranks", 1), ("unequal", 2)])
def test_two_ranks_equal_one_batch(folder, one_batch, name, accumulation):
    run_two_ranks(folder, name)
    assert_same_training(folder, name, one_batch)
    validation = read_history(folder / name / "logs" / "validation.csv")
    assert validation[-1]["targets"] == one_batch.summary.validation["targets"]
    assert validation[-1]["bits"] == pytest.approx(one_batch.summary.validation["bits"], rel=1e-4)
    assert validation[-1]["mask_free/stage1/ratio"] == pytest.approx(
        one_batch.summary.validation["mask_free/stage1/ratio"], rel=1e-3
    )
    for record in ("logs/summary.json", "configs/environment.json"):
        batch = json.loads((folder / name / record).read_text())["batch"]
        assert f"2 device(s) x 1 node(s) x {accumulation} accumulation" in batch

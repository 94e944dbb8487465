"""The summary of a run: right numbers on a tiny genome, and text that a reader can check."""

import json
import math
import resource

import numpy as np
import pytest
import torch

from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.evaluation.chunk_text import chunk_text
from hnet_ntv2.evaluation.curves import draw_curves, read_curves
from hnet_ntv2.evaluation.demo import baseline_bits, summarise, training_bases
from hnet_ntv2.levels import Chunking
from tests.builders import tiny_model

LENGTH = 128


@pytest.fixture(scope="module")
def datamodule(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    letters = np.random.default_rng(3).choice(list("ACGT"), size=6000)
    (folder / "genome.fa").write_text(">one\n" + "".join(letters[:4000]) + "\n>two\n" + "".join(letters[4000:]) + "\n")
    (folder / "split.bed").write_text("one\t0\t4000\ttrain\ntwo\t256\t1280\tvalid\n")
    return HG38DataModule(
        folder / "genome.fa", folder / "split.bed", seq_length=LENGTH, micro_batch_size=3, cache_dir=folder / "cache"
    )


@pytest.fixture(scope="module")
def model():
    return tiny_model(spread=0.3)


def stage(is_boundary: str, first_base: list[int]) -> Chunking:
    flags = torch.tensor([[letter == "1" for letter in is_boundary]])
    return Chunking(
        probability=flags.float(),
        is_boundary=flags,
        reason=torch.zeros_like(flags, dtype=torch.int8),
        is_free=flags,
        is_counted=flags,
        is_valid=torch.ones_like(flags),
        first_base=torch.tensor([first_base]),
        chunk_of=flags.cumsum(1) - 1,
        first=flags.nonzero()[None, :, 1],
        has_chunk=torch.ones(1, int(flags.sum()), dtype=torch.bool),
    )


def test_chunk_text_marks_both_stages():
    bases = np.array([7, 8, 9, 10, 11, 7, 8], np.uint8)
    stages = [stage("1010110", list(range(7))), stage("1010", [0, 2, 4, 5])]
    assert chunk_text(bases, stages) == "|AC·GT|N·AC"
    assert chunk_text(bases, stages, width=4) == "|AC\n·GT\n|N·A\nC", "no mark is torn from its chunk"
    assert chunk_text(bases, stages[:1]) == "|AC|GT|N|AC", "with one stage every chunk is final"


def test_summary_measures_what_it_says(datamodule, model, tmp_path):
    model.train()
    summary = summarise(model, datamodule, tmp_path / "out", paths={"checkpoints": tmp_path})
    assert model.training, "the model's mode is put back"
    model.eval()
    costs, boundaries = [], 0
    for batch in datamodule.val_dataloader():
        with torch.no_grad():
            letters = model(batch["input_ids"]).logits[..., 7:11].log_softmax(-1)
            clean = torch.where(batch["labels"] >= 0, batch["labels"], batch["input_ids"])
            is_real = batch["window_index"] >= 0  # the last batch is filled up with a window that must not count
            boundaries += model(clean[is_real], strands="forward").stages[0].is_boundary.sum().item()
        for row, column in (batch["labels"] >= 0).nonzero().tolist():
            costs.append(-letters[row, column, batch["labels"][row, column] - 7].item() / math.log(2))
    assert list(summary.bits) == [
        "uniform guessing",
        "base composition",
        "context counts, 2 bases on each side",
        "context counts, 6 bases on each side",
        f"HNet-NTv2, {model.num_parameters() / 1e6:.3g} M parameters",
    ]
    assert list(summary.bits.values())[-1] == pytest.approx(np.mean(costs), abs=1e-5)
    assert summary.num_targets == len(costs)
    assert summary.num_windows == 8
    assert summary.num_training_bases == 4000
    assert summary.ratios[0].mask_free == pytest.approx(boundaries / (8 * LENGTH))
    assert [ratio.target for ratio in summary.ratios] == [0.3, 0.5]
    assert summary.window == "two:256-384"
    shown = summary.chunks.replace("|", "").replace("·", "").replace("\n", "")
    assert shown == letters_of_first_window(datamodule)
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["bits"] == summary.bits


def letters_of_first_window(datamodule) -> str:
    """The first validation window as letters, read from the FASTA itself."""
    sequence = datamodule.fasta.read_text().split(">two\n")[1].strip()
    return sequence[256:384]


def test_render_shows_every_part(datamodule, model, tmp_path):
    text = summarise(model, datamodule, tmp_path).render()
    for wanted in ("uniform guessing", "2.000", "stage 2, per stage-1 chunk", "0.500", "two:256-384", "summary.json"):
        assert wanted in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 100


def test_curves_come_from_the_csv_logs(datamodule, model, tmp_path):
    (tmp_path / "train.csv").write_text("step,bits,stage1/ratio\n1,2.01,0.4\n2,1.99,0.35\n3,,0.3\n")
    (tmp_path / "validation.csv").write_text("step,bits,mask_free/stage1/ratio\n3,1.98,nan\n")
    assert read_curves(tmp_path / "train.csv") == {
        "bits": ([1, 2], [2.01, 1.99]),
        "stage1/ratio": ([1, 2, 3], [0.4, 0.35, 0.3]),
    }
    history = {part: tmp_path / f"{part}.csv" for part in ("train", "validation")}
    summary = summarise(model, datamodule, tmp_path / "out", history)
    image = (tmp_path / "out" / "curves.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) > 5000
    assert summary.paths["curves"].endswith("curves.png")


@pytest.mark.parametrize(("limit", "name"), [(20_000, "curves.png"), (100, "summary.json")])
def test_a_full_disk_is_told_with_the_file_and_leaves_none_that_looks_complete(
    datamodule, model, tmp_path, limit, name
):
    (tmp_path / "train.csv").write_text("step,bits\n1,2.01\n")
    out, history = tmp_path / "out", {"train": tmp_path / "train.csv"} if name == "curves.png" else None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(ConfigError, match=rf"out/{name} cannot be written: File too large$"):
            summarise(model, datamodule, out, history)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not out.exists()


def test_curves_refuse_another_file(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"other\.csv has no column 'step'"):
        read_curves(tmp_path / "other.csv")


def test_curves_leave_out_what_the_log_lacks(tmp_path):
    draw_curves({}, tmp_path / "empty.png", {"train/bits": "training"}, {}, {}, [0.3])
    assert (tmp_path / "empty.png").is_file()


def test_baselines_take_a_spread_of_a_large_training_set(datamodule):
    stretches, num_bases = training_bases(datamodule, most=1024)
    assert num_bases == sum(map(len, stretches)) <= 1024 + 16
    whole = training_bases(datamodule)[0][0]
    assert all(bytes(stretch) in bytes(whole) for stretch in stretches)


def test_baselines_need_a_target(datamodule):
    ids = np.full((1, 20), 7, np.uint8)
    with pytest.raises(DataError, match="no masked base"):
        baseline_bits(training_bases(datamodule)[0], [(ids, np.full((1, 20), -100))], 6)

"""The data module end to end: the same samples however they are loaded, splits apart, what it tells and refuses."""

import itertools
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hnet_ntv2.data.datamodule import HG38DataModule, default_num_workers
from hnet_ntv2.errors import ConfigError, ContigNotFound, DataError, GenomeError, IntervalError
from hnet_ntv2.genome import Interval, SplitInterval, check_disjoint, open_genome, read_split_intervals
from hnet_ntv2.genome.files import text_rows
from hnet_ntv2.resources import bundled_genome, bundled_split
from tests.builders import piped

from ..unit.data.genomes import make_fasta, random_bases

BED = "chr1\t0\t2000\ttrain\nchr1\t2000\t2600\tvalid\nchr2\t0\t700\ttest\nchr1\t2600\t4000\ttrain\n"


@pytest.fixture
def files(tmp_path):
    lower = random_bases(800, 1).lower()
    fasta = make_fasta(tmp_path, {"chr1": random_bases(3200) + lower, "chr2": b"N" * 100 + random_bases(600, 2)})
    (tmp_path / "intervals.bed").write_text(BED)
    return {"fasta": fasta, "intervals": tmp_path / "intervals.bed", "cache_dir": tmp_path / "cache"}


def make(files, **settings) -> HG38DataModule:
    module = HG38DataModule(
        **{"seq_length": 100, "micro_batch_size": 4, "show_progress": False, "grid_aligned_samples": 6}
        | files
        | settings
    )
    module.prepare_data()
    module.setup()
    return module


def take(module: HG38DataModule, batches: int) -> dict[str, torch.Tensor]:
    """Some training batches as one."""
    taken = list(itertools.islice(module.train_dataloader(), batches))
    return {name: torch.cat([batch[name] for batch in taken]) for name in taken[0]}


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def sorted_by_sample(batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    joined = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    order = joined["window_index"].argsort()
    return {name: value[order] for name, value in joined.items()}


def test_batch_size_workers_and_ranks_never_change_a_sample(files):
    # 34 training tiles: 72 samples reach into the third epoch.
    expected = take(make(files), 18)
    assert expected["window_index"].tolist() == list(range(72))
    assert_equal(take(make(files, micro_batch_size=9), 8), expected)
    assert_equal(take(make(files, num_workers=2), 18), expected)
    ranks = []
    for rank in range(3):
        module = make(files)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=3)
        ranks.append(take(module, 6))
    assert_equal(sorted_by_sample(ranks), expected)


def test_a_resumed_module_goes_on_with_the_same_samples(files):
    expected = take(make(files), 10)
    first = make(files)
    first.set_position(16)
    resumed = make(files, num_workers=1)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert_equal(take(resumed, 6), {name: value[16:] for name, value in expected.items()})
    first.set_position(16, stop=40)
    assert len(list(first.train_dataloader())) == len(first.train_dataloader()) == 6


@pytest.mark.parametrize("change", ["seed", "seq_length", "fasta", "intervals"])
@pytest.mark.parametrize("before_setup", [True, False])
def test_resuming_on_other_data_is_refused(files, tmp_path, change, before_setup):
    state = make(files).state_dict()
    settings = {"seed": {"seed": 1}, "seq_length": {"seq_length": 99}}.get(change, {})
    if change == "fasta":
        files["fasta"].write_bytes(files["fasta"].read_bytes().replace(b">chr2\nN", b">chr2\nA"))
    if change == "intervals":
        files["intervals"].write_text(BED.replace("2600\t4000", "2600\t3999"))
    named = change if settings else "fingerprint"
    module = HG38DataModule(**files, show_progress=False, **{"seq_length": 100, **settings})
    if not before_setup:
        module.setup()
        with pytest.raises(DataError, match=f"trained with {named}"):
            module.load_state_dict(state)
        return
    module.load_state_dict(state)
    with pytest.raises(DataError, match=f"trained with {named}"):
        module.setup()


def test_validation_is_fixed_forward_and_shown_as_mask(files):
    module = make(files, valid_windows=5, eval_micro_batch_size=2)
    once, again = list(module.val_dataloader()), list(module.val_dataloader())
    assert [batch["window_index"].tolist() for batch in once] == [[0, 1], [2, 3], [4, -1]]
    for one, other in zip(once, again, strict=True):
        assert_equal(one, other)
    other_seed = list(make(files, valid_windows=5, eval_micro_batch_size=2, seed=5).val_dataloader())
    assert_equal(once[0], other_seed[0])
    for batch in once:
        counts = batch["window_index"] >= 0
        assert torch.equal((batch["input_ids"] == 3)[counts], (batch["labels"] != -100)[counts])
        assert (batch["labels"][~counts] == -100).all()
        assert (batch["loss_weights"] == 1).all()
    tiles = module.window_index("valid").tile_start[[0, 1]]
    expected = module.genome.gather(tiles, 100) & 0x7F
    assert np.array_equal(np.where(once[0]["labels"] >= 0, once[0]["labels"], once[0]["input_ids"]), expected)


def test_repeats_weigh_less_in_training_only(files, tmp_path):
    batch = take(make(files, repeat_weight=0.25), 40)
    assert batch["is_repeat"].any()
    assert torch.equal(batch["loss_weights"], torch.where(batch["is_repeat"], 0.25, 1.0))
    (tmp_path / "repeats.bed").write_text("1\t2000\t2100\n")
    module = make(files, repeats=tmp_path / "repeats.bed", eval_micro_batch_size=6)
    assert not take(module, 40)["is_repeat"].any()
    (valid,) = module.val_dataloader()
    assert valid["is_repeat"].sum(dim=1).tolist() == [100, 0, 0, 0, 0, 0]


def test_the_description_counts_and_names_what_is_used(files):
    description = make(files).describe()
    json.dumps(description)
    assert description["splits"]["train"] == {
        "intervals": 2, "short_intervals_left_out": 0, "bases": 3400, "windows": 34, "windows_left_out_as_n": 0,
    }  # fmt: skip
    assert description["splits"]["test"]["windows_left_out_as_n"] == 1
    assert description["fingerprint"]["fasta"] == make(files).genome.fingerprint
    assert description["fingerprint"]["repeats"] is None


def test_without_an_interval_file_the_split_is_by_chromosome(tmp_path):
    contigs = {name: random_bases(300, seed) for seed, name in enumerate(["1", "20", "21", "22", "Y"])}
    files = {"fasta": make_fasta(tmp_path, contigs), "cache_dir": tmp_path / "cache"}
    module = make(files)
    found = {split: [item.contig for item in module.split_intervals(split)] for split in module.describe()["splits"]}
    assert found == {"train": ["1"], "valid": ["21"], "test": ["20", "22"]}


BAD = {
    "no fasta": ({"fasta": "missing.fa"}, GenomeError, "missing.fa does not exist"),
    "no intervals": ({"intervals": "missing.bed"}, GenomeError, "missing.bed does not exist"),
    "unknown contig": ("chr1\t0\t500\ttrain\nchr7\t0\t500\tvalid\n", ContigNotFound, "line 2: 'chr7'"),
    "past the end": (
        "chr1\t0\t500\ttrain\nchr2\t0\t701\tvalid\n",
        IntervalError,
        "line 2.*past the contig's end at 700",
    ),
    "reversed": ("chr1\t500\t0\ttrain\n", IntervalError, "line 1.*reversed"),
    "fold": ("chr1\t0\t500\tfold3\n", GenomeError, "Borzoi"),
    "no validation": ("chr1\t0\t500\ttrain\n", DataError, "split 'valid'"),
    "no training": ("chr1\t0\t500\tvalid\n", DataError, "split 'train'"),
    "overlap": ("chr1\t0\t500\ttrain\nchr1\t499\t900\tvalid\n", DataError, "chr1:0-500.*chr1:499-900"),
    "short": ("chr1\t0\t99\ttrain\nchr1\t100\t900\tvalid\n", DataError, "longer than every train interval"),
    "all n": ("chr1\t0\t500\ttrain\nchr2\t0\t100\tvalid\n", DataError, "all 1 windows of the valid intervals"),
}


@pytest.mark.parametrize(("change", "error", "problem"), BAD.values(), ids=BAD)
def test_data_that_cannot_be_used_are_refused_by_name(files, change, error, problem):
    if isinstance(change, str):
        files["intervals"].write_text(change)
        change = {}
    with pytest.raises(error, match=problem):
        make(files, **change)


@pytest.mark.parametrize(("cores", "devices", "expected"), [(1, 1, 1), (2, 1, 2), (16, 1, 4), (16, 8, 2), (4, 8, 1)])
def test_by_default_loader_processes_fit_the_cores(files, monkeypatch, cores, devices, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    workers = default_num_workers(devices)
    assert workers == expected
    make(files, num_workers=workers).train_dataloader()  # torch's warning of too many would be an error


@pytest.mark.parametrize(
    ("setting", "value"),
    [("seq_length", 5), ("seq_length", True), ("micro_batch_size", 0), ("num_workers", -1),
     ("mask_rate", 1.5), ("mask_span", 0), ("repeat_weight", -1.0), ("max_n_share", 1.0), ("valid_windows", 0),
     ("grid_aligned_samples", -1), ("mask_share", 0.95)],
)  # fmt: skip
def test_settings_out_of_range_are_refused_by_name(files, setting, value):
    with pytest.raises(ConfigError):
        HG38DataModule(**files, **{setting: value})


def test_the_demo_is_real_sequence_with_disjoint_splits(tmp_path):
    paths = {"fasta": bundled_genome(), "intervals": bundled_split()}
    assert sum(path.stat().st_size for path in paths.values()) < 2_000_000
    module = make(paths | {"cache_dir": tmp_path}, seq_length=1024)
    assert module.genome.contigs == {"GRCh38_chr20_2097152-8388608": 6_291_456}
    assert len(module.genome.n_runs) == 0
    windows = {split: len(module.window_index(split)) for split in module.describe()["splits"]}
    assert windows == {"train": 5120, "valid": 512, "test": 512}
    share = (take(module, 50)["labels"] != -100).float().mean()
    assert share == pytest.approx(0.15, abs=0.003)


def test_the_demo_is_the_reference_sequence(real_data, tmp_path):
    reference = open_genome(real_data / "hg38" / "hg38_part.fa.gz", tmp_path)
    demo = open_genome(bundled_genome(), tmp_path)
    (contig,) = demo.contigs
    expected = reference.read(Interval("chr20", 2_097_152, 8_388_608))
    assert np.array_equal(demo.read(Interval(contig, 0, 6_291_456)), expected)


def test_real_interval_files_are_read_or_refused(real_data, tmp_path):
    akita = read_split_intervals(real_data / "intervals" / "akita_sequences_hg38.bed.gz")
    counts = [sum(item.split == split for item in akita) for split in ("train", "valid", "test")]
    assert counts == [7008, 419, 413]
    borzoi = real_data / "intervals" / "borzoi_sequences_human.bed.gz"
    with pytest.raises(GenomeError, match=r"fold0.*Borzoi"):
        read_split_intervals(borzoi)
    some = tmp_path / "some.bed"
    some.write_text("".join(f"{line}\n" for number, line in text_rows(borzoi) if number % 10 == 0))
    folds = read_split_intervals(some, folds={"fold3": "valid", "fold4": "test"})
    assert len(folds) == 5549
    check_disjoint([item for item in folds if item.split == "train"])
    with pytest.raises(DataError, match="overlap"):
        check_disjoint([*folds, SplitInterval("chr1", 0, 248_956_422, "test")])


def test_a_genome_in_lower_case_is_told_with_what_it_does_to_the_loss(tmp_path, caplog):
    fasta = make_fasta(tmp_path, {"chr1": random_bases(3900).lower() + random_bases(100), "chr2": random_bases(700)})
    (tmp_path / "intervals.bed").write_text(BED)
    files = {"fasta": fasta, "intervals": tmp_path / "intervals.bed", "cache_dir": tmp_path / "cache"}
    make(files)
    (told,) = [record.message for record in caplog.records if "repeat_weight" in record.message]
    assert told.startswith("97 % of the training bases are in lower case, which means repeats: data.repeat_weight=0.1 ")
    caplog.clear()
    make(files, repeat_weight=1.0)
    (tmp_path / "few.bed").write_text("chr1\t0\t900\n")
    make(files, repeats=tmp_path / "few.bed")
    assert "repeat_weight" not in caplog.text
    (tmp_path / "all.bed").write_text("chr1\t0\t4000\n")
    make(files, repeats=tmp_path / "all.bed")
    assert f"100 % of the training bases are in {tmp_path / 'all.bed'}" in caplog.text


def test_a_genome_that_is_partly_soft_masked_is_not_told(files, caplog):
    make(files)
    assert "repeat_weight" not in caplog.text


def test_training_data_from_a_pipe_are_refused(files):
    for name in ("fasta", "intervals", "repeats"):
        with piped(b"chr1\t0\t2000\ttrain\n") as path, pytest.raises(GenomeError, match="cannot be read twice"):
            make(files | {name: path})


def test_real_soft_mask_and_repeat_file_say_the_same(real_data, tmp_path):
    folder = real_data / "hg38"
    intervals = tmp_path / "chr2.bed"
    intervals.write_text("chr2\t100000\t900000\ttrain\nchr2\t1000000\t1200000\tvalid\n")
    files = {"fasta": folder / "hg38_part.fa.gz", "intervals": intervals, "cache_dir": tmp_path / "cache"}
    from_case = take(make(files, seq_length=1024), 20)
    from_file = take(make(files, seq_length=1024, repeats=folder / "chr2_repeats_from_softmask.bed.gz"), 20)
    assert 0.1 < from_case["is_repeat"].float().mean() < 0.8
    assert_equal(from_case, from_file)

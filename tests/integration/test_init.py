"""``hnet-ntv2 init`` from a folder of weights to a model that loads: what it writes, and that errors write nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hnet_ntv2.chunkers import BranchingEntropy
from hnet_ntv2.cli.main import main
from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.conversion.graft import graft, random_start
from hnet_ntv2.conversion.ledger import verify
from hnet_ntv2.conversion.sequence import mask_cells, read_sequence
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.errors import DataError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from tests.builders import random_dna, tiny_config
from tests.unit.conversion.sources import SOME_KEY, TINY, copy_tiny, rewrite_weights, write_random_source

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "scripts" / "init_hnet_ntv2_weights.py"


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("HNET_NTV2_CACHE", str(tmp_path_factory.getbasetemp() / "genomes"))


@pytest.fixture
def fasta(tmp_path) -> Path:
    """Enough sequence for 16 windows of 1,024 bases."""
    letters = "".join("ACGT"[value - 7] for value in random_dna(17 * 1024, torch.Generator().manual_seed(0))[0])
    (tmp_path / "mine.fa").write_text(f">one\n{letters}\n")
    return tmp_path / "mine.fa"


def status(*arguments: object) -> int:
    with pytest.raises(SystemExit) as end:
        main(["init", *map(str, arguments)])
    return int(end.value.code or 0)


@pytest.mark.slow
def test_script_makes_a_folder_that_loads(tmp_path):
    output = tmp_path / "deep" / "start"
    result = subprocess.run(
        [sys.executable, SCRIPT, "--ntv2-model", TINY, "--layers", "0,2,3", "--output-dir", output, "--save-model"],
        env={"PYTHONPATH": str(REPOSITORY), "HNET_NTV2_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "Kept blocks (list): 0, 2, 3" in result.stdout
    ledger = verify(output)
    assert ledger.layers is not None
    assert ledger.layers["kept"] == [0, 2, 3]
    model = HNetNTV2ForMaskedLM.from_pretrained(output)
    assert model.config.n_main_layer == 3
    assert model.config.chunker == "peak"
    assert "CC BY-NC-SA 4.0" in (output / "README.md").read_text()


def test_without_save_model_everything_is_checked_and_nothing_written(tmp_path, fasta, capsys):
    before = sorted(tmp_path.iterdir())
    arguments = ("--ntv2-model", TINY, "--output-dir", tmp_path / "start", "--calibration", fasta)
    assert status(*arguments) == 0
    assert sorted(tmp_path.iterdir()) == before
    printed = capsys.readouterr().out
    for words in ("65 of 72 source tensors copied", "stage 2: target 0.50", "mine.fa", "Nothing was written"):
        assert words in printed


def test_random_trunk_is_asked_for_by_name(tmp_path, fasta, capsys):
    (tmp_path / "model.yaml").write_text(
        "d_model: 32\nn_head: 2\nintermediate_size: 64\nn_main_layer: 1\nkmer_size: 4\n"
    )
    options = ("--random-trunk", "--config", tmp_path / "model.yaml", "--calibration", fasta, "--seed", 3)
    assert status(*options, "--save-model", "--output-dir", tmp_path / "start") == 0
    assert "No source: all weights are random (seed 3)" in capsys.readouterr().out
    ledger = verify(tmp_path / "start")
    assert ledger.source is None
    assert all(entry.kind != "copied" for entry in ledger.model_tensors)
    assert "license: apache-2.0" in (tmp_path / "start" / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save-model"], "--save-model needs --output-dir"),
        (["--random-trunk", "--layers", "auto"], "--layers auto and --random-trunk contradict each other"),
        (["--random-trunk", "--ntv2-model", "x"], "--ntv2-model x and --random-trunk"),
        (["--ntv2-model", "no/such/folder"], "neither a folder nor a Hub name"),
        (["--ntv2-model", TINY, "--layers", "0,9"], "at most 3, the last block"),
        (["--ntv2-model", TINY, "--layers", "most"], "--layers 'most'"),
        (["--ntv2-model", TINY, "--config", "no.yaml"], "--config no.yaml cannot be read"),
        (["--ntv2-model", TINY, "--revision", "main"], "--revision main says nothing"),
        (["--ntv2-model", TINY, "--device", "abacus"], "--device abacus cannot be used"),
        (["--ntv2-model", TINY, "--calibration", "no.fa"], "no.fa"),
    ],
)
def test_errors_have_one_line_and_status_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert status(*arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_errors_write_nothing(tmp_path, capsys):
    source = copy_tiny(tmp_path / "source")
    rewrite_weights(source, lambda tensors: tensors.pop(SOME_KEY))
    assert status("--ntv2-model", source, "--output-dir", tmp_path / "a" / "start", "--save-model") == 2
    assert f"missing: {SOME_KEY}" in capsys.readouterr().err
    (tmp_path / "model.yaml").write_text("d_model: 128\n")
    arguments = ("--ntv2-model", TINY, "--config", tmp_path / "model.yaml", "--output-dir", tmp_path / "a" / "start")
    assert status(*arguments, "--save-model") == 2
    assert "d_model=128, the source model ntv2_tiny has 64" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.yaml", "source"]


# Bytes of NTv2-500M and of the model that is made of it, in fp32, and the most memory that this may take.
PAIR_500M, MOST_500M = 4 * (498_345_436 + 436_000_000), 6 * 2**30
PEAK_OF_INIT = """
import re, sys
from pathlib import Path
from hnet_ntv2.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak_of_init(source: Path, output: Path, fasta: Path) -> int:
    """Bytes of memory that a process needs at most to write a start."""
    arguments = ["init", "--ntv2-model", source, "--output-dir", output, "--save-model", "--calibration", fasta]
    result = subprocess.run(
        [sys.executable, "-c", PEAK_OF_INIT, *map(str, arguments)], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert result.returncode == 0, result.stderr
    return 1024 * int(result.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_of_a_graft_extrapolates_to_less_than_6_gib_for_500m(tmp_path, fasta):
    config = NTv2Config(hidden_size=512, num_hidden_layers=8, num_attention_heads=8, intermediate_size=2048)
    NTv2ForMaskedLM(config).save_pretrained(tmp_path / "source")
    process = peak_of_init(TINY, tmp_path / "small", fasta)
    peak = peak_of_init(tmp_path / "source", tmp_path / "large", fasta)
    pair = sum((tmp_path / name / "model.safetensors").stat().st_size for name in ("source", "large"))
    assert pair > 2**28  # large beside what else differs
    assert process + (peak - process) / pair * PAIR_500M < MOST_500M, (process, peak, pair)


def within(rates: list[float], tolerance: float) -> bool:
    return all(abs(rate / target - 1) < tolerance for rate, target in zip(rates, (0.3, 0.5), strict=True))


# The first seeds run with the fast tests.
SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed > 2 else []) for seed in range(10)]


@pytest.mark.parametrize("seed", SEEDS)
def test_routers_start_near_their_targets_on_held_out_dna(seed, tmp_path):
    source = open_source(str(write_random_source(tmp_path, 2, seed=seed, width=64, k=6)))
    calibration = graft(
        source, read_sequence(), settings={"window": 32, "chunker": "learned"}, seed=seed
    ).ledger.calibration
    assert within(calibration["held_out"]["achieved"], 0.1), calibration


@pytest.mark.parametrize("seed", SEEDS)
def test_routers_of_random_weights_start_near_their_targets_too(seed):
    config = tiny_config(d_model=64, kmer_size=6, window=32, chunker="learned")
    calibration = random_start(config, read_sequence(), seed=seed).ledger.calibration
    assert within(calibration["held_out"]["achieved"], 0.1), calibration


def test_routers_of_the_reference_checkpoint_start_near_their_targets():
    start = graft(open_source(str(TINY)), read_sequence(), settings={"window": 16, "chunker": "learned"})
    assert within(start.ledger.calibration["held_out"]["achieved"], 0.1)
    assert start.ledger.calibration["held_out_masked"]["router"]


def test_sequence_is_split_and_masked(fasta):
    sequence = read_sequence(fasta)
    assert sequence.calibration.shape == sequence.held_out.shape == (8, 1024)
    rows = {tuple(row.tolist()) for part in (sequence.calibration, sequence.held_out) for row in part}
    assert len(rows) == 16
    masked = mask_cells(sequence.held_out, 6, 0.15, torch.Generator().manual_seed(0))
    is_masked = masked == 3
    assert 0.1 < is_masked.float().mean() < 0.2
    assert torch.equal(masked[~is_masked], sequence.held_out[~is_masked])
    with pytest.raises(DataError, match="needs 200"):
        read_sequence(fasta, count=100)


def test_only_a_chunker_that_counts_reads_more_text(tmp_path):
    """`init` with ``chunker: entropy`` counts k-mers in two million bases; nobody else waits for them."""
    assert read_sequence().text is None
    (tmp_path / "entropy.yaml").write_text("chunker: entropy\n", encoding="utf-8")
    start = tmp_path / "start"
    options = ("--config", tmp_path / "entropy.yaml", "--output-dir", start, "--save-model")
    assert status("--ntv2-model", TINY, *options) == 0
    found = HNetNTV2ForMaskedLM.from_pretrained(start).model.branching
    expected = BranchingEntropy(found.k)
    expected.count([read_sequence(with_text=True).text])
    assert torch.equal(found.behind, expected.behind)


def test_ledger_of_a_graft_is_plain_json(tmp_path, fasta):
    assert status("--ntv2-model", TINY, "--calibration", fasta, "--output-dir", tmp_path / "s", "--save-model") == 0
    content = json.loads((tmp_path / "s" / "ntv2_graft.json").read_text())
    assert content["source"]["name"] == "ntv2_tiny"
    assert content["parameters"]["trunk"]["copied"] == content["parameters"]["trunk"]["total"]
    assert len(content["layers"]["similarities"]) == 4
    assert set(content["calibration"]["held_out"]) == {"router", "achieved"}

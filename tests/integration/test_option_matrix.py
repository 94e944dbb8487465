"""Options in pairs: every two values that a user can combine are combined in some run here, and that run is whole.

Each run trains, validates, exports a model that loads and predicts as the trained one does. Runs that are stopped and
resumed must end with the weights of an uninterrupted one.
"""

import itertools
import math
import os
import random
from pathlib import Path

import pytest
import torch
from torch import distributed

from hnet_ntv2.conversion.graft import graft
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training import build, devices
from hnet_ntv2.training.devices import measure_micro_batch, plan_batch_up_to
from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.run import pretrain
from tests.builders import random_dna
from tests.unit.conversion.sources import any_sequence, write_random_source

from .tiny_training import shard_on_cpu, tiny_settings

STEPS = 4
OPTIONS: dict[str, tuple] = {
    "chunker": ("peak", "learned", "entropy"),
    "strategy": ("auto", "ddp", "fsdp"),
    "micro_batch": ("planned", "measured", "given"),
    "validation": (None, 2, 3),
    "precision": ("16", "32"),
    "router_gradients": (0, 1),
    "warm_start": (False, True),
    "resumed": (False, True),
    "checkpointing": (False, True),
}

Run = dict[str, object]


def cover_pairs(options: dict[str, tuple]) -> list[Run]:
    """Runs among which every pair of values of two options occurs: of all combinations the one with most new pairs."""
    candidates = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    random.Random(34).shuffle(candidates)  # of many orders the one that needs fewest runs
    wanted = set().union(*map(pairs_of, candidates))
    runs = []
    while wanted:
        runs.append(max(candidates, key=lambda run: len(wanted & pairs_of(run))))
        wanted -= pairs_of(runs[-1])
    return runs


def pairs_of(run: Run) -> set[tuple]:
    return set(itertools.combinations(run.items(), 2))


RUNS = cover_pairs(OPTIONS)


def test_every_pair_of_values_occurs():
    for (first, firsts), (second, seconds) in itertools.combinations(OPTIONS.items(), 2):
        for pair in itertools.product(firsts, seconds):
            assert any((run[first], run[second]) == pair for run in RUNS), (first, second, pair)
    assert len(RUNS) <= 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("matrix")
    source = open_source(str(write_random_source(folder / "source", num_layers=2)))
    for chunker in OPTIONS["chunker"]:
        settings = {"n_main_layer": 1, "window": 16, "chunker": chunker}
        save_start(graft(source, any_sequence(), settings=settings, layers="first"), folder / f"start_{chunker}")
    return folder


@pytest.fixture(autouse=True)
def process_as_it_was():
    """Lightning leaves the process group open, and its rank and port in the environment."""
    before = dict(os.environ)
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(before)


def settings_of(run: Run, folder: Path, name: str, **changes):
    options = {
        "model__chunker": run["chunker"],
        "trainer__max_steps": STEPS,
        "trainer__precision": run["precision"],
        "trainer__strategy": "auto" if run["strategy"] == "fsdp" else run["strategy"],
        "trainer__gradient_checkpointing": run["checkpointing"],
        "callbacks__router_gradients_every": run["router_gradients"],
        "callbacks__checkpoint_every": 2,
        "callbacks__keep_checkpoints": 9,
        "validation__every": run["validation"],
        "validation__windows": 2,
        "data__seq_length": 60,
        "batch__micro_batch_size": 2 if run["micro_batch"] == "given" else None,
        "calibration_windows": 4,
    }
    if run["warm_start"]:
        del options["model__chunker"]
        options |= {
            "model": {},
            "init": str(folder / f"start_{run['chunker']}"),
            "warm_start__align": {"steps": 1, "grid_share": [1.0], "hidden_state_weight": [1.0]},
            "warm_start__release": {"steps": 2, "grid_share": [1.0, 0.0], "hidden_state_weight": [1.0]},
            "warm_start__teacher": str(folder / "source"),
            "warm_start__teacher_layer": 1,
        }
    return tiny_settings(folder, name, **{**options, **changes})


def measure_on_cpu(settings, model, arithmetic, kind):
    """What a run does where ``kind`` is a GPU."""
    most = measure_micro_batch(model, settings.data.seq_length, arithmetic, torch.device(kind), 2)
    return plan_batch_up_to(settings.batch.global_size, most)


@pytest.mark.filterwarnings("ignore:.*NO_SHARD")
@pytest.mark.filterwarnings("ignore:FSDP.state_dict_type:FutureWarning")
@pytest.mark.parametrize("number", range(len(RUNS)), ids=lambda number: "-".join(map(str, RUNS[number].values())))
def test_a_run_is_whole(folder, monkeypatch, number):
    run = RUNS[number]
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: True)
    if run["micro_batch"] == "measured":
        monkeypatch.setattr(build, "_plan_batch", measure_on_cpu)
    if run["strategy"] == "fsdp":
        shard_on_cpu(monkeypatch)
    result = pretrain(settings_of(run, folder, f"run{number}"))
    rows = read_history(result.history["train"])
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    assert all(math.isfinite(row["loss"]) and row["gradient_norm/total"] > 0 for row in rows)
    measures = bool(run["router_gradients"]) and run["strategy"] != "fsdp" and run["chunker"] != "entropy"
    assert all(("stage1/router_gradient_task" in row) == measures for row in rows)
    assert all(("stage1/mask_free_share" in row) == (run["chunker"] == "learned") for row in rows)
    validated = [row["step"] for row in read_history(result.history["validation"])]
    assert validated == {2: [2, 4], 3: [3, 4], None: [4]}[run["validation"]]
    assert result.summary.precision == {"16": "bf16-mixed", "32": "32-true"}[run["precision"]]
    assert f"{4 if run['micro_batch'] == 'planned' else 2} per micro-batch" in result.summary.batch

    exported = HNetNTV2ForMaskedLM.from_pretrained(folder / f"run{number}" / "checkpoints" / "hf").eval()
    shown = random_dna(60, torch.Generator().manual_seed(0), 2)
    with torch.no_grad():
        assert torch.equal(exported(shown).logits, result.model(shown).logits)
    if run["resumed"]:
        after_two = folder / f"run{number}" / "checkpoints" / "step=000002.ckpt"
        resumed = pretrain(settings_of(run, folder, f"resumed{number}", resume=str(after_two)))
        assert resumed.summary.step == STEPS
        for name, tensor in result.model.state_dict().items():
            assert torch.equal(tensor, resumed.model.state_dict()[name]), name

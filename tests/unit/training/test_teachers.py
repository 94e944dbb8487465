"""The teacher sees where the student stands: nothing to teach at the start of a graft, and gradients where there is."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hnet_ntv2.conversion.graft import graft
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from hnet_ntv2.training import teachers
from hnet_ntv2.training.settings import WarmStartSettings
from hnet_ntv2.training.teachers import HiddenStateTeacher
from tests.builders import ids
from tests.unit.conversion.sources import any_sequence, write_random_source

K = 2
# Whole masked tokens, an N behind a remainder, a ragged end, and a shorter row.
LETTERS = ("ACGTMMGTACMMACGATNACGTMMACGTA", "ACGTMMGTACGTACGAT")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_random_source(tmp_path_factory.mktemp("teachers") / "source", num_layers=3, k=K)


def student(folder: Path, layers: str = "0,1,2"):
    # Ranks are exact where remainders and N are.
    settings = {"window": 16, "position_mode": "rank"}
    return graft(open_source(str(folder)), any_sequence(), settings=settings, layers=layers).model


@pytest.fixture
def source(folder) -> NTv2ForMaskedLM:
    return NTv2ForMaskedLM.from_pretrained(folder)


def make_batch(letters=LETTERS) -> dict[str, torch.Tensor]:
    shown = ids(*letters)
    labels = torch.full_like(shown, -100)
    labels[shown == 3] = 9
    return {"input_ids": shown, "labels": labels, "attention_mask": (shown != 4).long()}


def run(model, batch, on_grid=True):
    return model(
        batch["input_ids"],
        batch["attention_mask"],
        batch["labels"],
        only_targets=True,
        on_grid=on_grid,
        strands="forward",
        output_hidden_states=True,
    )


@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_graft_on_the_grid_has_the_states_of_its_source(folder, source, layer):
    output, batch = run(student(folder), make_batch()), make_batch()
    assert HiddenStateTeacher(source, K, layer, (0, 1, 2)).loss(output, batch).item() < 1e-9
    if layer < 3:  # the comparison can fail: one block further is far away
        assert HiddenStateTeacher(source, K, 1, (layer,)).loss(output, batch).item() > 1e-3 or layer == 1
        assert HiddenStateTeacher(source, K, layer + 1, (1, 0, 0)).loss(output, batch).item() > 1e-3


def test_kept_layers_say_which_state_is_meant(folder, source):
    output, batch = run(student(folder, "0,2"), make_batch()), make_batch()
    assert HiddenStateTeacher(source, K, 2, (0, 2)).source_state == 3
    assert HiddenStateTeacher(source, K, 1, (0, 2)).loss(output, batch).item() < 1e-9
    assert HiddenStateTeacher(source, K, 2, (0, 2)).loss(output, batch).item() > 1e-3  # block 1 is missing


def test_gradients_reach_the_student_never_the_source(folder, source):
    model, batch = student(folder, "0,2"), make_batch()
    output = run(model, batch)
    loss = HiddenStateTeacher(source, K, 2, (0, 2)).loss(output, batch)
    loss.backward()
    assert float(model.model.hierarchy.main.main.layers.blocks[0].output.dense.weight.grad.abs().max()) > 0
    assert float(model.model.hierarchy.encoder.blocks[0].mlp_output.weight.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in source.parameters())


def test_free_chunks_are_compared_only_where_they_are_tokens(folder, source):
    batch = make_batch()
    model = student(folder)
    free = run(model, batch, on_grid=False)
    assert torch.isfinite(HiddenStateTeacher(source, K, 1, (0, 1, 2)).loss(free, batch))
    nothing = make_batch(("NNNN",))
    output = run(model, nothing)
    loss = HiddenStateTeacher(source, K, 1, (0, 1, 2)).loss(output, nothing)
    loss.backward()
    assert loss.item() == 0.0


def test_a_teacher_from_the_hub_is_the_commit_that_was_grafted(folder, tmp_path, monkeypatch):
    source = dataclasses.replace(open_source(str(folder)), name="someone/source", revision="a" * 40, is_local=False)
    start = graft(source, any_sequence(), settings={"window": 16}, layers="0,1")
    save_start(start, tmp_path / "start")
    asked = []

    def fetch(name, revision=None):
        asked.append((name, revision))
        return source

    monkeypatch.setattr(teachers, "open_source", fetch)
    for revision in (None, "refs/pr/3"):
        warm = WarmStartSettings(teacher="someone/source", teacher_revision=revision, teacher_layer=1)
        assert teachers.load_teacher(warm, tmp_path / "start", K).layer == 1
    teachers.load_teacher(WarmStartSettings(teacher="another/source", teacher_layer=1), tmp_path / "start", K)
    assert asked == [("someone/source", "a" * 40), ("someone/source", "refs/pr/3"), ("another/source", None)]

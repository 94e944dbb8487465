"""The teachers see where the student stands: nothing to teach at the start of a graft, and gradients where there is."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hnet_ntv2.conversion.graft import graft
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.kmers import kmer_marginals
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from hnet_ntv2.training import teachers
from hnet_ntv2.training.teachers import HiddenStateTeacher, MarginalsTeacher, SourceReader, cut_tokens
from tests.builders import ids
from tests.unit.conversion.sources import any_sequence, write_random_source

K = 2
# Whole masked tokens, an N behind a remainder, a ragged end, and a shorter row.
LETTERS = ("ACGTMMGTACMMACGATNACGTMMACGTA", "ACGTMMGTACGTACGAT")
ACROSS = ("ACGTMMGTACMMACGATNACGMMTACGTA", "ACGTMMGTACGTACGAT")  # a masked run across two tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_random_source(tmp_path_factory.mktemp("teachers") / "source", num_layers=3, k=K)


def student(folder: Path, layers: str = "0,1,2"):
    # Ranks are exact where remainders and N are.
    settings = {"window": 16, "position_mode": "rank"}
    return graft(open_source(str(folder)), any_sequence(), settings=settings, layers=layers).model


@pytest.fixture
def reader(folder) -> SourceReader:
    return SourceReader(NTv2ForMaskedLM.from_pretrained(folder), K)


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
def test_a_graft_on_the_grid_has_the_states_of_its_source(folder, reader, layer):
    output, batch = run(student(folder), make_batch()), make_batch()
    assert HiddenStateTeacher(reader, layer, (0, 1, 2)).loss(output, batch).item() < 1e-9
    if layer < 3:  # the comparison can fail: one block further is far away
        assert HiddenStateTeacher(reader, 1, (layer,)).loss(output, batch).item() > 1e-3 or layer == 1
        assert HiddenStateTeacher(reader, layer + 1, (1, 0, 0)).loss(output, batch).item() > 1e-3


def test_kept_layers_say_which_state_is_meant(folder, reader):
    output, batch = run(student(folder, "0,2"), make_batch()), make_batch()
    assert HiddenStateTeacher(reader, 2, (0, 2)).source_state == 3
    assert HiddenStateTeacher(reader, 1, (0, 2)).loss(output, batch).item() < 1e-9
    assert HiddenStateTeacher(reader, 2, (0, 2)).loss(output, batch).item() > 1e-3  # block 1 is missing


def test_a_full_graft_has_the_marginals_of_its_source_and_a_shorter_one_has_not(folder, reader):
    batch = make_batch()
    teacher = MarginalsTeacher(reader)
    assert teacher.loss(run(student(folder), batch), batch).item() < 1e-9
    assert teacher.loss(run(student(folder, "0,2"), batch), batch).item() > 1e-4


def test_marginals_equal_a_slow_computation(folder, reader):
    batch = make_batch(ACROSS)
    output = run(student(folder, "0,2"), batch)
    found, count = 0.0, 0
    for row in range(2):
        shown, valid = batch["input_ids"][row : row + 1], batch["attention_mask"][row : row + 1].bool()
        tokens = cut_tokens(shown, valid, K)
        kept = tokens.ids[tokens.is_valid]
        logits = reader.model(torch.cat([torch.tensor([3]), kept])[None]).logits[0, 1:]
        for place, first in enumerate(tokens.first[0][tokens.is_valid[0]].tolist()):
            if shown[0, first : first + K].tolist() == [3] * K:
                source = kmer_marginals(logits[place : place + 1], K)[0]
                ours = output.logits[row, first : first + K, 7:11].log_softmax(-1)
                found += (source.exp() * (source - ours)).sum().item()
                count += K
    assert count == 2 * 2 + 2  # the run behind the N lies across two tokens
    assert MarginalsTeacher(reader).loss(output, batch).item() == pytest.approx(found / count, rel=1e-4)


def test_gradients_reach_the_student_never_the_source(folder, reader):
    model, batch = student(folder, "0,2"), make_batch()
    output = run(model, batch)
    loss = HiddenStateTeacher(reader, 2, (0, 2)).loss(output, batch) + MarginalsTeacher(reader).loss(output, batch)
    loss.backward()
    assert float(model.model.hierarchy.main.main.layers.blocks[0].output.dense.weight.grad.abs().max()) > 0
    assert float(model.model.hierarchy.encoder.blocks[0].mlp_output.weight.grad.abs().max()) > 0
    assert all(parameter.grad is None for parameter in reader.model.parameters())


def test_free_chunks_are_compared_only_where_they_are_tokens(folder, reader):
    batch = make_batch()
    model = student(folder)
    free = run(model, batch, on_grid=False)
    assert torch.isfinite(HiddenStateTeacher(reader, 1, (0, 1, 2)).loss(free, batch))
    nothing = make_batch(("NNNN",))
    output = run(model, nothing)
    loss = MarginalsTeacher(reader).loss(output, nothing)
    loss.backward()
    assert loss.item() == 0.0


def test_the_source_runs_once_per_batch(folder, reader, monkeypatch):
    calls = []
    encode = reader.model.encode
    monkeypatch.setattr(reader.model, "encode", lambda *args, **kwargs: calls.append(1) or encode(*args, **kwargs))
    batch = make_batch()
    output = run(student(folder), batch)
    for teacher in (HiddenStateTeacher(reader, 1, (0, 1, 2)), MarginalsTeacher(reader)):
        teacher.loss(output, batch)
    assert len(calls) == 1
    MarginalsTeacher(reader).loss(output, make_batch())
    assert len(calls) == 2


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
        arguments = ("someone/source", revision, tmp_path / "start", start.model.config, 1)
        assert set(teachers.load_teachers(("marginals",), *arguments)) == {"marginals"}
    teachers.load_teachers(("marginals",), "another/source", None, tmp_path / "start", start.model.config, 1)
    assert asked == [("someone/source", "a" * 40), ("someone/source", "refs/pr/3"), ("another/source", None)]

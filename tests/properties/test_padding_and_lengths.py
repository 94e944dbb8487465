"""Padding and batch-mates never change a row; every length comes back; hopeless rows stay finite."""

import pytest
import torch

from hnet_ntv2.errors import InputError
from hnet_ntv2.input_checks import check_input
from tests.builders import ids, random_dna, tiny_config, tiny_model

SETTINGS = [
    {},
    {"anchors": True},
    {"on_grid": True},
    {"strands": "forward"},
]


def messy_row(length: int, rng: torch.Generator) -> torch.Tensor:
    """Random bases with masked runs and Ns."""
    row = random_dna(length, rng)
    for start in range(7, length - 6, 37):
        row[0, start : start + 6] = 3
    row[0, length // 2 : length // 2 + 3] = 11
    return row


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_row_is_the_same_alone_padded_or_beside_another_row(settings, rng):
    model = tiny_model(spread=0.05)
    row, other = messy_row(150, rng), messy_row(211, rng)
    alone = model(row, **settings)
    padded = torch.nn.functional.pad(row, (0, 61), value=4)
    for beside in (torch.cat([padded, other]), torch.cat([padded, padded]), padded):
        together = model(beside, **settings)
        assert (together.logits[0, :150] - alone.logits[0]).abs().max() < 1e-5
        assert (together.ratio_losses - alone.ratio_losses).abs().max() < 1e-5 or len(beside) > 1
        for stage, single in zip(together.stages, alone.stages, strict=True):
            count = single.is_valid.shape[1]
            assert torch.equal(stage.is_boundary[0, :count], single.is_boundary[0])
            assert torch.equal(stage.reason[0, :count], single.reason[0])


def test_what_stands_in_the_padding_does_not_matter(rng):
    model = tiny_model(spread=0.05)
    row = torch.cat([messy_row(100, rng), torch.full((1, 20), 4)], dim=1)
    mask = torch.ones_like(row)
    mask[:, 100:] = 0
    garbage = row.clone()
    garbage[:, 100:] = random_dna(20, rng)
    expected = model(row).logits[:, :100]
    assert torch.equal(model(row, attention_mask=mask).logits[:, :100], expected)
    assert torch.equal(model(garbage, attention_mask=mask).logits[:, :100], expected)


def test_gradients_do_not_depend_on_padding(rng):
    row = messy_row(90, rng)
    labels = torch.full_like(row, -100)
    labels[0, 7:13] = 8

    def gradients(input_ids, labels):
        model = tiny_model(spread=0.05).train()
        model(input_ids, labels=labels).loss.backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    padded = torch.nn.functional.pad(row, (0, 40), value=4)
    padded_labels = torch.nn.functional.pad(labels, (0, 40), value=-100)
    alone = gradients(row, labels)
    assert (gradients(padded, padded_labels) - alone).abs().max() < 1e-5 * alone.abs().max()


@pytest.mark.parametrize("row", [0, 1])
def test_left_padding_is_refused_by_name(row):
    rows = [["ACGT", "ACGT"], ["ACGT", "ACGT"]][row]
    input_ids = ids(*rows)
    input_ids[row, 0] = 4
    with pytest.raises(InputError, match=f"row {row} .*right"):
        tiny_model()(input_ids)


def test_ids_outside_the_vocabulary_are_named():
    input_ids = ids("ACGT", "ACGT")
    input_ids[1, 2] = 16
    with pytest.raises(InputError, match=r"input_ids\[1, 2\] = 16"):
        tiny_model()(input_ids)


@pytest.mark.parametrize("shape", [(4,), (0, 4), (2, 0)])
def test_shapes_without_a_base_are_refused(shape):
    with pytest.raises(InputError, match="expected"):
        check_input(torch.full(shape, 7), None, tiny_config())


@pytest.mark.parametrize("length", [1, 2, 3, 5, 6, 7, 127, 128, 129, 1000, 1024, 4099])
@pytest.mark.parametrize("num_stages", [1, 2, 3])
def test_length_is_preserved(length, num_stages, rng):
    ratios = {1: {"target_ratio_stage2": None}, 2: {}, 3: {"target_ratio_stage3": 0.5}}[num_stages]
    model = tiny_model(spread=0.05, **ratios)
    output = model(random_dna(length, rng))
    assert output.logits.shape == (1, length, 16)
    assert len(output.stages) == num_stages
    assert torch.isfinite(output.logits).all()


@pytest.mark.slow
def test_the_longest_window_runs(rng):
    output = tiny_model(spread=0.05)(random_dna(131_072, rng), strands="forward")
    assert output.logits.shape == (1, 131_072, 16)
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize(
    "rows",
    [("N" * 50,), ("M" * 50,), ("A" * 50,), ("N", "ACGTACGT"), ("P" * 8, "ACGTACGT"), ("SU" * 10,), ("AN" * 25,)],
    ids=["all N", "all masked", "all A", "one N", "all padding", "other specials", "alternating N"],
)
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_hopeless_rows_stay_finite_forward_and_backward(rows, settings):
    model = tiny_model(spread=0.05)
    input_ids = ids(*rows)
    labels = torch.where(input_ids == 3, 7, -100)
    output = model(input_ids, labels=labels, **settings)
    assert torch.isfinite(output.logits).all()
    output.loss.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_no_labels_in_a_batch_gives_a_finite_loss_without_task_part(rng):
    output = tiny_model()(random_dna(50, rng), labels=torch.full((1, 50), -100))
    assert output.task_loss == 0
    assert torch.isfinite(output.loss)

"""Pooling against loops; what does not count, and padding, never matters; rows of nothing have no NaN gradient."""

import pytest
import torch

from hnet_ntv2.errors import ConfigError, InputError
from hnet_ntv2.pooling import (
    AttentionPooling,
    ConvolutionPooling,
    SequenceClassifier,
    classification_loss,
    pool,
    position_bins,
)

PLAIN = ("mean", "max", "first", "bins")
LEARNED = ("attention", "convolution")
DIM = 6


def counted(*rows: str) -> torch.Tensor:
    """1 counts, 0 does not."""
    return torch.tensor([[letter == "1" for letter in row] for row in rows])


def random_rows(rng, batch=4, length=40) -> tuple[torch.Tensor, torch.Tensor]:
    is_counted = torch.rand(batch, length, generator=rng) < 0.7
    is_counted[:, 0] = False  # as <cls>
    return torch.randn(batch, length, DIM, generator=rng), is_counted


def layer(how: str) -> torch.nn.Module:
    torch.manual_seed(1)
    made = AttentionPooling(DIM, 1e-5) if how == "attention" else ConvolutionPooling(DIM, 4, 1e-5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made


def pooled(how, hidden, is_counted):
    return layer(how)(hidden, is_counted) if how in LEARNED else pool(hidden, is_counted, how, 4)


def oracle(hidden, is_counted, how, num_bins):
    """One row of ``pool``, position by position."""
    places = [place for place, counts in enumerate(is_counted.tolist()) if counts]
    mean = sum(hidden[place] for place in places) / len(places)
    if how == "mean":
        return mean
    if how == "first":
        return hidden[places[0]]
    if how == "max":
        return torch.stack([max(hidden[place, column] for place in places) for column in range(DIM)])
    length = places[-1] - places[0] + 1
    parts = []
    for part in range(num_bins):
        inside = [place for place in places if (place - places[0]) * num_bins // length == part]
        parts.append(sum(hidden[place] for place in inside) / len(inside) if inside else mean)
    return torch.cat(parts)


@pytest.mark.parametrize("how", PLAIN)
@pytest.mark.parametrize("length", [3, 40])
def test_pool_is_the_loop(how, length, rng):
    hidden, is_counted = random_rows(rng, length=length)
    is_counted[:, -1] = True
    for num_bins in (1, 4, 7):
        found = pool(hidden, is_counted, how, num_bins)
        expected = [oracle(*row, how, num_bins) for row in zip(hidden, is_counted, strict=True)]
        assert torch.allclose(found, torch.stack(expected), atol=1e-6)


def test_bins_cut_a_row_between_its_first_and_last_counted_position():
    assert position_bins(counted("0110111000"), 3).tolist() == [[0, 0, 0, 1, 1, 2, 2, 2, 2, 2]]
    assert position_bins(counted("11"), 4).tolist() == [[0, 2]]


def test_bins_without_a_counted_position_get_the_mean_of_the_row():
    hidden = torch.tensor([[[2.0], [4.0]]])
    assert pool(hidden, counted("11"), "bins", 4).tolist() == [[2.0, 3.0, 4.0, 3.0]]
    hidden = torch.tensor([[[2.0], [9.0], [9.0], [4.0]]])
    assert pool(hidden, counted("1001"), "bins", 4).tolist() == [[2.0, 3.0, 3.0, 4.0]]


@pytest.mark.parametrize("how", PLAIN + LEARNED)
def test_padding_and_what_does_not_count_never_matter(how, rng):
    hidden, is_counted = random_rows(rng)
    expected = pooled(how, hidden, is_counted)
    other = torch.where(is_counted[..., None], hidden, torch.randn(hidden.shape, generator=rng) * 100)
    assert torch.allclose(pooled(how, other, is_counted), expected, atol=1e-5)
    padded = torch.nn.functional.pad(other, (0, 0, 0, 9), value=50.0)
    assert torch.allclose(pooled(how, padded, torch.nn.functional.pad(is_counted, (0, 9))), expected, atol=1e-5)


@pytest.mark.parametrize("how", PLAIN + LEARNED)
def test_positions_that_do_not_count_in_front_of_a_row_change_nothing(how, rng):
    hidden, is_counted = random_rows(rng)
    expected = pooled(how, hidden, is_counted)
    shifted = torch.nn.functional.pad(hidden, (0, 0, 7, 0), value=50.0)
    assert torch.allclose(pooled(how, shifted, torch.nn.functional.pad(is_counted, (7, 0))), expected, atol=1e-5)


@pytest.mark.parametrize("how", PLAIN + LEARNED)
def test_a_row_of_nothing_has_no_gradient_and_spoils_no_other(how, rng):
    hidden, is_counted = random_rows(rng)
    is_counted[1] = False
    hidden.requires_grad_()
    result = pooled(how, hidden, is_counted)
    assert torch.isnan(result[1]).all() if how in PLAIN else (result[1] == 0).all()
    result.nan_to_num().pow(2).sum().backward()
    assert torch.isfinite(hidden.grad).all()
    assert (hidden.grad[1] == 0).all()
    assert (hidden.grad[[0, 2, 3]] != 0).any(-1).any(-1).all()


def test_a_new_attention_pooling_is_the_mean(rng):
    hidden, is_counted = random_rows(rng)
    fresh = AttentionPooling(DIM, 1e-5)
    torch.nn.init.zeros_(fresh.importance.weight)
    assert torch.allclose(fresh(hidden, is_counted), pool(hidden, is_counted, "mean"), atol=1e-6)


def motif_rows(rng, num_rows: int, length: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with one motif of four positions each: class 1 where it lies in the second half, class 0 in the first."""
    hidden = torch.randn(num_rows, length, DIM, generator=rng)
    labels = torch.arange(num_rows) % 2
    offsets = torch.randint(length // 2 - 4, (num_rows,), generator=rng) + labels * length // 2
    motif = 4.0 * torch.eye(DIM)[:4]
    for row, offset in enumerate(offsets.tolist()):
        hidden[row, offset : offset + 4] += motif
    return hidden, labels


@pytest.mark.parametrize(("how", "learns"), [("convolution", True), ("bins", True), ("mean", False), ("max", False)])
def test_only_poolings_that_know_positions_tell_where_a_motif_lies(how, learns, rng):
    torch.manual_seed(0)
    head = SequenceClassifier(DIM, 2, 1e-5, how, 4)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    (hidden, labels), (others, targets) = motif_rows(rng, 128), motif_rows(rng, 200)
    for _ in range(40):
        optimizer.zero_grad()
        classification_loss(head(hidden, torch.ones(128, 32) > 0), labels, None).backward()
        optimizer.step()
    accuracy = (head(others, torch.ones(200, 32) > 0).argmax(-1) == targets).float().mean()
    assert accuracy > 0.8 if learns else accuracy < 0.6


def test_an_unknown_pooling_and_a_row_of_nothing_are_named(rng):
    hidden, is_counted = random_rows(rng)
    with pytest.raises(ConfigError, match="'median' is unknown"):
        pool(hidden, is_counted, "median")
    is_counted[2] = False
    with pytest.raises(InputError, match="row 2 holds no A, C, G or T"):
        SequenceClassifier(DIM, 2, 1e-5, "bins", 4)(hidden, is_counted)

"""From raw windows to a batch: strand, repeats, weights, grid-aligned samples, filling."""

import numpy as np
import pytest
import torch

from hnet_ntv2.data.collate import MaskingCollator
from hnet_ntv2.data.dataset import FixedWindows, RawWindows, TrainingWindows
from hnet_ntv2.data.masking import NO_TARGET, MaskConfig, grid_token_starts
from hnet_ntv2.data.ramps import CellShares, Piece, Ramp
from hnet_ntv2.data.windows import WindowIndex
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.genome import SplitInterval, decode, encode, reverse_complement
from hnet_ntv2.genome.interval import SpanIndex

from .genomes import make_genome, random_bases


def raw(bases: np.ndarray, is_reverse: bool = False, first: int = 0) -> RawWindows:
    counter = np.arange(first, first + len(bases))
    return RawWindows(bases, counter, np.zeros_like(counter), counter, np.full(len(bases), is_reverse))


def random_windows(batch: int, length: int) -> np.ndarray:
    return np.stack([encode(random_bases(length, seed)) for seed in range(batch)])


def original(batch) -> np.ndarray:
    """The ids before masking, put together from input and labels."""
    return np.where(batch["labels"] != NO_TARGET, batch["labels"], batch["input_ids"]).astype(np.uint8)


def test_a_batch_has_the_agreed_names_types_and_values():
    bases = random_windows(3, 60)
    bases[1, 10:20] |= 0x80
    batch = MaskingCollator(MaskConfig(), seed=0, repeat_weight=0.1)(raw(bases, first=7))
    assert {name: value.dtype for name, value in batch.items()} == {
        "input_ids": torch.uint8,
        "labels": torch.int16,
        "loss_weights": torch.float32,
        "is_repeat": torch.bool,
        "window_index": torch.int64,
    }
    assert batch["window_index"].tolist() == [7, 8, 9]
    assert np.array_equal(original(batch), bases & 0x7F)
    expected = torch.zeros(3, 60, dtype=torch.bool)
    expected[1, 10:20] = True
    assert torch.equal(batch["is_repeat"], expected)
    assert torch.equal(batch["loss_weights"], torch.where(expected, 0.1, 1.0))


def test_the_reverse_strand_is_taken_before_masking():
    bases = random_windows(2, 90)
    bases[0, :5] |= 0x80
    forward = MaskingCollator(MaskConfig(), seed=0)
    batch = forward(raw(bases, is_reverse=True))
    assert decode(original(batch)[0]) == decode(reverse_complement(bases)[0]).upper()
    assert batch["is_repeat"][0].nonzero().flatten().tolist() == [85, 86, 87, 88, 89]
    # Masks belong to places in the batch, so they are where they would be on the forward strand.
    assert torch.equal(batch["labels"] != NO_TARGET, forward(raw(bases))["labels"] != NO_TARGET)


def test_only_the_first_samples_are_masked_on_the_grid():
    bases = random_windows(6, 301)
    collator = MaskingCollator(MaskConfig(), seed=0, grid_aligned_until=3)
    batch = collator(raw(bases))
    starts = grid_token_starts(bases & 0x7F, 6)[:, :300].reshape(6, 50, 6)[:, :, 0]
    assert starts.all()
    cells = (batch["labels"][:, :300] != NO_TARGET).reshape(6, 50, 6).sum(dim=2)
    is_whole = ((cells == 0) | (cells == 6)).all(dim=1)
    assert is_whole.tolist() == [True, True, True, False, False, False]
    alone = collator(raw(bases[4:5], first=4))
    assert torch.equal(alone["input_ids"][0], batch["input_ids"][4])
    assert torch.equal(collator(raw(bases[1:2], first=1))["labels"][0], batch["labels"][1])


def test_filling_has_no_targets():
    windows = raw(random_windows(2, 60))._replace(counter=np.array([0, -1]), number=np.array([0, 0]))
    batch = MaskingCollator(MaskConfig(), seed=0, shown_as_mask_only=True)(windows)
    assert (batch["labels"][0] != NO_TARGET).any()
    assert (batch["labels"][1] == NO_TARGET).all()
    assert batch["window_index"].tolist() == [0, -1]


def test_a_negative_repeat_weight_is_refused():
    with pytest.raises(ConfigError, match="repeat_weight"):
        MaskingCollator(MaskConfig(), seed=0, repeat_weight=-0.1)


def test_repeats_from_a_file_replace_the_soft_mask(tmp_path):
    genome = make_genome(tmp_path, {"chr1": b"ACGTACGTAC" + b"acgtacgtac"})
    index = WindowIndex.build(genome, [SplitInterval("chr1", 0, 20)], 10)
    plain = FixedWindows(genome, index)[1]
    assert decode(plain.bases[0]) == b"acgtacgtac"
    annotated = FixedWindows(genome, index, repeats=SpanIndex([3, 18], [12, 19])).__getitems__([0, 1])
    assert [decode(row) for row in annotated.bases] == [b"ACGtacgtac", b"acGTACGTaC"]


def test_samples_are_the_same_alone_and_together(tmp_path):
    genome = make_genome(tmp_path, {"chr1": random_bases(2000)})
    dataset = TrainingWindows(genome, WindowIndex.build(genome, [SplitInterval("chr1", 0, 2000)], 100), seed=3)
    together = dataset.__getitems__([5, 300, 17])
    for row, counter in enumerate([5, 300, 17]):
        alone = dataset[counter]
        for one, many in zip(alone, together, strict=True):
            assert np.array_equal(one[0], many[row])


def constant_shares(grid: float, anchors: float) -> CellShares:
    return CellShares(Ramp((Piece(1, grid, grid),)), Ramp((Piece(1, anchors, anchors),)), samples_per_step=1)


def with_shares(grid: float, anchors: float, windows: RawWindows):
    return MaskingCollator(MaskConfig(grid_k=6), seed=3, cell_shares=constant_shares(grid, anchors))(windows)


def test_the_whole_grid_is_forced_or_none_of_it():
    windows = raw(random_windows(4, 120))
    forced, free = with_shares(1.0, 1.0, windows), with_shares(0.0, 0.0, windows)
    assert bool(forced["on_grid"].all())
    assert bool(forced["anchors"].all())
    assert not bool(free["on_grid"].any())
    assert not bool(free["anchors"].any())
    plain = MaskingCollator(MaskConfig(), seed=3)(windows)
    assert torch.equal(free["input_ids"], plain["input_ids"])
    is_target = (forced["labels"] != NO_TARGET).reshape(4, -1, 6)
    assert torch.equal(is_target.any(-1), is_target.all(-1))


def test_cells_flanks_and_masks_are_drawn_at_their_shares():
    windows = raw(random_windows(1, 60).repeat(2000, axis=0))
    batch = with_shares(0.3, 0.7, windows)
    assert float(batch["on_grid"].float().mean()) == pytest.approx(0.3, abs=0.01)
    assert float(batch["anchors"].float().mean()) == pytest.approx(0.7, abs=0.01)
    is_target = (batch["labels"] != NO_TARGET).reshape(2000, -1, 6)
    on_grid = (is_target.any(-1) == is_target.all(-1)).all(-1).float().mean()
    by_chance = (1 / 6) ** 2  # two spans of six bases that happen to begin on the grid, or nearly
    assert 0.3 - 0.03 < float(on_grid) < 0.3 + by_chance + 0.1


def test_draws_belong_to_the_window_not_to_the_batch():
    windows = raw(random_windows(6, 120))
    whole = with_shares(0.5, 0.5, windows)
    part = with_shares(0.5, 0.5, RawWindows(*(field[2:5] for field in windows)))
    for name in ("input_ids", "labels", "on_grid", "anchors"):
        assert torch.equal(whole[name][2:5], part[name]), name


def test_validation_batches_can_hold_the_same_windows_masked_on_the_grid():
    collator = MaskingCollator(MaskConfig(grid_k=6), seed=0, shown_as_mask_only=True, adds_grid_view=True)
    batch = collator(raw(random_windows(3, 120), first=-1))
    is_target = batch["grid_labels"] != NO_TARGET
    assert not bool(is_target[0].any())  # filling has no targets in either view
    assert torch.equal(is_target[1:], batch["grid_input_ids"][1:] == 3)
    cells = is_target[1:].reshape(2, -1, 6)
    assert torch.equal(cells.any(-1), cells.all(-1))
    view = {"labels": batch["grid_labels"], "input_ids": batch["grid_input_ids"]}
    assert np.array_equal(original(view)[1:], original(batch)[1:])

"""Masked spans: shares, shapes, 80/10/10, what is never touched, and that nothing leaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_ntv2.data.masking import MASK_ID, NO_TARGET, MaskConfig, MaskKeys, grid_token_starts, mask_windows
from hnet_ntv2.errors import ConfigError, DataError

CONFIGS = {
    "spans of 6": MaskConfig(),
    "single bases": MaskConfig(span=1),
    "grid": MaskConfig(grid_aligned=True),
    "dense": MaskConfig(rate=0.6, span=3),
}
N_ID = 11


def windows(batch: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(7, 11, (batch, length)).astype(np.uint8)


def keys(batch: int, epoch: int = 0, seed: int = 2222) -> MaskKeys:
    return MaskKeys.of(seed, np.full(batch, epoch), np.arange(batch))


def runs(row: np.ndarray) -> list[int]:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], row.astype(int), [0]))))
    return (edges[1::2] - edges[::2]).tolist()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("length", [60, 1000, 1024])
def test_the_share_of_targets_is_the_rate_up_to_whole_spans(config, length):
    span = config.grid_k if config.grid_aligned else config.span
    is_target = mask_windows(windows(50, length), keys(50), config).labels != NO_TARGET
    whole = length // span if config.grid_aligned else length / span
    assert set(is_target.sum(axis=1).tolist()) == {span * round(config.rate * whole)}
    assert all(run % span == 0 for row in is_target for run in runs(row))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_labels_are_the_bases_and_everything_else_is_untouched(config):
    ids = windows(20, 500)
    before = ids.copy()
    masked = mask_windows(ids, keys(20), config)
    is_target = masked.labels != NO_TARGET
    assert np.array_equal(ids, before)
    assert np.array_equal(masked.labels[is_target], ids[is_target])
    assert np.array_equal(masked.input_ids[~is_target], ids[~is_target])
    assert masked.input_ids.dtype == np.uint8


def test_every_start_is_equally_likely():
    config = MaskConfig(rate=0.3, span=3)
    is_target = mask_windows(windows(20_000, 20), keys(20_000), config).labels != NO_TARGET
    # Two spans of 3 in 20 bases: 120 layouts, as many with a span at the very start as mirrored.
    starts = is_target[:, 0].mean(), is_target[:, -1].mean()
    assert starts == pytest.approx((15 / 120, 15 / 120), abs=0.01)
    assert len({row.tobytes() for row in is_target}) == 120


def test_shown_shares_are_80_10_10_and_one_draw_holds_for_a_whole_span():
    config = MaskConfig()
    ids = np.full((600, 1000), 7, dtype=np.uint8)
    masked = mask_windows(ids, keys(600), config)
    is_target = masked.labels != NO_TARGET
    is_mask = (masked.input_ids == MASK_ID)[is_target]
    assert is_mask.mean() == pytest.approx(0.8, abs=0.01)
    # All bases are A here: a changed letter can only come from a random span, three times in four.
    is_changed = ~is_mask & (masked.input_ids != 7)[is_target]
    assert is_changed.mean() == pytest.approx(0.075, abs=0.005)
    assert set(np.unique(masked.input_ids)) == {MASK_ID, 7, 8, 9, 10}
    assert all(run % 6 == 0 for row in masked.input_ids == MASK_ID for run in runs(row))


@pytest.mark.parametrize(
    ("mask_share", "random_share", "allowed"), [(1.0, 0.0, {3}), (0.0, 1.0, {7, 8, 9, 10}), (0.0, 0.0, {9})]
)
def test_random_letters_are_uniform_over_the_four_bases(mask_share, random_share, allowed):
    config = MaskConfig(mask_share=mask_share, random_share=random_share)
    masked = mask_windows(np.full((100, 1000), 9, dtype=np.uint8), keys(100), config)
    values, counts = np.unique(masked.input_ids[masked.labels != NO_TARGET], return_counts=True)
    assert set(values.tolist()) == allowed
    assert np.abs(counts / counts.sum() - 1 / len(allowed)).max() < 0.02


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_validation_shows_every_target_as_mask_at_the_same_places(config):
    ids = windows(20, 500)
    training = mask_windows(ids, keys(20), config)
    validation = mask_windows(ids, keys(20), config, shown_as_mask_only=True)
    assert np.array_equal(training.labels, validation.labels)
    assert np.array_equal(validation.input_ids == MASK_ID, validation.labels != NO_TARGET)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("special", [0, 1, 2, 3, 4, 5, 6, N_ID, 12, 15])
def test_n_and_special_ids_are_never_targets_and_never_change(config, special):
    ids = windows(40, 300)
    is_special = np.random.default_rng(1).random(ids.shape) < 0.02
    ids[is_special] = special
    masked = mask_windows(ids, keys(40), config)
    assert (masked.labels[is_special] == NO_TARGET).all()
    assert (masked.input_ids[is_special] == special).all()
    assert (masked.labels != NO_TARGET).any()


def test_a_window_of_n_only_has_no_targets():
    ids = np.full((3, 100), N_ID, dtype=np.uint8)
    for config in CONFIGS.values():
        masked = mask_windows(ids, keys(3), config)
        assert (masked.labels == NO_TARGET).all()
        assert np.array_equal(masked.input_ids, ids)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_window_is_masked_the_same_in_any_company(config):
    ids = windows(16, 400)
    whole = mask_windows(ids, keys(16), config)
    for rows in (slice(3, 4), slice(5, 12), np.array([9, 2, 2])):
        part = mask_windows(ids[rows], MaskKeys(*(some[rows] for some in keys(16))), config)
        assert np.array_equal(part.input_ids, whole.input_ids[rows])
        assert np.array_equal(part.labels, whole.labels[rows])


def test_epoch_and_seed_change_the_masks():
    ids = windows(1, 400)
    places = {
        mask_windows(ids, keys(1, epoch, seed), MaskConfig()).labels.tobytes()
        for epoch in range(4)
        for seed in range(4)
    }
    assert len(places) == 16


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_nothing_of_a_hidden_base_leaks_into_the_input(data):
    config = data.draw(st.sampled_from(list(CONFIGS.values())))
    mask_only = data.draw(st.booleans())
    draw_seed = data.draw(st.integers(0, 2**32))
    ids = windows(4, 120, seed=data.draw(st.integers(0, 2**32)))
    if data.draw(st.booleans()):
        ids[:, 50:55] = N_ID
    masked = mask_windows(ids, keys(4, seed=draw_seed), config, shown_as_mask_only=mask_only)
    # Bases shown as they are (the kept 10 %) are no secret; all other targets are.
    is_hidden = masked.labels != NO_TARGET
    is_hidden &= ~_is_kept(ids, keys(4, seed=draw_seed), config, mask_only)
    other = np.where(is_hidden, windows(4, 120, seed=data.draw(st.integers(0, 2**32))), ids)
    again = mask_windows(other, keys(4, seed=draw_seed), config, shown_as_mask_only=mask_only)
    assert np.array_equal(again.input_ids, masked.input_ids)


def _is_kept(ids, mask_keys, config, mask_only) -> np.ndarray:
    """Where the draw keeps the base: there, and only there, different letters are all shown as they are.

    N stays where it is: NTv2's grid, and with it the places of grid-aligned masks, depends on it.
    """
    shown = [
        mask_windows(
            np.where(ids == N_ID, ids, np.uint8(letter)), mask_keys, config, shown_as_mask_only=mask_only
        ).input_ids
        for letter in (7, 8, 9)
    ]
    return (shown[0] == 7) & (shown[1] == 8) & (shown[2] == 9)


def grid_oracle(row: np.ndarray, k: int) -> list[int]:
    starts, position = [], 0
    while position < len(row):
        piece = row[position : position + k]
        if len(piece) == k and all(7 <= base <= 10 for base in piece):
            starts.append(position)
            position += k
            continue
        # Too short for a whole token: single letters up to and including what breaks the piece.
        while position < len(row) and 7 <= row[position] <= 10:
            position += 1
        position += 1
    return starts


@settings(deadline=None, max_examples=100)
@given(row=st.lists(st.sampled_from([7, 8, 9, 10, 10, 9, 8, 7, N_ID]), min_size=1, max_size=60), k=st.integers(1, 7))
def test_grid_tokens_are_cut_as_the_source_tokenizer_cuts(row, k):
    ids = np.array([row], dtype=np.uint8)
    assert np.flatnonzero(grid_token_starts(ids, k)[0]).tolist() == grid_oracle(ids[0], k)


def test_aligned_spans_are_whole_tokens_of_the_grid():
    ids = windows(30, 301)
    ids[:, 100] = N_ID
    starts = grid_token_starts(ids, 6)
    is_target = mask_windows(ids, keys(30), MaskConfig(grid_aligned=True)).labels != NO_TARGET
    for row, column in zip(*np.nonzero(starts), strict=True):
        assert len(set(is_target[row, column : column + 6].tolist())) == 1
    assert set(is_target.sum(axis=1).tolist()) == {6 * round(0.15 * (16 + 33))}


@pytest.mark.parametrize(
    "values",
    [{"rate": 0.0}, {"rate": 1.0}, {"rate": -0.1}, {"span": 0}, {"mask_share": 0.9, "random_share": 0.2},
     {"mask_share": -0.1}, {"grid_k": 0}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(ConfigError):
        MaskConfig(**values)


def test_a_window_shorter_than_a_span_is_refused():
    with pytest.raises(DataError, match="5 bases is shorter than a masked span of 6"):
        mask_windows(windows(2, 5), keys(2), MaskConfig())
    assert (mask_windows(windows(2, 6), keys(2), MaskConfig()).labels != NO_TARGET).all()

"""Values over steps: ends are met exactly, empty pieces vanish, the last value stays."""

import numpy as np
import pytest

from hnet_ntv2.data.ramps import CellShares, Piece, Ramp
from hnet_ntv2.errors import ConfigError


def test_a_line_meets_both_ends_and_the_last_value_stays():
    ramp = Ramp((Piece(2, 1.0, 1.0), Piece(5, 1.0, 0.0), Piece(3, 0.25, 0.25)))
    assert ramp(np.arange(12)).tolist() == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0.25, 0.25, 0.25, 0.25, 0.25]
    assert float(ramp(-1)) == 1.0


def test_a_piece_without_steps_is_skipped_and_one_step_takes_the_start():
    assert Ramp((Piece(0, 9.0, 9.0), Piece(1, 0.5, 0.0), Piece(2, 0.1, 0.2)))(np.arange(3)).tolist() == [0.5, 0.1, 0.2]


def test_shares_follow_the_sample_counter_in_whole_steps():
    shares = CellShares(Ramp((Piece(3, 1.0, 0.0),)), Ramp((Piece(1, 0.5, 0.5),)), samples_per_step=4)
    grid, anchors = shares.at(np.array([0, 3, 4, 7, 8, 100]))
    assert grid.tolist() == [1, 1, 0.5, 0.5, 0, 0]
    assert set(anchors.tolist()) == {0.5}


@pytest.mark.parametrize("pieces", [(), (Piece(-1, 0.0, 0.0),)])
def test_impossible_pieces_are_refused(pieces):
    with pytest.raises(ConfigError):
        Ramp(pieces)

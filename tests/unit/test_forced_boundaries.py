"""Which decisions are not the router's, as a table: one letter per base of the final (and first) stage.

``|`` boundary forced on, ``-`` forced off, ``.`` free.
"""

import pytest
import torch

from hnet_ntv2.forced_boundaries import force_boundaries
from hnet_ntv2.levels import BoundaryReason
from tests.builders import ids, valid

K = 4


def forced(letters: str, stage: int, num_stages: int = 2, **flags) -> str:
    row = ids(letters)
    boundary, reasons = force_boundaries(row, valid(row), k=K, num_stages=num_stages, **flags)
    symbols = []
    for on, reason in zip(boundary[0, :, stage], reasons[0, :, stage], strict=True):
        symbols.append("." if reason == BoundaryReason.ROUTER else "|" if on else "-")
    return "".join(symbols)


TABLE = [
    # what, sequence, flags, stage 1, final stage
    ("row start only", "ACGTACGT", {}, "|.......", "|......."),
    ("masked run", "ACGTMMMMACGT", {}, "|...|---|...", "|...|---|..."),
    ("run longer than k", "AMMMMMMACG", {}, "||---|-|..", "||---|-|.."),
    ("single masks", "ACMGMT", {}, "|.||||", "|.||||"),
    ("mask at the row's end", "ACGMM", {}, "|..|-", "|..|-"),
    ("mask at the row's start", "MMACG", {}, "|-|..", "|-|.."),
    ("no protection", "ACMGT", {"protect_masks": False}, "|....", "|...."),
    ("grid with remainder", "ACGTACGTAC", {"on_grid": True}, "|-|-|-|-||", "|---|---||"),
    ("grid with N", "ACGTACNNACGT", {"on_grid": True}, "|-|-|||||-|-", "|---|||||---"),
    ("grid and masks on it", "ACGTMMMMACGT", {"on_grid": True}, "|-|-|---|-|-", "|---|---|---"),
    ("grid wins inside masked remainder", "ACGTMM", {"on_grid": True}, "|-|-||", "|---||"),
    ("anchors", "ACGTACGMMMMACGTACG", {"anchors": True}, "|..|...|---|...|..", "|..|---|---|---|.."),
    ("anchors need k clean bases", "AACMMAAN", {"anchors": True}, "|..|-|..", "|..|-|.."),
    ("anchors up to N", "NAAAAMAAAAN", {"anchors": True}, "||...||...|", "||---||---|"),
    ("anchors between close runs", "MAAAAAAM", {"anchors": True}, "||.|...|", "||-|---|"),
    ("anchors between adjacent runs", "MAAAAM", {"anchors": True}, "||...|", "||---|"),
    ("too close for anchors", "MAAAM", {"anchors": True}, "||..|", "||..|"),
    ("grid wins over anchors", "ACGTACMMACGT", {"anchors": True, "on_grid": True}, "|-|-|-|-|-|-", "|---|-|-|---"),
]


@pytest.mark.parametrize(
    ("letters", "flags", "first", "final"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_forced_decisions(letters, flags, first, final):
    assert forced(letters, 0, **flags) == first
    assert forced(letters, 1, **flags) == final


def test_one_stage_has_no_middles_and_three_stages_only_one_with_them():
    assert forced("ACGTACGT", 0, num_stages=1, on_grid=True) == "|---|---"
    assert [forced("ACGTACGT", s, num_stages=3, on_grid=True) for s in range(3)] == ["|-|-|-|-", "|---|---", "|---|---"]


def test_whole_cells_are_on_the_grid_or_free():
    letters = "ACGTACGTACGT"
    on_grid = torch.zeros(1, 12, dtype=torch.bool)
    on_grid[0, 4] = True  # the value at a cell's first base decides for the cell
    on_grid[0, 9] = True  # inside a cell: ignored
    assert forced(letters, 1, on_grid=on_grid) == "|...|---|..."


def test_anchors_can_be_chosen_per_run():
    letters = "ACGTAMACGTAMACGTA"
    anchors = torch.zeros(1, 17, dtype=torch.bool)
    anchors[0, 11] = True
    assert forced(letters, 1, anchors=anchors) == "|....|||---||---|"


@pytest.mark.parametrize("flags", [{}, {"on_grid": True}, {"anchors": True}])
def test_final_boundaries_are_boundaries_in_every_stage_and_padding_is_inert(flags, rng):
    letters = "".join("ACGTNM"[i] for i in torch.randint(0, 6, (200,), generator=rng))
    row, padded = ids(letters), ids(letters, letters + "A" * 30)
    alone, alone_reason = force_boundaries(row, valid(row), k=K, num_stages=2, **flags)
    beside, beside_reason = force_boundaries(padded, valid(padded), k=K, num_stages=2, **flags)
    assert torch.equal(alone[0], beside[0, :200])
    assert torch.equal(alone_reason[0], beside_reason[0, :200])
    assert (beside_reason[0, 200:] == BoundaryReason.PADDING).all()
    final_on = alone[..., 1]
    assert alone[..., 0][final_on].all()

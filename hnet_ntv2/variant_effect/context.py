"""The windows that show a variant to the model: with the reference allele, the alternative, and a masked span."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..genome import Change, Genome, Interval
from ..vocabulary import BASE_BITS, MASK_ID, is_clean_base


@dataclass(frozen=True)
class AlleleWindow:
    """A window and the allele in it.

    Attributes:
        ids: [length] character ids.
        start: First base of the allele, or of the repeat that an indel changes.
        end: The base after its last.
    """

    ids: NDArray[np.uint8]
    start: int
    end: int

    def near(self, reach: int) -> NDArray[np.bool_]:
        """[length] A, C, G or T in the allele or at most ``reach`` bases from it.

        An empty allele has no base of its own: at least the bases beside it are near.
        """
        reach = max(reach, 1) if self.start == self.end else reach
        is_near = is_clean_base(self.ids)
        is_near[: max(self.start - reach, 0)] = False
        is_near[self.end + reach :] = False
        return is_near


@dataclass(frozen=True)
class VariantContext:
    """A variant in its surroundings; both windows have the same flanks."""

    ref: AlleleWindow
    alt: AlleleWindow

    @property
    def substituted(self) -> int | None:
        """Index in both windows of the only base that differs; None if the alleles differ otherwise."""
        if len(self.ref.ids) != len(self.alt.ids):
            return None
        differing = np.flatnonzero(self.ref.ids != self.alt.ids)
        return int(differing[0]) if len(differing) == 1 else None


def variant_context(genome: Genome, change: Change, window: int) -> VariantContext | None:
    """The windows of a variant, with equal flanks on both sides; shorter where the contig ends.

    The flank is (window - length of the longer allele) / 2, rounded down, so that neither window is longer than
    ``window``, and exchanging the alleles, or reading the other strand, gives the same windows. For that, an indel in
    a repeat covers all places where it could be written: its own bases and ``change.slack``.

    Args:
        genome: Where ``change`` lies.
        change: The variant without the bases that both alleles share.
        window: Most bases of a window.

    Returns:
        None if an allele, with its slack, is longer than half of the window.
    """
    longest = max(len(change.deleted), len(change.inserted)) + change.slack
    if longest > window // 2:
        return None
    flank = (window - longest) // 2
    start = max(change.start - flank, 0)
    end = min(change.end + change.slack + flank, genome.contigs[change.contig])
    ids = genome.read(Interval(change.contig, start, end)) & np.uint8(BASE_BITS)
    first, last = change.start - start, change.end - start
    changed = np.concatenate([ids[:first], change.inserted, ids[last:]])
    return VariantContext(
        AlleleWindow(ids, first, last + change.slack),
        AlleleWindow(changed, first, first + len(change.inserted) + change.slack),
    )


def masked_rows(ids: NDArray[np.uint8], position: int, k: int) -> list[NDArray[np.uint8]]:
    """Copies of a window with k bases around a position shown as [MASK], N left as it is.

    The position is in the middle of the span. An even k has no middle: both placements nearest to it are given, one
    being the mirror image of the other, so that both strands are asked the same. At the window's ends the span is
    shorter.
    """
    rows = []
    for before in sorted({(k - 1) // 2, k // 2}):
        row = ids.copy()
        span = row[max(position - before, 0) : position - before + k]
        span[is_clean_base(span)] = MASK_ID
        rows.append(row)
    return rows

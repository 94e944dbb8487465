"""The windows around a variant: equal flanks, contig ends, and masked spans with the base in their middle."""

import numpy as np
import pytest

from hnet_ntv2.genome import Change, decode, encode, open_genome
from hnet_ntv2.variant_effect.context import AlleleWindow, masked_rows, variant_context

CONTIG = "AAAACCCCGGGGTTTTNN"


def change(start: int, end: int, alt: str, slack: int = 0) -> Change:
    return Change("c", start, encode(CONTIG[start:end].encode()), encode(alt.encode()), slack)


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "genome.fa").write_text(f">c\n{CONTIG.lower()}\n")
    return open_genome(tmp_path / "genome.fa", tmp_path / "cache")


@pytest.mark.parametrize(
    ("start", "end", "alt", "window", "ref_window", "alt_window", "span"),
    [
        (8, 9, "T", 9, "CCCCGGGGT", "CCCCTGGGT", (4, 5)),
        (8, 9, "T", 10, "CCCCGGGGT", "CCCCTGGGT", (4, 5)),
        (8, 9, "GAA", 9, "CCCGGGG", "CCCGAAGGG", (3, 4)),
        (7, 10, "C", 9, "CCCCGGGGT", "CCCCGGT", (3, 6)),
        (1, 2, "G", 9, "AAAACC", "AGAACC", (1, 2)),
        (17, 18, "A", 9, "TTTNN", "TTTNA", (4, 5)),
        (8, 8, "AAA", 9, "CCCGGG", "CCCAAAGGG", (3, 3)),
        (7, 10, "", 9, "CCCCGGGGT", "CCCGGT", (3, 6)),
        (0, 0, "G", 9, "AAAA", "GAAAA", (0, 0)),
    ],
)
def test_both_windows_have_the_same_flanks(genome, start, end, alt, window, ref_window, alt_window, span):
    context = variant_context(genome, change(start, end, alt), window)
    assert context is not None
    assert decode(context.ref.ids).decode() == ref_window
    assert decode(context.alt.ids).decode() == alt_window
    assert (context.ref.start, context.ref.end) == span
    assert (context.alt.start, context.alt.end) == (span[0], span[0] + len(alt))


@pytest.mark.parametrize(
    ("indel", "window", "alt_window", "alt_end"),
    [(change(4, 5, "", 3), 8, "AACCCGG", 5), (change(4, 4, "C", 4), 9, "AACCCCCGG", 7)],
    ids=["deletion", "insertion"],
)
def test_an_indel_in_a_repeat_covers_all_places_where_it_could_be(genome, indel, window, alt_window, alt_end):
    """One C of CCCC less, or one more: which one is nothing that a window may depend on."""
    context = variant_context(genome, indel, window + 1)
    assert context is not None
    assert decode(context.ref.ids).decode() == "AACCCCGG"
    assert decode(context.alt.ids).decode() == alt_window
    assert (context.ref.start, context.ref.end) == (2, 6)
    assert (context.alt.start, context.alt.end) == (2, alt_end)


def test_long_alleles_have_no_context(genome):
    assert variant_context(genome, change(4, 9, "C"), 9) is None
    assert variant_context(genome, change(4, 5, "CAAAA"), 9) is None
    assert variant_context(genome, change(4, 4, "C", slack=4), 9) is None


@pytest.mark.parametrize(
    ("ref", "alt", "offset"), [("C", "A", 0), ("CCG", "CAG", 1), ("CC", "AA", None), ("C", "CA", None)]
)
def test_a_substitution_is_found_however_it_is_written(genome, ref, alt, offset):
    context = variant_context(genome, change(6, 6 + len(ref), alt), 12)
    assert context is not None
    assert context.substituted == (None if offset is None else context.ref.start + offset)


@pytest.mark.parametrize(
    ("position", "k", "expected"),
    [
        (8, 6, ["AAAACCMMMMMMGGTTTTNN", "AAAACMMMMMMGGGTTTTNN"]),
        (8, 3, ["AAAACCCMMMGGGGTTTTNN"]),
        (0, 6, ["MMMMCCCCGGGGGGTTTTNN", "MMMACCCCGGGGGGTTTTNN"]),
        (17, 4, ["AAAACCCCGGGGGGTTMMNN", "AAAACCCCGGGGGGTMMMNN"]),
    ],
)
def test_masked_spans_have_the_base_in_their_middle(position, k, expected):
    rows = masked_rows(encode(b"AAAACCCCGGGGGGTTTTNN"), position, k)
    letters = np.frombuffer(b"...M...ACGTN", np.uint8)
    shown = {letters[row].tobytes().decode() for row in rows}
    assert shown == set(expected)


def test_near_bases_are_letters_around_the_allele():
    window = AlleleWindow(encode(b"AAAACCCCNGGGTTTT"), 6, 7)
    assert np.flatnonzero(window.near(3)).tolist() == [3, 4, 5, 6, 7, 9]
    assert np.flatnonzero(window.near(0)).tolist() == [6]
    assert window.near(100).sum() == 15
    deletion = AlleleWindow(encode(b"AAAACCCCGGGG"), 6, 6)
    assert np.flatnonzero(deletion.near(2)).tolist() == [4, 5, 6, 7]
    assert np.flatnonzero(deletion.near(0)).tolist() == [5, 6]

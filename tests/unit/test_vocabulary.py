"""Letters to bytes and back, as tables; the ids that the documents name."""

import re
from pathlib import Path

import numpy as np
import pytest

from hnet_ntv2.errors import GenomeError
from hnet_ntv2.genome import decode, encode, reverse_complement
from hnet_ntv2.vocabulary import (
    BASE_BITS,
    BASE_VOCABULARY,
    COMPLEMENT,
    SOFT_MASK,
    source_kmer_size,
    source_vocab_size,
)


def test_the_size_of_a_source_vocabulary_tells_its_k():
    assert [source_kmer_size(source_vocab_size(k)) for k in range(1, 9)] == list(range(1, 9))
    assert source_vocab_size(6) == 4107


@pytest.mark.parametrize(
    ("letters", "bytes_"),
    [
        (b"ACGTN", [7, 8, 9, 10, 11]),
        (b"acgtn", [7 | 128, 8 | 128, 9 | 128, 10 | 128, 11 | 128]),
        (b"Uu", [10, 10 | 128]),
        (b"RYSWKMBDHV", [11] * 10),
        (b"ry", [11 | 128] * 2),
        (b"", []),
    ],
)
def test_letters_become_character_ids_with_the_repeat_bit(letters, bytes_):
    assert encode(letters).tolist() == bytes_


@pytest.mark.parametrize("letter", [b"-", b"*", b"E", b"x", b">", b" ", b"\n", b"1", b"\xff"])
def test_other_letters_are_refused_at_their_position(letter):
    with pytest.raises(GenomeError, match="position 3"):
        encode(b"ACG" + letter + b"-")


def test_decoding_gives_the_letters_back():
    assert decode(encode(b"ACGTNacgtn")) == b"ACGTNacgtn"
    assert decode(encode(b"uRy")) == b"tNn"
    with pytest.raises(GenomeError, match="byte 3 at position 1"):
        decode(np.array([7, 3], dtype=np.uint8))


@pytest.mark.parametrize(
    ("forward", "reverse"), [(b"AACGT", b"ACGTT"), (b"AcgN", b"NcgT"), (b"NNA", b"TNN"), (b"t", b"a"), (b"", b"")]
)
def test_reverse_complement_keeps_each_base_in_its_repeat(forward, reverse):
    assert decode(reverse_complement(encode(forward))) == reverse


def test_complement_is_its_own_inverse_and_keeps_special_ids_and_the_repeat_bit():
    every = np.arange(256, dtype=np.uint8)
    assert np.array_equal(COMPLEMENT[COMPLEMENT], every)
    assert np.array_equal(COMPLEMENT & SOFT_MASK, every & SOFT_MASK)
    assert np.array_equal(COMPLEMENT[:7], every[:7])
    assert sorted(COMPLEMENT[7:11].tolist()) == [7, 8, 9, 10]
    assert COMPLEMENT[11] & BASE_BITS == 11


def test_reverse_complement_works_on_the_last_axis_of_a_batch():
    batch = np.stack([encode(b"AAC"), encode(b"GTN")])
    assert [decode(row) for row in reverse_complement(batch)] == [b"GTT", b"NAC"]


def test_the_glossary_gives_the_ids_of_the_vocabulary():
    glossary = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text()
    (row,) = re.findall(r"\| character id \|.*", glossary)
    named = re.findall(r"(\[[A-Z]+\]|\b[ACGTN]) (\d+)", row)
    assert {token for token, _ in named} == {"[MASK]", "[PAD]", *"ACGTN"}
    assert all(BASE_VOCABULARY[int(number)] == token for token, number in named)

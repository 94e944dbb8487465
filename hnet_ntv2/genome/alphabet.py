"""The byte of a base: its character id, plus the top bit where the source was soft-masked (lower case).

Ids follow Caduceus's character vocabulary (A 7, C 8, G 9, T 10, N 11), so ``byte & BASE_BITS`` is what the model reads
and ``byte & SOFT_MASK`` says repeat.
"""

import numpy as np
from numpy.typing import NDArray

from ..errors import GenomeError

A, C, G, T, N = 7, 8, 9, 10, 11
BASE_BITS = 0x7F
SOFT_MASK = 0x80

_IUPAC_AMBIGUOUS = b"RYSWKMBDHVN"


def _encoding_table() -> NDArray[np.uint8]:
    """Byte of each ASCII letter; 0 marks a letter that is no nucleotide code."""
    table = np.zeros(256, dtype=np.uint8)
    for letter, base in zip(b"ACGTU", (A, C, G, T, T), strict=True):
        table[letter] = base
    table[list(_IUPAC_AMBIGUOUS)] = N
    upper = np.flatnonzero(table)
    table[upper + 32] = table[upper] | SOFT_MASK
    return table


def _decoding_table() -> NDArray[np.uint8]:
    table = np.zeros(256, dtype=np.uint8)
    for letter, base in zip(b"ACGTN", (A, C, G, T, N), strict=True):
        table[base] = letter
        table[base | SOFT_MASK] = letter + 32
    return table


def _complement_table() -> NDArray[np.uint8]:
    """Complement of every byte; the soft-mask bit, N and special ids stay as they are."""
    table = np.arange(256, dtype=np.uint8)
    for base, partner in ((A, T), (C, G), (G, C), (T, A)):
        table[base] = partner
        table[base | SOFT_MASK] = partner | SOFT_MASK
    return table


ENCODE = _encoding_table()
DECODE = _decoding_table()
COMPLEMENT = _complement_table()


def encode(sequence: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Encode ASCII nucleotides as bytes, one per base.

    Accepts A, C, G, T, U (read as T) and the IUPAC ambiguity codes (read as N), in either case; lower case sets the
    soft-mask bit.

    Raises:
        GenomeError: at the first other letter, with its position (0-based).
    """
    letters = np.frombuffer(sequence, dtype=np.uint8)
    encoded = ENCODE[letters]
    if not encoded.all():
        position = int(np.argmin(encoded != 0))
        raise GenomeError(
            f"letter {chr(letters[position])!r} at position {position} is no nucleotide: "
            "use A, C, G, T, U or IUPAC codes, in either case"
        )
    return encoded


def decode(encoded: NDArray[np.uint8]) -> bytes:
    """Give back the letters A, C, G, T, N (lower case where soft-masked) of encoded bases.

    Raises:
        GenomeError: at a byte that stands for no base.
    """
    letters = DECODE[encoded]
    if not letters.all():
        position = int(np.argmin(letters != 0))
        raise GenomeError(f"byte {int(encoded[position])} at position {position} stands for no base")
    return letters.tobytes()


def reverse_complement(encoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reverse-complement the last axis; a base keeps its soft-mask bit."""
    return COMPLEMENT[encoded[..., ::-1]]


def is_n(encoded: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which encoded bases are N, soft-masked or not."""
    return (encoded & BASE_BITS) == N

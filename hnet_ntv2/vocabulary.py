"""Letters of DNA and their ids, spelled once: character ids, NTv2's tokens, complements, lookup tables.

Without torch, so that ``genome`` can import it; a flat file, since it ships to the Hub with the model.

The encoded form of a base is one byte: its character id, plus the top bit where the source was soft-masked (lower
case). ``byte & BASE_BITS`` is what the model reads, ``byte & SOFT_MASK`` says repeat.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import GenomeError

# Caduceus's character vocabulary: the place of a token is its id, A 7 to T 10, N 11.
BASE_VOCABULARY = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", "A", "C", "G", "T", "N")
MASK_ID, PAD_ID, A, C, G, T, N = map(BASE_VOCABULARY.index, ("[MASK]", "[PAD]", *"ACGTN"))
BASE_IDS = (A, C, G, T)
FIRST_BASE, LAST_BASE = A, T

AMBIGUITY_CODES = "RYSWKMBDHVN"  # of IUPAC; all are read as N
BASE_BITS, SOFT_MASK = 0x7F, 0x80

# NTv2's vocabulary: the special tokens, 4^k k-mers over KMER_LETTERS, then A T C G N.
SOURCE_SPECIALS = ("<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>")
NUM_SOURCE_SPECIALS = len(SOURCE_SPECIALS)
SOURCE_UNK, SOURCE_PAD, SOURCE_MASK, SOURCE_CLS = map(SOURCE_SPECIALS.index, ("<unk>", "<pad>", "<mask>", "<cls>"))
KMER_LETTERS = "ATCG"
KMER_DIGITS = tuple(map(KMER_LETTERS.index, "ACGT"))
"""Digit of A, C, G and T in NTv2's k-mers."""


def source_vocab_size(k: int) -> int:
    """Number of NTv2's tokens with k-mers of k bases."""
    return NUM_SOURCE_SPECIALS + 4**k + len("ATCGN")


def source_kmer_size(vocab_size: int) -> int:
    """k of NTv2's k-mers with so many tokens, the inverse of ``source_vocab_size``; the nearest k for other numbers."""
    num_kmers = vocab_size - NUM_SOURCE_SPECIALS - len("ATCGN")
    return round(math.log(max(num_kmers, 4), 4))  # max(): a tiny vocabulary has no logarithm


def _tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Letter -> byte (0: no nucleotide code), byte -> letter (0: no base), byte -> byte of its complement."""
    encode, decode = np.zeros((2, 256), dtype=np.uint8)
    complement = np.arange(256, dtype=np.uint8)  # N and special ids are their own complement
    spelled = dict.fromkeys(AMBIGUITY_CODES, N) | {"U": T} | dict(zip("ACGTN", (*BASE_IDS, N), strict=True))
    for letter, base in spelled.items():
        for byte, code in ((base, ord(letter)), (base | SOFT_MASK, ord(letter.lower()))):
            encode[code] = byte
            decode[byte] = code  # the letter of a base comes after U and the ambiguity codes, so it is the one kept
    for base, partner in zip(BASE_IDS, BASE_IDS[::-1], strict=True):
        complement[[base, base | SOFT_MASK]] = partner, partner | SOFT_MASK
    return encode, decode, complement


ENCODE, DECODE, COMPLEMENT = _tables()


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
    """The letters A, C, G, T, N (lower case where soft-masked) of encoded bases.

    Raises:
        GenomeError: at a byte that stands for no base.
    """
    letters = DECODE[encoded]
    if not letters.all():
        position = int(np.argmin(letters != 0))
        raise GenomeError(f"byte {int(encoded[position])} at position {position} stands for no base")
    return letters.tobytes()


def reverse_complement(encoded: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reverse-complement the last axis; a base keeps its soft-mask bit. (``kmers`` has it for padded tensors.)"""
    return COMPLEMENT[encoded[..., ::-1]]


def is_n(encoded: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which encoded bases are N, soft-masked or not."""
    return (encoded & BASE_BITS) == N


def is_clean_base(ids: Any) -> Any:
    """Which character ids, an array or a tensor, are A, C, G or T."""
    return (ids >= FIRST_BASE) & (ids <= LAST_BASE)

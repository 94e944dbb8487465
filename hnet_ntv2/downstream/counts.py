"""Features of sequences that need no model: composition, counts of k-mers, one-hot positions."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tasks.table import Table
from ..vocabulary import BASE_BITS, BASE_IDS

OTHER = 4
"""Digit of what is no A, C, G or T (0 to 3)."""

_DIGITS = np.full(256, OTHER, dtype=np.uint8)
_DIGITS[list(BASE_IDS)] = range(4)
CROP_PERCENTILE = 99


def digits(bases: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """0 to 3 for A, C, G and T, soft-masked or not, 4 for others; encoded bases as in ``vocabulary``."""
    return _DIGITS[bases & BASE_BITS]


def measure_composition(table: Table) -> NDArray[np.float32]:
    """Shares of A, C, G, T and others, share of G and C, and length in bases: [rows, 7]."""
    counts = np.array([np.bincount(digits(bases), minlength=5) for bases in table.bases], dtype=np.float32)
    lengths = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(lengths, 1)
    return np.hstack([shares, shares[:, 1:2] + shares[:, 2:3], lengths])


def count_kmers(table: Table, k: int, both_strands: bool = False) -> Any:
    """Counts of k-mers without N as a sparse float32 matrix [rows, k-mers].

    Args:
        table: The rows.
        k: Bases; there are 4^k columns.
        both_strands: Whether a k-mer and its reverse complement count as one, which halves the columns.
    """
    from scipy.sparse import csr_array

    codes, rows = kmers_by_row(table, k)
    columns = _columns_of_both_strands(k) if both_strands else np.arange(4**k)
    shape = (len(table), int(columns.max()) + 1)
    return csr_array((np.ones(len(codes), dtype=np.float32), (rows, columns[codes.astype(np.int64)])), shape=shape)


def kmers_by_row(table: Table, k: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All k-mers without N of all rows as numbers in base 4, and the row of each."""
    lengths = [len(bases) for bases in table.bases]
    codes, is_whole = kmer_codes(digits(np.concatenate([*table.bases, np.zeros(0, np.uint8)])), k)
    rows = np.repeat(np.arange(len(table)), lengths)[: len(codes)]
    ends = np.repeat(np.cumsum(lengths), lengths)[: len(codes)]
    is_whole &= np.arange(len(codes)) + k <= ends  # a k-mer must not run into the next row
    return codes[is_whole], rows[is_whole]


def kmer_codes(base_digits: NDArray[np.uint8], k: int) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """The k-mer that starts at each position as a number in base 4, and whether it is free of others than A C G T."""
    count = max(len(base_digits) - k + 1, 0)
    codes, is_whole = np.zeros(count, dtype=np.uint64), np.ones(count, dtype=bool)
    for offset in range(k):
        digit = base_digits[offset : offset + count]
        codes = (codes << np.uint64(2)) | (digit & 3).astype(np.uint64)
        is_whole &= digit != OTHER
    return codes, is_whole


def both_strand_codes(codes: NDArray[np.uint64], k: int) -> NDArray[np.uint64]:
    """The smaller one of each k-mer and its reverse complement, whose digits are reversed and taken from 3."""
    reverse, rest = np.zeros_like(codes), codes
    for _ in range(k):
        reverse = (reverse << np.uint64(2)) | (np.uint64(3) - (rest & np.uint64(3)))
        rest = rest >> np.uint64(2)
    return np.minimum(codes, reverse)


def _columns_of_both_strands(k: int) -> NDArray[np.int64]:
    """Column of each k-mer, the same for its reverse complement."""
    return np.unique(both_strand_codes(np.arange(4**k, dtype=np.uint64), k), return_inverse=True)[1]


def crop_length(table: Table) -> int:
    """Bases that the 99th percentile of rows have: a few long rows must not widen all."""
    return max(1, int(np.ceil(np.percentile([len(bases) for bases in table.bases], CROP_PERCENTILE))))


def padded_digits(table: Table, length: int) -> NDArray[np.uint8]:
    """Digits [rows, length] of rows that are aligned at their left end; 4 where a row has ended."""
    padded = np.full((len(table), length), OTHER, dtype=np.uint8)
    for row, bases in zip(padded, table.bases, strict=True):
        row[: len(bases)] = digits(bases[:length])
    return padded


def one_hot_positions(table: Table, length: int) -> Any:
    """One-hot bases as a sparse float32 matrix [rows, 4 x length]; others than A C G T and the padding are zeros."""
    from scipy.sparse import csr_array

    padded = padded_digits(table, length)
    rows, positions = np.nonzero(padded != OTHER)
    columns = 4 * positions + padded[rows, positions]
    return csr_array((np.ones(len(rows), dtype=np.float32), (rows, columns)), shape=(len(table), 4 * length))

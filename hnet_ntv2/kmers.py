"""NTv2's k-mers at single bases: token ids, the k-mer grid, both strands, base probabilities from k-mer logits."""

from typing import NamedTuple

import torch

from .shapes import Bool, Float, Int, Tensor
from .vocabulary import (
    BASE_IDS,
    FIRST_BASE,
    KMER_DIGITS,
    LAST_BASE,
    MASK_ID,
    NUM_SOURCE_SPECIALS,
    SOURCE_MASK,
    SOURCE_PAD,
    SOURCE_UNK,
    N,
    is_clean_base,
)


class GridCells(NamedTuple):
    """NTv2's own tokens as groups of bases. All fields are [batch, length].

    Attributes:
        is_start: The base begins a token (a whole k-mer, a remainder letter, an N or a special).
        is_middle: Base k // 2 of a whole k-mer.
        first: Index of the first base of the base's token.
        is_whole: The base lies in a whole k-mer.
    """

    is_start: Bool[Tensor, "batch length"]
    is_middle: Bool[Tensor, "batch length"]
    first: Int[Tensor, "batch length"]
    is_whole: Bool[Tensor, "batch length"]


def run_length_right(is_member: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Number of consecutive members from each position (included) to the right; 0 where it is none itself."""
    length = is_member.shape[1]
    index = torch.arange(length, device=is_member.device)
    next_break = torch.where(is_member, length, index).flip(1).cummin(1).values.flip(1)
    return next_break - index


def run_length_left(is_member: Bool[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """Number of consecutive members that end at each position (included); 0 where it is none itself."""
    index = torch.arange(is_member.shape[1], device=is_member.device)
    last_break = torch.where(is_member, -1, index).cummax(1).values
    return index - last_break


def fits_whole_kmer(
    input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"], k: int
) -> Bool[Tensor, "batch length"]:
    """Whether k letters (A, C, G, T or [MASK]) start at each base before an N, another special, or the row's end."""
    is_letter = (is_clean_base(input_ids) | (input_ids == MASK_ID)) & is_valid
    return run_length_right(is_letter) >= k


def holds_mask(is_masked: Bool[Tensor, "batch length"], k: int) -> Bool[Tensor, "batch length"]:
    """Whether one of the k bases from each base on is masked; bases past the row's end count as not masked."""
    found = is_masked
    for offset in range(1, k):
        found = found | shift_left(is_masked, offset)
    return found


def kmer_digits(input_ids: Int[Tensor, "batch length"]) -> Int[Tensor, "batch length"]:
    """The digit (0 to 3) of each base in the source's k-mers; 0 where there is no base."""
    # Compared, not looked up: a table made here would be copied to the device in every forward pass.
    digits = torch.zeros_like(input_ids)
    for base, place in zip(BASE_IDS, KMER_DIGITS, strict=True):
        digits = digits + (input_ids == base) * place
    return digits


def kmer_codes(digits: Int[Tensor, "batch length"], k: int) -> Int[Tensor, "batch length"]:
    """The number of the k-mer that starts at each base, its first base first; past the end digits count as 0."""
    code = torch.zeros_like(digits)
    for offset in range(k):
        code = code * 4 + shift_left(digits, offset)
    return code


def source_token_ids(
    input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"], k: int
) -> Int[Tensor, "batch length"]:
    """The source token whose embedding each base carries.

    It is the k-mer that starts at the base; ``<mask>`` if one of its k bases is [MASK]; the single-letter token where
    no whole k-mer fits; N for N, ``<mask>`` for a masked remainder letter, ``<unk>`` for any other special id.

    Args:
        input_ids: Character ids.
        is_valid: False at padding, which gets ``<pad>``.
        k: Length of the source model's k-mers.
    """
    num_kmers = 4**k
    digits = kmer_digits(input_ids)
    is_masked = input_ids == MASK_ID
    code = kmer_codes(digits, k)
    letter = torch.where(is_masked, SOURCE_MASK, NUM_SOURCE_SPECIALS + num_kmers + digits)
    kmer = torch.where(holds_mask(is_masked, k), SOURCE_MASK, NUM_SOURCE_SPECIALS + code)
    token = torch.where(fits_whole_kmer(input_ids, is_valid, k), kmer, letter)
    token = torch.where(is_clean_base(input_ids) | is_masked, token, SOURCE_UNK)
    token = torch.where(input_ids == N, NUM_SOURCE_SPECIALS + num_kmers + 4, token)
    return torch.where(is_valid, token, SOURCE_PAD)


def shift_left(values: Tensor, offset: int) -> Tensor:
    """Move each row ``offset`` positions to the left; zeros fill the end."""
    return torch.nn.functional.pad(values, (0, offset))[:, offset:]


def grid_cells(input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"], k: int) -> GridCells:
    """Cut rows as NTv2's tokenizer does: split at N, k-mers from each piece's left end, the rest single letters.

    Masked bases count as letters, so that masking a k-mer does not move the grid.
    """
    is_letter = (is_clean_base(input_ids) | (input_ids == MASK_ID)) & is_valid
    index = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
    offset = (run_length_left(is_letter) - 1).clamp(min=0)
    piece_length = offset + run_length_right(is_letter)
    is_whole = is_letter & ((offset // k + 1) * k <= piece_length)
    first = torch.where(is_whole, index - offset % k, index)
    is_middle = is_whole & (offset % k == k // 2) & (k > 1)
    return GridCells(is_start=(first == index) & is_valid, is_middle=is_middle, first=first, is_whole=is_whole)


def flip_rows(values: Tensor, is_valid: Bool[Tensor, "batch length"]) -> Tensor:
    """Reverse the valid part of each right-padded row of ``values`` [batch, length, ...]; padding stays where it is."""
    index = torch.arange(is_valid.shape[1], device=is_valid.device)
    mirrored = is_valid.sum(1, keepdim=True) - 1 - index
    source = torch.where(is_valid, mirrored, index)
    source = source.reshape(source.shape + (1,) * (values.dim() - 2)).expand_as(values)
    return values.gather(1, source)


def reverse_complement(
    input_ids: Int[Tensor, "batch length"], is_valid: Bool[Tensor, "batch length"]
) -> Int[Tensor, "batch length"]:
    """The other strand, read in its own direction: A-T, C-G, all other ids unchanged; padding stays on the right."""
    # Computed, since a table would be copied to the device; A + T = C + G.
    complement = torch.where(is_clean_base(input_ids), FIRST_BASE + LAST_BASE - input_ids, input_ids)
    return flip_rows(complement, is_valid)


def kmer_marginals(logits: Float[Tensor, "chunks vocab"], k: int) -> Float[Tensor, "chunks k 4"]:
    """Log-probabilities of A, C, G, T at offsets 0..k-1 under a softmax over the 4^k k-mers only, in float32 or better.

    Args:
        logits: Over the source vocabulary.
        k: Length of the k-mers.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    # Over whole k-mers only: special tokens and single letters would take part of the probability.
    probability = wide[:, NUM_SOURCE_SPECIALS : NUM_SOURCE_SPECIALS + 4**k].softmax(-1)
    marginals = []
    # Each round sums out the first letter that is left, so the tensor shrinks by 4.
    for offset in range(k):
        by_letter = probability.reshape(len(logits), 4, 4 ** (k - 1 - offset))
        marginals.append(by_letter.sum(-1))
        probability = by_letter.sum(1)
    joint = _in_acgt_order(torch.stack(marginals, dim=1))
    # A certain k-mer leaves other bases a probability of 0, whose log is infinite.
    return joint.clamp(min=torch.finfo(joint.dtype).tiny).log()


def letter_log_probs(logits: Float[Tensor, "chunks vocab"], k: int) -> Float[Tensor, "chunks 4"]:
    """Log-probabilities of A, C, G, T under a softmax over the four single-letter tokens only."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    first = NUM_SOURCE_SPECIALS + 4**k
    return _in_acgt_order(wide[:, first : first + 4].log_softmax(-1))


def _in_acgt_order(values: Float[Tensor, "*shape 4"]) -> Float[Tensor, "*shape 4"]:
    """Columns for A, T, C, G as columns for A, C, G, T."""
    # Stacked: indexing with a list would copy the list to the device each time.
    return torch.stack([values[..., place] for place in KMER_DIGITS], dim=-1)

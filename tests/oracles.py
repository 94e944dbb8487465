"""Slow definitions that the fast code is tested against: plain loops, one row at a time."""

import numpy as np
import torch

from hnet_ntv2.inference.windows import plan_windows
from hnet_ntv2.segmentation.stitch import cuts_of_long_chunks


def smooth_row(chunks: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """H-Net's smoothing and its mirror image over one row of chunks, averaged."""
    count = len(chunks)
    forward, backward = [None] * count, [None] * count
    for k in range(count):
        previous = forward[k - 1] if k else torch.zeros_like(chunks[0])
        forward[k] = weight[k] * chunks[k] + (1 - weight[k]) * previous
    for k in reversed(range(count)):
        if k == count - 1:
            backward[k] = chunks[k]
        else:
            backward[k] = weight[k + 1] * chunks[k] + (1 - weight[k + 1]) * backward[k + 1]
    return (torch.stack(forward) + torch.stack(backward)) / 2


def cap_row(is_boundary: list[bool], first_base: list[int], num_bases: int, max_length: int) -> list[bool]:
    """Boundaries with the cap's additions: walk along and cut before a chunk would become too long."""
    ends = [*first_base[1:], num_bases]
    out, start = [], 0
    for boundary, first, end in zip(is_boundary, first_base, ends, strict=True):
        if boundary or end - start > max_length:
            start = first
            boundary = True
        out.append(boundary)
    return out


def ntv2_tokens(letters: str, k: int) -> list[str]:
    """NTv2's tokens of a sequence without <cls>; "M" stands for a masked base and counts as a letter."""
    tokens: list[str] = []
    piece = ""
    for letter in letters + "N":
        if letter != "N":
            piece += letter
            continue
        whole = len(piece) // k * k
        tokens += [piece[i : i + k] for i in range(0, whole, k)] + list(piece[whole:]) + ["N"]
        piece = ""
    return tokens[:-1]


def kmer_at(letters: str, index: int, k: int) -> str:
    """The source token that a base carries: a k-mer, a letter, "N" or "<mask>"."""
    piece = letters[index:].split("N")[0]
    if letters[index] == "N":
        return "N"
    if len(piece) >= k:
        return "<mask>" if "M" in piece[:k] else piece[:k]
    return "<mask>" if letters[index] == "M" else letters[index]


def marginals_of(kmer_probability: np.ndarray, k: int) -> np.ndarray:
    """P(letter A, C, G, T at offset j) from a probability per k-mer in the order of product("ATCG", repeat=k)."""
    out = np.zeros((k, 4))
    for code, probability in enumerate(kmer_probability):
        for offset in range(k):
            letter = "ATCG"[code // 4 ** (k - 1 - offset) % 4]
            out[offset, "ACGT".index(letter)] += probability
    return out


def windowed_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int) -> torch.Tensor:
    """Full attention of one row [length, heads, dim] under the mask |i - j| <= window."""
    index = torch.arange(len(query))
    scores = torch.einsum("qhd,khd->hqk", query, key) / query.shape[-1] ** 0.5
    scores = scores.masked_fill((index[:, None] - index).abs() > window, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


def segment_at_once(model, text: str, window: int, flank: int, batch_bases: int):
    """Chunks of a whole sequence held in memory, of each strand by itself, mapped to the forward frame.

    Of each strand: the starts of each stage's chunks, p of stage 1, and the product of p over stages.
    """
    complement = str.maketrans("ACGT", "TGCA")
    forward = _segment_strand(model, text, window, flank, batch_bases)
    begins, probability, final_probability = _segment_strand(
        model, text[::-1].translate(complement), window, flank, batch_bases
    )
    length = len(text)
    mirrored = [[length - end for end in reversed([*stage[1:], length])] for stage in begins]
    return forward, (mirrored, probability[::-1], final_probability[::-1])


def _segment_strand(model, text: str, window: int, flank: int, batch_bases: int):
    letters = torch.tensor([[{"A": 7, "C": 8, "G": 9, "T": 10, "N": 11}[letter] for letter in text]])
    num_stages, length = model.config.num_stages, len(text)
    probability = np.zeros((num_stages, length), np.float32)
    begins = np.zeros((num_stages, length), bool)
    plan = list(plan_windows(length, window, flank))
    plan.sort(key=lambda each: each.start - each.end)  # longest first, as rows are batched
    for first in range(0, len(plan), max(batch_bases // window, 1)):
        batch = plan[first : first + max(batch_bases // window, 1)]
        rows = torch.full((len(batch), batch[0].end - batch[0].start), 4)
        for row, each in zip(rows, batch, strict=True):
            row[: each.end - each.start] = letters[0, each.start : each.end]
        with torch.no_grad():
            stages = model.model(rows, strands="forward", anchors=False).stages
        for row, each in enumerate(batch):
            for base in range(each.keep_start, each.keep_end):
                position = base - each.start
                for number, stage in enumerate(stages):
                    probability[number, base] = stage.probability[row, position]
                    begins[number, base] = stage.is_boundary[row, position]
                    if not begins[number, base]:
                        break
                    position = int(stage.chunk_of[row, position])
    final_probability = probability.prod(0)
    score = final_probability + 1e-6 * probability[0].astype(np.float64)
    if model.config.max_chunk_length is not None:
        begins[:, cuts_of_long_chunks(begins[-1], score, model.config.max_chunk_length)] = True
    return [np.flatnonzero(stage).tolist() for stage in begins], probability[0], final_probability

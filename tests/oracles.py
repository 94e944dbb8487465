"""Slow definitions that the fast code is tested against: plain loops, one row at a time."""

import numpy as np
import torch


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


def scan_states_slowly(x, step, rate, write, read):
    """The selective state space recurrence, one position after the other."""
    batch, length, heads, head_dim = x.shape
    state = x.new_zeros(batch, heads, write.shape[-1], head_dim)
    outputs = []
    for t in range(length):
        decay = (step[:, t] * rate).exp()[..., None, None]
        written = write[:, t, None, :, None] * (step[:, t, :, None] * x[:, t])[:, :, None, :]
        state = decay * state + written
        outputs.append((read[:, t, None, :, None] * state).sum(2))
    return torch.stack(outputs, 1)

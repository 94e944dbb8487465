"""Choose which source blocks to keep: first, last, spread, a list, or all but the run that changes its input least."""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..attention import RowLayout, rotary_cos_sin
from ..backbone import NTv2Block
from ..errors import ConfigError
from ..kmers import grid_cells, source_token_ids
from ..shapes import Float, Int, Tensor
from ..vocabulary import SOURCE_CLS
from .keys import BLOCK_PREFIX
from .source import NTv2Source

METHODS = ("auto", "first", "last", "spread")


@dataclass(frozen=True)
class BlockSimilarity:
    """How far the output of one source block is from its input, as means over the tokens of real sequence.

    Attributes:
        block: Its index in the source.
        cosine: Cosine between its output and its input.
        angular_distance: Angle between the two, as a share of a half turn (0 same direction, 0.5 orthogonal).
    """

    block: int
    cosine: float
    angular_distance: float


@dataclass(frozen=True)
class LayerChoice:
    """The kept source blocks, and the measured change that each block makes.

    Attributes:
        method: "auto", "first", "last", "spread" or "list".
        kept: Source blocks in order; block ``kept[j]`` becomes block j of the trunk.
        similarities: One per source block.
        run_distances: For each possible start s of a run of as many blocks as are dropped: mean angular distance
            between the input of block s and the output of the run's last block. Empty if nothing is dropped.
    """

    method: str
    kept: tuple[int, ...]
    similarities: tuple[BlockSimilarity, ...] = ()
    run_distances: tuple[float, ...] = ()


def parse_layers(text: str, num_source: int) -> str | tuple[int, ...]:
    """Read ``--layers``: a method's name, or block numbers from 0 as in "0,1,5".

    Raises:
        ConfigError: The text is something else, a number out of range, or numbers that do not increase.
    """
    if text in METHODS:
        return text
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ConfigError(f"--layers {text!r}: choose {', '.join(METHODS)}, or block numbers from 0 such as 0,1,5")
    layers = tuple(int(part) for part in text.split(","))
    if layers[-1] >= num_source or any(b <= a for a, b in itertools.pairwise(layers)):
        raise ConfigError(f"--layers {text}: the numbers must increase and be at most {num_source - 1}, the last block")
    return layers


def choose_layers(
    wanted: str | tuple[int, ...], num_wanted: int, states: Sequence[Float[Tensor, "tokens dim"]]
) -> LayerChoice:
    """Choose blocks, and measure how much each block changes its input.

    ``auto`` drops the contiguous run of blocks whose output is closest to its input in mean angular distance, so that
    the first blocks fit the embeddings and the last ones the head (Gromov et al., arXiv 2403.17887).

    Args:
        wanted: What ``parse_layers`` returned.
        num_wanted: Blocks of the trunk.
        states: Input of block 0, then the output of every block, on real sequence.

    Raises:
        ConfigError: There are fewer blocks than wanted, or a list of another length.
    """
    num_source = len(states) - 1
    if num_wanted > num_source:
        raise ConfigError(f"n_main_layer={num_wanted}, but the source model has only {num_source} blocks")
    # Measured whatever the method is: the ledger reports it, so that a choice can be judged later.
    similarities = tuple(
        BlockSimilarity(block, float(_cosines(before, after).mean()), angular_distance(before, after))
        for block, (before, after) in enumerate(itertools.pairwise(states))
    )
    num_dropped = num_source - num_wanted
    starts = range(num_wanted + 1) if num_dropped else ()
    distances = tuple(angular_distance(states[start], states[start + num_dropped]) for start in starts)
    if isinstance(wanted, tuple):
        if len(wanted) != num_wanted:
            raise ConfigError(f"--layers names {len(wanted)} blocks, but the config says n_main_layer={num_wanted}")
        return LayerChoice("list", wanted, similarities, distances)
    layers = _by_method(wanted, num_source, num_wanted, distances)
    return LayerChoice(wanted, layers, similarities, distances)


def _by_method(method: str, num_source: int, num_wanted: int, distances: tuple[float, ...]) -> tuple[int, ...]:
    every = tuple(range(num_source))
    if num_wanted == num_source or method == "first":
        return every[:num_wanted]
    if method == "last":
        return every[num_source - num_wanted :]
    if method == "spread":
        gaps = max(num_wanted - 1, 1)  # one block has no gap
        return tuple(round(place * (num_source - 1) / gaps) for place in range(num_wanted))
    start = distances.index(min(distances))
    return every[:start] + every[start + num_source - num_wanted :]


def angular_distance(before: Float[Tensor, "tokens dim"], after: Float[Tensor, "tokens dim"]) -> float:
    """Mean angle between corresponding rows, as a share of a half turn."""
    # Rounding can put a cosine beyond 1, where arccos is NaN.
    return float(_cosines(before, after).clamp(-1, 1).arccos().mean() / math.pi)


def _cosines(before: Float[Tensor, "tokens dim"], after: Float[Tensor, "tokens dim"]) -> Float[Tensor, " tokens"]:
    # float64: arccos near 1 turns a rounding error of float32 into an angle of 1e-4 half turns.
    return F.cosine_similarity(before.double(), after.double(), dim=-1)


@torch.no_grad()
def source_states(
    source: NTv2Source, windows: Int[Tensor, "windows length"], device: torch.device | str = "cpu"
) -> list[Float[Tensor, "tokens dim"]]:
    """The source's hidden states on real sequence; one block is in memory at a time.

    Args:
        source: The model.
        windows: Character ids.
        device: Where to compute; the states come back to the CPU.

    Returns:
        Input of block 0, then the output of every block, for all tokens but ``<cls>``.
    """
    # All windows as one packed row, each with its own positions.
    rows = [source_tokens(row[None], source.kmer_size) for row in windows]
    layout = RowLayout.from_lengths([len(row) for row in rows], device)
    tokens, width = torch.cat(rows), source.config.hidden_size
    positions = torch.cat([torch.arange(len(row)) for row in rows]).float().to(device)
    rotary = rotary_cos_sin(positions, width // source.config.num_attention_heads)
    hidden = source.get("esm.embeddings.word_embeddings.weight")[tokens].to(device, torch.float32)
    is_sequence = tokens != SOURCE_CLS
    states = [hidden.cpu()[is_sequence]]
    for number in range(source.config.num_hidden_layers):
        hidden = _load_block(source, number, device)(hidden, rotary, layout)
        states.append(hidden.cpu()[is_sequence])
    return states


def source_tokens(row: Int[Tensor, "1 length"], k: int) -> Int[Tensor, " tokens"]:
    """NTv2's own tokens of one sequence, ``<cls>`` first."""
    is_valid = torch.ones_like(row, dtype=torch.bool)
    tokens = source_token_ids(row, is_valid, k)[grid_cells(row, is_valid, k).is_start]
    return torch.cat([tokens.new_tensor([SOURCE_CLS]), tokens])


def _load_block(source: NTv2Source, number: int, device: torch.device | str) -> NTv2Block:
    config = source.config
    # On "meta": random weights would be drawn only to be replaced.
    with torch.device("meta"):
        block = NTv2Block(
            config.hidden_size, config.num_attention_heads, config.intermediate_size, config.layer_norm_eps
        )
    prefix = f"{BLOCK_PREFIX}{number}."
    tensors = {key: source.get(prefix + key).to(device, torch.float32) for key in block.state_dict()}
    block.load_state_dict(tensors, assign=True)
    return block.eval()

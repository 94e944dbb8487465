"""Byte pairs in a chunker's place: tokens are learned, nested, and cut anew behind masks."""

import json

import torch

from benchmarks.byte_pairs import in_place_of_minimizer, learn
from benchmarks.tokenizers.control import Setup, Trial, build, perform
from benchmarks.tokenizers.languages import sample
from hnet_ntv2.chunkers import ScorePeaks
from hnet_ntv2.levels import final_boundaries
from hnet_ntv2.vocabulary import FIRST_BASE, MASK_ID


def greedy(text: str, merges: list[tuple[str, str]]) -> list[str]:
    """The definition, slowly: the merge learned first is made everywhere, then the next one."""
    tokens = list(text)
    for left, right in merges:
        at = 0
        while at < len(tokens) - 1:
            if (tokens[at], tokens[at + 1]) == (left, right):
                tokens[at : at + 2] = [left + right]
            at += 1
    return tokens


def test_depth_counts_the_stages_at_which_a_token_begins():
    rows = sample("words", 200, 1).bases
    pairs = learn(rows, (20, 300))
    row = sample("words", 1, 2).bases
    text = "".join("ACGT"[base - FIRST_BASE] for base in row[0].tolist())
    depth = pairs.depth(row)[0]
    for stage, tokenizer in enumerate(pairs.tokenizers):
        merges = [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
        assert len(merges) == (20, 300)[stage]
        starts = torch.tensor([0, *map(len, greedy(text, merges)[:-1])]).cumsum(0)
        assert torch.equal((depth > stage).nonzero()[:, 0], starts)


def test_each_run_between_masks_is_cut_on_its_own():
    pairs = learn(sample("words", 200, 1).bases, (20, 300))
    row = sample("words", 1, 3).bases[0, :60]
    masked = torch.cat([row, torch.full((6,), MASK_ID), row])[None]
    depth, alone = pairs.depth(masked)[0], pairs.depth(row[None])[0]
    assert torch.equal(depth[:60], alone)
    assert torch.equal(depth[66:], alone)
    assert not depth[60:66].any()


def test_a_model_cuts_at_tokens_within_the_context_only():
    trial = Trial("words", "byte_pairs", 1, {"mask_protection": False, "max_chunk_length": None})
    rows = sample("words", 4, 4).bases
    pairs = learn(sample("words", 200, 1).bases, (60, 600))
    with in_place_of_minimizer(pairs):
        model = build(trial, Setup(width=32, blocks=1)).eval()
        outer, inner = model.model.chunk(rows)
        depth = pairs.depth(rows)
        free = depth[:, 2:]  # the row start is forced, and none is put beside it
        assert torch.equal(outer.is_boundary[:, 2:], free > 0)
        assert torch.equal(final_boundaries((outer, inner))[:, 12:], free[:, 10:] > 1)
    assert isinstance(build(trial, Setup(width=32, blocks=1)).model.stages[0].router, ScorePeaks)


def test_a_trial_with_byte_pairs_runs():
    setup = Setup(width=32, blocks=1, rows=4, steps=2, test_batches=2)
    final = perform(Trial("words", "byte_pairs", 1, {}), setup)["final"]
    assert 0.1 < final["chunks_per_base"] < 0.25
    assert 1.5 < final["bits"] < 3

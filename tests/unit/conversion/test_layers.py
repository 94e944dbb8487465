"""Choosing blocks: the fixed patterns, lists, and the run that changes least."""

import itertools

import pytest
import torch

from hnet_ntv2.conversion.layers import choose_layers, parse_layers, source_states, source_tokens
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from tests.builders import ids, random_dna
from tests.unit.conversion.sources import TINY, write_random_source


def states_of(num_layers: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(5, 8, generator=generator) for _ in range(num_layers + 1)]


def test_states_are_those_of_the_whole_model():
    windows = random_dna(43, torch.Generator().manual_seed(0), 2)
    states = source_states(open_source(str(TINY)), windows)
    tokens = torch.stack([source_tokens(row[None], 4) for row in windows])
    whole = NTv2ForMaskedLM.from_pretrained(TINY)(tokens, output_hidden_states=True).hidden_states
    assert len(states) == 5
    for ours, theirs in zip(states, whole, strict=True):
        torch.testing.assert_close(ours, theirs[:, 1:].flatten(0, 1).detach(), atol=1e-4, rtol=0)


def test_source_tokens_start_with_cls_and_count_n_alone():
    assert source_tokens(ids("AAAATNC"), 4).tolist() == [3, 6, 6 + 256 + 1, 6 + 256 + 4, 6 + 256 + 2]


@pytest.mark.parametrize("silent", [(0, 1), (2, 3), (4, 5)])
def test_auto_drops_the_run_that_changes_least(tmp_path, silent):
    source = open_source(str(write_random_source(tmp_path / "source", 6, silent)))
    states = source_states(source, random_dna(64, torch.Generator().manual_seed(1), 2))
    choice = choose_layers("auto", 4, states)
    assert set(range(6)) - set(choice.kept) == set(silent)
    assert len(choice.run_distances) == 5
    assert [entry.block for entry in choice.similarities] == list(range(6))
    distances = [entry.angular_distance for entry in choice.similarities]
    assert max(distances[block] for block in silent) < 0.01 < min(distances[b] for b in choice.kept)


def test_patterns_and_lists():
    states = states_of(29)
    assert choose_layers("first", 20, states).kept == tuple(range(20))
    assert choose_layers("last", 20, states).kept == tuple(range(9, 29))
    spread = choose_layers("spread", 20, states).kept
    assert (len(set(spread)), spread[0], spread[-1]) == (20, 0, 28)
    assert max(b - a for a, b in itertools.pairwise(spread)) == 2
    assert choose_layers((1, 5, 28), 3, states).kept == (1, 5, 28)
    assert choose_layers("spread", 1, states).kept == (0,)
    for method in ("auto", "first", "last", "spread"):
        assert choose_layers(method, 29, states).kept == tuple(range(29))


def test_layers_are_read_from_text():
    assert parse_layers("auto", 4) == "auto"
    assert parse_layers("0,2,3", 4) == (0, 2, 3)


@pytest.mark.parametrize("text", ["", "middle", "0,,1", "1,0", "1,1", "0,4", "-1", "0-3"])
def test_layers_that_cannot_be_are_refused(text):
    with pytest.raises(ConfigError, match="--layers"):
        parse_layers(text, 4)


def test_more_blocks_than_the_source_has():
    with pytest.raises(ConfigError, match=r"n_main_layer=5.*only 4"):
        choose_layers("auto", 5, states_of(4))
    with pytest.raises(ConfigError, match=r"names 2 blocks.*n_main_layer=3"):
        choose_layers((0, 1), 3, states_of(4))

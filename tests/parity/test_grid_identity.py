"""On the forced grid a grafted model computes exactly what NTv2 computes, and no longer if one step is broken."""

import os
from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch

from hnet_ntv2 import heads
from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.conversion.graft import build_model, config_for, copy_source
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.hierarchy import ChunkTrunk
from hnet_ntv2.kmers import grid_cells, kmer_marginals
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from tests.builders import ids, random_dna, valid
from tests.oracles import marginals_of, ntv2_tokens

SOURCE = Path(__file__).parents[1] / "data" / "ntv2_tiny"
K = 4
KMER_ORDER = "ATCG"


@pytest.fixture(scope="module")
def source() -> NTv2ForMaskedLM:
    return NTv2ForMaskedLM.from_pretrained(SOURCE).eval()


@cache
def _converted(**changes) -> HNetNTV2ForMaskedLM:
    files = open_source(str(SOURCE))
    model = build_model(config_for(files, {"window": 16, **changes}), seed=0)
    copy_source(model, files, tuple(range(files.config.num_hidden_layers)))
    return model


def graft(**changes) -> HNetNTV2ForMaskedLM:
    """What the conversion makes of the reference, all layers kept; a copy that may be broken."""
    return deepcopy(_converted(**changes))


def source_ids(letters: str, k: int = K) -> torch.Tensor:
    """NTv2's input for a sequence in which "M" is a masked base."""
    tokens = [3]
    for token in ntv2_tokens(letters, k):
        if "M" in token:
            tokens.append(2)
        elif len(token) == k:
            tokens.append(6 + sum(KMER_ORDER.index(letter) * 4 ** (k - 1 - i) for i, letter in enumerate(token)))
        else:
            tokens.append(6 + 4**k + "ATCGN".index(token))
    return torch.tensor([tokens])


def dna(length: int, seed: int) -> str:
    row = random_dna(length, torch.Generator().manual_seed(seed))
    return "".join("ACGT"[value - 7] for value in row[0].tolist())


CASES = {
    "whole k-mers": (dna(48, 0), ["base", "rank"]),
    "masked k-mers": (dna(16, 1) + "MMMM" + dna(8, 2) + "MMMMMMMM" + dna(12, 3), ["base", "rank"]),
    "masked first and last k-mer": ("MMMM" + dna(20, 4) + "MMMM", ["base", "rank"]),
    "remainder letters": (dna(47, 5), ["rank"]),
    "masked remainder": (dna(20, 5) + "MM", ["rank"]),
    "N runs": ("N" + dna(13, 6) + "NNN" + dna(21, 7) + "N" + dna(3, 8) + "NN", ["rank"]),
    "shorter than k": (dna(3, 9), ["rank"]),
    "only N": ("NNNNN", ["rank"]),
    "single k-mer": (dna(4, 10), ["base", "rank"]),
}


def state_error(model: HNetNTV2ForMaskedLM, source: NTv2ForMaskedLM, letters: str) -> float:
    """Largest difference of the trunk's input and of every layer's output."""
    ours = model(ids(letters), on_grid=True, strands="forward", output_hidden_states=True).hidden_states
    theirs = source(source_ids(letters, model.config.kmer_size), output_hidden_states=True).hidden_states
    assert len(theirs) == source.config.num_hidden_layers + 1
    for index, state in enumerate(theirs):
        assert ours[f"trunk_{index}"].shape == state.shape
    return max(float((ours[f"trunk_{index}"] - state).detach().abs().max()) for index, state in enumerate(theirs))


def prediction_error(model: HNetNTV2ForMaskedLM, source: NTv2ForMaskedLM, letters: str) -> float:
    """Largest difference of the log-probabilities of A, C, G, T from the marginals of NTv2's softmax."""
    k, row = model.config.kmer_size, ids(letters)
    ours = model(row, on_grid=True, strands="forward").logits[0, :, 7:11].log_softmax(-1)
    logits = source(source_ids(letters, k)).logits[0]
    cells = grid_cells(row, valid(row), k)
    token, worst = 0, 0.0
    for index in range(row.shape[1]):
        token += int(cells.is_start[0, index])
        if letters[index] == "N":
            continue
        if cells.is_whole[0, index]:
            table = marginals_of(logits[token, 6 : 6 + 4**k].softmax(-1).detach().numpy(), k)
            expected = torch.from_numpy(table[index - int(cells.first[0, index])]).log()
        else:
            expected = logits[token, 6 + 4**k : 10 + 4**k].log_softmax(-1)[[0, 2, 3, 1]].double()
        worst = max(worst, float((ours[index].double() - expected).detach().abs().max()))
    return worst


@pytest.mark.parametrize(("letters", "mode"), [(letters, mode) for letters, modes in CASES.values() for mode in modes])
def test_trunk_input_and_every_layer_equal_ntv2(source, letters, mode):
    assert state_error(graft(position_mode=mode), source, letters) < 1e-4


@pytest.mark.parametrize("letters", [letters for letters, _ in CASES.values()])
def test_predictions_per_base_equal_ntv2_marginals(source, letters):
    assert prediction_error(graft(position_mode="rank"), source, letters) < 1e-4


@torch.no_grad()
def swap(tensor: torch.Tensor, dim: int = 0) -> None:
    """Exchange the two halves along a dimension."""
    tensor.copy_(torch.cat(tensor.chunk(2, dim)[::-1], dim))


def embed_in_other_kmer_order(model, monkeypatch):
    kmers = model.model.embeddings.kmer.weight.data
    kmers[6:-5] = kmers[6:-5].reshape(4, 4, 4, 4, -1)[[0, 2, 3, 1]].reshape(-1, kmers.shape[1])


def lose_cls(model, monkeypatch):
    model.model.embeddings.kmer.weight.data[3] = 0


def count_positions_in_bases(model, monkeypatch):
    right, k = ChunkTrunk.rotary_positions, model.config.kmer_size
    monkeypatch.setattr(ChunkTrunk, "rotary_positions", lambda self, level: right(self, level) * k)


def start_positions_at_zero(model, monkeypatch):
    right = ChunkTrunk.rotary_positions
    monkeypatch.setattr(ChunkTrunk, "rotary_positions", lambda self, level: right(self, level) - 1)


def lose_biases(key):
    def mutate(model, monkeypatch):
        for name, parameter in model.model.hierarchy.main.main.layers.named_parameters():
            if name.endswith(key):
                parameter.data.zero_()

    return mutate


def swap_gate_and_value(model, monkeypatch):
    for block in model.model.hierarchy.main.main.layers.blocks:
        swap(block.intermediate.dense.weight.data)


def forget_final_norm(model, monkeypatch):
    model.model.hierarchy.main.main.layers.final_norm.reset_parameters()


def forget_head_norm(model, monkeypatch):
    model.head.source.layer_norm.reset_parameters()


def forget_head_bias(model, monkeypatch):
    model.head.source.bias.data.zero_()


def use_random_residual(model, monkeypatch):
    torch.nn.init.normal_(model.head.residual.output.weight)


def sum_marginals_from_behind(model, monkeypatch):
    monkeypatch.setattr(heads, "kmer_marginals", lambda logits, k: kmer_marginals(logits, k).flip(1))


def read_letters_in_source_order(model, monkeypatch):
    monkeypatch.setattr(heads, "kmer_marginals", lambda logits, k: kmer_marginals(logits, k)[..., [0, 3, 1, 2]])


BREAKS_STATES = [
    embed_in_other_kmer_order,
    lose_cls,
    count_positions_in_bases,
    start_positions_at_zero,
    lose_biases("query.bias"),
    lose_biases("key.bias"),
    lose_biases("value.bias"),
    lose_biases("attention.output.dense.bias"),
    lose_biases("LayerNorm.bias"),
    swap_gate_and_value,
]
BREAKS_PREDICTIONS = [
    forget_final_norm,
    forget_head_norm,
    forget_head_bias,
    use_random_residual,
    sum_marginals_from_behind,
    read_letters_in_source_order,
]


@pytest.mark.parametrize("mutate", BREAKS_STATES)
def test_a_broken_step_breaks_the_states_and_the_predictions(source, mutate, monkeypatch):
    letters = CASES["masked k-mers"][0]
    model = graft(position_mode="base")
    mutate(model, monkeypatch)
    assert state_error(model, source, letters) > 1e-3
    assert prediction_error(model, source, letters) > 1e-4


@pytest.mark.parametrize("mutate", BREAKS_PREDICTIONS)
def test_a_broken_head_breaks_the_predictions_alone(source, mutate, monkeypatch):
    letters = CASES["masked k-mers"][0]
    model = graft(position_mode="base")
    mutate(model, monkeypatch)
    assert state_error(model, source, letters) < 1e-4
    assert prediction_error(model, source, letters) > 1e-3


@pytest.mark.parametrize("stages", [{"target_ratio_stage3": 0.5}, {"target_ratio_stage2": None}])
def test_three_and_one_stages_keep_the_identity(source, stages):
    letters = CASES["masked k-mers"][0]
    model = graft(position_mode="rank", **stages)
    assert state_error(model, source, letters) < 1e-4
    assert prediction_error(model, source, letters) < 1e-4


def test_narrow_base_layers_keep_the_identity(source):
    letters = CASES["masked k-mers"][0]
    model = graft(position_mode="base", d_base=32)
    assert state_error(model, source, letters) < 1e-4
    assert prediction_error(model, source, letters) < 1e-4


# NTv2-500M's layers, heads and 6-mers at a quarter of its width, and at its own: two models with 2 GB of weights each.
QUARTER = {"hidden_size": 256, "intermediate_size": 1024}
WHOLE = {"hidden_size": 1024, "intermediate_size": 4096}
_BYTES = 12 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("shape", [QUARTER, WHOLE], ids=["quarter", "whole"])
def test_a_random_source_with_the_layout_of_500m_keeps_the_identity(tmp_path, shape):
    if shape is WHOLE and os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < _BYTES:
        pytest.skip("less than 12 GiB of memory")
    torch.manual_seed(0)
    source = NTv2ForMaskedLM(NTv2Config(max_position_embeddings=2050, **shape)).eval()
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.02)
    source.save_pretrained(tmp_path)
    files = open_source(str(tmp_path))
    assert (files.config.num_hidden_layers, files.kmer_size) == (29, 6)
    cases = {"rank": "N" + dna(25, 1) + "NN" + dna(12, 2) + "M" * 6 + dna(10, 3), "base": dna(18, 4) + "M" * 12}
    for mode, letters in cases.items():
        config = config_for(files, {"n_main_layer": 29, "position_mode": mode, "n_enc_layer": 2, "n_dec_layer": 2})
        model = build_model(config, seed=0)
        copy_source(model, files, tuple(range(29)))
        assert state_error(model, source, letters) < 1e-4
        assert prediction_error(model, source, letters) < 1e-4

"""On the forced grid the trunk computes exactly what NTv2 computes: weights of the reference under our names."""

from pathlib import Path

import pytest
import torch

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.kmers import grid_cells
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


def graft(source: NTv2ForMaskedLM, **changes) -> HNetNTV2ForMaskedLM:
    """A model whose trunk, k-mer embeddings and source head are the reference's and whose residual says nothing."""
    config = source.config
    torch.manual_seed(0)
    settings = {
        "d_model": config.hidden_size,
        "n_head": config.num_attention_heads,
        "intermediate_size": 2 * config.intermediate_size,
        "n_main_layer": config.num_hidden_layers,
        "kmer_size": K,
        "layer_norm_eps": config.layer_norm_eps,
        "window": 16,
    }
    model = HNetNTV2ForMaskedLM(HNetNTV2Config(**(settings | changes))).eval()
    weights = source.state_dict()
    trunk = model.model.hierarchy.main.main.layers
    for index, block in enumerate(trunk.blocks):
        prefix = f"esm.encoder.layer.{index}."
        block.load_state_dict({name: weights[prefix + name] for name in block.state_dict()})
    norm = "esm.encoder.emb_layer_norm_after."
    trunk.final_norm.load_state_dict({name: weights[norm + name] for name in ("weight", "bias")})
    head = model.head.source
    head.load_state_dict({name: weights[f"lm_head.{name}"] for name in head.state_dict()})
    model.model.embeddings.kmer.weight.data.copy_(weights["esm.embeddings.word_embeddings.weight"])
    torch.nn.init.zeros_(model.head.residual.output.weight)
    return model


def source_ids(letters: str) -> torch.Tensor:
    """NTv2's input for a sequence in which "M" is a masked base."""
    tokens = [3]
    for token in ntv2_tokens(letters, K):
        if "M" in token:
            tokens.append(2)
        elif len(token) == K:
            tokens.append(6 + sum(KMER_ORDER.index(letter) * 4 ** (K - 1 - i) for i, letter in enumerate(token)))
        else:
            tokens.append(6 + 4**K + "ATCGN".index(token))
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


@pytest.mark.parametrize(("letters", "mode"), [(letters, mode) for letters, modes in CASES.values() for mode in modes])
def test_trunk_input_and_every_layer_equal_ntv2(source, letters, mode):
    model = graft(source, position_mode=mode)
    row = ids(letters)
    ours = model(row, on_grid=True, strands="forward", output_hidden_states=True).hidden_states
    theirs = source(source_ids(letters), output_hidden_states=True)
    for index, state in enumerate(theirs.hidden_states):
        assert ours[f"trunk_{index}"].shape == state.shape
        assert (ours[f"trunk_{index}"] - state).abs().max() < 1e-4, f"layer {index}"


@pytest.mark.parametrize("letters", [letters for letters, _ in CASES.values()])
def test_predictions_per_base_equal_ntv2_marginals(source, letters):
    model = graft(source, position_mode="rank")
    row = ids(letters)
    ours = model(row, on_grid=True, strands="forward").logits[0, :, 7:11].softmax(-1)
    logits = source(source_ids(letters)).logits[0]
    cells = grid_cells(row, valid(row), K)
    token = 0
    for index in range(row.shape[1]):
        token += int(cells.is_start[0, index])
        if letters[index] == "N":
            continue
        if cells.is_whole[0, index]:
            table = marginals_of(logits[token, 6 : 6 + 4**K].softmax(-1).detach().numpy(), K)
            expected = torch.from_numpy(table[index - int(cells.first[0, index])])
        else:
            expected = logits[token, 6 + 4**K : 10 + 4**K].softmax(-1)[[0, 2, 3, 1]].double()
        assert (ours[index].double() - expected).abs().max() < 1e-4, index


def test_three_and_one_stages_keep_the_identity(source):
    letters = CASES["masked k-mers"][0]
    expected = source(source_ids(letters), output_hidden_states=True).hidden_states[-1]
    for stages in ({"target_ratio_stage3": 0.5}, {"target_ratio_stage2": None}):
        config = {"position_mode": "rank", **stages}
        model = _graft_any_depth(source, config)
        states = model(ids(letters), on_grid=True, strands="forward", output_hidden_states=True).hidden_states
        assert (states[f"trunk_{source.config.num_hidden_layers}"] - expected).abs().max() < 1e-4


def test_narrow_base_layers_keep_the_identity(source):
    letters = CASES["masked k-mers"][0]
    expected = source(source_ids(letters), output_hidden_states=True).hidden_states[-1]
    model = graft(source, position_mode="base", d_base=32)
    states = model(ids(letters), on_grid=True, strands="forward", output_hidden_states=True).hidden_states
    assert (states[f"trunk_{source.config.num_hidden_layers}"] - expected).abs().max() < 1e-4


def _graft_any_depth(source: NTv2ForMaskedLM, changes: dict) -> HNetNTV2ForMaskedLM:
    """Graft at two stages, then move the trunk into a model with another number of stages."""
    donor = graft(source)
    settings = {
        name: getattr(donor.config, name) for name in ("d_model", "n_head", "intermediate_size", "n_main_layer")
    }
    config = HNetNTV2Config(
        **(settings | {"kmer_size": K, "layer_norm_eps": donor.config.layer_norm_eps, "window": 16} | changes)
    )
    model = HNetNTV2ForMaskedLM(config).eval()
    network = model.model.hierarchy
    while not hasattr(network, "layers"):
        network = network.main
    network.load_state_dict(donor.model.hierarchy.main.main.state_dict())
    model.model.embeddings.load_state_dict(donor.model.embeddings.state_dict())
    return model

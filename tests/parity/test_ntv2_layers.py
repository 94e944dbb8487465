"""Our NTv2 against arrays of the official implementation, layer by layer, and against the released files' layout."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hnet_ntv2 import backbone
from hnet_ntv2.attention import apply_rotary, rotary_cos_sin
from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM, published_key_shapes
from hnet_ntv2.tokenization_hnet_ntv2 import NTv2Tokenizer

FOLDER = Path(__file__).parents[1] / "data" / "ntv2_tiny"
LAYOUT = json.loads((FOLDER / "ntv2_checkpoint_layout.json").read_text())["models"]
EXAMPLES = json.loads((FOLDER / "tokenizer_examples.json").read_text())
NUM_BLOCKS = 4
TOLERANCE = 1e-4
BROKEN = 1e-3


@pytest.fixture(scope="module")
def expected() -> dict[str, torch.Tensor]:
    with np.load(FOLDER / "expected.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture
def model() -> NTv2ForMaskedLM:
    return NTv2ForMaskedLM.from_pretrained(FOLDER)


@torch.no_grad()
def run(model, expected, **options):
    return model(expected["input_ids"], expected["attention_mask"], **options)


def distance(got: torch.Tensor, expected: dict[str, torch.Tensor], name: str) -> float:
    """Greatest difference over positions that belong to a sequence."""
    is_valid = expected["attention_mask"] == 1
    return float((got - expected[name])[is_valid].abs().max())


def test_every_hidden_state_and_the_logits_match(model, expected):
    output = run(model, expected, output_hidden_states=True)
    assert len(output.hidden_states) == NUM_BLOCKS + 1
    for index, state in enumerate(output.hidden_states):
        assert distance(state, expected, f"hidden_{index}") < TOLERANCE
    assert distance(output.last_hidden_state, expected, "last_hidden_state") < TOLERANCE
    assert distance(output.logits, expected, "logits") < TOLERANCE


def test_attention_mask_is_inferred_from_the_padding_id(model, expected):
    with torch.no_grad():
        inferred = model(expected["input_ids"]).logits
    torch.testing.assert_close(inferred, run(model, expected).logits, rtol=0, atol=0)


def test_every_branch_matches(model, expected):
    is_valid = expected["attention_mask"] == 1
    branches = {}

    def keep(name):
        return lambda module, args, output: branches.__setitem__(name, output)

    for index, block in enumerate(model.esm.encoder.layer):
        block.attention.register_forward_hook(keep(f"attn_out_{index}"))
        block.output.register_forward_hook(keep(f"mlp_out_{index}"))
    run(model, expected)
    assert len(branches) == 2 * NUM_BLOCKS
    for name, packed in branches.items():
        assert float((packed - expected[name][is_valid]).abs().max()) < TOLERANCE, name


@pytest.mark.parametrize("index", range(NUM_BLOCKS))
@torch.no_grad()
def test_attention_weights_match(model, expected, index):
    attention = model.esm.encoder.layer[index].attention
    normed = attention.LayerNorm(expected[f"hidden_{index}"])
    query, key = (project(normed).unflatten(-1, (4, 16)) for project in (attention.self.query, attention.self.key))
    cos, sin = rotary_cos_sin(torch.arange(32.0), 16)
    scores = torch.einsum("bqhd,bkhd->bhqk", apply_rotary(query, cos, sin), apply_rotary(key, cos, sin)) / 16**0.5
    is_valid = expected["attention_mask"] == 1
    weights = scores.masked_fill(~is_valid[:, None, None], -torch.inf).softmax(dim=-1).transpose(1, 2)
    reference = expected[f"attn_weights_{index}"].transpose(1, 2)
    assert float((weights - reference)[is_valid].abs().max()) < TOLERANCE


def test_layer_norm_eps_is_read_from_the_config(expected, tmp_path):
    settings = json.loads((FOLDER / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"layer_norm_eps": 1e-12}))
    (tmp_path / "model.safetensors").write_bytes((FOLDER / "model.safetensors").read_bytes())
    logits = run(NTv2ForMaskedLM.from_pretrained(tmp_path), expected).logits
    assert distance(logits, expected, "logits_eps1e-12") < TOLERANCE
    assert distance(logits, expected, "logits") > BROKEN


def swap_gate_halves(model, monkeypatch):
    for block in model.esm.encoder.layer:
        weight = block.intermediate.dense.weight
        weight.data = torch.cat(weight.data.chunk(2)[::-1])


def drop_attention_biases(model, monkeypatch):
    for block in model.esm.encoder.layer:
        projections = block.attention.self
        for layer in (projections.query, projections.key, projections.value, block.attention.output.dense):
            nn.init.zeros_(layer.bias)


def gate_with_gelu(model, monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "silu", torch.nn.functional.gelu)


def interleave_rotary(model, monkeypatch):
    def interleaved(x, cos, sin):
        even, odd = x[..., ::2], x[..., 1::2]
        cos, sin = cos.unsqueeze(-2), sin.unsqueeze(-2)
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)

    monkeypatch.setattr(backbone, "apply_rotary", interleaved)


def leave_rotary_out(model, monkeypatch):
    monkeypatch.setattr(backbone, "apply_rotary", lambda x, cos, sin: x)


def leave_final_norm_out(model, monkeypatch):
    model.esm.encoder.emb_layer_norm_after = nn.Identity()


def hard_code_eps(model, monkeypatch):
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-12


def tie_head(model, monkeypatch):
    model.lm_head.decoder.weight = model.esm.embeddings.word_embeddings.weight


@pytest.mark.parametrize(
    "mistake",
    [
        swap_gate_halves,
        drop_attention_biases,
        gate_with_gelu,
        interleave_rotary,
        leave_rotary_out,
        leave_final_norm_out,
        hard_code_eps,
        tie_head,
    ],
)
def test_every_common_mistake_would_be_seen(model, expected, mistake, monkeypatch):
    mistake(model, monkeypatch)
    assert distance(run(model, expected).logits, expected, "logits") > BROKEN


def test_a_missing_padding_mask_would_be_seen(model, expected):
    with torch.no_grad():
        logits = model(expected["input_ids"], torch.ones_like(expected["attention_mask"])).logits
    assert distance(logits, expected, "logits") > BROKEN


@pytest.mark.parametrize("name", LAYOUT)
def test_published_sizes_have_exactly_the_published_tensors(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LAYOUT[name]["config"]))
    config = NTv2Config.from_json_file(tmp_path / "config.json")
    shapes = published_key_shapes(config)
    assert shapes == {key: tuple(shape) for key, shape in LAYOUT[name]["tensors"].items()}
    assert len(shapes) == LAYOUT[name]["num_tensors"]
    with torch.device("meta"):
        model = NTv2ForMaskedLM(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == LAYOUT[name]["parameters"]


def test_twenty_blocks_of_the_largest_size():
    with torch.device("meta"):
        trunk = backbone.Trunk(1024, 16, 4096, 20, 1e-12)
    assert sum(parameter.numel() for parameter in trunk.blocks.parameters()) == 335_708_160


@pytest.mark.parametrize("example", EXAMPLES["examples"], ids=lambda example: example["sequence"][:12])
def test_tokenizer_examples_are_exact(example):
    tokenizer = NTv2Tokenizer()
    assert tokenizer(example["sequence"])["input_ids"] == example["input_ids"]
    assert tokenizer.convert_ids_to_tokens(example["input_ids"]) == example["tokens"]


def test_tokenizer_vocabulary_is_the_published_one():
    vocabulary = NTv2Tokenizer().get_vocab()
    assert len(vocabulary) == EXAMPLES["vocab_size"]
    expected = EXAMPLES["special_ids"] | EXAMPLES["single_nucleotide_ids"]
    assert {token: vocabulary[token] for token in expected} == expected

"""The state space mixer: the recurrence step by step, both directions, padding, stability, and inside the model."""

import pytest
import torch

from hnet_ntv2.backbone import LocalLayers, StateSpaceBlock
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.kmers import flip_rows
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.state_space import StateSpaceMixer, scan_states
from tests.builders import ids, tiny_config, tiny_model
from tests.oracles import scan_states_slowly


def random_inputs(length: int, scale: float = 1.0):
    generator = torch.Generator().manual_seed(length)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    step = torch.rand(2, length, 3, generator=generator, dtype=torch.float64) * scale
    return normal(2, length, 3, 5), step, -normal(3).exp(), normal(2, length, 4), normal(2, length, 4)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 100])
def test_blocks_equal_the_recurrence(length):
    inputs = random_inputs(length)
    assert torch.allclose(scan_states(*inputs), scan_states_slowly(*inputs), atol=1e-10, rtol=1e-10)


def test_gradients_equal_those_of_the_recurrence():
    inputs = [value.requires_grad_() for value in random_inputs(70)]
    weights = torch.randn(2, 70, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    fast = torch.autograd.grad((scan_states(*inputs) * weights).sum(), inputs)
    slow = torch.autograd.grad((scan_states_slowly(*inputs) * weights).sum(), inputs)
    for ours, theirs in zip(fast, slow, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-9, rtol=1e-9)


def test_huge_steps_forget_everything_and_stay_finite():
    x, step, rate, write, read = random_inputs(80, scale=1e4)
    step = step + 1e3  # exp(-1e3 x rate) is nothing
    found = scan_states(x, step, rate, write, read)
    now = (read * write).sum(-1)[..., None, None] * step[..., None] * x
    assert torch.isfinite(found).all()
    assert torch.allclose(found, now, rtol=1e-6, atol=1e-6)


@pytest.fixture
def mixer() -> StateSpaceMixer:
    torch.manual_seed(0)
    return StateSpaceMixer(32, num_heads=2, state_size=16)


def rows(lengths, dim: int = 32):
    hidden = torch.randn(len(lengths), max(lengths), dim, generator=torch.Generator().manual_seed(3))
    is_valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return hidden, is_valid


def test_padding_changes_nothing(mixer):
    hidden, is_valid = rows([50, 23, 1])
    together = mixer(hidden, is_valid)
    for row, length in enumerate([50, 23, 1]):
        alone = mixer(hidden[row : row + 1, :length], is_valid[row : row + 1, :length])
        assert torch.allclose(together[row, :length], alone[0], atol=1e-6)


def test_a_reversed_row_gives_the_reversed_output(mixer):
    hidden, is_valid = rows([40, 17])
    expected = flip_rows(mixer(hidden, is_valid), is_valid)[is_valid]
    assert torch.allclose(mixer(flip_rows(hidden, is_valid), is_valid)[is_valid], expected, atol=1e-6)


def test_every_position_sees_both_ends(mixer):
    hidden, is_valid = rows([100])
    hidden.requires_grad_()
    mixer(hidden, is_valid)[0, 50].square().sum().backward()
    assert float(hidden.grad[0, 0].abs().sum()) > 0
    assert float(hidden.grad[0, 99].abs().sum()) > 0


def test_it_weighs_about_as_much_as_attention():
    mixer = StateSpaceMixer(64, num_heads=2, state_size=32)
    assert sum(parameter.numel() for parameter in mixer.parameters()) == pytest.approx(4 * 64 * 64, rel=0.1)


def test_zeroed_blocks_are_the_identity():
    layers = LocalLayers(2, 32, 2, 64, 16, 1e-5, state_size=8)
    hidden, is_valid = rows([20, 9])
    assert not torch.allclose(layers(hidden, is_valid), hidden)
    for block in layers.blocks:
        assert isinstance(block, StateSpaceBlock)
        block.zero_output_projections()
    assert torch.equal(layers(hidden, is_valid), hidden)


def test_a_model_with_it_trains_saves_and_ignores_padding(tmp_path):
    model = tiny_model(spread=0.02, local_mixer="ssm", state_size=8)
    alone, padded = ids("ACGTMMMMACGTACGTACGTT"), ids("ACGTMMMMACGTACGTACGTT", "ACGT" * 10)
    with torch.no_grad():
        expected = model(alone).logits[0]
        assert torch.allclose(model(padded).logits[0, : alone.shape[1]], expected, atol=1e-5)
    model.save_pretrained(tmp_path)
    again = HNetNTV2ForMaskedLM.from_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(alone).logits[0], expected)
    labels = torch.where(alone == 3, 8, -100)
    model.train()(alone, labels=labels).loss.backward()
    gradients = [p.grad for name, p in model.named_parameters() if ".mixer." in name]
    assert gradients
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)


def test_an_unknown_mixer_is_refused():
    with pytest.raises(ConfigError, match="local_mixer='mamba'"):
        tiny_config(local_mixer="mamba")

"""NTv2 blocks over packed rows, local blocks, checkpointing and compilation."""

import subprocess
import sys
from functools import partial

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from hnet_ntv2 import backbone
from hnet_ntv2.attention import RowLayout
from hnet_ntv2.backbone import LocalBlock, LocalLayers, NTv2Block, Trunk

DIM, HEADS, EPS = 32, 2, 1e-5

BLOCK_KEYS = {
    *(f"attention.self.{name}.{part}" for name in ("query", "key", "value") for part in ("weight", "bias")),
    *(f"attention.{name}.{part}" for name in ("output.dense", "LayerNorm") for part in ("weight", "bias")),
    *("intermediate.dense.weight", "output.dense.weight", "LayerNorm.weight", "LayerNorm.bias"),
}


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2222)
        yield


def make_trunk(num_blocks: int = 2) -> Trunk:
    return Trunk(DIM, HEADS, 48, num_blocks, EPS)


def make_local(num_layers: int = 2, window: int = 16) -> LocalLayers:
    return LocalLayers(num_layers, DIM, HEADS, 64, window, EPS)


def all_valid(batch: int, length: int) -> torch.Tensor:
    return torch.ones(batch, length, dtype=torch.bool)


def test_block_has_the_published_keys():
    block = NTv2Block(DIM, HEADS, 48, EPS)
    assert set(block.state_dict()) == BLOCK_KEYS
    assert block.intermediate.dense.weight.shape == (96, DIM)
    assert block.LayerNorm.eps == block.attention.LayerNorm.eps == EPS


def test_local_block_of_the_default_size_has_the_stated_parameters():
    with torch.device("meta"):
        block = LocalBlock(1024, 16, 8192, 128, EPS)
    assert sum(parameter.numel() for parameter in block.parameters()) == 20_988_928


@torch.no_grad()
def test_trunk_rows_are_independent():
    trunk, lengths = make_trunk(), (5, 0, 1, 30)
    hidden, positions = torch.randn(36, DIM), torch.rand(36) * 50
    together = trunk(hidden, positions, RowLayout.from_lengths(lengths)).last_hidden_state
    rows = zip(hidden.split(lengths), positions.split(lengths), lengths, strict=True)
    alone = [trunk(row, place, RowLayout.from_lengths([length])).last_hidden_state for row, place, length in rows]
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


@torch.no_grad()
def test_trunk_sees_relative_positions_and_order():
    trunk, layout = make_trunk(), RowLayout.from_lengths([12])
    hidden, positions = torch.randn(12, DIM), torch.arange(12.0) * 1.3
    plain = trunk(hidden, positions, layout).last_hidden_state
    torch.testing.assert_close(trunk(hidden, positions + 77, layout).last_hidden_state, plain, rtol=0, atol=1e-5)
    assert (trunk(hidden, positions * 2, layout).last_hidden_state - plain).abs().max() > 1e-3


@torch.no_grad()
def test_trunk_returns_every_state_when_asked():
    trunk, layout = make_trunk(3), RowLayout.from_lengths([4, 3])
    hidden, positions = torch.randn(7, DIM), torch.arange(7.0)
    output = trunk(hidden, positions, layout, output_hidden_states=True)
    assert len(output.hidden_states) == 4
    assert torch.equal(output.hidden_states[0], hidden)
    assert torch.equal(trunk.final_norm(output.hidden_states[-1]), output.last_hidden_state)
    assert trunk(hidden, positions, layout).hidden_states is None


@torch.no_grad()
def test_local_layers_ignore_padding_and_batch_mates():
    layers, hidden = make_local(), torch.randn(2, 60, DIM)
    is_valid = torch.arange(60) < torch.tensor([[60], [23]])
    together = layers(hidden, is_valid)
    torch.testing.assert_close(together[1, :23], layers(hidden[1:, :23], all_valid(1, 23))[0], rtol=0, atol=1e-5)
    hidden[1, 23:] = 100.0
    torch.testing.assert_close(layers(hidden, is_valid)[1, :23], together[1, :23], rtol=0, atol=1e-5)


@torch.no_grad()
def test_local_layers_reach_as_far_as_their_windows():
    layers, hidden = make_local(num_layers=2, window=8), torch.randn(1, 80, DIM)
    changed = hidden.clone()
    changed[0, 40] += torch.randn(DIM)  # not a constant, which the norms take out again
    difference = (layers(changed, all_valid(1, 80)) - layers(hidden, all_valid(1, 80))).abs().amax(dim=-1)[0]
    reached = (difference > 0).nonzero()[:, 0]
    assert (reached.min(), reached.max()) == (40 - 16, 40 + 16)


@torch.no_grad()
def test_local_layers_move_with_the_sequence():
    layers, hidden = make_local(window=8), torch.randn(1, 50, DIM)
    shifted = torch.nn.functional.pad(hidden, (0, 0, 13, 0))
    is_valid = torch.arange(63)[None] >= 13
    there = layers(shifted, is_valid)[:, 13:]
    torch.testing.assert_close(there, layers(hidden, all_valid(1, 50)), rtol=0, atol=1e-5)


@torch.no_grad()
def test_zeroed_projections_make_a_local_block_the_identity():
    layers, hidden = make_local(), torch.randn(2, 40, DIM)
    assert (layers(hidden, all_valid(2, 40)) - hidden).abs().max() > 1e-3
    for block in layers.blocks:
        block.zero_output_projections()
    assert torch.equal(layers(hidden, all_valid(2, 40)), hidden)


def test_no_layers_are_the_identity():
    hidden = torch.randn(1, 5, DIM)
    assert make_local(num_layers=0)(hidden, all_valid(1, 5)) is hidden


def run_trunk(model, inputs):
    return model(inputs.view(-1, DIM), torch.arange(20.0), RowLayout.from_lengths([13, 7])).last_hidden_state


def run_local(model, inputs):
    return model(inputs.view(2, 10, DIM), torch.arange(10) < torch.tensor([[10], [6]]))


@pytest.mark.parametrize(("make", "run"), [(make_trunk, run_trunk), (make_local, run_local)])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_recomputes_and_changes_nothing(make, run, use_reentrant, monkeypatch):
    model, inputs = make().train(), torch.randn(20, DIM, requires_grad=True)
    calls = []
    original = backbone.apply_rotary
    monkeypatch.setattr(backbone, "apply_rotary", lambda *args: calls.append(1) or original(*args))

    def gradients():
        calls.clear()
        run(model, inputs).square().sum().backward()
        found = [inputs.grad, *(parameter.grad for parameter in model.parameters())]
        inputs.grad = None
        model.zero_grad()
        return found, len(calls)

    plain, plain_calls = gradients()
    for block in model.blocks:
        block.gradient_checkpointing = True
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=use_reentrant)
    checkpointed, checkpointed_calls = gradients()
    assert checkpointed_calls == 2 * plain_calls
    for gradient, reference in zip(checkpointed, plain, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=0, atol=1e-6)


@torch.no_grad()
def test_autocast_stays_close_to_float32():
    trunk, local, inputs = make_trunk(), make_local(), torch.randn(20, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = run_trunk(trunk, inputs), run_local(local, inputs)
    for got, expected in zip(outputs, (run_trunk(trunk, inputs), run_local(local, inputs)), strict=True):
        assert got.isfinite().all()
        assert (got - expected).abs().max() < 0.1


COMPILED = """
import torch
from hnet_ntv2.attention import RowLayout
from hnet_ntv2.backbone import LocalLayers, Trunk

torch.manual_seed(2222)
trunk, local = Trunk(32, 2, 48, 1, 1e-5), LocalLayers(1, 32, 2, 64, 16, 1e-5)

def both(hidden, layout):
    packed = trunk(hidden, torch.arange(hidden.shape[0]).float(), layout).last_hidden_state
    return local(packed[None], torch.ones(1, hidden.shape[0], dtype=torch.bool))

compiled = torch.compile(both, backend="aot_eager", dynamic=True)
for lengths in ((20, 13), (9, 31), (50, 1)):
    hidden = torch.randn(sum(lengths), 32, requires_grad=True)
    layout = RowLayout.from_lengths(lengths)
    results = [run(hidden, layout) for run in (compiled, both)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(result.square().sum(), hidden)[0] for result in results]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-4)
counters = torch._dynamo.utils.counters["stats"]
print("graphs", counters["unique_graphs"])
"""


@pytest.mark.slow
def test_traced_graphs_equal_eager_for_several_lengths():
    """In its own process: the tracer cannot look through the shape checks of the test run."""
    process = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, timeout=300, check=False)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout.split()[-1]) > 0


@pytest.mark.gpu
def test_blocks_on_cuda_equal_the_cpu():
    trunk, local, inputs = make_trunk(), make_local(), torch.randn(20, DIM)
    with torch.no_grad():
        expected = run_trunk(trunk, inputs), run_local(local, inputs)
        packed = trunk.cuda()(inputs.cuda(), torch.arange(20.0).cuda(), RowLayout.from_lengths([13, 7], "cuda"))
        is_valid = (torch.arange(10) < torch.tensor([[10], [6]])).cuda()
        padded = local.cuda()(inputs.view(2, 10, DIM).cuda(), is_valid)
    torch.testing.assert_close(packed.last_hidden_state.cpu(), expected[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(padded.cpu(), expected[1], rtol=0, atol=1e-3)

"""The module's loss adds up, its shares follow the steps, its clipping and its refusal of bad gradients work."""

import math

import pytest
import torch

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.module import PretrainingModule
from hnet_ntv2.training.settings import CallbackSettings, DataSettings, MaskSettings, PretrainSettings, TrainerSettings

LENGTH, RATE = 48, 0.15


@pytest.fixture
def module() -> PretrainingModule:
    return build_module()


def build_module(**changes) -> PretrainingModule:
    torch.manual_seed(1)
    sizes = {"d_model": 16, "n_head": 2, "intermediate_size": 32, "n_main_layer": 1, "kmer_size": 4, "window": 8}
    config = HNetNTV2Config(**sizes, **changes)
    data = DataSettings(seq_length=LENGTH, mask=MaskSettings(rate=RATE))
    callbacks = CallbackSettings(router_gradients_every=0)
    settings = PretrainSettings(data=data, trainer=TrainerSettings(max_steps=10), callbacks=callbacks)
    return PretrainingModule(HNetNTV2ForMaskedLM(config), settings)


def make_batch(num_windows: int, seed: int, masked: int = 6) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(7, 11, (num_windows, LENGTH), generator=generator)
    labels = torch.full_like(ids, -100)
    labels[:, 10 : 10 + masked] = ids[:, 10 : 10 + masked]
    shown = ids.masked_fill(labels != -100, 3)
    return {
        "input_ids": shown.to(torch.uint8),
        "labels": labels.to(torch.int16),
        "loss_weights": torch.ones(ids.shape),
        "is_repeat": torch.zeros(ids.shape, dtype=torch.bool),
        "window_index": torch.arange(num_windows),
    }


def joined(*batches):
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_the_mean_over_micro_batches_is_the_loss_of_their_union(module):
    few, many = make_batch(2, 0, masked=3), make_batch(2, 1, masked=12)
    parts = [module.training_step(batch, 0) for batch in (few, many)]
    whole = module.training_step(joined(few, many), 0)
    assert torch.allclose(torch.stack(parts).mean(), whole, rtol=1e-5)
    assert abs(float((parts[0] - parts[1]).detach())) > 0.1


def test_the_denominator_is_the_expected_number_of_targets(module):
    batch = make_batch(2, 0)
    module.training_step(batch, 0)
    sums = module._step.sums
    assert float(sums["task_loss"]) == pytest.approx(float(sums["targets_nats"]) / (RATE * LENGTH * 2), rel=1e-5)


def test_every_parameter_is_in_one_group_and_gets_a_gradient(module):
    module.training_step(make_batch(2, 0), 0).backward()
    without = [name for name, parameter in module.model.named_parameters() if parameter.grad is None]
    assert without == []  # DDP runs without a search for unused parameters
    members = [id(parameter) for group in module.optimizer_groups() for parameter in group["params"]]
    assert sorted(members) == sorted(id(parameter) for parameter in module.model.parameters())


def test_a_window_without_targets_gives_gradients_too(module):
    batch = make_batch(1, 0)
    batch["labels"].fill_(-100)
    module.training_step(batch, 0).backward()
    assert all(parameter.grad is not None for parameter in module.model.parameters())


def test_forced_grid_and_anchors_of_a_batch_are_passed_through(module):
    batch = make_batch(2, 0)
    on_grid = torch.zeros(2, LENGTH, dtype=torch.bool)
    on_grid[0] = True
    module.training_step({**batch, "on_grid": on_grid, "anchors": ~on_grid}, 0)
    assert float(module._step.sums["stage1_grid"]) > 0
    assert float(module._step.sums["stage1_anchor"]) > 0


def take_step(module, optimizer, batch):
    module.training_step(batch, 0).backward()
    module.on_before_optimizer_step(optimizer)
    module.configure_gradient_clipping(optimizer)


def test_the_whole_gradient_is_clipped_to_one_norm(module):
    optimizer = module.configure_optimizers()["optimizer"]
    module.gradient_clip = 1e-3
    take_step(module, optimizer, make_batch(2, 0))
    norms = module._step.gradient_norms
    assert norms["total"] == pytest.approx(math.hypot(*(norms[name] for name in norms if name != "total")))
    after = torch.nn.utils.get_total_norm([p.grad for p in module.model.parameters()])
    assert float(after) == pytest.approx(1e-3, rel=1e-3)


def test_a_small_gradient_is_left_alone(module):
    optimizer = module.configure_optimizers()["optimizer"]
    module.gradient_clip = 1e6
    take_step(module, optimizer, make_batch(2, 0))
    after = torch.nn.utils.get_total_norm([p.grad for p in module.model.parameters()])
    assert float(after) == pytest.approx(module._step.gradient_norms["total"], rel=1e-5)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights(module):
    optimizer = module.configure_optimizers()["optimizer"]
    before = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    batch = make_batch(2, 0)
    batch["loss_weights"][0, 11] = math.nan
    take_step(module, optimizer, batch)
    optimizer.step()
    assert "nan" in module._step.problem
    assert all(torch.equal(before[name], tensor) for name, tensor in module.model.state_dict().items())


@pytest.mark.parametrize(("chunker", "kinds"), [("learned", ("task", "ratio")), ("peak", ("task",)), ("ruler", ())])
def test_gradients_of_task_and_ratio_at_the_routers_are_told_apart(chunker, kinds):
    module = build_module(chunker=chunker)
    output = module.forward_batch(
        {"input_ids": make_batch(2, 0)["input_ids"].long()}, labels=make_batch(2, 0)["labels"].long()
    )
    norms = module._router_gradient_norms(output)
    assert list(norms) == [f"stage{s}/router_gradient_{kind}" for s in (1, 2) for kind in kinds]
    output.loss.backward()  # the graph is still there


def test_out_of_memory_says_which_knob_to_turn(module, monkeypatch):
    def forward(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module.model, "forward", forward)
    with pytest.raises(ConfigError, match=r"batch\.micro_batch_size=N.*--seq-length"):
        module.training_step(make_batch(1, 0), 0)

"""The global batch is split exactly, or refused with the nearest ones that can be."""

import lightning as L
import pytest
import torch

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training.batching import PlanAgreement, largest_that_fits, plan_batch, plan_batch_up_to


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "nodes", "accumulation"),
    [(512, 8, 1, 1, 64), (512, 16, 8, 2, 2), (512, 512, 1, 1, 1), (6, 3, 2, 1, 1)],
)
def test_the_product_is_the_global_batch(batch, micro, devices, nodes, accumulation):
    plan = plan_batch(batch, micro, devices, nodes)
    assert plan.accumulation == accumulation
    assert plan.micro_batch_size * plan.world_size * plan.accumulation == batch
    assert f"{batch} windows per step = {micro} per micro-batch" in str(plan)


def test_what_does_not_divide_names_the_nearest_that_do():
    with pytest.raises(ConfigError, match=r"batch_size=512 is not a multiple of 96 = 16 .*: 384, 480, 576, 672"):
        plan_batch(512, 16, 3, 2)
    with pytest.raises(ConfigError, match=r"nearest that are: 8, 16$"):
        plan_batch(4, 8)
    with pytest.raises(ConfigError, match="devices=0 must be at least 1"):
        plan_batch(4, 1, 0)


@pytest.mark.parametrize(
    ("batch", "most", "devices", "micro"), [(512, 48, 1, 32), (510, 64, 2, 51), (7, 64, 1, 7), (7, 4, 1, 1)]
)
def test_the_largest_micro_batch_up_to_a_limit(batch, most, devices, micro):
    assert plan_batch_up_to(batch, most, devices).micro_batch_size == micro


def test_only_the_devices_must_divide_when_the_micro_batch_is_free():
    with pytest.raises(ConfigError, match=r"batch_size=10 is not a multiple of 4.*4, 8, 12, 16"):
        plan_batch_up_to(10, 8, 4)


def test_the_micro_batch_is_halved_until_it_fits():
    tried = []

    def attempt(size):
        tried.append(size)
        if size > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")

    assert largest_that_fits(attempt, 64) == 8
    assert tried == [64, 32, 16, 8]


def test_a_model_that_never_fits_says_what_to_turn():
    def attempt(size):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ConfigError, match=r"not even one window.*--seq-length"):
        largest_that_fits(attempt, 4)


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def attempt(size):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        largest_that_fits(attempt, 4)


@pytest.mark.parametrize(("least", "accumulation"), [(16, 2), (4, 8)])
def test_a_rank_that_holds_more_takes_the_plan_of_the_one_that_holds_least(monkeypatch, least, accumulation):
    def reduce(own, reduce_op):
        assert reduce_op == "min"
        return own.clamp(max=least)

    trainer, taken = L.Trainer(accelerator="cpu", accumulate_grad_batches=2, barebones=True), []
    monkeypatch.setattr(trainer.strategy, "reduce", reduce)
    agreement = PlanAgreement(plan_batch(64, 16, devices=2), taken.append)
    agreement.setup(trainer, L.LightningModule(), "fit")
    assert trainer.accumulate_grad_batches == agreement.plan.accumulation == accumulation
    assert agreement.plan == plan_batch(64, least, devices=2)
    assert taken == ([] if least == 16 else [agreement.plan])

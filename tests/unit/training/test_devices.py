"""Strategy, precision, split of the batch, and the measurement of the micro-batch."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import FSDPPrecision
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from hnet_ntv2.backbone import LocalBlock, NTv2Block
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training import devices
from hnet_ntv2.training.devices import (
    BatchPlan,
    PlanAgreement,
    Precision,
    ShardedStrategy,
    largest_that_fits,
    measure_micro_batch,
    plan_batch_up_to,
    resolve_precision,
    train_once,
)
from tests.builders import random_dna, tiny_model

OFFSET = 0.1003  # next to it in bfloat16 are 0.1001 and 0.1006


def model_with_offset() -> HNetNTV2ForMaskedLM:
    model = tiny_model(spread=0.05, chunker="learned").train()
    model.model.routers[0].beta.fill_(OFFSET)
    model.moves_offsets = False  # as our training loop has it
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    shown = random_dna(96, torch.Generator().manual_seed(0), 2)
    labels = torch.full_like(shown, -100)
    labels[:, 24:30], shown[:, 24:30] = shown[:, 24:30], 3
    return shown, labels


def in_bf16(model) -> dict[str, torch.Tensor]:
    shown, labels = batch()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(shown, labels=labels)
    output.loss.backward()
    return {
        "loss": output.loss,
        "logits": output.logits,
        **{f"p{i}": s.probability for i, s in enumerate(output.stages)},
    }


@pytest.fixture
def one_rank():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:FSDP is switching to use `NO_SHARD`")
def test_fsdp_in_half_precision_computes_what_one_device_does(one_rank):
    expected = in_bf16(model_with_offset())
    strategy = ShardedStrategy()
    strategy.precision_plugin = FSDPPrecision("bf16-mixed")  # as the trainer gives it for the default --precision
    model = model_with_offset()
    sharded = FullyShardedDataParallel(
        model,
        mixed_precision=strategy.mixed_precision_config,
        auto_wrap_policy=ModuleWrapPolicy({NTv2Block, LocalBlock}),
        use_orig_params=True,
        device_id=torch.device("cpu"),
    )
    found = in_bf16(sharded)
    for name, tensor in expected.items():
        assert found[name].dtype == torch.float32, name
        assert torch.equal(found[name], tensor), name
    assert float(model.model.routers[0].beta) == pytest.approx(OFFSET, abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_cast_whole_keeps_its_offsets_and_decides_in_float32(dtype, tmp_path):
    model_with_offset().save_pretrained(tmp_path)
    loaded = HNetNTV2ForMaskedLM.from_pretrained(tmp_path, dtype=dtype).train()
    loaded.moves_offsets = False
    for model in (model_with_offset().to(dtype), loaded):
        router = model.model.routers[0]
        assert router.query.weight.dtype == dtype
        assert float(router.beta) == pytest.approx(OFFSET, abs=1e-7)
        shown, labels = batch()
        before = model(shown, labels=labels)
        router.beta.add_(3e-4)
        after = model(shown, labels=labels)
        moved = (after.stages[0].probability - before.stages[0].probability)[:, 1:]
        torch.testing.assert_close(moved, torch.full_like(moved, 3e-4), atol=1e-6, rtol=0)
        assert {before.loss.dtype, before.logits.dtype, before.ratio_losses.dtype} == {torch.float32}


@pytest.mark.parametrize(
    ("requested", "has_bf16", "expected"),
    [
        ("16", True, "bf16-mixed"),
        (16, False, "32-true"),
        ("bf16", True, "bf16-mixed"),
        ("bf16", False, "32-true"),
        ("32", True, "32-true"),
        ("bf16-mixed", True, "bf16-mixed"),
        ("32-true", False, "32-true"),
    ],
)
def test_on_a_cpu(monkeypatch, requested, has_bf16, expected):
    monkeypatch.setattr(devices, "cpu_has_bf16", lambda: has_bf16)
    chosen = resolve_precision(requested, "cpu")
    assert chosen.lightning == expected
    assert ("bf16 mixed" if expected == "bf16-mixed" else "float32") in chosen.explanation


@pytest.mark.parametrize(("requested", "native", "expected"), [("16", True, "bf16-mixed"), ("16", False, "16-mixed")])
def test_on_cuda(monkeypatch, requested, native, expected):
    asked = {}
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: asked.update(options) or native)
    assert resolve_precision(requested, "cuda").lightning == expected
    assert asked == {"including_emulation": False}


def test_emulated_bf16_is_refused_when_asked_for_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)
    with pytest.raises(ConfigError, match="--precision 16"):
        resolve_precision("bf16", "cuda")


@pytest.mark.parametrize("requested", ["true,", "8", "fp32", ""])
def test_an_unknown_value_is_named(requested):
    with pytest.raises(ConfigError, match=f"precision='{requested}'"):
        resolve_precision(requested, "cpu")


def test_the_type_of_the_products():
    assert devices.Precision("16-mixed", "").autocast_dtype == torch.float16
    assert devices.Precision("32-true", "").autocast_dtype is None


@pytest.mark.parametrize(
    ("batch", "micro", "devices", "nodes", "accumulation"),
    [(512, 8, 1, 1, 64), (512, 16, 8, 2, 2), (512, 512, 1, 1, 1), (6, 3, 2, 1, 1)],
)
def test_the_product_is_the_global_batch(batch, micro, devices, nodes, accumulation):
    plan = BatchPlan(batch, micro, devices, nodes)
    assert plan.accumulation == accumulation
    assert plan.micro_batch_size * plan.world_size * plan.accumulation == batch
    assert f"{batch} windows per step = {micro} per micro-batch" in str(plan)


def test_what_does_not_divide_names_the_nearest_that_do():
    with pytest.raises(ConfigError, match=r"batch_size=512 is not a multiple of 96 = 16 .*: 384, 480, 576, 672"):
        BatchPlan(512, 16, 3, 2)
    with pytest.raises(ConfigError, match=r"nearest that are: 8, 16$"):
        BatchPlan(4, 8)
    with pytest.raises(ConfigError, match="devices=0 must be at least 1"):
        BatchPlan(4, 1, 0)


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
    agreement = PlanAgreement(BatchPlan(64, 16, devices=2), taken.append)
    agreement.setup(trainer, L.LightningModule(), "fit")
    assert trainer.accumulate_grad_batches == agreement.plan.accumulation == accumulation
    assert agreement.plan == BatchPlan(64, least, devices=2)
    assert taken == ([] if least == 16 else [agreement.plan])


@pytest.fixture(params=["peak", "learned", "ruler", "entropy"])
def model(request) -> HNetNTV2ForMaskedLM:
    torch.manual_seed(0)
    sizes = {"d_model": 16, "n_head": 2, "intermediate_size": 32, "n_main_layer": 1, "kmer_size": 4, "window": 8}
    return HNetNTV2ForMaskedLM(HNetNTV2Config(**sizes, chunker=request.param)).train()


def test_it_runs_at_the_guards_greatest_chunk_count(model):
    ratio = train_once(model, 2, 420, None, torch.device("cpu"))
    assert ratio == pytest.approx(0.6, abs=0.01)


def test_the_model_is_left_as_it_was(model):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    size = measure_micro_batch(model, 48, Precision("32-true", ""), torch.device("cpu"), 4)
    assert size == 4
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_what_does_not_fit_is_halved(model, monkeypatch):
    forward = type(model).forward

    def limited(self, input_ids, **options):
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, input_ids, **options)

    monkeypatch.setattr(type(model), "forward", limited)
    assert measure_micro_batch(model, 48, Precision("32-true", ""), torch.device("cpu"), 16) == 2
    assert all(float(router.beta) == 0 for router in model.model.routers)

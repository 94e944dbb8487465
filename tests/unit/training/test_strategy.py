"""What must be float32 is so under every strategy: FSDP casts nothing, and a cast of the whole model spares offsets."""

import pytest
import torch
from lightning.pytorch.plugins.precision import FSDPPrecision
from torch import distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from hnet_ntv2.backbone import LocalBlock, NTv2Block
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.strategy import ShardedStrategy
from tests.builders import random_dna, tiny_model

OFFSET = 0.1003  # next to it in bfloat16 are 0.1001 and 0.1006


def model_with_offset() -> HNetNTV2ForMaskedLM:
    model = tiny_model(spread=0.05).train()
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

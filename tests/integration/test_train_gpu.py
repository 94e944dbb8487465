"""What needs a CUDA device: half precision, the measured micro-batch, FSDP with our own checkpoints."""

import pytest
import torch

from hnet_ntv2.training.display import read_history
from hnet_ntv2.training.run import pretrain

from .tiny_training import tiny_settings

pytestmark = pytest.mark.gpu

CUDA = {"trainer__accelerator": "cuda", "validation__every": None}


@pytest.mark.parametrize("precision", ["16", "32"])
def test_a_run_on_cuda(tmp_path, precision):
    result = pretrain(tiny_settings(tmp_path, **CUDA, trainer__precision=precision))
    assert result.summary.is_finished
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    expected = {"32": "32-true", "16": "bf16-mixed" if native else "16-mixed"}[precision]
    assert result.summary.precision == expected
    assert "memory_cuda_peak_mib" in result.summary.train


def test_the_micro_batch_is_measured(tmp_path):
    settings = tiny_settings(tmp_path, **CUDA, batch__micro_batch_size=None, batch__cuda_start=64)
    assert "4 per micro-batch" in pretrain(settings).summary.batch


@pytest.mark.parametrize("precision", ["16", "32"])
def test_fsdp_trains_like_one_device_and_resumes_from_its_checkpoint(tmp_path, precision):
    options = {**CUDA, "callbacks__router_gradients_every": 0, "trainer__precision": precision}
    one = pretrain(tiny_settings(tmp_path, "one", **options))
    sharded = pretrain(tiny_settings(tmp_path, "sharded", **options, trainer__strategy="fsdp"))
    for left, right in zip(*(read_history(run.history["train"]) for run in (one, sharded)), strict=True):
        assert right["loss"] == pytest.approx(left["loss"], rel=1e-3)
        assert right["gradient_norm/total"] == pytest.approx(left["gradient_norm/total"], rel=1e-2)
    resumed = pretrain(
        tiny_settings(
            tmp_path,
            "sharded",
            **options,
            trainer__strategy="fsdp",
            resume=str(tmp_path / "sharded" / "checkpoints" / "step=000004.ckpt"),
        )
    )
    for name, tensor in sharded.model.state_dict().items():
        assert torch.allclose(tensor, resumed.model.state_dict()[name], atol=1e-4), name

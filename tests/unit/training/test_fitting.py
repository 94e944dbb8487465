"""The micro-batch is measured when the routers open as far as the guard lets them, and leaves no trace in the model."""

import pytest
import torch

from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.training.fitting import measure_micro_batch, train_once
from hnet_ntv2.training.precision import Precision


@pytest.fixture
def model() -> HNetNTV2ForMaskedLM:
    torch.manual_seed(0)
    config = HNetNTV2Config(d_model=16, n_head=2, intermediate_size=32, n_main_layer=1, kmer_size=4, window=8)
    return HNetNTV2ForMaskedLM(config).train()


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
    assert all(float(module.beta) == 0 for name, module in model.named_modules() if name.endswith("router"))

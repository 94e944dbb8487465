"""--precision means what the documentation says on each kind of device."""

import pytest
import torch

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.training import precision
from hnet_ntv2.training.precision import resolve_precision


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
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has_bf16)
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
    assert precision.Precision("16-mixed", "").autocast_dtype == torch.float16
    assert precision.Precision("32-true", "").autocast_dtype is None

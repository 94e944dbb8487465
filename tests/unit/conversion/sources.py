"""Source folders for tests: the tiny reference, changed copies of it, and random ones of any shape."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from hnet_ntv2.configuration_ntv2 import NTv2Config
from hnet_ntv2.conversion.sequence import RealSequence
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from tests.builders import random_dna

TINY = Path(__file__).parents[2] / "data" / "ntv2_tiny"
SOME_KEY = "esm.encoder.layer.2.attention.self.key.bias"


def copy_tiny(folder: Path) -> Path:
    """The settings and weights of the tiny reference in a folder of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, folder / name)
    return folder


def rewrite_weights(folder: Path, change) -> None:
    """Let ``change`` edit the dictionary of tensors of a saved model."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def rewrite_config(folder: Path, **changes) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))


def write_random_source(
    folder: Path, num_layers: int, silent: tuple[int, ...] = (), seed: int = 0, width: int = 32, k: int = 2
) -> Path:
    """A random source over k-mers whose ``silent`` blocks hardly change their input."""
    config = NTv2Config(
        vocab_size=4**k + 11,
        hidden_size=width,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=66,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(seed)
    model = NTv2ForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        for number in silent:
            block = model.esm.encoder.layer[number]
            for parameter in (*block.attention.output.parameters(), *block.output.parameters()):
                parameter.mul_(1e-3)
    model.save_pretrained(folder)
    return folder


def any_sequence(length: int = 128, count: int = 2) -> RealSequence:
    """Random letters where it does not matter what is calibrated on."""
    generator = torch.Generator().manual_seed(0)
    return RealSequence("random letters", random_dna(length, generator, count), random_dna(length, generator, count))

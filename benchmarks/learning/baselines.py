"""The alternative without chunks: a plain single-nucleotide transformer, trained like the arms."""

import time
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_ntv2.attention import pack_rows, unpack_rows
from hnet_ntv2.backbone import Trunk
from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.training.optimizer import warmup_cosine
from hnet_ntv2.vocabulary import FIRST_BASE

from .evaluate import evaluate_view
from .setup import Setup, clock


class PlainTransformer(nn.Module):
    """NTv2 blocks over single bases, as many as our model has layers of all kinds; attention over the whole window."""

    def __init__(self, setup: Setup, num_layers: int):
        super().__init__()
        source = setup.source
        self.embedding = nn.Embedding(16, source.width)
        self.trunk = Trunk(source.width, source.heads, source.intermediate, num_layers, 1e-12)
        self.head = nn.Linear(source.width, 4)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                nn.init.zeros_(module.bias) if module.bias is not None else None

    def forward(self, input_ids: Tensor) -> Tensor:
        """[batch, length, 4] log-probabilities."""
        is_valid = torch.ones_like(input_ids, dtype=torch.bool)
        packed, layout = pack_rows(self.embedding(input_ids), is_valid)
        positions = torch.arange(input_ids.shape[1], dtype=torch.float32, device=input_ids.device).repeat(
            len(input_ids)
        )
        hidden = self.trunk(packed, positions, layout).last_hidden_state
        return unpack_rows(self.head(hidden), is_valid).log_softmax(-1)

    def log_probs(self, batch: Mapping[str, Tensor]) -> Tensor:
        """[batch, length, 4] log-probabilities of a batch, on the CPU, for ``evaluate_view``."""
        return self(batch["input_ids"].long().to(self.head.weight.device)).cpu()


def train_plain(
    setup: Setup, data: HG38DataModule, validation: HG38DataModule, seed: int
) -> tuple[PlainTransformer, dict]:
    """Train for as many steps as the arms, on the same windows and masks.

    Returns:
        The model, and "cpu_seconds", "wall_seconds" and "curve" as ``result.json`` has them.
    """
    torch.manual_seed(seed)
    # Four more layers: our model has two encoders and two decoders around its trunk.
    model = PlainTransformer(setup, setup.source.layers + 4).to(setup.accelerator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=setup.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    factor = warmup_cosine(setup.steps, 0.1, 6.0)
    every = setup.steps // setup.curve_points
    curve: list[dict[str, Any]] = []
    spent, wall = 0.0, time.monotonic()
    batches = iter(data.train_dataloader())
    for step in range(setup.steps + 1):
        if step % every == 0:
            bits = evaluate_view(model.eval().log_probs, validation, setup, "anchors_off").summary()["bits"]
            curve.append({"step": step, "cpu_seconds": spent, "bits": bits})
            model.train()
        if step == setup.steps:
            break
        started = clock(setup.accelerator)  # after the validation: only training is timed
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = setup.learning_rate * factor(step)
        shown, labels = (batch[name].long().to(setup.accelerator) for name in ("input_ids", "labels"))
        is_target = labels != -100
        loss = F.nll_loss(model(shown)[is_target], labels[is_target] - FIRST_BASE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        spent += clock(setup.accelerator) - started
    return model, {"cpu_seconds": spent, "wall_seconds": time.monotonic() - wall, "curve": curve}

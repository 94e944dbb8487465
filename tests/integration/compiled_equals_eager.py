"""Run by test_compiled.py in a process of its own: shape checks cannot be traced.

Prints one line per chunk count: how many chunks, and the largest differences of loss and gradients.
"""

import json
import sys

import torch
from builders import random_dna, tiny_model


def loss_and_gradients(forward, model, input_ids, labels) -> tuple[torch.Tensor, torch.Tensor, int]:
    model.zero_grad()
    output = forward(input_ids, labels=labels)
    output.loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return output.loss.detach(), gradient, int(output.stages[1].is_boundary.sum())


def main(backend: str) -> None:
    model = tiny_model(spread=0.05).train()
    model.moves_offsets = False  # both runs see the same offsets
    compiled = torch.compile(model, backend=backend)
    for seed in range(3):
        input_ids = random_dna(96, torch.Generator().manual_seed(seed), batch=2)
        input_ids[:, 20:26], labels = 3, torch.where(torch.arange(96) // 6 == 4, input_ids, -100)
        input_ids[1, 90 - 20 * seed :] = 4
        loss, gradient, count = loss_and_gradients(model, model, input_ids, labels)
        other_loss, other_gradient, _ = loss_and_gradients(compiled, model, input_ids, labels)
        scale = float(gradient.abs().max())
        difference = float((gradient - other_gradient).abs().max()) / scale
        print(json.dumps({"chunks": count, "loss": float((loss - other_loss).abs()), "gradient": difference}))


if __name__ == "__main__":
    main(sys.argv[1])

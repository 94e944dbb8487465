"""What a training step of each arm costs in arithmetic, whatever machine it ran on: multiplications and additions."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch.utils.flop_counter import FlopCounterMode

from hnet_ntv2.errors import HNetNTV2Error
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.storage import open_text

from .evaluate import validation_batches
from .run import Workplace, finished_models, open_place
from .tables import markdown_table


def operations_per_base(place: Workplace, model: HNetNTV2ForMaskedLM, windows: int, anchors: bool) -> float:
    """Operations of forward and backward pass per base of the first validation windows.

    Those of the optimiser are left out: they are the same for all arms. A multiplication and an addition count as two.

    Args:
        place: Of the experiment.
        model: As trained, so that it makes its own number of chunks.
        windows: How many.
        anchors: Trained with anchors.
    """
    model.train()
    bases = 0
    with FlopCounterMode(display=False) as counter:
        for batch in validation_batches(place.validation_data(windows)):
            ids, labels = batch["input_ids"].long(), batch["labels"].long()
            model(ids, labels=labels, only_targets=True, anchors=anchors).loss.backward()
            bases += ids.numel()
    return counter.get_total_flops() / bases


def render(found: dict[str, list[tuple[float, float]]]) -> str:
    """A Markdown table: means over seeds, and how much more than the first arm.

    Args:
        found: Arm -> operations per base of each seed, with anchors off and on.
    """
    header = ["arm", "seeds", "million operations per base, anchors off", "anchors on"]
    rows = []
    reference = np.mean(next(iter(found.values())), axis=0)
    for arm, seeds in found.items():
        means = np.mean(seeds, axis=0)
        cells = [f"{mean / 1e6:.3f} ({more:+.1%})" for mean, more in zip(means, means / reference - 1, strict=True)]
        rows.append([arm, str(len(seeds)), *cells])
    return markdown_table(header, rows) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.learning.arithmetic WORK REFERENCE ARM... --output FILE.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.arithmetic", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the experiment, with its runs and their weights")
    parser.add_argument("arms", nargs="+", metavar="ARM", help="the first one is the reference")
    parser.add_argument("--windows", type=int, default=64, help="validation windows")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    try:
        place, found = open_place(chosen.work), {}
        for arm in chosen.arms:
            with place.tokens_of(arm):
                found[arm] = [
                    (
                        operations_per_base(place, model, chosen.windows, anchors=False),
                        operations_per_base(place, model, chosen.windows, anchors=True),
                    )
                    for model in finished_models(place, arm)
                ]
    except HNetNTV2Error as error:
        parser.error(str(error))
    table = render(found)
    with open_text(chosen.output) as file:
        file.write(table)
    print(table, end="")


if __name__ == "__main__":
    main()

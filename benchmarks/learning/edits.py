"""How much of a row's reading survives a small edit in front of it: a shift, an insertion, a deletion of one base.

A tokenizer that counts from the row's start reads everything behind an edit in another phase. One that looks at the
bases does not. Measured on finished runs, at least 64 bases behind the edit: boundaries and vectors on validation
windows without masks, predictions on the masked ones (where a ruler counts anew from each mask).
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from hnet_ntv2.errors import HNetNTV2Error
from hnet_ntv2.levels import final_boundaries
from hnet_ntv2.measuring import LETTERS, unmasked
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.shapes import Int, Tensor
from hnet_ntv2.storage import open_text
from hnet_ntv2.vocabulary import FIRST_BASE

from .evaluate import validation_batches
from .run import Workplace, finished_models, open_place
from .tables import markdown_table

_PLACE = 128  # of the edit, counted from the row's start
_FROM = _PLACE + 64  # compared from here on

Rows = Int[Tensor, "rows length"]


class Edit(NamedTuple):
    """A change of rows.

    Attributes:
        apply: Rows to edited rows, one base shorter or longer.
        move: How far a base behind the edit moves to the right.
    """

    apply: Callable[[Rows], Rows]
    move: int


def _insert(rows: Rows) -> Rows:
    # A, C, G and T in turn. Nothing is cut off at the end: the last k-mers would be other ones.
    added = FIRST_BASE + torch.arange(len(rows), device=rows.device)[:, None] % 4
    return torch.cat([rows[:, :_PLACE], added, rows[:, _PLACE:]], dim=1)


EDITS = {
    "shift": Edit(lambda rows: rows[:, 1:], -1),
    "insertion": Edit(_insert, 1),
    "deletion": Edit(lambda rows: torch.cat([rows[:, :_PLACE], rows[:, _PLACE + 1 :]], dim=1), -1),
}


class Survival(NamedTuple):
    """What an edit changes behind itself.

    Attributes:
        boundaries: Final boundaries in both readings, as a share of those in either.
        vectors: Root mean square change of the bases' last vectors, over that of a vector from the mean one: 0 is no
            change, 1.4 is what two unrelated bases differ by.
        prediction: Mean absolute change of log2 p of the true base at masked bases, in bits.
    """

    boundaries: float
    vectors: float
    prediction: float


def _read(model: HNetNTV2ForMaskedLM, rows: Rows, part: slice) -> tuple[Tensor, Tensor]:
    """Final boundaries and last vectors of a part of the rows."""
    output = model.model(rows, strands="forward")
    return final_boundaries(output.stages)[:, part], output.last_hidden_state[:, part].float()


@torch.no_grad()
def survival(model: HNetNTV2ForMaskedLM, shown: Rows, labels: Rows, clean: Rows, edit: Edit) -> Survival:
    """Compare rows with themselves behind an edit.

    Args:
        model: In ``eval()``.
        shown: With masks.
        labels: What the masks hide, -100 elsewhere.
        clean: Without masks.
        edit: Of ``EDITS``.
    """
    here, there = slice(_FROM, None), slice(_FROM + edit.move, None)
    cuts, vectors = _read(model, clean, here)
    edited_cuts, edited_vectors = _read(model, edit.apply(clean), there)
    shared = int((cuts & edited_cuts).sum()) / max(int((cuts | edited_cuts).sum()), 1)
    spread = vectors - vectors.mean((0, 1))
    change = (edited_vectors - vectors).square().mean().sqrt() / spread.square().mean().sqrt()

    is_target = labels[:, here] != -100
    base = (labels[:, here] - FIRST_BASE).clamp(min=0)[..., None]
    before, after = (
        model(rows, strands="forward").logits[:, part, LETTERS].float().log_softmax(-1).gather(2, base)[..., 0]
        for rows, part in ((shown, here), (edit.apply(shown), there))
    )
    return Survival(shared, float(change), float((after - before)[is_target].abs().mean()) / math.log(2))


def measure(place: Workplace, arm: str, windows: int) -> dict[str, dict[str, list[float]]]:
    """Edit -> quantity -> one mean per finished seed of an arm.

    Raises:
        DataError: The arm has no finished run.
    """
    found: dict[str, dict[str, list[float]]] = {name: {each: [] for each in Survival._fields} for name in EDITS}
    for model in finished_models(place, arm):
        parts: dict[str, list[Survival]] = {name: [] for name in EDITS}
        for batch in validation_batches(place.validation_data(windows)):
            rows = batch["input_ids"].long(), batch["labels"].long(), unmasked(batch).long()
            for name, edit in EDITS.items():
                parts[name].append(survival(model, *rows, edit))
        for name, values in parts.items():
            for quantity, mean in zip(Survival._fields, np.mean(values, axis=0), strict=True):
                found[name][quantity].append(round(float(mean), 4))
    return found


def render(found: dict[str, dict[str, dict[str, list[float]]]]) -> str:
    """A Markdown table: means over seeds, [least, most]."""
    header = ["arm", "seeds", *(f"{name}: {quantity}" for name in EDITS for quantity in Survival._fields)]
    rows = []
    for arm, edits in found.items():
        cells = [values for quantities in edits.values() for values in quantities.values()]
        rows.append([arm, str(len(cells[0])), *(_mean_and_range(values) for values in cells)])
    return markdown_table(header, rows) + "\n"


def _mean_and_range(values: Sequence[float]) -> str:
    mean = f"{np.mean(values):.3f}"
    return mean if len(values) == 1 else f"{mean} [{min(values):.3f}, {max(values):.3f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.learning.edits WORK ARM... --output FOLDER``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.edits", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the experiment, with its runs and their weights")
    parser.add_argument("arms", nargs="+", metavar="ARM")
    parser.add_argument("--windows", type=int, default=256, help="validation windows")
    parser.add_argument("--output", type=Path, required=True, help="folder that gets edits.json and edits.md")
    chosen = parser.parse_args(arguments)
    try:
        place, found = open_place(chosen.work), {}
        for arm in chosen.arms:
            with place.tokens_of(arm):
                found[arm] = measure(place, arm, chosen.windows)
    except HNetNTV2Error as error:
        parser.error(str(error))
    with open_text(chosen.output / "edits.json") as file:
        file.write(json.dumps(found, indent=1) + "\n")
    with open_text(chosen.output / "edits.md") as file:
        file.write(render(found))
    print(render(found), end="")


if __name__ == "__main__":
    main()

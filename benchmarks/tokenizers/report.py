"""Compare the runs of the positive control: one Markdown table per language."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.learning.statistics import Difference, difference_cell, paired_bootstrap
from benchmarks.learning.tables import markdown_table
from hnet_ntv2.storage import open_text

from .control import WINDOW

# Below this many bits between a ruler and the oracle a language shows nothing (docs/experiments.md).
LEAST_HEADROOM = 0.05

_PREAMBLE = (
    "Bits are per masked base on the same test rows for every arm; 2 is chance. Masks of own chunks differ between "
    "arms. Brackets are 95 % intervals over test batches and seeds (* one seed: over batches only). Chance is the "
    "precision of places drawn at random. Precision and recall are of the final boundaries of rows without masks."
)

Run = Mapping[str, Any]


class Arm(NamedTuple):
    """What the runs of one row of a table have in common; ``changes`` are model settings, as JSON."""

    chunker: str
    changes: str

    @property
    def title(self) -> str:
        changes = ", ".join(f"{name} {value}" for name, value in json.loads(self.changes).items())
        return self.chunker + (f"; {changes}" if changes else "")


Arms = dict[Arm, dict[int, Run]]


class Group(NamedTuple):
    """What all runs of one table share.

    Attributes:
        language: Of ``languages.LANGUAGES``.
        masks: "ideal", the language's, or "own" (``control.Trial``).
        window: Positions on each side that local layers see.
        steps: Optimiser steps.
    """

    language: str
    masks: str
    window: int
    steps: int

    @property
    def title(self) -> str:
        masks = {"own": "masks are whole chunks of the model's own", "ideal": "masks are whole ideal chunks"}[
            self.masks
        ]
        return f"{self.language}: {masks}; local layers see {self.window} positions; {self.steps:,} steps"


def read_runs(folder: Path) -> dict[Group, Arms]:
    """The runs of a folder: group -> arm -> seed -> run.

    Args:
        folder: Where ``benchmarks.tokenizers`` writes its runs, one JSON file each.

    Raises:
        FileNotFoundError: if there is none.
    """
    found: dict[Group, Arms] = {}
    for path in sorted(folder.glob("*.json")):
        run = json.loads(path.read_text())
        changes = dict(run["changes"])
        if run.get("pooling", "first") != "first":
            changes["chunk_pooling"] = run["pooling"]  # which models had until docs/decisions/0025
        masks, window = changes.pop("masks", "ideal"), changes.pop("window", WINDOW)
        group = Group(run["language"], masks, window, run["steps"])
        arm = Arm(run["chunker"], json.dumps(changes, sort_keys=True))
        found.setdefault(group, {}).setdefault(arm, {})[run["seed"]] = run
    if not found:
        raise FileNotFoundError(f"{folder} holds no run; make some with: python -m benchmarks.tokenizers {folder}")
    return found


def less(first: Mapping[int, Run], second: Mapping[int, Run]) -> Difference | None:
    """Bits of the first arm less the second's over the seeds that both have; None where they share none."""
    seeds = sorted(set(first) & set(second))
    if not seeds:
        return None
    # Bits of batches, all of about as many targets, count as the nats of windows with one target each.
    nats = [
        np.array([runs[seed]["final"]["bits_of_batches"] for seed in seeds]) * math.log(2) for runs in (first, second)
    ]
    num_batches = nats[0].shape[1]
    return paired_bootstrap(nats[0], nats[1], np.ones(num_batches), np.arange(num_batches))


def headroom(arms: Arms) -> Difference | None:
    """Bits of the ruler less bits of the oracle; None without either."""
    return less(arms.get(Arm("ruler", "{}"), {}), arms.get(Arm("oracle", "{}"), {}))


def render(folder: Path) -> str:
    """All tables of a folder of runs, as Markdown."""
    parts = ["# Positive control of the chunkers", _PREAMBLE]
    for group, arms in read_runs(folder).items():
        parts += [f"## {group.title}", _verdict(headroom(arms)), _table(arms)]
    return "\n\n".join(parts) + "\n"


def _verdict(found: Difference | None) -> str:
    if found is None:
        return "Headroom: unknown, for want of a ruler or an oracle."
    # A headroom is judged with at least two seeds: the interval of one says nothing about another seed.
    shows = found.estimate >= LEAST_HEADROOM and found.low > 0
    return f"Headroom (ruler less oracle, bits): {difference_cell(found._asdict(), digits=3)}" + (
        "." if shows else ": this language shows nothing."
    )


def _table(arms: Arms) -> str:
    reference = arms.get(Arm("ruler", "{}"))
    room = headroom(arms)
    header = ["chunker", "seeds", "bits", "less ruler", "share of headroom", "chunks per base"]
    header += ["precision", "recall", "boundaries of the cap", "CPU s"]
    rows = []
    for arm, runs in sorted(arms.items(), key=lambda item: _mean(item[1], "bits")):
        difference = less(runs, reference) if reference and runs is not reference else None
        share = ""
        if difference and room and room.estimate >= LEAST_HEADROOM:
            share = f"{-100 * difference.estimate / room.estimate:.0f} %"
        seconds = np.mean([run["cpu_seconds"] for run in runs.values()])
        rows.append(
            [
                arm.title,
                str(len(runs)),
                f"{_mean(runs, 'bits'):.3f}",
                difference_cell(difference and difference._asdict(), digits=3),
                share,
                *(f"{_mean(runs, name):.3f}" for name in ("chunks_per_base", "precision", "recall", "cap_share")),
                f"{seconds:.0f}",
            ]
        )
    # Places drawn at random hit a true boundary as often as there are such boundaries.
    chance = _mean(next(iter(arms.values())), "truth_per_base")
    rows.append(["chance", "", "2.000", "", "", "", f"{chance:.3f}", "", "", ""])
    return markdown_table(header, rows)


def _mean(runs: Mapping[int, Run], name: str) -> float:
    return float(np.mean([run["final"][name] for run in runs.values()]))


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.tokenizers.report RUNS --output FILE.md``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of runs")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    with open_text(chosen.output) as file:
        file.write(render(chosen.runs))
    print(f"wrote {chosen.output}")


if __name__ == "__main__":
    main()

"""Differences between arms by what a window holds: repeats, copies, or intervals of BED files (promoters, exons)."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.copies import letters, said_before
from hnet_ntv2.errors import ConfigError, HNetNTV2Error
from hnet_ntv2.genome import Genome, SpanIndex, read_bed
from hnet_ntv2.storage import open_text

from .results import ANCHORED, MAIN_VIEW, Experiment, Run, read_experiment
from .run import Workplace, open_place
from .statistics import bits, difference_cell
from .summary import difference
from .tables import markdown_table

_LEAST_SHARE = 0.25  # of a window's bases in intervals of a class
_LEAST_COPIES = 0.05  # of a window's bases in a 16-mer that was said before


def windows_in(place: Workplace, path: Path) -> NDArray[np.bool_]:
    """Whether at least a quarter of each validation window lies in intervals of a BED file."""
    genome, begin, length = _windows(place)
    intervals = read_bed(path, genome.contigs)
    starts = np.array([genome.locate(interval) for interval in intervals], dtype=np.int64)
    spans = SpanIndex(starts, starts + np.array([len(interval) for interval in intervals], dtype=np.int64))
    return spans.count(begin, begin + length) >= _LEAST_SHARE * length


def windows_with_copies(place: Workplace) -> NDArray[np.bool_]:
    """Whether at least a twentieth of each validation window was said before in it (``benchmarks.copies``)."""
    genome, begin, length = _windows(place)
    return np.array([said_before(window).mean() >= _LEAST_COPIES for window in letters(genome, begin, length)])


def _windows(place: Workplace) -> tuple[Genome, NDArray[np.int64], int]:
    """The genome, where each validation window begins in it, and the length of all."""
    data = place.validation_data()
    index = data.window_index("valid")
    return data.genome, index.fixed(index.evenly_spread(place.setup.windows)).start, index.length


def render(
    experiment: Experiment, reference: str, arms: Sequence[str], classes: Mapping[str, NDArray[np.bool_]]
) -> str:
    """A Markdown table."""
    header = ["arm", "seeds", "class", "windows", "bits, off", "bits, on", "difference, off", "difference, on"]
    rows = []
    others = {run.seed: run for run in experiment.arms[reference]}
    for arm in arms:
        runs = experiment.arms[arm]
        pairs = [(run, others[run.seed]) for run in runs if arm != reference and run.seed in others]
        for title, chosen in classes.items():
            levels = [_bits(runs, view, chosen) for view in (MAIN_VIEW, ANCHORED)]
            gaps = [difference_cell(difference(pairs, view, chosen)) for view in (MAIN_VIEW, ANCHORED)]
            rows.append([arm, str(len(runs)), title, str(int(chosen.sum())), *levels, *gaps])
    return markdown_table(header, rows) + "\n"


def _bits(runs: Sequence[Run], view: str, chosen: NDArray[np.bool_]) -> str:
    targets = runs[0].windows[f"{view}/targets"][chosen]
    if not targets.any():
        return ""
    return f"{np.mean([bits(run.windows[f'{view}/nats'][chosen], targets) for run in runs]):.4f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.learning.classes WORK REFERENCE ARM... --bed NAME=FILE --output FILE.md``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning.classes", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the experiment")
    parser.add_argument("arms", nargs="+", metavar="ARM", help="the first one is the reference")
    parser.add_argument("--bed", action="append", default=[], metavar="NAME=FILE", help="intervals of a class")
    parser.add_argument("--output", type=Path, required=True, help="Markdown file to write")
    chosen = parser.parse_args(arguments)
    try:
        place, experiment = open_place(chosen.work), read_experiment(chosen.work, chosen.arms[0])
        if missing := [arm for arm in chosen.arms if arm not in experiment.arms]:
            raise ConfigError(f"there is no run of {missing[0]}; there are {', '.join(experiment.arms)}")
        is_rich = experiment.arms[chosen.arms[0]][0].windows["is_repeat_rich"]
        classes = {"all": np.ones_like(is_rich), "repeat-rich": is_rich, "copies": windows_with_copies(place)}
        for name, _, path in (text.partition("=") for text in chosen.bed):
            classes[name] = windows_in(place, Path(path))
    except HNetNTV2Error as error:
        parser.error(str(error))
    table = render(experiment, chosen.arms[0], chosen.arms, classes)
    with open_text(chosen.output) as file:
        file.write(table)
    print(table, end="")


if __name__ == "__main__":
    main()

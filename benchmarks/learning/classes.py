"""Differences between arms by what a window holds: repeats, or the intervals of BED files (promoters, exons, ...)."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_ntv2.errors import ConfigError, HNetNTV2Error
from hnet_ntv2.genome import SpanIndex, read_bed
from hnet_ntv2.storage import open_text

from .results import ANCHORED, MAIN_VIEW, Experiment, Run, read_experiment
from .run import Workplace, open_place
from .statistics import Difference, paired_bootstrap

_LEAST_SHARE = 0.25  # of a window's bases in intervals of a class


def windows_in(place: Workplace, path: Path) -> NDArray[np.bool_]:
    """Whether at least a quarter of each validation window lies in intervals of a BED file."""
    data = place.validation_data()
    index, genome = data.window_index("valid"), data.genome
    intervals = read_bed(path, genome.contigs)
    starts = np.array([genome.locate(interval) for interval in intervals], dtype=np.int64)
    spans = SpanIndex(starts, starts + np.array([len(interval) for interval in intervals], dtype=np.int64))
    begin = index.fixed(index.evenly_spread(place.setup.windows)).start
    return spans.count(begin, begin + index.length) >= _LEAST_SHARE * index.length


def by_class(
    experiment: Experiment, reference: str, arm: str, classes: Mapping[str, NDArray[np.bool_]]
) -> dict[str, dict[str, Difference]]:
    """Class -> view -> bits of an arm less the reference's, over the seeds that both have."""
    runs = {name: {run.seed: run for run in experiment.arms[name]} for name in (reference, arm)}
    seeds = sorted(set(runs[reference]) & set(runs[arm]))
    some = runs[reference][seeds[0]].windows

    def nats(name: str, view: str) -> NDArray:
        return np.stack([runs[name][seed].windows[f"{view}/nats"] for seed in seeds])

    return {
        title: {
            view: paired_bootstrap(
                nats(arm, view), nats(reference, view), some[f"{view}/targets"], some["block"], chosen
            )
            for view in (MAIN_VIEW, ANCHORED)
        }
        for title, chosen in classes.items()
    }


def render(
    experiment: Experiment, reference: str, arms: Sequence[str], classes: Mapping[str, NDArray[np.bool_]]
) -> str:
    """A Markdown table."""
    header = ["arm", "seeds", "class", "windows", "bits, off", "bits, on", "difference, off", "difference, on"]
    lines = [header, ["---"] * len(header)]
    for arm in arms:
        found = {} if arm == reference else by_class(experiment, reference, arm, classes)
        for title, chosen in classes.items():
            gaps = [_signed(found[title][view]) if found else "" for view in (MAIN_VIEW, ANCHORED)]
            bits = [f"{_bits(experiment.arms[arm], view, chosen):.4f}" for view in (MAIN_VIEW, ANCHORED)]
            lines.append([arm, str(len(experiment.arms[arm])), title, str(int(chosen.sum())), *bits, *gaps])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _bits(runs: Sequence[Run], view: str, chosen: NDArray[np.bool_]) -> float:
    per_seed = [
        run.windows[f"{view}/nats"][chosen].sum() / run.windows[f"{view}/targets"][chosen].sum() for run in runs
    ]
    return float(np.mean(per_seed) / np.log(2))


def _signed(gap: Difference) -> str:
    return f"{gap.estimate:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]" + ("*" if gap.num_seeds == 1 else "")


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
        classes = {"all": np.ones_like(is_rich), "repeat-rich": is_rich}
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

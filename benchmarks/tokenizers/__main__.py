"""``python -m benchmarks.tokenizers RUNS``: the positive control, or single trials of it; finished ones are skipped."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from hnet_ntv2.errors import ConfigError
from hnet_ntv2.storage import open_text
from hnet_ntv2.training.identity import git_state

from .control import Setup, Trial, perform
from .languages import LANGUAGES

_MAIN = ("oracle", "ruler", "minimizer", "learned", "peak", "entropy")
_ALL = (*_MAIN, "byte_pairs", "shuffled")
# Their ideal masks are words, which are what a chunker should find. In the other languages each model fills whole
# chunks of its own, since a mask that cuts a chunk spoils it (docs/experiments.md).
_OF_WORDS = ("words", "spaced")


class Size(NamedTuple):
    """Which trials are run: every arm with the first seed, the main arms with every seed.

    Each with local layers that see far past a chunk, and with narrow ones.
    """

    setup: Setup
    languages: tuple[str, ...]
    arms: tuple[str, ...]
    seeds: tuple[int, ...]

    def trials(self) -> list[Trial]:
        """Seed by seed, so that an interrupted experiment has compared all arms once."""
        return [
            Trial.parse(f"{language}:{arm}:{seed}{masks}{window}")
            for seed in self.seeds
            for language in self.languages
            for masks in ["" if language in _OF_WORDS else ':masks="own"']
            for window in ("", ":window=8")
            for arm in self.arms
            if seed == self.seeds[0] or arm in _MAIN
        ]


SIZES = {
    "minutes": Size(Setup(steps=100, test_batches=4), ("copy",), _MAIN, (1,)),
    "hour": Size(Setup(), ("copy",), _MAIN, (1,)),
    "day": Size(Setup(), tuple(LANGUAGES), _ALL, (1, 2, 3)),
    "gpu": Size(Setup(256, 8, 96, 4000, 1e-3, 16, "cuda"), tuple(LANGUAGES), _ALL, (1, 2, 3)),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.tokenizers RUNS [options]``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tokenizers", description=__doc__)
    parser.add_argument("runs", type=Path, help="folder for one file per trial")
    parser.add_argument("--size", choices=tuple(SIZES), default="hour")
    parser.add_argument(
        "--run",
        action="append",
        default=[],
        metavar="LANGUAGE:CHUNKER:SEED[:name=value]",
        help="only these, in this process; name is a setting of the model, value JSON",
    )
    parser.add_argument("--processes", type=int, default=2, help="trials at a time, one thread each")
    chosen = parser.parse_args(arguments)
    size = SIZES[chosen.size]
    try:
        single = [Trial.parse(text) for text in chosen.run]
    except ConfigError as error:
        parser.error(str(error))
    if single:
        torch.set_num_threads(1)  # trials are timed side by side: one core each
        for trial in single:
            _finish(trial, size.setup, chosen.runs)
        return
    # Threads only wait for their processes. A process per trial: CPU seconds are those of one trial alone.
    with ThreadPoolExecutor(chosen.processes) as pool:
        done = list(pool.map(partial(_in_own_process, chosen.runs, chosen.size), size.trials()))
    if failures := [name for name, is_done in done if not is_done]:
        sys.exit("these trials failed: " + ", ".join(failures))


def _finish(trial: Trial, setup: Setup, folder: Path) -> None:
    name = str(trial).replace(":", "-").replace('"', "")
    path = folder / f"{name}-{setup.steps}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    result = perform(trial, setup)
    made = {"date": time.strftime("%Y-%m-%d"), "commit": git_state()["commit"], "device": setup.device}
    with open_text(path) as file:
        file.write(json.dumps(made | result, indent=1) + "\n")
    final = result["final"]
    shown = ("bits", "chunks_per_base", "precision", "recall", "cap_share")
    print(trial, *(f"{name} {final[name]:.3f}" for name in shown), f"{result['cpu_seconds']:.0f} s", flush=True)


def _in_own_process(folder: Path, size: str, trial: Trial) -> tuple[str, bool]:
    command = [sys.executable, "-m", "benchmarks.tokenizers", str(folder), "--size", size, "--run", str(trial)]
    # PASSIVE: threads that spin while they wait would take CPU seconds from the other trial.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return str(trial), subprocess.run(command, env=environment, check=False).returncode == 0


if __name__ == "__main__":
    main()

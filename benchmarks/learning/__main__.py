"""``python -m benchmarks.learning``: run the whole experiment, or single runs; finished runs are skipped."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hnet_ntv2.errors import ConfigError, HNetNTV2Error
from hnet_ntv2.storage import open_text
from hnet_ntv2.training.identity import git_state

from .arms import ARMS, CHUNKERS, CORE, ONE_AT_A_TIME
from .dna import join_dna
from .evaluate import context_baselines
from .results import copy_kept, require_same_setup
from .run import OTHERS, Workplace, perform
from .setup import SIZES, Setup, describe_device


def queue(setup: Setup) -> list[tuple[str, int]]:
    """All (arm, seed) pairs: the core arms seed by seed, then the others with the first seed.

    The core arms come first, so that an interrupted experiment answers its main question.
    """
    runs = [(arm.name, seed) for seed in setup.seeds for arm in CORE]
    first = setup.seeds[0]
    return [*runs, *((name, first) for name in OTHERS), *((arm.name, first) for arm in (*ONE_AT_A_TIME, *CHUNKERS))]


def parse_run(text: str) -> tuple[str, int]:
    """Arm and seed of ``ARM:SEED``.

    Raises:
        ConfigError: if it is not of that form, or there is no such arm.
    """
    name, _, seed = text.partition(":")
    if not seed.isdecimal():
        raise ConfigError(f"--run {text} is not ARM:SEED, such as random:1")
    _require_known("--run", [name])
    return name, int(seed)


def _require_known(option: str, names: Iterable[str]) -> None:
    known = (*ARMS, *OTHERS)
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"{option} names {unknown[0]!r}; there are {', '.join(known)}")


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m benchmarks.learning WORK [options]``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the experiment")
    parser.add_argument("--size", choices=tuple(SIZES), default="hour")
    parser.add_argument("--fasta", type=Path, action="append", default=[], help="DNA; the bundled piece without it")
    parser.add_argument("--intervals", type=Path, action="append", default=[], help="chrom start end split")
    parser.add_argument("--kept", type=Path, help="folder of a report: its source and runs are not done again")
    parser.add_argument("--run", action="append", default=[], metavar="ARM:SEED", help="only these, in this process")
    parser.add_argument("--only", help="comma-separated names of arms")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each")
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        _main(parser.parse_args(given), given)
    except HNetNTV2Error as error:
        parser.error(str(error))


def _main(options: argparse.Namespace, given: Sequence[str]) -> None:
    wanted = None if options.only is None else options.only.split(",")
    _require_known("--only", wanted or ())
    single = [parse_run(run) for run in options.run]
    setup = SIZES[options.size]
    place = Workplace(options.work, join_dna(options.fasta, options.intervals, options.work), setup)
    if single:
        torch.set_num_threads(1)  # runs are timed side by side: one core each
        for name, seed in single:
            perform(place, name, seed)
        return
    if options.kept is not None:
        require_same_setup(options.kept, describe(place, options.size))
        copy_kept(options.kept, options.work, replaces=False)
    prepare(place, options.size)  # before the pool: two runs must not train the same source
    runs = [run for run in queue(setup) if wanted is None or run[0] in wanted]
    # Threads only wait for their processes. A process per run: CPU seconds and seeds are those of one run alone.
    with ThreadPoolExecutor(options.processes) as pool:
        failures = [failure for failure in pool.map(partial(_in_own_process, given), runs) if failure]
    if failures:
        sys.exit("these runs failed, see their run.log: " + ", ".join(failures))


def prepare(place: Workplace, size: str) -> None:
    """Make what all runs share: source, facts about the windows, context counts, ``setup.json``."""
    place.ensure_source()
    place.ensure_facts()
    context = place.folder / "context.json"
    if not context.exists():
        with open_text(context) as file:
            file.write(json.dumps(context_baselines(place.validation_data(), place.setup), indent=2) + "\n")
    with open_text(place.folder / "setup.json") as file:
        file.write(json.dumps(describe(place, size), indent=2) + "\n")


def describe(place: Workplace, size: str) -> dict[str, Any]:
    """The content of ``setup.json``: sizes, data, device, versions."""
    setup = place.setup
    return {
        "size": size,
        "date": time.strftime("%Y-%m-%d"),
        "commit": git_state()["commit"],
        "torch": torch.__version__,
        "device": describe_device(setup.accelerator),
        "steps": setup.steps,
        "batch": setup.batch_size,
        "seq_length": setup.seq_length,
        "learning_rate": setup.learning_rate,
        "model": setup.model_settings(),
        "data": place.training_data(setup.batch_size).describe()["splits"],
    }


def _in_own_process(given: Sequence[str], run: tuple[str, int]) -> str | None:
    name, seed = run
    command = [sys.executable, "-m", "benchmarks.learning", *given, "--run", f"{name}:{seed}"]
    # PASSIVE: threads that spin while they wait would take CPU seconds from the other run.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    started = time.monotonic()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    state = "done" if result.returncode == 0 else "FAILED: " + result.stderr.strip()[-2000:]
    print(f"{name} seed {seed}: {state} ({time.monotonic() - started:.0f} s)", flush=True)
    return None if result.returncode == 0 else f"{name}:{seed}"


if __name__ == "__main__":
    main()

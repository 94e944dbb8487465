"""``python -m benchmarks.use``: speed and peak memory of ``embed`` beside one sequence at a time and the 6-mer source.

Each measurement runs in a process of its own, so that peak memory is its own. Times are CPU seconds of one thread, or
wall-clock seconds on a GPU, without loading and without a first small pass. What is slow runs on a part of the
sequences; its speed is per sequence all the same.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnet_ntv2.embedding import EmbedSettings, NamedSequence, embed_sequences
from hnet_ntv2.inference.model import choose_device, load_model
from hnet_ntv2.inference.windows import DEFAULT_BATCH_BASES, default_window, pad_rows, window_batches
from hnet_ntv2.kmers import reverse_complement
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from hnet_ntv2.storage import open_text
from hnet_ntv2.training.identity import git_state
from hnet_ntv2.training.teachers import cut_tokens
from hnet_ntv2.vocabulary import FIRST_BASE, LAST_BASE, PAD_ID, SOURCE_CLS

from .learning.setup import clock, describe_device, on_device

SOURCE = Path(__file__).parent / "results" / "2026-11-25-learning-shares-cpu" / "source"
_K = 6


@dataclass(frozen=True)
class Load:
    """Random sequences of one length.

    Attributes:
        count: Sequences in full.
        length: Bases of each.
        part: Sequences that slow ways run on.
    """

    count: int
    length: int
    part: int

    def sequences(self, count: int) -> list[NamedSequence]:
        """The first ``count`` of them."""
        generator = np.random.default_rng(0)
        shape = (count, self.length)
        rows = generator.integers(FIRST_BASE, LAST_BASE + 1, shape, dtype=np.uint8)
        return [NamedSequence(str(number), bases) for number, bases in enumerate(rows)]


LOADS = {"short": Load(10_000, 300, 200), "long": Load(20, 100_000, 2)}


def run_embed(folder: Path | None, device: str) -> Callable[[list[NamedSequence]], Any]:
    """``embed`` with its defaults: both strands, batched by length, long sequences in windows."""
    model = load_model(folder, device)
    return lambda sequences: list(embed_sequences(model, sequences))


def run_every_layer(folder: Path | None, device: str) -> Callable[[list[NamedSequence]], Any]:
    """``embed --layer all`` with all pools, as a probe needs it."""
    model = load_model(folder, device)
    settings = EmbedSettings(("all",), ("mean", "max", "first", "bins"))
    return lambda sequences: list(embed_sequences(model, sequences, settings))


def run_singly(folder: Path | None, device: str) -> Callable[[list[NamedSequence]], Any]:
    """The naive loop: the model's own forward, a sequence per pass (in one piece), both strands, and a mean."""
    model = load_model(folder, device)

    def run(sequences: list[NamedSequence]) -> list[torch.Tensor]:
        with torch.inference_mode():
            rows = (pad_rows([sequence.bases], model.device) for sequence in sequences)
            return [model.model(row, strands="both").last_hidden_state.mean(1).cpu() for row in rows]

    return run


def run_source(folder: Path | None, device: str) -> Callable[[list[NamedSequence]], Any]:
    """The 6-mer source on the windows and batches of ``embed``, both strands, means over tokens."""
    window = default_window(load_model(folder, "cpu").config)
    source = on_device(NTv2ForMaskedLM.from_pretrained(SOURCE), choose_device(device).type)

    def batches(sequences: list[NamedSequence]) -> Iterator[torch.Tensor]:
        bases = [sequence.bases for sequence in sequences]
        return (ids for _, ids in window_batches(bases, window, None, DEFAULT_BATCH_BASES, source.device))

    def run(sequences: list[NamedSequence]) -> list[torch.Tensor]:
        found = []
        with torch.inference_mode():
            for ids in batches(sequences):
                is_valid = ids != PAD_ID
                rows, valid = torch.cat([ids, reverse_complement(ids, is_valid)]), is_valid.repeat(2, 1)
                tokens = cut_tokens(rows, valid, _K)
                front = torch.full_like(tokens.ids[:, :1], SOURCE_CLS)
                is_token = torch.cat([torch.ones_like(front, dtype=torch.bool), tokens.is_valid], 1)
                states = source.encode(torch.cat([front, tokens.ids], 1), is_token).last_hidden_state[:, 1:]
                means = states.sum(1) / tokens.is_valid.sum(1, keepdim=True)
                found.append(means.view(2, len(ids), -1).mean(0).cpu())
        return found

    return run


WAYS = {
    "embed": (run_embed, False),
    "embed, all layers and pools": (run_every_layer, True),
    "one sequence per pass": (run_singly, True),
    "6-mer source, batched": (run_source, False),
}
"""How to run each, and whether it runs on a part of the sequences."""


def measure(way: str, load_name: str, folder: Path | None, device: str, scale: float) -> dict[str, Any]:
    """Speed and memory of one way on one load, in this process."""
    load, (start, on_part) = LOADS[load_name], WAYS[way]
    count = max(round((load.part if on_part else load.count) * scale), 1)
    place = choose_device(device)
    run, sequences = start(folder, device), load.sequences(count)
    run([NamedSequence("first", sequences[0].bases[:300])])  # allocators and kernels are set up once
    begin, wall = clock(place.type), time.monotonic()
    run(sequences)
    if place.type == "cuda":
        torch.cuda.synchronize()
    seconds = clock(place.type) - begin
    return {
        "way": way,
        "load": load_name,
        **asdict(load),
        "measured_on": count,
        "seconds": round(seconds, 2),
        "wall_seconds": round(time.monotonic() - wall, 2),
        "sequences_per_second": round(count / seconds, 3),
        "bases_per_second": round(count * load.length / seconds),
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "peak_gpu_memory_mib": torch.cuda.max_memory_allocated() >> 20 if place.type == "cuda" else None,
    }


def measure_task(task: str, model: Path | None, device: str) -> dict[str, Any]:
    """Seconds of a probe of one fold of a whole task of a suite folder, features and all."""
    from hnet_ntv2.downstream.probe import run_probe
    from hnet_ntv2.tasks.suites import open_suite

    data = open_suite(task)[0].load(0, 0)
    begin = time.monotonic()
    run_probe(model, data, 0, device=device)
    return {"way": "probe", "task": data.name, "wall_seconds": round(time.monotonic() - begin, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON; the table is printed in any case")
    parser.add_argument("--model", type=Path, help="model folder [default: the bundled one]")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the sequences to measure on")
    parser.add_argument("--task", help="also time the probe of this folder of a suite")
    parser.add_argument("--only", nargs=2, metavar=("WAY", "LOAD"), help="one measurement, as JSON")
    options = parser.parse_args()
    if options.only:
        torch.set_num_threads(1)
        way, load = options.only
        print(json.dumps(measure(way, load, options.model, options.device, options.scale)))
        return
    found = [_in_own_process(sys.argv[1:], way, load) for load in LOADS for way in WAYS]
    if options.task:
        found.append(measure_task(options.task, options.model, options.device))
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": describe_device(choose_device(options.device).type),
        "commit": git_state(),
        "torch": torch.__version__,
        "clock": "CPU seconds of one thread; wall-clock seconds on a GPU",
        "measurements": found,
    }
    if options.output:
        with open_text(options.output) as file:
            file.write(json.dumps(report, indent=2) + "\n")


def _in_own_process(arguments: list[str], way: str, load: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.use", *arguments, "--only", way, load]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(result.stdout.splitlines()[-1])
    print(
        f"{load:6}{way:30}{found['sequences_per_second']:10.3f} sequences/s {found['peak_memory_mib']:8,} MiB  "
        f"(measured on {found['measured_on']:,} of {found['count']:,})",
        flush=True,
    )
    return found


if __name__ == "__main__":
    main()

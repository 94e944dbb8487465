"""Pre-training runs of a few seconds for these tests: a random genome, a model of a few thousand weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hnet_ntv2.backbone import LocalBlock, NTv2Block
from hnet_ntv2.training import devices
from hnet_ntv2.training.devices import ShardedStrategy
from hnet_ntv2.training.settings import PretrainSettings, build_settings

MODEL = {
    "d_model": 32,
    "n_head": 2,
    "intermediate_size": 64,
    "n_main_layer": 1,
    "kmer_size": 4,
    "window": 16,
}


def write_genome(folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Two contigs with repeats and a run of N, and a BED that splits them."""
    generator = np.random.default_rng(seed)
    fasta, bed = folder / "genome.fa", folder / "intervals.bed"
    with fasta.open("w") as file:
        for contig, length in (("chr1", 12_000), ("chr2", 4_000)):
            letters = generator.choice(list("ACGTacgt"), length, p=[0.2, 0.15, 0.15, 0.2, 0.1, 0.05, 0.05, 0.1])
            letters[1_000:1_100] = "N"
            lines = ["".join(letters[i : i + 60]) for i in range(0, length, 60)]
            file.write(f">{contig}\n" + "\n".join(lines) + "\n")
    bed.write_text("chr1\t0\t12000\ttrain\nchr2\t0\t2000\tvalid\nchr2\t2000\t4000\ttest\n")
    return fasta, bed


def tiny_settings(folder: Path, name: str = "run", **changes: Any) -> PretrainSettings:
    """Settings of a run in ``folder``; ``changes`` are dotted names with ``__`` for the dot."""
    fasta, bed = folder / "genome.fa", folder / "intervals.bed"
    if not fasta.exists():
        write_genome(folder)
    values: dict[str, Any] = {
        "output_dir": str(folder / name),
        "seed": 5,
        "model": dict(MODEL),
        "data": {
            "fasta": str(fasta),
            "intervals": str(bed),
            "seq_length": 96,
            "num_workers": 0,
            "cache_dir": str(folder / "cache"),
        },
        "batch": {"global_size": 4, "micro_batch_size": 2},
        "optimizer": {"learning_rate": 2e-3},
        "trainer": {"max_steps": 6, "accelerator": "cpu", "precision": "32"},
        "validation": {"every": 3, "windows": 5},
        "callbacks": {"checkpoint_every": 4, "log_every": 1, "progress_bar": False, "router_gradients_every": 2},
    }
    for dotted, value in changes.items():
        *path, last = dotted.split("__")
        target = values
        for part in path:
            target = target.setdefault(part, {})
        target[last] = value
    return build_settings(PretrainSettings, values, "the test")


def shard_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs use FSDP on CPUs, which Lightning does not offer, with autocast in half precision.

    One rank only: with more, torch 2.13 crashes where it gathers the weights of CPUs for a checkpoint.
    """
    from lightning.pytorch.plugins.precision import FSDPPrecision
    from torch.distributed.fsdp import FullyShardedDataParallel

    start = FullyShardedDataParallel.__init__

    def start_on_cpu(self, *args, device_id=None, **options):
        start(self, *args, device_id=torch.device("cpu"), **options)

    def autocast(self):
        return torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16-mixed")

    monkeypatch.setattr(FullyShardedDataParallel, "__init__", start_on_cpu)
    monkeypatch.setattr(FSDPPrecision, "forward_context", autocast)
    wrapped = {NTv2Block, LocalBlock}
    monkeypatch.setattr(devices, "build_strategy", lambda *_: ShardedStrategy(auto_wrap_policy=wrapped))

"""The data of a training run: open the genome, check that splits are disjoint, serve batches from any position."""

import hashlib
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader

from ..errors import ConfigError, DataError
from ..genome import Genome, SpanIndex, SplitInterval, file_digest, open_genome, read_repeats
from ..genome.bed import check_disjoint, default_split, read_split_intervals
from ..genome.files import check_rereadable
from ..shapes import Tensor, UInt8
from ..vocabulary import BASE_BITS, SOFT_MASK
from .collate import Batch, MaskingCollator
from .dataset import EvaluationSampler, FixedWindows, TrainingSampler, TrainingWindows
from .masking import MaskConfig
from .progress import cache_progress
from .ramps import CellShares
from .windows import WindowIndex

logger = logging.getLogger(__name__)

# Above the share in the most repetitive genomes (maize, lungfish: up to nine tenths).
_NEARLY_ALL = 0.95
_NUM_SAMPLED = 256

EVALUATION_SEED = 0
"""Validation masks do not depend on a run's seed, so that runs with different seeds can be compared."""


@dataclass(eq=False, repr=False)
class HG38DataModule(LightningDataModule):
    """Windows of a genome for masked-language-model training and validation.

    Training sample c depends on the seed and c alone; ``set_position`` sets the first c. The trainer needs
    ``use_distributed_sampler=False``: this module assigns samples to ranks.

    Args:
        fasta: Genome, as FASTA (plain, gzip, bgzip) or .2bit.
        intervals: ``chrom start end split`` file; None takes ``genome.default_split``.
        seq_length: Bases per window.
        micro_batch_size: Windows per forward pass.
        eval_micro_batch_size: The same for validation; None takes ``micro_batch_size``.
        num_workers: Loader processes; 0 loads in the training process.
        seed: Seed of window order, jitter, strands and masks.
        mask_rate: Share of the bases that is masked.
        mask_span: Bases per masked span.
        mask_share: Share of the spans shown as [MASK] in training.
        random_share: Share of the spans shown as random letters in training.
        grid_aligned_samples: The first so many training samples are masked in whole k-mer tokens of NTv2's grid.
        grid_k: The k of that grid.
        cell_shares: How many cells, masks and anchors are on the grid as training goes on; None never forces any.
        adds_grid_view: Validation batches also hold the windows masked on the grid.
        repeat_weight: Loss weight of repeats in training (1 in validation).
        repeats: BED of repeats; None takes the genome's lower case.
        cache_dir: Where the genome cache lives; None takes ``genome.default_cache_dir()``.
        valid_windows: How many validation windows, spread evenly over the split; None takes all.
        max_n_share: Windows with a larger share of N are left out.
        show_progress: Draw a progress bar while the genome cache is built.

    Raises:
        ConfigError: if a setting is out of range.
    """

    fasta: str | os.PathLike[str]
    intervals: str | os.PathLike[str] | None = None
    seq_length: int = 1024
    micro_batch_size: int = 8
    eval_micro_batch_size: int | None = None
    num_workers: int = 0
    seed: int = 2222
    mask_rate: float = 0.15
    mask_span: int = 6
    mask_share: float = 0.8
    random_share: float = 0.1
    grid_aligned_samples: int = 0
    grid_k: int = 6
    cell_shares: CellShares | None = None
    adds_grid_view: bool = False
    repeat_weight: float = 0.1
    repeats: str | os.PathLike[str] | None = None
    cache_dir: str | os.PathLike[str] | None = None
    valid_windows: int | None = 512
    max_n_share: float = 0.5
    show_progress: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        shares = (self.mask_share, self.random_share)
        self.mask = MaskConfig(self.mask_rate, self.mask_span, *shares, grid_k=self.grid_k)
        self._check_settings()
        self._position, self._stop = 0, None
        self._expected: dict[str, Any] | None = None
        self._genome: Genome | None = None
        self._repeats: SpanIndex | None = None
        self._split_intervals: list[SplitInterval] = []
        self._indices: dict[str, WindowIndex] = {}
        self._fingerprint: dict[str, str | None] = {}

    def _check_settings(self) -> None:
        at_least = {"seq_length": self.mask.span, "micro_batch_size": 1, "eval_micro_batch_size": 1, "num_workers": 0,
                    "grid_aligned_samples": 0, "valid_windows": 1}  # fmt: skip
        for name, lowest in at_least.items():
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < lowest):
                raise ConfigError(f"{name} is {value!r}; it must be a whole number of at least {lowest}")
        if not 0 <= self.max_n_share < 1:
            raise ConfigError(f"max_n_share is {self.max_n_share!r}; it is a share, at least 0 and below 1")
        self._collator("train")

    # Opening

    def prepare_data(self) -> None:
        """Build the genome cache where it is missing; Lightning calls this once per node."""
        with cache_progress(f"Caching {Path(self.fasta).name}", visible=self.show_progress) as progress:
            open_genome(self.fasta, self.cache_dir, progress)

    def setup(self, stage: str | None = None) -> None:
        """Open the genome and lay out the windows of every split; harmless to call again.

        Raises:
            GenomeError, ContigNotFound, IntervalError: if a file cannot be used.
            DataError: if splits overlap, a split gives no window, or the data are not those of the resumed run.
        """
        if self._genome is not None:
            return
        for path in (self.intervals, self.repeats):
            if path is not None:
                check_rereadable(path, "training data (by each process, and when a run is resumed)")
        genome = open_genome(self.fasta, self.cache_dir)
        if self.intervals is None:
            logger.info("no interval file: splitting %s by chromosome", genome.source)
            intervals = default_split(genome.contigs)
        else:
            intervals = read_split_intervals(self.intervals, genome.contigs)
        check_disjoint(intervals)
        if self.repeats is not None:
            self._repeats = read_repeats(self.repeats, genome)
        splits = ["train", "valid"] + ["test"] * any(interval.split == "test" for interval in intervals)
        self._indices = {
            split: WindowIndex.build(genome, intervals, self.seq_length, self.max_n_share, split) for split in splits
        }
        lines = "\n".join(f"{interval} {interval.split}" for interval in intervals)
        self._fingerprint = {
            "fasta": genome.fingerprint,
            "intervals": hashlib.blake2b(lines.encode(), digest_size=16).hexdigest(),
            "repeats": None if self.repeats is None else file_digest(self.repeats),
        }
        self._split_intervals, self._genome = intervals, genome
        self._check_same_data()
        self._warn_if_all_repeats()

    def _warn_if_all_repeats(self) -> None:
        """Warn if nearly all bases count as repeats, as in a FASTA in lower case (GenBank writes them so)."""
        if self.repeat_weight == 1 or self._rank_and_world_size()[0] != 0:
            return
        train = self.window_index("train")
        dataset = FixedWindows(self.genome, train, _NUM_SAMPLED, self._repeats)
        bases = dataset.__getitems__(range(len(dataset))).bases
        share = ((bases & SOFT_MASK) != 0).mean()
        if share < _NEARLY_ALL:
            return
        where, cure = "in lower case", "if lower case does not mean repeat here, or name repeats with data.repeats=BED"
        if self._repeats is not None:
            where, cure = f"in {self.repeats}", "to weigh all bases alike"
        logger.warning(
            "%.0f %% of the training bases are %s, which means repeats: data.repeat_weight=%g makes each count %g in "
            "the task loss, which is that much smaller beside the ratio loss; set data.repeat_weight=1 %s",
            *(100 * share, where, self.repeat_weight, self.repeat_weight, cure),
        )

    @property
    def genome(self) -> Genome:
        """The genome; opened by ``setup``."""
        if self._genome is None:
            self.prepare_data()
            self.setup()
        assert self._genome is not None
        return self._genome

    def split_intervals(self, split: str) -> list[SplitInterval]:
        """The intervals of one split, with the genome's contig names."""
        _ = self.genome  # opened, which reads the intervals
        return [interval for interval in self._split_intervals if interval.split == split]

    def window_index(self, split: str) -> WindowIndex:
        """The windows of one split.

        Raises:
            DataError: if the intervals have no such split.
        """
        assert self.genome is not None
        if split not in self._indices:
            raise DataError(f"the intervals have no split {split!r}; they have {', '.join(self._indices)}")
        return self._indices[split]

    def plain_windows(self, split: str, count: int | None = None) -> UInt8[Tensor, "windows length"]:
        """Character ids of tiles of a split, without masks: all, or ``count`` spread evenly."""
        index = self.window_index(split)
        places = index.fixed(index.evenly_spread(count))
        return torch.from_numpy(self.genome.gather(places.start, self.seq_length) & BASE_BITS)

    # Serving

    def set_position(self, samples_seen: int, stop: int | None = None) -> None:
        """Start the next training loader at sample ``samples_seen``; it ends before ``stop`` (None: never)."""
        self._position, self._stop = samples_seen, stop

    def set_micro_batch_size(self, windows: int) -> None:
        """Set the windows per micro-batch of the next loaders of all splits."""
        self.micro_batch_size, self.eval_micro_batch_size = windows, None

    def train_dataloader(self) -> DataLoader[Batch]:
        """This rank's micro-batches from the position on; endless unless ``set_position`` set a stop."""
        rank, world_size = self._rank_and_world_size()
        dataset = TrainingWindows(self.genome, self.window_index("train"), self.seed, self._repeats)
        sampler = TrainingSampler(
            self.micro_batch_size, start=self._position, stop=self._stop, rank=rank, world_size=world_size
        )
        return self._loader(dataset, sampler, "train")

    def val_dataloader(self) -> DataLoader[Batch]:
        """Fixed validation windows with fixed masks, all targets shown as [MASK], in this rank's share."""
        rank, world_size = self._rank_and_world_size()
        dataset = FixedWindows(self.genome, self.window_index("valid"), self.valid_windows, self._repeats)
        size = self.eval_micro_batch_size or self.micro_batch_size
        sampler = EvaluationSampler(len(dataset), size, rank=rank, world_size=world_size)
        return self._loader(dataset, sampler, "valid")

    def _loader(self, dataset: Any, sampler: Any, split: str) -> DataLoader[Batch]:
        collate: Any = self._collator(split)  # takes the whole RawWindows of a micro-batch, not a list
        return DataLoader(
            dataset,
            batch_sampler=sampler,
            collate_fn=collate,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,  # starting workers anew costs seconds per validation
            worker_init_fn=_leave_signals_to_main_process,
        )

    def _collator(self, split: str) -> MaskingCollator:
        if split == "train":
            warm_start = {"grid_aligned_until": self.grid_aligned_samples, "cell_shares": self.cell_shares}
            return MaskingCollator(self.mask, self.seed, self.repeat_weight, **warm_start)
        return MaskingCollator(self.mask, EVALUATION_SEED, shown_as_mask_only=True, adds_grid_view=self.adds_grid_view)

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    # Describing

    def fingerprint(self) -> dict[str, str | None]:
        """Digests of what is read: the genome file, the intervals in use, the repeats file."""
        assert self.genome is not None
        return dict(self._fingerprint)

    def describe(self) -> dict[str, Any]:
        """Files, digests and the windows of each split, for the record of a run (JSON values)."""
        assert self.genome is not None
        splits = {
            split: {
                "intervals": len(self.split_intervals(split)),
                "short_intervals_left_out": index.num_short_intervals,
                "bases": index.num_bases,
                "windows": len(index),
                "windows_left_out_as_n": index.num_skipped_n,
            }
            for split, index in self._indices.items()
        }
        paths = {"fasta": self.fasta, "intervals": self.intervals, "repeats": self.repeats}
        return {
            **{name: None if path is None else str(path) for name, path in paths.items()},
            "seq_length": self.seq_length,
            "seed": self.seed,
            "fingerprint": self.fingerprint(),
            "splits": splits,
        }

    # Resuming

    def state_dict(self) -> dict[str, Any]:
        """Position, seed, window length and digests, for a checkpoint."""
        return {
            "position": self._position,
            "seed": self.seed,
            "seq_length": self.seq_length,
            "fingerprint": self.fingerprint(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position of ``state_dict``.

        Raises:
            DataError: if seed, window length or files differ from those of the run that saved it (at once, or in
                ``setup`` if the genome is not open yet).
        """
        # Kept, because the genome may not be open yet; setup() compares then.
        self._expected = dict(state_dict)
        self._position = int(state_dict["position"])
        if self._genome is not None:
            self._check_same_data()

    def _check_same_data(self) -> None:
        if self._expected is None:
            return
        now = self.state_dict()
        for name in ("seed", "seq_length", "fingerprint"):
            if now[name] != self._expected[name]:
                raise DataError(
                    f"the run to resume was trained with {name} {self._expected[name]}, now it is {now[name]}: its "
                    "data order cannot be continued; use the same data, or start a new run from its weights"
                )


def default_num_workers(devices: int = 1) -> int:
    """Loader processes of each of a node's devices: four, if this process may use so many cores for each of them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(4, max(1, cores // devices))


def _leave_signals_to_main_process(worker: int) -> None:
    """A signal to the whole process group (Ctrl-C, SLURM) must not kill a loader while the last step is finished."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)

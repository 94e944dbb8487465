"""One run of the experiment: make its start, train it as a user would, measure it, write its result."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.byte_pairs import in_place_of_minimizer, learn
from hnet_ntv2.conversion.calibrate import TEXT_BASES, calibrate_routers
from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.errors import DataError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2Config, HNetNTV2ForMaskedLM
from hnet_ntv2.modeling_ntv2 import NTv2ForMaskedLM
from hnet_ntv2.resources import bundled_model
from hnet_ntv2.storage import open_text
from hnet_ntv2.training.display import VALIDATION
from hnet_ntv2.training.run import pretrain
from hnet_ntv2.training.settings import PretrainSettings, build_settings

from .arms import ARMS, REFERENCE, Arm, make_start, run_settings
from .baselines import train_plain
from .dna import Dna, join_dna, open_data
from .evaluate import WindowSums, evaluate_model, evaluate_view, model_log_probs, window_facts, write_npz
from .setup import SIZES, Setup, describe_device, on_device
from .source import base_log_probs, train_source
from .timing import training_clock

# Runs besides the arms: the source itself, a start before any training, and the alternative without chunks.
OTHERS = {
    "source": "the 6-mer source as trained, on its own grid",
    "source_on": "the 6-mer source, trained on for the CPU time of an arm",
    "source_longer": "the 6-mer source, trained on for as many steps as before",
    "source_longest": "the 6-mer source, trained on for four times as many steps as before",
    "packaged": "the model that comes with the package",
    "graft_untrained": "the full graft before any training",
    "plain": "plain single-nucleotide transformer of the same depth",
}
REFERENCES = ("source", "source_on", "source_longer", "source_longest")
_EVALUATION_BATCH = 16
_GRID_ALWAYS = 10**15  # samples masked on the grid: more than any run draws, since the source knows no other masks


class Workplace:
    """The files of one experiment.

    Args:
        folder: Folder of all its files.
        dna: Genome and split.
        setup: Sizes.
    """

    def __init__(self, folder: Path, dna: Dna, setup: Setup):
        self.folder, self.dna, self.setup = folder, dna, setup

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def run_folder(self, name: str, seed: int) -> Path:
        """Folder of a run. 6-mer models lie apart: they can be compared on the grid only."""
        kind = "references" if name in REFERENCES else "runs"
        return self.folder / kind / name / f"seed{seed}"

    def training_data(self, batch_size: int, **options) -> HG38DataModule:
        return open_data(self.dna, self.folder, self.setup.seq_length, batch_size, **options)

    def validation_data(self, windows: int | None = None) -> HG38DataModule:
        """The fixed windows, masked both freely and on the grid."""
        return self.training_data(_EVALUATION_BATCH, valid_windows=windows or self.setup.windows, adds_grid_view=True)

    def settings(self, arm: Arm, seed: int, start: Path, output: Path) -> dict[str, Any]:
        """Settings of ``pretrain`` for a run in this place."""
        return run_settings(
            arm,
            self.setup,
            seed,
            fasta=self.dna.fasta,
            intervals=self.dna.intervals,
            cache=self.folder / "cache",
            source=self.source,
            start=start,
            output=output,
        )

    def tokens_of(self, arm: str) -> AbstractContextManager[None]:
        """What the models of an arm must be made and run in, since their files cannot tell of byte pairs."""
        if arm not in ARMS or not ARMS[arm].byte_pairs:
            return nullcontext()
        data = self.training_data(self.setup.batch_size)
        return in_place_of_minimizer(learn(data.plain_windows("train", TEXT_BASES // self.setup.seq_length)))

    def ensure_source(self) -> None:
        """Train the source unless its folder exists."""
        if (self.folder / "source.json").exists():
            if not (self.source / "config.json").exists():
                raise DataError(f"{self.folder / 'source.json'} tells of a source, but {self.source} does not hold it")
        else:
            data = self.training_data(self.setup.source.batch_size, grid_aligned_samples=_GRID_ALWAYS)
            train_source(self.setup.source, data, self.folder, accelerator=self.setup.accelerator)

    def ensure_facts(self) -> Path:
        """Write the blocks and repeat-richness of the validation windows, once, and return the file."""
        path = self.folder / "windows.npz"
        if not path.exists():
            write_npz(path, window_facts(self.validation_data(), self.setup))
        return path


def open_place(work: Path) -> Workplace:
    """The place of an experiment that has begun.

    Raises:
        DataError: There is none.
    """
    described = work / "setup.json"
    if not described.is_file():
        raise DataError(f"{work} is no folder of an experiment: it has no setup.json")
    setup = SIZES[json.loads(described.read_text(encoding="utf-8"))["size"]]
    # The experiment joined its files there, or ran on the bundled DNA.
    joined = Dna(work / "dna.fa", work / "dna.bed")
    return Workplace(work, joined if joined.fasta.exists() else join_dna((), (), work), setup)


def finished_models(place: Workplace, arm: str) -> Iterator[HNetNTV2ForMaskedLM]:
    """The model of each finished seed of an arm, in ``eval()``.

    Raises:
        DataError: There is none.
    """
    parent = place.run_folder(arm, 0).parent
    folders = sorted(path.parent for path in parent.glob("seed*/result.json"))
    if not folders:
        raise DataError(f"there is no finished run of {arm} in {parent}")
    for folder in folders:
        weights = bundled_model() if arm == "packaged" else folder / "training" / "checkpoints" / "hf"
        yield HNetNTV2ForMaskedLM.from_pretrained(weights).eval()


def perform(place: Workplace, name: str, seed: int) -> None:
    """Do one run, unless its ``result.json`` exists."""
    folder = place.run_folder(name, seed)
    if (folder / "result.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(filename=folder / "run.log", level=logging.INFO, force=True)
    with place.tokens_of(name):
        result, views = _perform_other(place, name, seed) if name in OTHERS else _perform_arm(place, ARMS[name], seed)
    arrays = {key: values for view, sums in views.items() for key, values in sums.arrays(view).items()}
    with np.load(place.ensure_facts()) as facts:
        write_npz(folder / "windows.npz", {**arrays, **facts})
    document = {
        "arm": name,
        "seed": seed,
        "steps": 0,
        "train_bases": 0,
        "cpu_seconds": 0.0,
        "wall_seconds": 0.0,
        "bases_per_second": 0.0,
        "strands": "forward",
        "device": describe_device(place.setup.accelerator),
        "curve": [],
        "ratios": None,
        "chunk_length": None,
        **result,
        "validation": {view: sums.summary() for view, sums in views.items()},
    }
    # Last: a run counts as done once this file exists.
    with open_text(folder / "result.json") as file:
        file.write(json.dumps(document, indent=2) + "\n")


def _perform_arm(place: Workplace, arm: Arm, seed: int) -> tuple[dict, dict[str, WindowSums]]:
    setup, folder = place.setup, place.run_folder(arm.name, seed)
    start = folder / "start"
    make_start(arm, setup, place.source, place.training_data(setup.batch_size, seed=seed), seed, start)
    values = place.settings(arm, seed, start, folder / "training")
    settings = build_settings(PretrainSettings, values, f"arm {arm.name}")
    before = _curve_bits(place, _starting_model(place, arm, seed, start))
    wall = time.monotonic()
    with training_clock(setup.accelerator) as watch:
        outcome = pretrain(settings)
    spent = watch.seconds
    curve = [{"step": 0, "cpu_seconds": 0.0, "bits": before}, *_curve(outcome.history[VALIDATION], spent, setup.steps)]
    measured = evaluate_model(on_device(outcome.model, setup.accelerator), place.validation_data(), setup)
    bases = setup.steps * setup.batch_size * setup.seq_length
    return {
        "description": arm.description,
        "steps": setup.steps,
        "train_bases": bases,
        "cpu_seconds": spent,
        "wall_seconds": time.monotonic() - wall,
        "bases_per_second": bases / spent,
        "curve": curve,
        "ratios": measured["ratios"],
        "chunk_length": measured["chunk_length"],
        "parameters": sum(outcome.model.count_parameters().values()),
    }, measured["views"]


def _starting_model(place: Workplace, arm: Arm, seed: int, start: Path) -> HNetNTV2ForMaskedLM:
    """The model before its first step, for the first point of its curve."""
    if arm.parts:
        return on_device(HNetNTV2ForMaskedLM.from_pretrained(start), place.setup.accelerator)
    torch.manual_seed(seed)  # the same weights as ``pretrain`` makes from this seed
    model = HNetNTV2ForMaskedLM(HNetNTV2Config(**{**place.setup.model_settings(), **arm.model}))
    data, text = place.training_data(place.setup.batch_size, seed=seed), None
    if model.config.counts_kmers:
        text = data.plain_windows("train", TEXT_BASES // place.setup.seq_length).long()
    calibrate_routers(model.model, list(data.plain_windows("train", 32).long().split(8)), text)
    return on_device(model, place.setup.accelerator)


def _curve_bits(place: Workplace, model: HNetNTV2ForMaskedLM) -> float:
    """Bits per masked base on the windows of the learning curves, anchors off."""
    log_probs, data = model_log_probs(model.eval(), anchors=False), place.validation_data(place.setup.curve_windows)
    return evaluate_view(log_probs, data, place.setup, "anchors_off").summary()["bits"]


def _curve(path: Path, cpu_seconds: float, steps: int) -> list[dict]:
    """Points of the validation log. Seconds are shared out evenly over the steps: only their sum is measured."""
    lines = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()]
    columns = {name: number for number, name in enumerate(lines[0])}
    stages = [name for name in columns if name.startswith("mask_free/stage") and name.endswith("/ratio")]
    return [
        {
            "step": (step := int(float(line[columns["step"]]))),
            "cpu_seconds": cpu_seconds * step / steps,
            "bits": float(line[columns["bits"]]),
            "mask_free_ratios": [float(line[columns[stage]]) for stage in stages],
        }
        for line in lines[1:]
    ]


def _check_time(place: Workplace, reference: dict) -> None:
    """Check that the reference's seconds are known, and of the same device as the source and this run."""
    if reference["cpu_seconds"] is None:
        raise DataError(
            f"the time of {REFERENCE} is not known, and source_on trains as long; take that run out of the work folder "
            "so that it is done and timed again"
        )
    source = json.loads((place.folder / "source.json").read_text(encoding="utf-8"))
    devices = {source["device"], reference["device"], describe_device(place.setup.accelerator)}
    if len(devices) > 1:
        raise DataError(
            f"the times of {REFERENCE}, of the source and of this run are of different devices: "
            f"{', '.join(sorted(devices))}; run all three on one"
        )


def _perform_other(place: Workplace, name: str, seed: int) -> tuple[dict, dict[str, WindowSums]]:
    setup, validation = place.setup, place.validation_data()
    result = {"description": OTHERS[name]}
    if name in ("graft_untrained", "packaged"):
        start = bundled_model()
        if name == "graft_untrained":
            start, data = place.run_folder(name, seed) / "start", place.training_data(setup.batch_size, seed=seed)
            make_start(ARMS["graft"], setup, place.source, data, seed, start)
        model = on_device(HNetNTV2ForMaskedLM.from_pretrained(start), setup.accelerator)
        measured = evaluate_model(model, validation, setup)
        return {
            **result,
            "curve": [{"step": 0, "cpu_seconds": 0.0, "bits": _curve_bits(place, model)}],
            "ratios": measured["ratios"],
            "chunk_length": measured["chunk_length"],
            "parameters": sum(model.count_parameters().values()),
        }, measured["views"]
    if name == "plain":
        data = place.training_data(setup.batch_size, seed=seed)
        model, cost = train_plain(setup, data, place.validation_data(setup.curve_windows), seed)
        bases = setup.steps * setup.batch_size * setup.seq_length
        views = {"anchors_off": evaluate_view(model.eval().log_probs, validation, setup, "anchors_off")}
        return {
            **result,
            **cost,
            "steps": setup.steps,
            "train_bases": bases,
            "bases_per_second": bases / cost["cpu_seconds"],
            "parameters": sum(p.numel() for p in model.parameters()),
        }, views
    folder = place.folder
    if name != "source":
        folder = place.run_folder(name, seed) / "training"
        seconds, longer = None, replace(setup.source, steps=(4 if name == "source_longest" else 1) * setup.source.steps)
        if name == "source_on":
            reference = json.loads((place.run_folder(REFERENCE, seed) / "result.json").read_text(encoding="utf-8"))
            _check_time(place, reference)
            seconds = reference["cpu_seconds"]
        # Another seed than the source's first training had: new windows, as the arms have.
        data = place.training_data(setup.source.batch_size, grid_aligned_samples=_GRID_ALWAYS, seed=1000 + seed)
        cost = train_source(
            longer, data, folder, accelerator=setup.accelerator, start=place.source, cpu_seconds=seconds
        )
        result |= {key: cost[key] for key in ("steps", "train_bases", "cpu_seconds")}
    model = on_device(NTv2ForMaskedLM.from_pretrained(folder / "source"), setup.accelerator)
    views = {"grid": evaluate_view(lambda batch: base_log_probs(model, batch), validation, setup, "grid")}
    return {**result, "parameters": sum(p.numel() for p in model.parameters())}, views

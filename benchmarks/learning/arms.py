"""The arms of the experiment: what each starts from and which settings of its training differ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.conversion.graft import build_model, config_for, graft
from hnet_ntv2.conversion.saving import save_start
from hnet_ntv2.conversion.sequence import RealSequence
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.parameter_names import GRAFTED_GROUPS, parameter_group

from .setup import Setup

# Multipliers of the learning rate. Grafted parts move slowly, so that random parts adapt to them and not they to noise.
FROM_SCRATCH = 0.95
GRAFTED = 0.1


@dataclass(frozen=True)
class Arm:
    """One way to start and to train.

    Attributes:
        name: In folders and tables.
        description: What it is.
        parts: Which of the optimizer's ``GRAFTED_GROUPS`` come from the source.
        releases: Trained in phases from the grid to free chunks; otherwise free from the first step.
        layers: Which source blocks the trunk keeps, and their share (None: all).
        model: Model settings that differ.
        training: Settings of the run that differ, by dotted name.
        phases: Settings of single phases that differ, by "phase.name".
        teacher: Weight of the hidden-state teacher.
        byte_pairs: Its chunks are tokens in place of a minimizer's (``byte_pairs``).
    """

    name: str
    description: str
    parts: tuple[str, ...] = GRAFTED_GROUPS
    releases: bool = True
    layers: tuple[str, float] | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    phases: Mapping[str, Any] = field(default_factory=dict)
    teacher: float = 0.0
    byte_pairs: bool = False


REFERENCE = "anchors_kept"
_FADING = {"release.anchor_share": [1.0, 0.0], "joint.anchor_share": [0.0]}
_ONLY_ANCHORS = {"align.steps": 0, "release.grid_share": [0.0], "release.ratio_weight": [1.0]}

CORE = (
    Arm("random", "all weights random", (), releases=False),
    Arm("trunk", "trunk grafted, k-mer embeddings and head random", ("trunk",), releases=False),
    Arm(
        "trunk_embedding",
        "trunk and 6-mer embeddings grafted, head random",
        ("trunk", "kmer_embedding"),
        releases=False,
    ),
    Arm("graft", "full graft, grafted parts at 0.1", releases=False),
    Arm("anchors_kept", "full graft, gradual release of the grid, anchors kept"),
)
ONE_AT_A_TIME = (
    Arm("release", "anchors fade out with the grid", phases=_FADING),
    Arm("anchors_free", "graft, anchors from the first step to the last, no grid", phases=_ONLY_ANCHORS),
    Arm("random_anchors", "all weights random, anchors from the first step to the last", (), phases=_ONLY_ANCHORS),
    Arm("gentle", "graft, all learning rates a third", releases=False, training={"learning_rate": 5e-4}),
    Arm(
        "gentle_anchors",
        "anchors_free, all learning rates a third",
        training={"learning_rate": 5e-4},
        phases=_ONLY_ANCHORS,
    ),
    Arm("gentle_kept", "anchors_kept, all learning rates a third", training={"learning_rate": 5e-4}),
    Arm("gentle_release", "release, all learning rates a third", training={"learning_rate": 5e-4}, phases=_FADING),
    Arm("no_protection", "no forced boundaries around masks", model={"mask_protection": False}),
    Arm("no_gating", "skip path open in masked chunks", model={"residual_gating": False}),
    Arm("no_smoothing", "no smoothing of chunk vectors", model={"smoothing": False}),
    Arm("rank_positions", "rotary positions count chunks", model={"position_mode": "rank"}),
    Arm("no_cap", "chunks of any length", model={"max_chunk_length": None}),
    Arm("ratio_0", "ratio loss off", model={"ratio_loss_weight": 0.0}),
    Arm("ratio_0.01", "ratio loss weight 0.01", model={"ratio_loss_weight": 0.01}),
    Arm("ratio_0.1", "ratio loss weight 0.1", model={"ratio_loss_weight": 0.1}),
    Arm("held_by_loss", "routers' offsets held, the ratio loss alone", model={"router_offset_rate": 0.0}),
    Arm("single_base_masks", "single masked bases in training", training={"mask.span": 1}),
    Arm("hidden_teacher", "matching the source's hidden state after 4 layers", teacher=1.0),
    Arm("half_rate", "grafted parts at 0.5 instead of 0.1", training={"grafted_rate": 0.5}),
    Arm("full_rate", "grafted parts at the learning rate of random ones", training={"grafted_rate": FROM_SCRATCH}),
    Arm("layers_auto", "3/4 of the source's layers, by similarity", layers=("auto", 0.75)),
    Arm("layers_first", "3/4 of the source's layers, the first", layers=("first", 0.75)),
    Arm("layers_last", "3/4 of the source's layers, the last", layers=("last", 0.75)),
    Arm("layers_spread", "3/4 of the source's layers, spread", layers=("spread", 0.75)),
)
# What the learned router is worth: another chunker in its place, from random weights and from the graft. "grid" cuts as
# NTv2's 6-mers do, also where masks are not on them.
OTHER_CHUNKERS = {
    "peak": "boundaries at peaks of the learned score",
    "ruler": "boundaries at even distances from forced ones",
    "minimizer": "boundaries at the greatest hash of 4 bases",
    "entropy": "boundaries where counts say that something known ends",
    "shuffled": "boundaries at peaks of a hash of the position",
    "none": "no boundaries but the cap's and the guard's",
    "grid": "the tokens of the 6-mer source",
}
# Half as many chunks: one per 13.3 bases, the cap at four times that.
_COARSE = {"target_ratio_stage2": 0.25, "guard_stage2": [0.125, 0.45], "max_chunk_length": 52}
# A quarter as many: one per 26.7 bases.
_COARSEST = {"target_ratio_stage2": 0.125, "guard_stage2": [0.0625, 0.225], "max_chunk_length": 107}
# As many chunks as peaks make without a control of their ratios, for comparisons at equal counts.
_DENSE = {"target_ratio_stage1": 0.357, "target_ratio_stage2": 0.516}
# Peaks among four neighbours: about as many chunks as the other chunkers make at 0.3.
_SPARSE = {"target_ratio_stage1": 0.25}
CHUNKERS = (
    *(
        Arm(f"{name}_random", f"all weights random, {description}", (), releases=False, model={"chunker": name})
        for name, description in OTHER_CHUNKERS.items()
    ),
    *(Arm(f"{name}_kept", description, model={"chunker": name}) for name, description in OTHER_CHUNKERS.items()),
    # What the trunk is worth: its embeddings and head are grafted, its blocks left out.
    Arm("no_trunk_kept", "boundaries at peaks, no trunk", layers=("first", 0.0), model={"chunker": "peak"}),
    # What p is worth as a weight: without it p is only a factor of value 1.
    Arm("peak_unsmoothed_kept", "boundaries at peaks, no smoothing", model={"chunker": "peak", "smoothing": False}),
    Arm("ruler_4_kept", "4-mers", model={"chunker": "ruler", "target_ratio_stage1": 0.5}),
    Arm("byte_pairs_kept", "byte pairs of the training windows", model={"chunker": "minimizer"}, byte_pairs=True),
    Arm("ruler_8_kept", "8-mers", model={"chunker": "ruler", "target_ratio_stage1": 0.25}),
    *(
        Arm(f"{name}_{regime}_kept", f"{name}; {description}", model={"chunker": name} | settings)
        for name in ("learned", "peak", "ruler", "minimizer", "entropy")
        for regime, description, settings in (
            ("coarse", "a chunk per 13.3 bases", _COARSE),
            ("coarsest", "a chunk per 26.7 bases", _COARSEST),
            ("narrow", "local layers that see 8 bases to either side", {"window": 8}),
            ("dense", "as many chunks as peaks make", _DENSE),
            ("sparse", "peaks among four neighbours", _SPARSE),
        )
    ),
)
ARMS = {arm.name: arm for arm in (*CORE, *ONE_AT_A_TIME, *CHUNKERS)}


def make_start(arm: Arm, setup: Setup, source: Path, data: HG38DataModule, seed: int, folder: Path) -> None:
    """Write the model that an arm starts from; nothing for a fully random one, which ``pretrain`` builds itself.

    Args:
        arm: The arm.
        setup: Sizes.
        source: Folder of the source model.
        data: Training windows, for calibration.
        seed: Of the random weights.
        folder: Folder to write; kept if it exists.
    """
    if not arm.parts or folder.exists():
        return
    windows = [data.plain_windows(*which).long() for which in (("train", 32), ("valid", 32), ("train", 2048))]
    sequence = RealSequence("training intervals", *windows)
    settings = {**setup.model_settings(), **arm.model}
    layers = "auto"
    if arm.layers is not None:
        layers, share = arm.layers
        settings["n_main_layer"] = round(share * setup.source.layers)
    opened = open_source(str(source))
    start = graft(opened, sequence, settings=settings, layers=layers, seed=seed)
    if set(arm.parts) == set(GRAFTED_GROUPS):
        save_start(start, folder)
        return
    # A partial graft is no start that ``save_start`` could describe: it is saved as a plain model.
    model = start.model
    _randomise(model, build_model(config_for(opened, settings), seed), arm.parts)
    # Again: the random parts feed the routers other vectors than the grafted ones that ``graft`` calibrated them on.
    calibrate_routers(model.model, list(sequence.calibration.split(8)))
    model.save_pretrained(folder)


@torch.no_grad()
def _randomise(model: HNetNTV2ForMaskedLM, fresh: HNetNTV2ForMaskedLM, kept: tuple[str, ...]) -> None:
    """Overwrite the grafted parts that an arm does not keep with random weights."""
    replaced = set(GRAFTED_GROUPS) - set(kept)
    tensors = fresh.state_dict()
    for name, tensor in model.state_dict().items():
        # A full graft starts the head's residual at zero, to be as the source; without the graft it has to learn.
        if parameter_group(name) in replaced or name.startswith("head.residual."):
            tensor.copy_(tensors[name])


def run_settings(
    arm: Arm,
    setup: Setup,
    seed: int,
    *,
    fasta: Path,
    intervals: Path,
    cache: Path,
    source: Path,
    start: Path,
    output: Path,
) -> dict[str, Any]:
    """The settings of ``pretrain`` for one run, as in its YAML file."""
    training = dict(arm.training)
    rate = training.pop("grafted_rate", GRAFTED)
    rates = {group: rate if group in arm.parts else FROM_SCRATCH for group in GRAFTED_GROUPS}
    every = setup.steps // setup.curve_points
    return {
        "experiment_name": f"{arm.name}-{seed}",
        "output_dir": str(output),
        "overwrite": True,
        "seed": seed,
        "init": str(start) if arm.parts else None,
        "model": {} if arm.parts else {**setup.model_settings(), **arm.model},
        "data": {
            "fasta": str(fasta),
            "intervals": str(intervals),
            "cache_dir": str(cache),
            "seq_length": setup.seq_length,
            "num_workers": 0,  # the CPU seconds of worker processes would not be counted
            "repeat_weight": 1.0,
            "mask": {"span": training.pop("mask.span", 6)},
        },
        "batch": {"global_size": setup.batch_size, "micro_batch_size": setup.batch_size},
        "optimizer": {
            "learning_rate": training.pop("learning_rate", setup.learning_rate),
            "multipliers": {"base": 2.45, "stage1": 1.34, "stage2": 0.95, **rates},
        },
        "trainer": {"max_steps": setup.steps, "accelerator": setup.accelerator, "precision": "32"},
        "warm_start": {"when": "always" if arm.releases else "never", **_phases(arm, setup, source)},
        "validation": {
            "every": every,
            "windows": setup.curve_windows,
            "anchors": [False],
            "grid": False,
            "strands": "forward",
        },
        "callbacks": {
            "checkpoint_every": setup.steps // 2,
            "progress_bar": False,
            "collapse_patience": 0,  # an arm that collapses is a result
            "router_gradients_every": 0,
        },
    }


def _phases(arm: Arm, setup: Setup, source: Path) -> dict[str, Any]:
    """Align for 5 % of the steps, release for 55 %, joint for the rest; anchors stay unless the arm says otherwise."""
    phases: dict[str, Any] = {
        "align": {
            "steps": round(0.05 * setup.steps),
            "multipliers": dict.fromkeys(arm.parts, 0.0),
            "grid_share": [1.0],
            "anchor_share": [1.0],
            "ratio_weight": [0.0],
        },
        "release": {
            "steps": round(0.55 * setup.steps),
            "grid_share": [1.0, 0.0],
            "anchor_share": [1.0],
            "ratio_weight": [0.0, 1.0],
        },
        "joint": {"anchor_share": [1.0]},
    }
    for name, value in arm.phases.items():
        phase, _, key = name.partition(".")
        phases[phase][key] = value
    for phase in phases.values():
        phase["hidden_state_weight"] = [arm.teacher]
    return {**phases, "teacher": str(source) if arm.teacher else None, "teacher_layer": min(4, setup.source.layers)}

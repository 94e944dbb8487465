"""Train the small model that comes with the package, in the way that the experiment found best, and write its card.

From a fresh graft, or further from a model that was trained by this script before.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.learning.arms import ARMS, OTHER_CHUNKERS, make_start
from benchmarks.learning.dna import join_dna
from benchmarks.learning.evaluate import WindowSums, evaluate_model, evaluate_view, model_log_probs, window_facts
from benchmarks.learning.run import Workplace
from benchmarks.learning.setup import SIZES, Setup, clock, on_device
from benchmarks.learning.statistics import paired_bootstrap
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.data.datamodule import HG38DataModule
from hnet_ntv2.errors import HNetNTV2Error
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from hnet_ntv2.storage import appearing_folder
from hnet_ntv2.tokenization_hnet_ntv2 import HNetNTV2Tokenizer
from hnet_ntv2.training.checkpoints import LAST
from hnet_ntv2.training.identity import git_state
from hnet_ntv2.training.run import pretrain
from hnet_ntv2.training.settings import PretrainSettings, build_settings

_MOST_BYTES = 15_000_000

# What cuts in the model's own chunker's place, with the weights as they are.
_OTHER_PLACES = ("minimizer", "shuffled", "ruler", "grid", "none")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m scripts.ship_model", description=__doc__)
    parser.add_argument("work", type=Path, help="folder of the experiment, with its source")
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished model")
    parser.add_argument("--size", choices=tuple(SIZES), default="hour")
    parser.add_argument("--fasta", type=Path, action="append", default=[])
    parser.add_argument("--intervals", type=Path, action="append", default=[])
    parser.add_argument("--arm", choices=tuple(ARMS), default="anchors_kept")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--continue-from", type=Path, help="folder of a shipped model to train on, without a new graft")
    parser.add_argument(
        "--grafted-rate", type=float, help="learning-rate multiplier of NTv2's parts; default: the arm's"
    )
    try:
        _ship(parser.parse_args())
    except HNetNTV2Error as error:
        parser.error(str(error))


def _ship(options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    setup = replace(
        SIZES[options.size],
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        curve_points=10,
    )
    place = Workplace(options.work, join_dna(options.fasta, options.intervals, options.work), setup)
    folder = options.work / "ship"
    arm = ARMS[options.arm]
    if options.grafted_rate is not None:
        arm = replace(arm, training={**arm.training, "grafted_rate": options.grafted_rate})
    if options.continue_from is None:
        start = folder / "start"
        arm = replace(arm, model={**arm.model, "use_anchors": True})
        make_start(arm, setup, place.source, place.training_data(setup.batch_size), options.seed, start)
        before = {"runs": [], "source": json.loads((options.work / "source.json").read_text(encoding="utf-8"))}
    else:
        start = options.continue_from
        arm = replace(arm, releases=False)  # its chunks are free already
        before = json.loads((start / "figures.json").read_text(encoding="utf-8"))
    values = place.settings(arm, options.seed, start, folder / "training")
    values["callbacks"]["checkpoint_every"] = 200
    values["validation"]["anchors"] = [True]  # as it is used
    if (folder / "training" / "checkpoints" / LAST).exists():
        values |= {"resume": "last", "overwrite": False}
    begun, commit = clock(setup.accelerator), git_state()["commit"]
    outcome = pretrain(build_settings(PretrainSettings, values, "the shipped model"))
    run = {
        "arm": arm.name if options.continue_from is None else None,
        "steps": setup.steps,
        "bases": setup.steps * setup.batch_size * setup.seq_length,
        "learning_rate": values["optimizer"]["learning_rate"],
        "grafted_rate": values["optimizer"]["multipliers"]["trunk"],
        "cpu_seconds": clock(setup.accelerator) - begun,
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "torch": torch.__version__,
    }
    measured = evaluate_model(on_device(outcome.model, setup.accelerator), place.validation_data(), setup)
    figures = {
        "chunker": outcome.model.config.chunker,
        "runs": [*before["runs"], run],
        "validation": {view: sums.summary() for view, sums in measured["views"].items()},
        "ratios": measured["ratios"],
        "chunk_length": measured["chunk_length"],
        "other_places": measure_other_places(outcome.model, measured["views"], place.validation_data(), setup),
        "parameters": sum(outcome.model.count_parameters().values()),
        "source": before["source"],
        "context": json.loads((options.work / "context.json").read_text(encoding="utf-8")),
    }
    write_model(outcome.model, options.output, figures)


def measure_other_places(
    model: HNetNTV2ForMaskedLM, own: dict[str, WindowSums], data: HG38DataModule, setup: Setup
) -> dict[str, dict[str, list[float]]]:
    """Bits with other chunkers less bits with the model's own, same weights and masks: estimate, low, high (95 %)."""
    block = window_facts(data, setup)["block"]
    found: dict[str, dict[str, list[float]]] = {}
    for chunker in _OTHER_PLACES:
        config = HNetNTV2Config.from_dict(model.config.to_dict() | {"chunker": chunker})
        other = on_device(HNetNTV2ForMaskedLM(config).eval(), setup.accelerator)
        other.load_state_dict(model.state_dict(), strict=False)  # fixed chunkers have no router
        found[chunker] = {}
        for anchors in (True, False):
            view = "anchors_on" if anchors else "anchors_off"
            sums = evaluate_view(model_log_probs(other, anchors=anchors), data, setup, view)
            assert (sums.targets == own[view].targets).all()
            gap = paired_bootstrap(sums.nats[None], own[view].nats[None], sums.targets, block)
            found[chunker][view] = [gap.estimate, gap.low, gap.high]
    return found


def write_model(model: HNetNTV2ForMaskedLM, folder: Path, figures: dict[str, Any]) -> None:
    """Write weights, tokenizer, figures and the model card."""
    with appearing_folder(folder) as partial:
        model.save_pretrained(partial)
        HNetNTV2Tokenizer().save_pretrained(partial)
        _leave_out_code(partial)
        size = (partial / "model.safetensors").stat().st_size
        assert size <= _MOST_BYTES, f"{size} bytes are too many for the package"
        (partial / "figures.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        (partial / "README.md").write_text(card(figures), encoding="utf-8")


def _leave_out_code(folder: Path) -> None:
    """A model inside the package needs no copy of the package's modules, as one for the Hub does."""
    for path in folder.glob("*.py"):
        path.unlink()
    for name in ("config.json", "tokenizer_config.json"):
        path = folder / name
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings.pop("auto_map", None)
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _describe_run(run: dict[str, Any]) -> str:
    what = "Trained further" if run["arm"] is None else f"This model, arm `{run['arm']}` of `benchmarks/learning`"
    return (
        f"- {what}: {run['steps']:,} steps, {run['bases']:,} bases,\n"
        f"  learning rate {run['learning_rate']:g} (grafted parts {run['grafted_rate']:g} times that), "
        f"{run['cpu_seconds']:,.0f} CPU seconds on one core,\n  torch {run['torch']}, {run['date']}."
    )


def _describe_places(places: dict[str, dict[str, list[float]]]) -> str:
    def cell(gap: list[float]) -> str:
        return "{:+.4f} [{:+.4f}, {:+.4f}]".format(*gap)

    return "\n".join(
        f"| {OTHER_CHUNKERS[chunker]} | {cell(views['anchors_on'])} | {cell(views['anchors_off'])} |"
        for chunker, views in places.items()
    )


def card(figures: dict[str, Any]) -> str:
    """The model card."""
    views, context, source = figures["validation"], figures["context"], figures["source"]
    rows = "\n".join(
        f"| {name} | {value:.4f} |"
        for name, value in (
            ("this model, anchors on (its default), one strand (its default is both)", views["anchors_on"]["bits"]),
            ("this model, anchors off", views["anchors_off"]["bits"]),
            ("this model on NTv2's grid of tokens, masks on the grid", views["grid"]["bits"]),
            ("base composition", context["composition"]),
            ("two-sided context counts, 2 bases on each side", context["k2"]),
            ("two-sided context counts, 6 bases on each side", context["k6"]),
            ("uniform guessing", 2.0),
        )
    )
    masked, free = (" / ".join(f"{ratio:.3f}" for ratio in figures["ratios"][key]) for key in ("masked", "mask_free"))
    length = figures["chunk_length"]
    runs = "\n".join(_describe_run(run) for run in figures["runs"])
    return f"""---
license: apache-2.0
library_name: hnet-ntv2
tags: [dna, genomics, masked-language-model, tokenizer-free]
---
# The small HNet-NTv2 that comes with the package

A masked DNA language model with {figures["parameters"]:,} parameters: bases in, chunks in two stages, bases out.
It exists so that `hnet-ntv2 embed`, `segment` and `variants` answer on a fresh machine and show what they print.
It holds no weights of the published Nucleotide Transformer: its 6-mer source was trained from random weights on the
same sequence, and grafted by the package's own `init`.

## Data

Training intervals of 18.7 million bases of the human reference (GRCh38: parts of chromosomes 1, 2 and 20, and 63
windows of 131,072 bases from all over the genome, some alleles of which differ from the reference). Validation: 3.0
million bases of other intervals (chr20:7,340,032-8,388,608 and 15 windows). Nothing of the validation or test
intervals was trained on. No reads, no individuals, no labels.

## Training

- Source: {source["layers"]} layers of width {source["width"]}, {source["steps"]:,} steps,
  {source["train_bases"]:,} bases, {source["cpu_seconds"]:,.0f} CPU seconds.
{runs}

CPU seconds of different days are of different processors. Each run had a learning-rate schedule of its own.

## Figures

Bits per masked base on {views["anchors_on"]["targets"]:,} masked bases in
{views["anchors_on"]["windows"]:,} windows of 768 validation bases (15 % masked in spans of 6, all shown as [MASK]);
lower is better.

| predictor | bits per base |
|---|---|
{rows}

Accuracy {100 * views["anchors_on"]["accuracy"]:.1f} %. Chunks per position at stage 1 / stage 2: {masked} with
masks, {free} without. Bases per chunk without masks: median {length["p50"]:.0f}, 95 % {length["p95"]:.0f}, longest
{length["max"]:.0f}.

## What the places of its chunks are worth

Chunks begin where `chunker: {figures["chunker"]}` wants them. The table has the bits per masked base that other places
cost with the same weights and masks, and 95 % intervals over blocks of validation windows. The weights were trained
with the model's own places: that other places cost something does not show that a model trained with them would be
worse.

| places | anchors on | anchors off |
|---|---|---|
{_describe_places(figures["other_places"])}

## What it is not good for

Any conclusion about biology or medicine. It has seen 0.6 % of the genome, no other species, and is hundreds of times
smaller than models that are used in research; the table says how far it is from counting contexts. Its scores of
variants are not evidence for or against pathogenicity. Use `--model` with a model that was trained for the purpose.
"""


if __name__ == "__main__":
    main()

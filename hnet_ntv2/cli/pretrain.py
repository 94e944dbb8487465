"""``hnet-ntv2 pretrain``: options to settings, the run, and what the user reads at its end."""

import importlib
import logging
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..training.run import PretrainResult
    from ..training.settings import PretrainSettings

PRECISIONS = ("16", "bf16", "32")


class PretrainCommand(TyperCommand):
    """Lets ``--resume`` stand without a value, for the last checkpoint of the output directory."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the value in that is meant where none is given."""
        own, overrides = (args[: args.index("--")], args[args.index("--") :]) if "--" in args else (args, [])
        given: list[str] = []
        for position, argument in enumerate(own):
            following = own[position + 1] if position + 1 < len(own) else "--"
            is_bare = argument == "--resume" and (following.startswith("--") or _is_override(following))
            given.append("--resume=last" if is_bare else argument)
        return super().parse_args(ctx, given + overrides)


COMMAND_CLASS = PretrainCommand


def pretrain(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[-- OVERRIDE...]", help="Hydra overrides, as model.n_main_layer=12.")
    ] = None,
    experiment_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the run in logs and W&B.")
    ] = None,
    config_path: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Your own experiment YAML, from anywhere.")
    ] = None,
    output_dir: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the run writes [default: outputs/hnet_ntv2].")
    ] = None,
    wandb_project: Annotated[str | None, typer.Option(metavar="P", help="Log to Weights & Biases as well.")] = None,
    wandb_entity: Annotated[str | None, typer.Option(metavar="E", help="W&B user or team.")] = None,
    devices: Annotated[int | None, typer.Option(metavar="N", min=1, help="Devices per node [default: 1].")] = None,
    num_nodes: Annotated[int | None, typer.Option(metavar="N", min=1, help="Nodes [default: 1].")] = None,
    max_steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Optimiser steps [default: 50000].")] = None,
    batch_size: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Windows per step over all devices [default: 512].")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(metavar="LR", help="Peak learning rate [default: 6e-4].")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="P", help="16, bf16 or 32 [default: 16]; which one runs is printed.")
    ] = None,
    data: Annotated[Path | None, typer.Option(metavar="FASTA", help="Genome: .fa, .fa.gz or .2bit.")] = None,
    intervals: Annotated[
        Path | None, typer.Option(metavar="BED", help="chrom start end split; without it by chromosome.")
    ] = None,
    seq_length: Annotated[
        int | None, typer.Option(metavar="L", min=1, max=131_072, help="Bases per window [default: 1024].")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="[PATH]", help="Go on from a checkpoint; without PATH from the last one.")
    ] = None,
    init: Annotated[Path | None, typer.Option(metavar="DIR", help="Start from the model in this folder.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Train a tiny model on bundled human DNA.")] = False,
) -> None:
    """Pre-train HNet-NTv2 on human DNA.

    SIGTERM and Ctrl-C finish the optimiser step, save and exit with status 0; a second one ends the run at once. A run
    that cannot go on (NaN loss, collapsed chunk ratio) and every error of the user exit with status 2.
    """
    if precision is not None and precision not in PRECISIONS:
        raise typer.BadParameter(f"{precision!r} is none of {', '.join(PRECISIONS)}", param_hint="'--precision'")
    if learning_rate is not None and not 0 < learning_rate < float("inf"):
        raise typer.BadParameter(f"{learning_rate} must be positive", param_hint="'--learning-rate'")
    options = {
        "experiment_name": experiment_name,
        "output_dir": output_dir,
        "logger.wandb_project": wandb_project,
        "logger.wandb_entity": wandb_entity,
        "trainer.devices": devices,
        "trainer.num_nodes": num_nodes,
        "trainer.max_steps": max_steps,
        "batch.global_size": batch_size,
        "optimizer.learning_rate": learning_rate,
        "trainer.precision": precision,
        "data.fasta": None if data is None else str(data),
        "data.intervals": None if intervals is None else str(intervals),
        "data.seq_length": seq_length,
        "resume": resume,
        "init": None if init is None else str(init),
    }
    settings = _settings(demo, config_path, data, {k: v for k, v in options.items() if v is not None}, overrides or [])
    _start_logging()
    _run(settings, demo)


def _settings(
    demo: bool, config_path: Path | None, data: Path | None, options: dict[str, Any], overrides: list[str]
) -> "PretrainSettings":
    if demo and (config_path is not None or data is not None):
        other = "--data" if config_path is None else "--config-path"
        raise ConfigError(f"--demo brings its own experiment and data; leave {other} out, or leave --demo out")
    from .experiment import DEFAULT_EXPERIMENT, DEMO_EXPERIMENT, load_settings

    if data is not None:
        options["data.bundled"] = False
    settings = load_settings(DEMO_EXPERIMENT if demo else DEFAULT_EXPERIMENT, config_path, options, overrides)
    if settings.data.fasta is None and not settings.data.bundled:
        raise ConfigError(f"there is nothing to train on.\n\n{_needs()}")
    return settings


def _run(settings: "PretrainSettings", demo: bool) -> None:
    from ..training.run import pretrain as run_pretraining

    result = run_pretraining(settings)
    if not result.is_main_process:
        return
    shows_summary = demo and result.summary.is_finished
    typer.echo(_ending(result, names_paths=not shows_summary))
    if shows_summary:
        from ..evaluation.demo import summarise

        paths = {name: Path(path) for name, path in result.summary.paths.items()}
        typer.echo(summarise(result.model, result.datamodule, settings.folder, result.history, paths).render())


def _ending(result: "PretrainResult", names_paths: bool) -> str:
    """What a user reads at the end of any run."""
    summary = result.summary
    lines = ["", f"Run {summary.status} after step {summary.step:,} of {summary.max_steps:,}"]
    lines[-1] += (
        f", {summary.seconds:,.0f} s in {summary.precision}, {summary.bases_per_second:,.0f} bases/s at the end"
    )
    if summary.validation:
        bits, best = summary.validation["bits"], summary.best_bits
        lines.append(f"Validation: {bits:.4f} bits per masked base, best so far {best:.4f}")
    if names_paths:
        lines += [f"  {name:<12} {path}" for name, path in summary.paths.items()]
    if not summary.is_finished:
        lines.append("Go on with the same options and --resume")
    return "\n".join(lines)


def _start_logging() -> None:
    """The package's own messages on standard error; Lightning's and transformers' only from warnings on."""
    importlib.import_module("lightning")  # sets its own levels when it is imported
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _needs() -> str:
    return resources.files("hnet_ntv2.cli").joinpath("pretrain_needs.txt").read_text(encoding="utf-8").rstrip()


def _is_override(argument: str) -> bool:
    return "=" in argument and not Path(argument).exists()

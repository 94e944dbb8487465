"""``hnet-ntv2 pretrain``: options to settings, the run, and what the user reads at its end."""

import importlib
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from ..errors import ConfigError
from .pretrain_options import NEEDS, OPTIONS, OptionError, explain, parse_options, usage

if TYPE_CHECKING:
    from ..training.run import PretrainResult
    from ..training.settings import PretrainSettings


class PretrainCommand(TyperCommand):
    """Leaves the arguments to ``parse_options``, which also runs where typer is not installed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Pass all arguments on as they are, ``--help`` and ``--`` included."""
        ctx.params["arguments"] = args
        return []


COMMAND_CLASS = PretrainCommand


def pretrain(arguments: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Pre-train HNet-NTv2 on human DNA."""
    try:
        values, overrides = parse_options(arguments or [])
    except OptionError as error:
        typer.echo(explain(error), err=True)
        raise typer.Exit(2) from None
    if "--help" in values:
        typer.echo(usage())
        return
    settings = _settings(values, overrides)
    _start_logging()
    _run(settings, "--demo" in values)


def _settings(values: dict[str, Any], overrides: list[str]) -> "PretrainSettings":
    demo = "--demo" in values
    if demo and (other := next((name for name in ("--config-path", "--data") if name in values), None)):
        raise ConfigError(f"--demo brings its own experiment and data; leave {other} out, or leave --demo out")
    from .experiment import DEFAULT_EXPERIMENT, DEMO_EXPERIMENT, load_settings

    options = {OPTIONS[name].setting: value for name, value in values.items() if OPTIONS[name].setting}
    if "--data" in values:
        options["data.bundled"] = False
    config_path = Path(values["--config-path"]) if "--config-path" in values else None
    settings = load_settings(DEMO_EXPERIMENT if demo else DEFAULT_EXPERIMENT, config_path, options, overrides)
    if settings.data.fasta is None and not settings.data.bundled:
        raise ConfigError(f"there is nothing to train on.\n\n{NEEDS}")
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
    lines = [
        f"\nRun {summary.status} after step {summary.step:,} of {summary.max_steps:,}, {summary.seconds:,.0f} s in "
        f"{summary.precision}, {summary.bases_per_second:,.0f} bases/s at the end"
    ]
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

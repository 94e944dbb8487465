"""``hnet-ntv2 init``: the model that training starts from, made of NTv2's weights, with its ledger."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..conversion import DEFAULT_SEED, DEFAULT_SOURCE
from ..errors import ConfigError

if TYPE_CHECKING:
    from ..conversion.graft import Start
    from ..conversion.source import NTv2Source


def init(
    output_dir: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder that --save-model writes; must be empty or absent.")
    ] = None,
    save_model: Annotated[
        bool, typer.Option("--save-model", help="Write the model; without it everything is checked and reported only.")
    ] = False,
    config: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Model settings; what it leaves out follows the source.")
    ] = None,
    ntv2_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_DIR", help=f"Hub name or local folder of the source [default: {DEFAULT_SOURCE}]."
        ),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            metavar="WHICH", help="Source blocks to keep: auto, first, last, spread or i,j,k [default: auto]."
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="D", help="Where to compute: cpu, cuda, cuda:1 ...")] = "cpu",
    revision: Annotated[
        str | None, typer.Option(metavar="R", help="Branch, tag or commit of the source on the Hub [default: main].")
    ] = None,
    random_trunk: Annotated[bool, typer.Option("--random-trunk", help="No source: all weights random.")] = False,
    calibration: Annotated[
        Path | None,
        typer.Option(metavar="FASTA", help="Sequence to calibrate the routers on [default: the bundled piece]."),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of what is random.")] = DEFAULT_SEED,
) -> None:
    """Build the model from the weights of the Nucleotide Transformer v2 and say where every tensor is from."""
    if save_model and output_dir is None:
        raise ConfigError("--save-model needs --output-dir DIR")
    if random_trunk:
        _refuse_with_random_trunk({"--ntv2-model": ntv2_model, "--layers": layers, "--revision": revision})
    from ..conversion.report import render_summary
    from ..conversion.saving import require_empty, save_start
    from ..storage import check_outputs

    if output_dir is not None:
        require_empty(output_dir)
        check_outputs({"--output-dir": output_dir}, {})
    _check_device(device)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = None if config is None else read_settings(config)
    if random_trunk:
        start = _random(settings, calibration, seed, device)
    else:
        source = _open_source(ntv2_model or DEFAULT_SOURCE, revision)
        start = _grafted(source, settings, layers or "auto", calibration, seed, device)
    typer.echo(render_summary(start.ledger))
    if save_model and output_dir is not None:
        save_start(start, output_dir)
        typer.echo(f"Saved to {output_dir}; train from it with --init {output_dir}")
    else:
        typer.echo("Nothing was written; --save-model writes the model")


def _refuse_with_random_trunk(given: dict[str, str | None]) -> None:
    for option, value in given.items():
        if value is not None:
            raise ConfigError(f"{option} {value} and --random-trunk contradict each other; leave one out")


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}") from error


def _random(settings: dict[str, Any] | None, calibration: Path | None, seed: int, device: str) -> "Start":
    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from ..conversion.graft import random_start
    from ..conversion.sequence import read_sequence

    model_config = HNetNTV2Config(**(settings or {}))
    return random_start(model_config, read_sequence(calibration), seed=seed, device=device)


def _open_source(name: str, revision: str | None) -> "NTv2Source":
    """Open the source; the Hub's progress bars are shown, those of writing a model are not."""
    from transformers.utils import logging as transformers_logging

    from ..conversion.source import open_source

    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    source = open_source(name, revision)
    transformers_logging.disable_progress_bar()
    return source


def _grafted(
    source: "NTv2Source",
    settings: dict[str, Any] | None,
    layers: str,
    calibration: Path | None,
    seed: int,
    device: str,
) -> "Start":
    from ..conversion.graft import check_choice, graft
    from ..conversion.sequence import read_sequence

    check_choice(source, settings, layers)  # before a genome is read
    return graft(source, read_sequence(calibration), settings=settings, layers=layers, seed=seed, device=device)


def read_settings(path: Path) -> dict[str, Any]:
    """Model settings from a YAML file.

    Raises:
        ConfigError: There is no such file, or it is no YAML mapping.
    """
    from .yaml_file import read_yaml

    return read_yaml("--config", path)[1]

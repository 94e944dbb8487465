"""``hnet-ntv2 init``: build the model that training starts from out of NTv2's weights, with its ledger."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..conversion import DEFAULT_SEED, DEFAULT_SOURCE
from ..errors import ConfigError

if TYPE_CHECKING:
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
    device: Annotated[str, typer.Option(metavar="D", help="Where to compute: auto, cpu, cuda, cuda:1 ...")] = "cpu",
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
    """Build the model from the weights of the Nucleotide Transformer v2 and list the origin of every tensor."""
    if save_model and output_dir is None:
        raise ConfigError("--save-model needs --output-dir DIR")
    if random_trunk:
        for option, value in {"--ntv2-model": ntv2_model, "--layers": layers, "--revision": revision}.items():
            if value is not None:
                raise ConfigError(f"{option} {value} and --random-trunk contradict each other; leave one out")
    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from ..conversion.graft import check_choice, graft, random_start
    from ..conversion.saving import render_summary, require_empty, save_start
    from ..conversion.sequence import read_sequence
    from ..inference.model import choose_device
    from ..storage import check_outputs
    from .yaml_file import read_yaml

    if output_dir is not None:
        require_empty(output_dir)
        check_outputs({"--output-dir": output_dir}, {})
    place = choose_device(device)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = None if config is None else read_yaml("--config", config)[1]
    if random_trunk:
        model_config = HNetNTV2Config(**(settings or {}))
        sequence = read_sequence(calibration, with_text=model_config.counts_kmers)
        start = random_start(model_config, sequence, seed=seed, device=place)
    else:
        source = _open_source(ntv2_model or DEFAULT_SOURCE, revision)
        _, model_config = check_choice(source, settings, layers or "auto")  # before a genome is read
        sequence = read_sequence(calibration, with_text=model_config.counts_kmers)
        start = graft(source, sequence, settings=settings, layers=layers or "auto", seed=seed, device=place)
    typer.echo(render_summary(start.ledger))
    if save_model and output_dir is not None:
        save_start(start, output_dir)
        typer.echo(f"Saved to {output_dir}; train from it with --init {output_dir}")
    else:
        typer.echo("Nothing was written; --save-model writes the model")


def _open_source(name: str, revision: str | None) -> "NTv2Source":
    """Open the source, with the Hub's progress bars but without those of writing a model."""
    from transformers.utils import logging as transformers_logging

    from ..conversion.source import open_source

    # At INFO they log every request; the name depends on the version of huggingface_hub.
    for library in ("httpx", "httpx2"):
        logging.getLogger(library).setLevel(logging.WARNING)
    source = open_source(name, revision)
    transformers_logging.disable_progress_bar()
    return source

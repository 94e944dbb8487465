"""``hnet-ntv2 embed``: vectors of the records of a FASTA file, or of regions of a genome."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError
from .inference import (
    BatchOption,
    DeviceOption,
    FlankOption,
    GenomeOption,
    ModelOption,
    ProgressLines,
    SkipOption,
    StrandChoice,
    StrandsOption,
    WindowOption,
    echo_result,
    open_genome_file,
    read_regions_file,
)

if TYPE_CHECKING:
    from ..embedding import NamedSequence


def embed(
    output: Annotated[Path, typer.Option(metavar="FILE", help="Result: .npz or .safetensors, no pickles.")],
    fasta: Annotated[Path | None, typer.Option(metavar="FASTA", help="Embed every record of this file.")] = None,
    genome: GenomeOption = None,
    regions: Annotated[
        Path | None, typer.Option(metavar="BED", help="Embed these regions of --genome; strands are not read.")
    ] = None,
    skip_bad_regions: SkipOption = False,
    model: ModelOption = None,
    layer: Annotated[
        str, typer.Option(metavar="NAME", help="last, or an inner state: embeddings, stage1_encoder, trunk_0 ...")
    ] = "last",
    strands: StrandsOption = StrandChoice.both,
    per_base: Annotated[
        bool, typer.Option("--per-base", help="Also store one vector per base, [length, dim] per sequence.")
    ] = False,
    window: WindowOption = None,
    flank: FlankOption = None,
    batch_bases: BatchOption = 16384,
    device: DeviceOption = "auto",
) -> None:
    """Embed sequences: one mean vector each over A, C, G, T, and one per base on demand."""
    if (fasta is None) == (regions is None):
        raise ConfigError("give either --fasta FASTA, or --regions BED with --genome FASTA")
    if fasta is not None and genome is not None:
        raise ConfigError("--genome is for --regions; --fasta embeds whole records")
    from ..embedding import EmbedSettings, embed_sequences, write_embeddings
    from ..embedding.store import check_output
    from ..inference.model import check_model_folder, load_model, model_fingerprint
    from ..inference.windows import checked_flank, default_window
    from ..storage import check_outputs

    check_output(output)
    check_outputs({"--output": output}, {"--fasta": fasta, "--genome": genome, "--regions": regions, "--model": model})
    check_model_folder(model)  # before a genome is read
    sequences = _sequences(fasta, genome, regions, skip_bad_regions)
    network = load_model(model, device)
    window = default_window(network.config) if window is None else window
    settings = EmbedSettings(layer, strands.value, per_base, window, flank, batch_bases)
    embeddings = embed_sequences(network, sequences, settings, ProgressLines("bases embedded"))
    provenance = {"model": model_fingerprint(model), "layer": layer, "strands": strands.value, "window": window}
    count, num_empty = write_embeddings(output, embeddings, provenance | {"flank": checked_flank(window, flank)})
    if num_empty:
        typer.echo(f"{num_empty:,} sequences have no A, C, G or T: their vectors are NaN", err=True)
    echo_result(f"{count:,} sequences embedded to {output}", output)


def _sequences(
    fasta: Path | None, genome: Path | None, regions: Path | None, skip_bad_regions: bool
) -> Iterator["NamedSequence"]:
    from ..embedding import read_fasta, read_regions

    if fasta is not None:
        return read_fasta(fasta)
    assert regions is not None  # ``embed`` refuses other combinations
    opened = open_genome_file(genome)
    return read_regions(opened, read_regions_file(regions, opened, skip_bad_regions))

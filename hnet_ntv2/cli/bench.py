"""``hnet-ntv2 bench``: bases per second of whole models and of NTv2, timed in turn in one process."""

import dataclasses
import json
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import ConfigError

if TYPE_CHECKING:
    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from ..evaluation.speed import Measurement, SpeedReport

NAME = "HNet-NTv2"


def bench(
    bases: Annotated[int, typer.Option(help="Bases in the row.", min=64)] = 6144,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up; medians are printed.", min=1)] = 5,
    config: Annotated[
        list[Path] | None,
        typer.Option(metavar="YAML", help="Model settings, may be given several times [default: the default model]."),
    ] = None,
    ntv2_config: Annotated[
        Path | None, typer.Option(metavar="JSON", help="config.json of the NTv2 beside it [default: NTv2-500M].")
    ] = None,
    single_bases: Annotated[
        int,
        typer.Option(metavar="N", help="Also time N windowed layers at one token per base, which is slow.", min=0),
    ] = 0,
    device: Annotated[str, typer.Option(metavar="D", help="auto, cpu, cuda, cuda:1 ...")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    output: Annotated[Path | None, typer.Option(help="Also write all times to this JSON file.")] = None,
) -> None:
    """Time whole models in turn, forward and forward with backward: ours, NTv2 on k-mers; one strand each."""
    import torch

    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from ..configuration_ntv2 import NTv2Config
    from ..evaluation.speed import measure_speed, our_model, single_nucleotides, source_model
    from ..inference.model import choose_device
    from ..storage import check_outputs, open_text

    read = {f"--config {path}": path for path in config or ()}
    check_outputs({"--output": output}, read | {"--ntv2-config": ntv2_config})
    # By their stem, the name in the printed table.
    configs = {path.stem: read_config(path) for path in config or ()} or {NAME: HNetNTV2Config()}
    if len(configs) < len(config or ()):
        raise ConfigError(f"two of the --config files have the same name: {', '.join(configs)}")
    first = next(iter(configs.values()))
    source = NTv2Config() if ntv2_config is None else NTv2Config.from_json_file(ntv2_config)
    if first.kmer_vocab_size != source.vocab_size:
        raise ConfigError(f"kmer_size={first.kmer_size} does not fit an NTv2 of {source.vocab_size} tokens")
    entries = [our_model(name, settings) for name, settings in configs.items()]
    entries.append(source_model(f"NTv2, {source.num_hidden_layers} layers", source, first.kmer_size))
    if single_bases:
        entries.append(single_nucleotides(first, single_bases))
    report = measure_speed(
        entries,
        num_bases=bases,
        rounds=rounds,
        device=choose_device(device),
        precision=precision,
        report_progress=lambda line: typer.echo(line, err=True),
    )
    typer.echo(render(report, beside=report.measurements[len(configs)]))
    if output is not None:
        about = {"date": datetime.now(UTC).date().isoformat(), "torch": torch.__version__}
        with open_text(output) as file:
            file.write(json.dumps(about | dataclasses.asdict(report), indent=2) + "\n")


def read_config(path: Path) -> "HNetNTV2Config":
    """Model settings from a YAML file.

    Raises:
        ConfigError: The file cannot be read, or a setting is unknown or out of range.
    """
    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from .yaml_file import read_yaml

    try:
        return HNetNTV2Config(**read_yaml("--config", path)[1])
    except TypeError as error:  # a setting of transformers' own base class, with a value of the wrong type
        raise ConfigError(f"--config {path}: {error}") from error


def render(report: "SpeedReport", beside: "Measurement") -> str:
    """The report as text; speeds are in bases per second, and relative to those of ``beside``."""
    lines = [
        f"{report.device}, {report.precision}, {report.num_bases:,} bases in one row, whole models in turn, medians of "
        f"{report.rounds} rounds [least, greatest]",
        f"{'':32}{'parameters':>11}{'MFLOP/base':>11}{'forward':>12}{'step':>12}",
    ]
    for row in report.measurements:
        speeds = (report.num_bases / median(row.seconds[kind]) for kind in ("forward", "step"))
        lines.append(
            f"{row.name:32}{row.num_parameters / 1e6:>10,.0f}M{row.megaflops_per_base:>11,.0f}"
            + "".join(f"{speed:>8,.0f} b/s" for speed in speeds)
        )
    for row in report.measurements:
        if row is not beside:
            relative = [
                f"{kind} {middle:.2f} [{least:.2f}, {most:.2f}]"
                for kind in ("forward", "step")
                for middle, least, most in [row.speed_beside(beside, kind)]
            ]
            lines.append(f"{row.name} / {beside.name}: {', '.join(relative)}")
    for row in report.measurements:
        if row.ratios:
            lines.append(f"{row.name}: chunks per position {', '.join(f'{ratio:.3f}' for ratio in row.ratios)}, no cap")
        if len(row.timed_depths) > 1:
            shallow, deep = row.timed_depths
            lines.append(
                f"{row.name}: its {row.depth} layers do not fit the memory; timed with {shallow} and {deep} of them "
                "and scaled"
            )
    return "\n".join(lines)

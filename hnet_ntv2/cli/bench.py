"""``hnet-ntv2 bench``: speed beside NTv2 and a single-nucleotide transformer, interleaved in one run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ..evaluation.speed import SpeedReport


def bench(
    bases: Annotated[int, typer.Option(help="Bases in the row.", min=64)] = 6144,
    rounds: Annotated[int, typer.Option(help="Rounds after the warm-up; medians are printed.", min=1)] = 3,
    config: Annotated[Path | None, typer.Option(help="Model YAML; the default model without it.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    precision: Annotated[str, typer.Option(help="fp32 or bf16 (autocast).")] = "fp32",
    forward_layers: Annotated[
        float, typer.Option(help="Share of repeated layers timed forward.", min=0.05, max=1)
    ] = 0.25,
    backward_layers: Annotated[
        float, typer.Option(help="Share of repeated layers timed forward and backward.", min=0.05, max=1)
    ] = 0.1,
    output: Annotated[Path | None, typer.Option(help="Also write the figures to this JSON file.")] = None,
) -> None:
    """Time the model, NTv2 on k-mers, and windowed layers at one token per base; one strand each."""
    import torch

    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from ..configuration_ntv2 import NTv2Config
    from ..evaluation.speed import contestants, measure_speed
    from ..storage import check_outputs

    check_outputs({"--output": output}, {"--config": config})
    model_config = HNetNTV2Config() if config is None else _read_config(config)
    source = NTv2Config(
        vocab_size=model_config.kmer_vocab_size,
        hidden_size=model_config.d_model,
        num_attention_heads=model_config.n_head,
        intermediate_size=model_config.intermediate_size // 2,
        num_hidden_layers=29 if config is None else model_config.n_main_layer,
        max_position_embeddings=2050,
    )
    report = measure_speed(
        contestants(model_config, source),
        num_bases=bases,
        rounds=rounds,
        device=torch.device(device),
        precision=precision,
        forward_share=forward_layers,
        backward_share=backward_layers,
        report_progress=lambda line: typer.echo(line, err=True),
    )
    typer.echo(render(report))
    if output is not None:
        _write_json(report, output)


def _read_config(path: Path):
    from ..configuration_hnet_ntv2 import HNetNTV2Config
    from .init import read_settings

    return HNetNTV2Config(**read_settings(path))


def render(report: "SpeedReport") -> str:
    """The report as text."""
    ratios = ", ".join(f"{ratio:.3f}" for ratio in report.achieved_ratios)
    lines = [
        f"{report.device}, {report.precision}, {report.num_bases:,} bases in one row, medians of {report.rounds}",
        f"matrix product: {report.matrix_gigaflops:,.0f} GFLOP/s; achieved chunk ratios of HNet-NTv2: {ratios}",
        f"{'':30}{'parameters':>12}{'MFLOP/base':>12}{'forward':>14}{'fwd+bwd':>12}{'of matmul':>11}",
    ]
    for row in report.measurements:
        lines.append(
            f"{row.name:30}{row.num_parameters / 1e6:>11,.0f}M{row.megaflops_per_base:>12,.0f}"
            f"{row.forward:>9,.0f} b/s{row.forward_backward:>8,.0f} b/s{row.forward_share:>10.0%}"
        )
    model, source = report.measurements[:2]
    lines.append(
        f"{model.name} / {source.name}: forward {model.forward / source.forward:.2f}, "
        f"forward and backward {model.forward_backward / source.forward_backward:.2f}"
    )
    for kind in ("forward", "backward"):
        sliced = [f"{row.name}: {row.depths[kind]}" for row in report.measurements if len(row.depths[kind]) > 1]
        if sliced:
            lines.append(f"{kind} timed with fewer layers and scaled to full depth: " + "; ".join(sliced))
    return "\n".join(lines)


def _write_json(report: "SpeedReport", path: Path) -> None:
    import dataclasses
    import json
    from datetime import UTC, datetime

    import torch

    from ..storage import open_text

    content = {"date": datetime.now(UTC).date().isoformat(), "torch": torch.__version__, **dataclasses.asdict(report)}
    with open_text(path) as file:
        file.write(json.dumps(content, indent=2) + "\n")

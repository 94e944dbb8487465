"""``hnet-ntv2 evaluate``: models and baselines on a benchmark suite, unit by unit, and one report."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import ConfigError
from .inference import DeviceOption, ProgressLines

if TYPE_CHECKING:
    from ..downstream.summary import Summary

# 2 is a user's error.
_FAILED, _AUDIT = 1, 3


class ModeChoice(StrEnum):
    """Values of ``--mode``."""

    probe = "probe"
    finetune = "finetune"
    lora = "lora"


class AuditChoice(StrEnum):
    """Values of ``--fail-on``."""

    never = "never"
    fail = "fail"
    warn = "warn"


def evaluate(
    suite: Annotated[
        str, typer.Option(metavar="NAME", help="nt, nt-original, gue, genomic-benchmarks, or a folder of tasks.")
    ],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Units and reports; what is finished stays.")],
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The suite's files [default: the folder that --suite names].")
    ] = None,
    genome: Annotated[
        Path | None, typer.Option(metavar="FASTA", help="FASTA or .2bit, for tasks of intervals.")
    ] = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="Its folder, or the end of the path; repeatable [default: all]."),
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]SOURCE",
            help="bundled, a folder (HNet-NTv2, NTv2, any AutoModel), random:FOLDER for random weights, hf:ID; "
            "none; repeatable [default: bundled].",
        ),
    ] = None,
    mode: Annotated[list[ModeChoice] | None, typer.Option(help="Repeatable [default: probe].")] = None,
    baselines: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="all, none or names; repeatable [default: all].")
    ] = None,
    seeds: Annotated[list[int] | None, typer.Option(metavar="N", help="Repeatable [default: 0].")] = None,
    folds: Annotated[
        list[int] | None, typer.Option(metavar="N", help="From 0; repeatable [default: all of the suite].")
    ] = None,
    max_train_rows: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Train on N rows, drawn alike for all [default: all].")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="The probe's choice; repeatable [default: all].")
    ] = None,
    pools: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="The probe's choice; repeatable [default: mean max first bins]."),
    ] = None,
    finetune: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A setting of fine-tuning, such as epochs=5; repeatable."),
    ] = None,
    audit: Annotated[bool, typer.Option(help="Look for leaks between the splits, by seqleak.")] = True,
    pretraining: Annotated[
        list[str] | None,  # typer repeats no pairs
        typer.Option(
            metavar="FASTA,BED", help="What the models were pre-trained on: its overlap with test is told; repeatable."
        ),
    ] = None,
    fail_on: Annotated[
        AuditChoice, typer.Option(help=f"Exit with {_AUDIT} if an audit gives this or worse.")
    ] = AuditChoice.never,
    published: Annotated[
        str, typer.Option(metavar="FILE", help="Figures of other models: a CSV, builtin or none.")
    ] = "builtin",
    all_pairs: Annotated[
        bool, typer.Option("--all-pairs", help="Also compare each model with every other row, in pairs.csv.")
    ] = False,
    processes: Annotated[int, typer.Option(metavar="N", min=1, help="On this machine; they share its threads.")] = 1,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Do every N-th unit only; the last shard to end writes the report.")
    ] = "1/1",
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Do no unit; report on those that are finished.")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Evaluate models beside baselines on a suite: resumable units, leak audits, paired intervals, one report.

    Exits with 0 when all is done, 1 if units failed or are missing, 3 as --fail-on says.
    """
    part = _read_shard(shard)
    from ..downstream.contenders import RunSettings, baseline_names
    from ..downstream.evaluate import run_units
    from ..downstream.plan import EvaluateSettings, make_plan
    from ..downstream.published import read_published
    from ..downstream.report import write_report
    from ..downstream.summary import summarize
    from ..storage import check_outputs

    figures = read_published(published, suite)
    pairs = _read_pretraining(pretraining or [])
    check_outputs({"--output": output}, {"--data": data, "--pretraining": pairs[0][0] if pairs else None})
    run = RunSettings(device=device, cache=output / "features", finetune=_read_settings(finetune or []))
    run = _with(run, layers=tuple(layers or ()), pools=tuple(pools or ()))
    names = baseline_names() if baselines in (None, ["all"]) else () if baselines == ["none"] else tuple(baselines)
    settings = EvaluateSettings(
        suite=suite,
        data=data,
        genome=genome,
        tasks=tuple(tasks or ()),
        models=() if models == ["none"] else tuple(models or ["bundled"]),
        modes=tuple(each.value for each in mode or [ModeChoice.probe]),
        baselines=names,
        seeds=tuple(seeds or [0]),
        folds=tuple(folds or ()),
        max_train_rows=max_train_rows,
        audit=audit,
        pretraining=pairs,
        run=run,
    )
    plan = make_plan(settings)
    if not report_only:
        run_units(plan, output, processes, part, ProgressLines("units finished"))
    is_shard = part[1] > 1
    if is_shard and not all(unit.is_finished(output) for unit in plan.units):
        _end_shard(plan, output, part)
        return
    summary = summarize(plan, output, all_pairs)
    folder = write_report(summary, output, figures)
    _tell(summary, folder)
    if not summary.is_complete:
        raise typer.Exit(_FAILED)
    hit = {"never": (), "fail": ("fail",), "warn": ("warn", "fail")}[fail_on.value]
    if found := [task for task, content in summary.audits.items() if content["verdict"] in hit]:
        typer.echo(f"--fail-on {fail_on.value}: the leak audit of {', '.join(found)}", err=True)
        raise typer.Exit(_AUDIT)


def _with(run: Any, **changes: Any) -> Any:
    import dataclasses

    return dataclasses.replace(run, **{name: value for name, value in changes.items() if value})


def _read_shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ConfigError(f"--shard {text}: write I/N with I from 1 to N, such as 2/8")
    return int(index), int(count)


def _read_pretraining(texts: list[str]) -> tuple[tuple[Path, Path], ...]:
    pairs = [text.rpartition(",") for text in texts]
    for genome, _, intervals in pairs:
        if not genome or not intervals:
            raise ConfigError(f"--pretraining {genome or intervals}: write FASTA,BED, such as hg38.fa,train.bed")
    return tuple((Path(genome), Path(intervals)) for genome, _, intervals in pairs)


def _read_settings(pairs: list[str]) -> dict[str, Any]:
    """Settings from ``KEY=VALUE``; values are JSON where they can be, such as 3, 1e-4, true and null, else text."""
    settings = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator:
            raise ConfigError(f"--finetune {pair!r}: write KEY=VALUE, such as epochs=5")
        try:
            settings[key] = json.loads(value)
        except ValueError:
            settings[key] = value
    return settings


def _end_shard(plan: Any, output: Path, part: tuple[int, int]) -> None:
    from ..downstream.units import shard

    own = shard(plan.units, part)
    done = sum(unit.is_finished(output) for unit in own)
    everywhere = sum(unit.is_finished(output) for unit in plan.units)
    typer.echo(
        f"INCOMPLETE: {everywhere} of {len(plan.units)} units; {done} of {len(own)} of this shard. No report yet: the "
        "last shard writes it"
    )
    for unit in own:
        if error := unit.read_error(output):
            typer.echo(f"failed: {unit.name}: {error}", err=True)
    if done < len(own):
        raise typer.Exit(_FAILED)


def _tell(summary: "Summary", folder: Path) -> None:
    typer.echo(f"{summary.status} Report: {folder / 'report.md'} and report.html")
    for unit, error in summary.failed:
        typer.echo(f"failed: {unit.name}: {error}", err=True)

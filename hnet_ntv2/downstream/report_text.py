"""The sections of a report, in the order of reading, and their forms: Markdown and one self-contained HTML page."""

import base64
import html
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from ..errors import escaped
from .contenders import BASELINE
from .plan import Plan
from .published import Published
from .summary import NOT_CREDIBLE, Row, Summary

TITLE = "Evaluation on downstream tasks"
_READING = (
    "Every value is the suite's metric over the whole test set, its mean over folds and seeds; in brackets the 95 % "
    "bootstrap interval over test rows.",
    "The best baseline of a task is the one with the highest metric on dev, never on test. The difference to it is "
    "paired: each draw takes the same test rows for both. A win is one whose interval lies above 0 (yes), a loss below "
    "(no); all else is undecided.",
    "A task whose leak audit fails is marked NOT CREDIBLE: what a model scores there can be memory.",
)
# What starts markup in GitHub's Markdown; an underscore between letters does not.
_MARKDOWN = re.compile(r"([\\`*|~$]|(?<!\w)_|_(?!\w)|(?<=\])\()")


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, one table, and SVG figures by their title."""

    heading: str
    paragraphs: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    figures: tuple[tuple[str, bytes], ...] = ()


def make_sections(
    summary: Summary, published: Sequence[Published], figures: Mapping[str, Sequence[tuple[str, bytes]]]
) -> list[Section]:
    """All sections of a report.

    Args:
        summary: What is reported.
        published: Figures of other models for the suite.
        figures: SVG figures with their titles, by the task that they show; those over all tasks by "".
    """
    sections = [
        Section("How to read this", (_describe(summary.plan), *_READING)),
        _overview(summary.rows, figures.get("", ())),
    ]
    for task, rows in groupby(summary.rows, lambda row: row.task):
        sections.append(_task(summary, task, list(rows), figures.get(task, ())))
    if published:
        sections.append(_published(summary.rows, published))
    if summary.failed:
        failed = tuple((*map(str, unit.key), error) for unit, error in summary.failed)
        sections.append(Section("Failed units", (), ("task", "fold", "seed", "model", "mode", "error"), failed))
    return sections


def _describe(plan: Plan) -> str:
    settings = plan.settings
    models = ", ".join(settings.models) or "none"
    rows = "all" if settings.max_train_rows is None else f"at most {settings.max_train_rows:,}"
    changed = "".join(f" Fine-tuning: {name}={value}." for name, value in settings.run.finetune.items())
    return (
        f"Suite: {settings.suite}. Models: {models}. Modes: {', '.join(settings.modes)}. Seeds: "
        f"{', '.join(map(str, settings.seeds))}. Training rows: {rows}.{changed}"
    )


def _overview(rows: Sequence[Row], figures: Sequence[tuple[str, bytes]]) -> Section:
    ranks = rank_rows(rows)
    lines = []
    for label in dict.fromkeys(row.label for row in rows):
        own = [row for row in rows if row.label == label]
        wins = Counter(row.win for row in own)
        values = f"{np.mean([row.value for row in own]):.3f}", f"{np.mean([ranks[row] for row in own]):.1f}"
        counted = [wins[each] for each in ("yes", "undecided", "no", NOT_CREDIBLE)]
        told = [""] * 4 if own[0].mode == BASELINE else map(str, counted)
        lines.append((own[0].model, own[0].mode, str(len(own)), *values, *told))
    columns = ("model", "mode", "tasks", "mean metric", "mean rank", "wins", "undecided", "losses", "not credible")
    note = "Wins, losses: tasks above and below the best baseline. Means over unequal numbers of tasks do not compare."
    return Section("All tasks", (note,), columns, tuple(lines), tuple(figures))


def rank_rows(rows: Sequence[Row]) -> dict[Row, float]:
    """Rank of each row within its task, 1 for the highest value; the mean rank for equal values."""
    from scipy.stats import rankdata

    ranks: dict[Row, float] = {}
    for _, of_task in groupby(rows, lambda row: row.task):
        group = list(of_task)
        ranks |= zip(group, map(float, rankdata([-row.value for row in group])), strict=True)
    return ranks


def _task(summary: Summary, task: str, rows: Sequence[Row], figures: Sequence[tuple[str, bytes]]) -> Section:
    audit = summary.audits.get(task, {})
    first = rows[0]
    verdict = f"Leak audit: {first.audit}." if first.credible != "no" else f"{NOT_CREDIBLE}: the leak audit fails."
    findings = tuple(str(line) for line in audit.get("told", ()))
    columns = (
        *("model", "mode", f"{first.metric} on test", "s.d. over seeds", "2 s.d. over folds", "on dev"),
        *("difference to the best baseline", "win", "credible", "test rows in pre-training", "units", "seconds"),
    )
    lines = tuple(
        (
            row.model,
            row.mode,
            show_interval(row.value, row.low, row.high),
            show(row.seeds_sd),
            show(row.folds_2sd),
            show(row.dev),
            "" if row.best_baseline is None else f"{row.best_baseline}: {_signed(row)}",
            row.win,
            NOT_CREDIBLE if row.credible == "no" else row.credible,
            "" if row.overlap is None else f"{row.overlap:.1%}",
            str(row.units) if row.units == row.units_planned else f"{row.units} of {row.units_planned}",
            f"{row.seconds:.0f}",
        )
        for row in rows
    )
    return Section(task, (verdict, *findings, *summary.plan.warnings.get(task, ())), columns, lines, tuple(figures))


def _signed(row: Row) -> str:
    assert row.difference is not None  # whoever has a best baseline has a difference to it
    return show_interval(row.difference, row.difference_low, row.difference_high, "+")


def _published(rows: Sequence[Row], published: Sequence[Published]) -> Section:
    headings = tuple(dict.fromkeys(each.heading for each in published))
    tasks = tuple(dict.fromkeys(row.task for row in rows))
    labels = tuple(dict.fromkeys(row.label for row in rows if row.mode != BASELINE))
    lines = []
    for task in (*tasks, ""):
        own = [[row.value for row in rows if row.label == label and task in (row.task, "")] for label in labels]
        means = [f"{np.mean(values):.3f}" if values else "" for values in own]
        copied = {each.heading: f"{each.value:.3f}" for each in published if each.task == task}
        name = task or f"mean over {len(tasks)} tasks here, over the whole suite there"
        lines.append((name, *means, *(copied.get(heading, "") for heading in headings)))
    note = "Copied figures come from other data, splits and training; they are no comparison."
    return Section("Beside published figures", (note,), ("task", *labels, *headings), tuple(lines))


def show(value: float | None) -> str:
    """A metric with three decimals; empty for None, n/a for what is undefined."""
    return "" if value is None else "n/a" if math.isnan(value) else f"{value:.3f}"


def show_interval(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    """``0.500 [0.400, 0.600]``."""
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def to_markdown(status: str, sections: Sequence[Section]) -> str:
    """A report in GitHub's Markdown, without its figures."""
    lines = [f"# {TITLE}", "", f"**{status}**", ""]
    for section in sections:
        lines += [f"## {_plain(section.heading)}", ""]
        for paragraph in section.paragraphs:
            lines += [_plain(paragraph), ""]
        if section.rows:
            lines += [_line(section.columns), "|" + " --- |" * len(section.columns), *map(_line, section.rows), ""]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(_plain, cells)) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", html.escape(escaped(" ".join(text.split())), quote=False))


_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .25rem .6rem; text-align: left; white-space: nowrap }
.status { font-weight: bold } .incomplete { background: #b00020; color: #fff; padding: .6rem }
img { max-width: 100%; height: auto }
"""


def to_html(summary: Summary, sections: Sequence[Section]) -> str:
    """A report as one HTML page that loads nothing."""
    kind = "status" if summary.is_complete else "status incomplete"
    head = f'<meta charset="utf-8"><title>{TITLE}</title><style>{_STYLE}</style>'
    body = [f"<h1>{TITLE}</h1>", f'<p class="{kind}">{_safe(summary.status)}</p>']
    for section in sections:
        body += _html_of(section)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body>\n</html>\n"
    )


def _html_of(section: Section) -> Iterator[str]:
    yield f"<h2>{_safe(section.heading)}</h2>"
    yield from (f"<p>{_safe(paragraph)}</p>" for paragraph in section.paragraphs)
    for title, svg in section.figures:
        # An image by its bytes: the ids of several SVGs in one page would clash.
        data = base64.b64encode(svg).decode()
        yield f'<p><img alt="{_safe(title)}" src="data:image/svg+xml;base64,{data}"></p>'
    if section.rows:
        yield f"<table>\n<thead>{_html_row(section.columns, 'th')}</thead>\n<tbody>"
        yield from (_html_row(row, "td") for row in section.rows)
        yield "</tbody>\n</table>"


def _html_row(cells: Sequence[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{_safe(cell)}</{tag}>" for cell in cells) + "</tr>"


def _safe(text: str) -> str:
    return html.escape(escaped(text))

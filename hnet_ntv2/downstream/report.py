"""Write a report as one folder, which appears when it is whole: two CSVs, JSON, Markdown and HTML.

The report of a plan with unfinished units is another folder, so that nobody takes it for complete.
"""

import csv
import dataclasses
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ..storage import appearing_folder, folder_lock, remove
from .published import Published
from .report_figures import draw_figures
from .report_text import make_sections, to_html, to_markdown
from .summary import NOT_CREDIBLE, Pair, Row, Summary
from .units import to_json

REPORT, INCOMPLETE = "report", "report-INCOMPLETE"
_UNIT_COLUMNS = (
    *("task", "fold", "seed", "model", "mode", "metric", "test", "test_low", "test_high", "dev", "credible"),
    *("chosen", "num_parameters", "seconds", "device", "package", "commit", "date", "folder"),
)


def write_report(summary: Summary, output: Path, published: Sequence[Published] = ()) -> Path:
    """Write ``report`` into the evaluation's folder, or ``report-INCOMPLETE`` if units are missing; the folder.

    Raises:
        ConfigError: It cannot be written, or another process is writing it.
    """
    target = output / (REPORT if summary.is_complete else INCOMPLETE)
    sections = make_sections(summary, published, draw_figures(summary))
    status = summary.status
    with folder_lock(output), appearing_folder(target) as folder:
        texts = {
            "units.csv": _csv(_UNIT_COLUMNS, _unit_rows(summary)),
            "summary.csv": _csv(_names(Row), map(dataclasses.astuple, summary.rows)),
            "summary.json": _json(summary, published),
            "report.md": to_markdown(status, sections),
            "report.html": to_html(summary, sections),
        }
        if summary.pairs:
            texts["pairs.csv"] = _csv(_names(Pair), map(dataclasses.astuple, summary.pairs))
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
    if summary.is_complete:
        remove(output / INCOMPLETE)
    return target


def _names(record: type[Any]) -> list[str]:
    return [field.name for field in dataclasses.fields(record)]


def _unit_rows(summary: Summary) -> Iterable[tuple[Any, ...]]:
    credible = {row.task: NOT_CREDIBLE if row.credible == "no" else row.credible for row in summary.rows}
    for record in summary.records:
        content, source = record.content, record.content["provenance"]
        yield (
            *record.unit.key,
            *(content["metric"], content["test"], *content["test_interval_95"], content["dev"]),
            *(credible[record.unit.task], json.dumps(content["chosen"], sort_keys=True)),
            *(content["num_parameters"], content["seconds"], source["device"], source["package"], source["commit"]),
            *(source["date"], record.unit.name),
        )


def _csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return buffer.getvalue()


def _json(summary: Summary, published: Sequence[Published]) -> str:
    content = {
        "status": summary.status,
        "complete": summary.is_complete,
        "units_finished": summary.num_finished,
        "units": len(summary.plan.units),
        "suite": summary.plan.settings.suite,
        "rows": [dataclasses.asdict(row) for row in summary.rows],
        "audits": dict(summary.audits),
        "warnings": dict(summary.plan.warnings),
        "failed": [{"unit": unit.key, "error": error} for unit, error in summary.failed],
        "published": [{**each._asdict(), "note": each.heading} for each in published],
    }
    return to_json(content)

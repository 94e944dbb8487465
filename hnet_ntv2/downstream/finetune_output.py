"""The folder that fine-tuning writes: model, tokenizer, metrics, learning curve, settings and a model card."""

import csv
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from .. import __version__
from ..configuration_hnet_ntv2 import HNetNTV2Config
from ..storage import appearing_folder
from ..tasks.table import TaskData
from ..tokenization_hnet_ntv2 import HNetNTV2Tokenizer, NTv2Tokenizer
from ..vocabulary import source_kmer_size
from .classifier import quiet_transformers
from .metrics import OF_CLASSES, OF_NUMBERS, compute_metric, metric_interval

ADAPTER, TENSORBOARD = "adapter", "tensorboard"
SETTINGS_FILE = "settings.json"
METRICS_OF = {"classification": OF_CLASSES, "multilabel": OF_CLASSES, "regression": OF_NUMBERS}
_COLUMNS = {
    "loss": "train_loss",
    "eval_loss": "dev_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
}


def epoch_rows(log: Sequence[Mapping[str, Any]], metric: str) -> list[dict[str, Any]]:
    """One row per epoch from what Trainer logged: losses, dev's metric, learning rate, gradient norm."""
    columns = _COLUMNS | {f"eval_{metric}": f"dev_{metric}"}
    rows: dict[int, dict[str, Any]] = {}
    for entry in log:
        # Trainer's summary at the end has none of them.
        if found := {columns[key]: value for key, value in entry.items() if key in columns}:
            rows.setdefault(round(entry["epoch"]), {"epoch": round(entry["epoch"])}).update(found)
    return list(rows.values())


def describe_metrics(
    data: TaskData, scores: Mapping[str, NDArray], history: Sequence[Mapping[str, Any]], wants_interval: bool
) -> dict[str, Any]:
    """What ``metrics.json`` holds: metrics on dev and test, and the interval of the task's own.

    Args:
        data: The task.
        scores: Of ``dev`` and ``test``, where the task has them.
        history: Of ``epoch_rows``.
        wants_interval: Bootstrap test, too.
    """
    column = f"dev_{data.metric}"
    # The first of equal ones, as Trainer takes it.
    best = max(history, key=lambda row: row.get(column, -math.inf), default={}) if "dev" in scores else history[-1]
    found: dict[str, Any] = {"metric": data.metric, "epoch": best.get("epoch"), "epochs": len(history)}
    names = METRICS_OF[data.scheme.kind]
    for split, each in (("dev", data.dev), ("test", data.test)):
        if each is not None:
            found[split] = {name: compute_metric(name, each.targets, scores[split]) for name in names}
    if data.test is not None and wants_interval:
        interval = metric_interval(data.metric, data.test.targets, scores["test"])
        found["test_interval"] = [interval.low, interval.high]
    return found | {"warnings": list(data.warnings)}


def write_result(
    target: Path,
    model: Any,
    job: Mapping[str, Any],
    metrics: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]] | None,
    place: Path,
) -> None:
    """Write the folder; it appears when all is there, and replaces one of that name.

    Args:
        target: Its name.
        model: The classifier, adapters merged.
        job: What the result depends on, for ``settings.json``.
        metrics: Of ``describe_metrics``.
        history: Of ``epoch_rows``; None to write none.
        place: Of the run, with ``adapter`` and ``tensorboard`` where it has them.
    """
    is_ours = isinstance(model.config, HNetNTV2Config)
    with appearing_folder(target) as partial, quiet_transformers():
        model.save_pretrained(partial)
        tokenizer = HNetNTV2Tokenizer() if is_ours else NTv2Tokenizer(k=source_kmer_size(model.config.vocab_size))
        tokenizer.save_pretrained(partial)
        for name in (ADAPTER, TENSORBOARD):
            if (place / name).is_dir():
                shutil.copytree(place / name, partial / name)
        (partial / SETTINGS_FILE).write_text(json_text(job), encoding="utf-8")
        (partial / "metrics.json").write_text(json_text(metrics), encoding="utf-8")
        (partial / "README.md").write_text(_render_card(target.name, job, metrics), encoding="utf-8")
        if history is not None:
            _write_history(partial / "history.csv", history)


def json_text(content: Mapping[str, Any]) -> str:
    """Indented JSON; NaN, which JSON lacks, becomes null."""
    return json.dumps(_without_nan(content), indent=2, ensure_ascii=False) + "\n"


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_history(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in history for key in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)


def _render_card(name: str, job: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    lines = ["| metric | dev | test |", "|---|---|---|"]
    dev, test = metrics.get("dev", {}), metrics.get("test", {})
    for metric in dict.fromkeys([*dev, *test]):
        values = [f"{split[metric]:.4f}" if metric in split else "" for split in (dev, test)]
        lines.append(f"| {metric} | {values[0]} | {values[1]} |")
    if "test_interval" in metrics:
        low, high = metrics["test_interval"]
        lines += ["", f"95 % interval of {metrics['metric']} on test, by bootstrap of rows: {low:.4f} to {high:.4f}."]
    return f"""---
library_name: transformers
pipeline_tag: text-classification
tags: [dna, genomics]
---

# {name}

{job["kind"].capitalize()} of DNA sequences ({job["task"]}), fine-tuned by hnet-ntv2 {__version__}. It gives
{", ".join(job["labels"])}. The licence of the model that it started from holds for its weights: see that model's card.

    hnet-ntv2 predict --model {name} --input sequences.csv --output predictions.tsv

{chr(10).join(lines)}

Epoch {metrics["epoch"]} of {metrics["epochs"]}. `settings.json` has all settings and digests of model and data,
`history.csv` the learning curve.
"""

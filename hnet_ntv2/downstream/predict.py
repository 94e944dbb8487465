"""Predictions of a fine-tuned classifier as a table: one row per record, in the order of the input."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from ..errors import ConfigError
from ..genome import Genome
from ..inference.windows import DEFAULT_BATCH_BASES, Progress, group_sequences
from ..storage import appearing_file, open_text
from ..tasks.labels import check_same_labels, encode_labels, scheme_from_config
from ..tasks.reading import Columns, Record, read_records, read_table
from ..tasks.table import LabelScheme, Table
from .classifier import load_classifier, predict_scores
from .finetune_output import METRICS_OF
from .metrics import compute_metric

TEXT_SUFFIXES, PARQUET = (".tsv", ".tsv.gz"), ".parquet"
_MISSING = "NA"  # in text, of a row without A, C, G and T
_ROWS_OF_A_BLOCK = 10_000


class Prediction(NamedTuple):
    """One record, and its [columns] scores; NaN where it has no A, C, G and T."""

    record: Record
    scores: NDArray


@dataclass(frozen=True)
class PredictResult:
    """What ``predict_file`` wrote.

    Attributes:
        num_rows: All of them.
        num_empty: Rows without A, C, G and T: they have no prediction.
        metrics: Of the rows with a prediction, where labels were asked for.
    """

    num_rows: int
    num_empty: int
    metrics: dict[str, float]


def predict(
    model: Any, records: Iterable[Record], batch_bases: int = DEFAULT_BATCH_BASES, progress: Progress | None = None
) -> Iterator[Prediction]:
    """Predictions of records in their order; records of some 32 batches are held at a time.

    Args:
        model: Of ``load_predictor``.
        records: Read as they are needed.
        batch_bases: Most bases of one forward pass, padding included, before strands.
        progress: Called with the number of records done.
    """
    done = 0
    for group in group_sequences(records, batch_bases):
        scores = predict_scores(model, [record.bases for record in group], batch_bases)
        yield from map(Prediction, group, scores)
        done += len(group)
        if progress is not None:
            progress(done)


def load_predictor(folder: str | os.PathLike[str], device: str = "auto") -> PreTrainedModel:
    """The classifier of a folder as predictions need it; raises as ``load_classifier``.

    On a CPU in float64: float32 differs in the sixth digit between batch sizes, and a prediction should not.
    """
    model = load_classifier(folder, device)
    return model.double() if model.device.type == "cpu" else model


def predict_file(
    folder: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    genome: Genome | None = None,
    columns: Columns | None = None,
    has_labels: bool = False,
    device: str = "auto",
    batch_bases: int = DEFAULT_BATCH_BASES,
    progress: Progress | None = None,
) -> PredictResult:
    """Predict the records of a file into a table, which appears when it is complete.

    Args:
        folder: Of a fine-tuned classifier.
        source: As ``tasks.reading.read_table``. FASTA and BED are read as a stream, unless ``has_labels``.
        output: ``.tsv``, ``.tsv.gz`` or ``.parquet``.
        genome: Of a BED file.
        columns: Names of the columns of a table; None for the defaults.
        has_labels: Read labels too, check that they are the model's, and compute metrics.
        device: "auto", "cpu", "cuda" ...
        batch_bases: See ``predict``.
        progress: See ``predict``.

    Raises:
        ConfigError: The output's suffix is unknown, or the device cannot be used.
        WeightsError: The folder holds no classifier.
        DataError: The input cannot be read, or its labels are not the model's.
    """
    check_output(output)
    model = load_predictor(folder, device)
    scheme, table = scheme_from_config(model.config), None
    if has_labels:
        columns = columns or Columns()
        table = read_table(source, genome=genome, **{f"{key}_column": name for key, name in columns._asdict().items()})
        check_same_labels(table, scheme, str(folder))
        records = _records_of(table)
    else:
        records = read_records(source, genome, columns)
    kept: list[NDArray] = []

    def scores() -> Iterator[Prediction]:
        for prediction in predict(model, records, batch_bases, progress):
            kept.append(prediction.scores if table is not None else prediction.scores[:1])
            yield prediction

    write_predictions(output, scores(), scheme)
    values = np.stack(kept)
    is_empty: Any = np.isnan(values).any(1)
    metrics = {} if table is None else _metrics(table, scheme, values, ~is_empty)
    return PredictResult(len(values), int(is_empty.sum()), metrics)


def check_output(path: str | os.PathLike[str]) -> None:
    """Check that the suffix of an output says a format; raises ConfigError."""
    name = os.fspath(path)
    if not name.endswith((*TEXT_SUFFIXES, PARQUET)) and name != "-":
        raise ConfigError(f"{name}: the suffix says the format; use {', '.join(TEXT_SUFFIXES)} or {PARQUET}")


def _records_of(table: Table) -> Iterator[Record]:
    for row in range(len(table)):
        yield Record(
            place=table.places[row],
            bases=table.bases[row],
            name=table.names[row],
            interval=None if table.coordinates is None else table.coordinates[row],
            strand=None if table.strands is None else table.strands[row],
        )


def _metrics(table: Table, scheme: LabelScheme, scores: NDArray, is_scored: NDArray[np.bool_]) -> dict[str, float]:
    if not is_scored.any():
        return {}
    targets = encode_labels(table, scheme)[is_scored]
    return {name: compute_metric(name, targets, scores[is_scored]) for name in METRICS_OF[scheme.kind]}


def write_predictions(path: str | os.PathLike[str], predictions: Iterable[Prediction], scheme: LabelScheme) -> None:
    """Write predictions as they come: TSV with 6 significant digits, or parquet with float32 numbers.

    Columns: ``name``; ``contig``, ``start``, ``end`` (0-based, half-open) and ``strand`` where the input has them;
    ``class``, or ``labels`` from a probability of 0.5 on, joined by ``;``; then ``probability_NAME`` of each, or the
    values under their names. A row without A, C, G and T has NA (null in parquet) for all that is predicted.
    """
    predictions = iter(predictions)
    first = next(predictions)
    header = _header(first.record, scheme)
    cells = (_cells(each, scheme) for each in chain([first], predictions))
    blocks = iter(lambda: list(islice(cells, _ROWS_OF_A_BLOCK)), [])
    if os.fspath(path).endswith(PARQUET):
        _write_parquet(path, header, blocks)
        return
    with open_text(path) as file:
        file.write("\t".join(header) + "\n")
        for block in blocks:
            file.writelines("\t".join(map(_text, row)) + "\n" for row in block)


def _header(record: Record, scheme: LabelScheme) -> list[str]:
    where = ["contig", "start", "end", "strand"] if record.interval is not None else []
    if scheme.kind == "regression":
        return ["name", *where, *scheme.names]
    chosen = "class" if scheme.kind == "classification" else "labels"
    return ["name", *where, chosen, *(f"probability_{name}" for name in scheme.names)]


def _cells(prediction: Prediction, scheme: LabelScheme) -> list[Any]:
    record, scores = prediction
    cells: list[Any] = [record.name]
    if record.interval is not None:
        cells += [record.interval.contig, record.interval.start, record.interval.end, record.strand or "."]
    is_scored = bool(np.isfinite(scores).all())
    if scheme.kind != "regression":
        cells.append(_chosen(scores, scheme) if is_scored else None)
    return cells + (scores.tolist() if is_scored else [None] * len(scores))


def _chosen(scores: NDArray, scheme: LabelScheme) -> str:
    if scheme.kind == "classification":
        return scheme.names[int(scores.argmax())]
    return ";".join(name for name, score in zip(scheme.names, scores, strict=True) if score >= 0.5)


def _text(cell: Any) -> str:
    if cell is None:
        return _MISSING
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def _write_parquet(path: str | os.PathLike[str], header: list[str], blocks: Iterator[list[list[Any]]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    types = {"start": pa.int64(), "end": pa.int64()} | dict.fromkeys(
        ("name", "contig", "strand", "class", "labels"), pa.string()
    )
    schema = pa.schema([(name, types.get(name, pa.float32())) for name in header])
    with appearing_file(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for block in blocks:
            columns = [list(column) for column in zip(*block, strict=True)]
            writer.write_table(pa.table(dict(zip(header, columns, strict=True)), schema=schema))

"""The verbs as functions: text, lists and paths in, typed results out. For what does not fit into memory: the commands.

Common to all: ``model`` is a folder, a loaded model, or None for the one that ships with the package. ``sequences`` is
a list of texts, a mapping from names to texts, or the path of a CSV, TSV, parquet, FASTA or BED file (BED with
``genome``). A single text is a path. Errors are those of ``hnet_ntv2.errors``.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import embedding, segmentation, variant_effect
from .errors import ConfigError, GenomeError
from .genome import Genome, Variant, VariantChecker, open_genome, read_variants
from .inference.model import load_model
from .modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from .resources import bundled_genome
from .segmentation import Segmentation
from .strands import Strands
from .tasks.reading import Record, encode_sequence, make_table, read_table
from .tasks.splits import make_task
from .tasks.table import LabelScheme, Table
from .variant_effect.job import GROUP_SIZE

if TYPE_CHECKING:
    from .downstream.finetune import FinetuneResult
    from .downstream.summary import Summary

PathText = str | os.PathLike[str]
Model = PathText | HNetNTV2ForMaskedLM | None
Sequences = PathText | Sequence[str] | Mapping[str, str]
Labelled = PathText | Sequence[tuple[str, Any]]
_PATH = (str, os.PathLike)

logger = logging.getLogger(__name__)


class NamedChunks(NamedTuple):
    """The chunks of one strand of a sequence, and the sequence's name."""

    name: str
    chunks: Segmentation


class ScoredVariant(NamedTuple):
    """An allele with its scores; without them ``skipped`` is the reason."""

    variant: Variant
    score: variant_effect.VariantScore | None
    skipped: str | None


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of sequences.

    Attributes:
        names: Of the sequences.
        scheme: Kind of task, and names of the columns.
        scores: [sequences, columns] probabilities or values; NaN for a sequence without A, C, G and T.
    """

    names: tuple[str, ...]
    scheme: LabelScheme
    scores: NDArray

    @property
    def classes(self) -> list[str | None]:
        """The most probable class of each sequence, None where the scores are NaN; ConfigError unless there is one."""
        if self.scheme.kind != "classification":
            raise ConfigError(f"a model for {self.scheme.kind} names no single class; see scores and scheme.names")
        return [None if np.isnan(row).any() else self.scheme.names[row.argmax()] for row in self.scores]


def load(folder: PathText | None = None, device: str = "auto") -> HNetNTV2ForMaskedLM:
    """A model in float32 and eval mode, from a folder or the one in the package; raises as ``load_model``."""
    return load_model(folder, device)


def embed(
    sequences: Sequences,
    *,
    model: Model = None,
    layers: str | Sequence[str] = "last",
    pools: str | Sequence[str] = "mean",
    genome: PathText | Genome | None = None,
    device: str = "auto",
    **settings: Any,
) -> embedding.EmbeddingTable:
    """Vectors of sequences: ``.embeddings`` [sequences, dim]; where there are several, ``.vectors`` by ``layer_pool``.

    Args:
        sequences: See the module.
        model: See the module.
        layers: "last", inner states such as "trunk_0", or "all".
        pools: Of "mean", "max", "first" and "bins".
        genome: Of a BED file.
        device: "auto", "cpu", "cuda" ...; a loaded model stays where it is.
        settings: Other fields of ``EmbedSettings``, such as ``strands`` and ``per_base``.
    """
    chosen = embedding.EmbedSettings(layers=_names(layers), pools=_names(pools), **settings)
    named = embedding.table_sequences(_read(sequences, genome))
    return embedding.EmbeddingTable.of(list(embedding.embed_sequences(_model(model, device), named, chosen)))


def segment(
    sequences: Sequences,
    *,
    model: Model = None,
    genome: PathText | Genome | None = None,
    strands: Strands = "forward",
    window: int | None = None,
    device: str = "auto",
) -> list[NamedChunks]:
    """The model's chunks of sequences, in their order; with both strands two entries each, forward first.

    Args:
        sequences: See the module.
        model: See the module.
        genome: Of a BED file.
        strands: "forward" or "both".
        window: Longer sequences are cut into overlapping windows of so many bases; None for the length of training.
        device: See ``embed``.
    """
    named = embedding.table_sequences(_read(sequences, genome))
    settings = segmentation.SegmentSettings(strands, window)
    found = segmentation.segment_sequences(_model(model, device), named, settings)
    return [NamedChunks(sequence.name, chunks) for sequence, chunks in found]


def score_variants(
    variants: PathText | Sequence[tuple[str, int, str, str]],
    genome: PathText | Genome | None = None,
    *,
    model: Model = None,
    skip_mismatches: bool = False,
    device: str = "auto",
    **settings: Any,
) -> list[ScoredVariant]:
    """The scores of alleles in their order.

    Args:
        variants: The path of a VCF, BCF or table, or a list of (contig, position from 1, reference, alternative).
        genome: Their reference; None for the bundled piece of chromosome 20.
        model: See the module.
        skip_mismatches: Skip alleles whose reference the genome does not have.
        device: See ``embed``.
        settings: Fields of ``ScoreSettings``, such as ``window`` and ``strands``.

    Raises:
        GenomeError: A reference allele is not the genome's; the message says how many are not.
    """
    opened = _open(bundled_genome() if genome is None else genome)
    listed = list(read_variants(variants)) if isinstance(variants, _PATH) else _variants(variants)
    checker = VariantChecker(opened)
    problems = [checker.problem(each) for each in listed]
    if (wrong := [problem for problem in problems if problem]) and not skip_mismatches:
        raise GenomeError(
            f"{len(wrong):,} of {len(listed):,} alleles: {wrong[0]}; skip_mismatches=True leaves them out"
        )
    fitting = [variant for variant, problem in zip(listed, problems, strict=True) if problem is None]
    chosen, loaded = variant_effect.ScoreSettings(**settings), _model(model, device)
    # In groups, since a group holds the model's whole output for its rows.
    groups = (fitting[start : start + GROUP_SIZE] for start in range(0, len(fitting), GROUP_SIZE))
    found = (score for group in groups for score in variant_effect.score_variants(loaded, opened, group, chosen))
    results = [next(found) if problem is None else problem for problem in problems]
    return [
        ScoredVariant(variant, None, result) if isinstance(result, str) else ScoredVariant(variant, result, None)
        for variant, result in zip(listed, results, strict=True)
    ]


def finetune(
    train: Labelled,
    output: PathText | None = None,
    *,
    dev: Labelled | None = None,
    test: Labelled | None = None,
    model: PathText | None = None,
    task: str = "auto",
    metric: str | None = None,
    genome: PathText | Genome | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> "FinetuneResult":
    """Fine-tune a classifier on labelled sequences; what is found in the data is logged as warnings.

    Args:
        train: A file with labels, or a list of (sequence, label).
        output: The folder to write, which ``predict`` takes; None writes nothing.
        dev: Chooses the epoch; None draws a tenth of train.
        test: Is reported; never chooses.
        model: A folder, ``random:FOLDER`` or None, as ``downstream.finetune.finetune`` takes it.
        task: auto, classification, multilabel or regression.
        metric: None for mcc, auroc or spearman, by task.
        genome: Of BED files.
        seed: Of the head, the order of rows, and the drawn dev.
        device: See ``embed``.
        resume: Go on with an interrupted run.
        overwrite: Replace what is at ``output``.
        settings: Fields of ``FinetuneSettings``, such as ``mode="lora"``, ``epochs`` and ``pooling``.
    """
    from .downstream import finetune as downstream

    read = [None if each is None else _read(each, genome, need_labels=True) for each in (train, dev, test)]
    assert read[0] is not None
    name = Path(train).name.split(".")[0] if isinstance(train, _PATH) else "task"
    data = make_task(name, read[0], read[1], read[2], kind=task, metric=metric, seed=seed)
    for warning in data.warnings:
        logger.warning("%s", warning)
    chosen = downstream.FinetuneSettings(**settings)
    return downstream.finetune(
        data, chosen, output, seed=seed, folder=model, device=device, resume=resume, overwrite=overwrite
    )


def predict(
    sequences: Sequences, model: PathText, *, genome: PathText | Genome | None = None, device: str = "auto"
) -> Predictions:
    """What a fine-tuned classifier says of sequences.

    Args:
        sequences: See the module.
        model: The folder that ``finetune`` wrote.
        genome: Of a BED file.
        device: See ``embed``.
    """
    from .downstream.classifier import predict_scores
    from .downstream.predict import load_predictor
    from .tasks.labels import scheme_from_config

    table, classifier = _read(sequences, genome), load_predictor(model, device)
    return Predictions(table.names, scheme_from_config(classifier.config), predict_scores(classifier, table.bases))


def evaluate(
    suite: PathText,
    output: PathText,
    *,
    tasks: Sequence[str] = (),
    models: Sequence[PathText] = ("bundled",),
    modes: Sequence[str] = ("probe",),
    baselines: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    data: PathText | None = None,
    genome: PathText | None = None,
    audit: bool = True,
    finetune: Mapping[str, Any] | None = None,
    processes: int = 1,
    device: str = "auto",
    **settings: Any,
) -> "Summary":
    """Evaluate models beside baselines, and write the report into ``output``; finished units are not done again.

    Args:
        suite: nt, nt-original, gue, genomic-benchmarks, or a folder of tasks.
        output: The folder of units and report.
        tasks: Names, or the ends of their paths; none for all.
        models: Each as ``--models`` takes it: bundled, a folder, ``random:FOLDER``, ``NAME=SOURCE``.
        modes: Of probe, finetune and lora.
        baselines: Names; None for all.
        seeds: Of fits.
        data: Where the files of a published suite lie.
        genome: For tasks of intervals.
        audit: Look for leaks between the splits.
        finetune: Fields of ``FinetuneSettings`` that differ from the defaults.
        processes: With several, the calling program needs its ``if __name__ == "__main__"``.
        device: See ``embed``.
        settings: Other fields of ``EvaluateSettings``.
    """
    from .downstream import evaluate as downstream
    from .downstream.contenders import RunSettings
    from .downstream.plan import EvaluateSettings

    known = {} if baselines is None else {"baselines": tuple(baselines)}
    chosen = EvaluateSettings(
        os.fspath(suite),
        None if data is None else Path(data),
        None if genome is None else Path(genome),
        tuple(tasks),
        tuple(os.fspath(each) for each in models),
        tuple(modes),
        seeds=tuple(seeds),
        audit=audit,
        run=RunSettings(finetune=finetune or {}, device=device, cache=Path(output) / "features"),
        **known,
        **settings,
    )
    return downstream.evaluate(chosen, output, processes=processes)


def _names(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _model(model: Model, device: str) -> HNetNTV2ForMaskedLM:
    return model if isinstance(model, HNetNTV2ForMaskedLM) else load_model(model, device)


def _open(genome: PathText | Genome) -> Genome:
    return genome if isinstance(genome, Genome) else open_genome(genome)


def _read(sequences: Sequences | Labelled, genome: PathText | Genome | None, need_labels: bool = False) -> Table:
    """The rows of a file, a list or a mapping; raises DataError as ``read_table``."""
    if isinstance(sequences, _PATH):
        return read_table(sequences, genome=None if genome is None else _open(genome), need_labels=need_labels)
    named = sequences.items() if isinstance(sequences, Mapping) else (("", each) for each in sequences)
    records = (_record(number, *each) for number, each in enumerate(named, 1))
    return make_table("the list", records, None, need_labels)


def _record(number: int, name: str, content: str | tuple[str, Any]) -> Record:
    text, label = (content, None) if isinstance(content, str) else content
    place = f"sequence {name or number}"
    return Record(place, encode_sequence(place, text), None if label is None else str(label), name)


def _variants(alleles: Sequence[tuple[str, int, str, str]]) -> list[Variant]:
    return [
        Variant(number, contig, position - 1, ".", ref, alt)
        for number, (contig, position, ref, alt) in enumerate(alleles, 1)
    ]

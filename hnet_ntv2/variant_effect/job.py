"""Score a file of variants into a table, one line per allele in the file's order; an interrupted job can be resumed."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..errors import ConfigError, GenomeError
from ..genome import Genome, Variant, VariantChecker, file_digest, read_variants
from ..genome.files import check_rereadable, open_sequence_file
from ..inference.settings_file import describe_job, read_settings, require_same_settings, settings_path
from ..inference.windows import default_window
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import growing_file, is_stream, open_text, partial_path, resolve
from .score import DEFAULT_WINDOW, ScoreSettings, VariantScore, score_variants

COLUMNS = (
    *("chrom", "pos", "id", "ref", "alt"),
    *("log_odds", "delta_log_likelihood", "cosine_distance", "l2_distance", "skipped"),
)
MISSING = "NA"
# Alleles that are scored and written together. A resumed job starts with a whole group: so its batches, and the last
# digits of the scores, are those of a job that was never interrupted.
GROUP_SIZE = 32
# The end of a line: the four scores and ".", or no scores and a reason. Nothing else is written by this version.
_RESULT = re.compile(rb"(?:(?:NA|-?(?:[0-9.]+(?:e[+-][0-9]+)?|nan|inf))\t){4}\.\n|(?:NA\t){4}[^\t\n]+\n")
_HEADER = ("\t".join(COLUMNS) + "\n").encode()

Progress = Callable[[int, int], None]
"""Called with the alleles done so far, and all of them."""


@dataclass
class JobResult:
    """Counts of a finished job.

    Attributes:
        num_alleles: Lines of the output.
        num_scored: Lines with scores.
        num_mismatches: Lines skipped because the reference allele is not what the genome has.
        num_kept: Lines that an earlier, interrupted job had written.
        damage: The first line of the earlier job that could not be kept, as a message; None if there was none.
    """

    num_alleles: int
    num_scored: int
    num_mismatches: int
    num_kept: int
    damage: str | None = None

    @property
    def num_skipped(self) -> int:
        return self.num_alleles - self.num_scored


def check_variants(path: str | os.PathLike[str], genome: Genome, skip_mismatches: bool = False) -> tuple[int, int]:
    """Count the alleles of a file, and those whose reference allele is not the genome's.

    Returns:
        How many alleles there are, and how many of them do not fit the genome.

    Raises:
        GenomeError: A line is malformed; or does not fit the genome, unless ``skip_mismatches``.
    """
    checker = VariantChecker(genome)
    num_alleles = num_mismatches = 0
    for variant in read_variants(path):
        num_alleles += 1
        problem = checker.problem(variant)
        if problem is not None and not skip_mismatches:
            place = f"{path}, line {variant.line} (alternative {variant.alt[:20]})"
            raise GenomeError(f"{place}: {problem}; is it another assembly? --skip-mismatches reports such lines")
        num_mismatches += problem is not None
    return num_alleles, num_mismatches


def score_file(
    model: HNetNTV2ForMaskedLM,
    genome: Genome,
    variants: str | os.PathLike[str],
    output: str | os.PathLike[str],
    settings: ScoreSettings | None = None,
    *,
    model_id: str = "",
    skip_mismatches: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
) -> JobResult:
    """Score every allele of a file into a table.

    Lines are appended to ``<output>.partial``, group by group; it becomes ``output`` at the end. The settings that the
    scores depend on stand beside the table in ``<output>.settings.json``; a job is resumed with the same settings only.

    Args:
        model: In eval mode.
        genome: The reference.
        variants: VCF, BCF or table, see ``read_variants``.
        output: Tab-separated table, one line per allele; ``skipped`` is the reason for no scores, else ".". ``.gz`` is
            compressed by bgzip; a pipe, a device or ``-`` (standard output) gets the lines and no settings.
        settings: None for the defaults of ``ScoreSettings``.
        model_id: Identifies the model's weights, such as ``model_fingerprint``.
        skip_mismatches: Alleles that do not fit the genome become skipped lines, not an error.
        resume: Keep the lines that are there, as far as they are those of ``variants``, and append the rest.
        progress: Called after each group.

    Raises:
        ConfigError: The output exists and ``resume`` is off, belongs to other settings, cannot be written, or
            another process is writing it.
        GenomeError: The file of variants is malformed or does not fit the genome.
    """
    settings = settings or ScoreSettings()
    settings = dataclasses.replace(settings, window=settings.window or default_window(model.config, DEFAULT_WINDOW))
    target = None if is_stream(output) else resolve(output)
    _require_absent(target, resume)
    variants = check_rereadable(variants, "a file of variants")
    # All of the file before the first score: an error in its last line must not come after hours.
    num_alleles, num_mismatches = check_variants(variants, genome, skip_mismatches)
    identity = describe_job(
        model,
        model_id,
        genome,
        settings,
        columns=list(COLUMNS),
        alleles="trimmed and left-aligned",  # earlier versions scored alleles as the file spells them
        variants=file_digest(variants),
        skip_mismatches=skip_mismatches,
        group_size=GROUP_SIZE,
    )
    # Not truncated even without --resume: ``_start`` refuses to overwrite the hours of work of an interrupted job.
    with growing_file(output, resume or target is not None) as file:
        kept = _start(file, target, variants, identity, resume)
        num_done, num_scored = kept.num_lines, kept.num_scored
        remaining = islice(read_variants(variants), num_done, None)
        while group := list(islice(remaining, GROUP_SIZE)):
            lines = _score_group(model, genome, group, settings)
            file.write("".join(lines).encode())
            file.flush()
            num_done += len(lines)
            num_scored += sum(line.endswith("\t.\n") for line in lines)
            if progress is not None:
                progress(num_done, num_alleles)
    return JobResult(num_alleles, num_scored, num_mismatches, kept.num_lines, kept.damage)


def _require_absent(target: Path | None, resume: bool) -> None:
    if target is None:
        return
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file")
    if target.exists() and not resume:
        raise ConfigError(f"{target} exists: --resume goes on with it; name another file, or remove it, to start anew")


class _Kept(NamedTuple):
    """The lines that a resumed job keeps; ``damage`` as in ``JobResult``."""

    num_lines: int
    num_scored: int
    damage: str | None


def _start(
    file: BinaryIO,
    target: Path | None,
    variants: str | os.PathLike[str],
    identity: dict[str, Any],
    resume: bool,
) -> _Kept:
    """Write the header, or keep the good lines of an interrupted job; then the table can be appended to.

    Args:
        file: Open at its start; empty, or what an interrupted job left.
        target: Where the table will be; None for a stream.
        variants: The alleles that it should list.
        identity: The settings of this job.
        resume: Whether earlier lines may be kept.
    """
    if target is None:
        file.write(_HEADER)
        return _Kept(0, 0, None)
    # Again, now that the lock keeps other writers away: one may have finished since the first check.
    _require_absent(target, resume)
    partial, sidecar = partial_path(target), settings_path(target)
    has_partial = partial.stat().st_size > 0
    if has_partial and not resume:
        raise ConfigError(f"{partial} is what an interrupted job left: --resume goes on with it; else remove it")
    if not has_partial and not (target.exists() and target.stat().st_size):
        with open_text(sidecar) as text:
            text.write(json.dumps(identity, indent=2) + "\n")
        file.write(_HEADER)
        return _Kept(0, 0, None)
    try:
        require_same_settings(read_settings(sidecar), identity, target)
        if not has_partial:
            # A table with its final name can be incomplete: older versions wrote in place.
            with open_sequence_file(target) as (stream, _):
                shutil.copyfileobj(stream, file)
        return _keep_good_lines(file, partial if has_partial else target, variants)
    except BaseException:
        if not has_partial:
            partial.unlink()  # the empty file or the copy of this call; the table itself is still there
        raise


def _keep_good_lines(file: BinaryIO, shown: Path, variants: str | os.PathLike[str]) -> _Kept:
    """Compare the lines of a table with the alleles it should list; cut it after the last good whole group."""
    file.seek(0)
    if file.readline() != _HEADER:
        raise ConfigError(f"{shown} does not begin with the columns of this version; remove it to start anew")
    end = whole_end = len(_HEADER)
    num_lines = num_scored = whole_lines = whole_scored = 0
    line = b""
    for variant in read_variants(variants):
        line = file.readline()
        if not _is_line_of(line, variant):
            break
        end += len(line)
        num_lines += 1
        num_scored += line.endswith(b"\t.\n")
        if num_lines % GROUP_SIZE == 0:
            whole_end, whole_lines, whole_scored = end, num_lines, num_scored
    else:
        line = file.readline()
    # No damage: nothing, or a last line without its end, which is what an interruption leaves.
    damage = f"line {num_lines + 2} of {shown} is not that of allele {num_lines + 1}" if line.endswith(b"\n") else None
    file.seek(whole_end)
    file.truncate()
    return _Kept(whole_lines, whole_scored, damage)


def _is_line_of(line: bytes, variant: Variant) -> bool:
    """Whether a line is complete, belongs to this allele, and holds scores or a reason for none."""
    place = "\t".join([*_place(variant), ""]).encode()
    return line.startswith(place) and _RESULT.fullmatch(line, len(place)) is not None


def _score_group(
    model: HNetNTV2ForMaskedLM, genome: Genome, group: list[Variant], settings: ScoreSettings
) -> list[str]:
    checker = VariantChecker(genome)
    problems = {index: problem for index, variant in enumerate(group) if (problem := checker.problem(variant))}
    fitting = [variant for index, variant in enumerate(group) if index not in problems]
    scores = iter(score_variants(model, genome, fitting, settings))
    return [_line(variant, problems[i] if i in problems else next(scores)) for i, variant in enumerate(group)]


def _place(variant: Variant) -> tuple[str, ...]:
    """The first columns: the allele as its file spells it."""
    return (variant.contig, str(variant.position + 1), variant.name, variant.ref, variant.alt)


def _line(variant: Variant, result: VariantScore | str) -> str:
    place = _place(variant)
    if isinstance(result, str):
        # A reason may quote the file: no tab or newline of it may break the table.
        return "\t".join([*place, *[MISSING] * len(VariantScore._fields), " ".join(result.split())]) + "\n"
    numbers = [MISSING if value is None else f"{value:.6g}" for value in result]
    return "\t".join([*place, *numbers, "."]) + "\n"

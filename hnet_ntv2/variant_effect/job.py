"""Score a whole file of variants: one line per allele in the order of the input, and nothing finished is lost."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ..errors import ConfigError, GenomeError
from ..genome import Genome, Variant, VariantChecker, file_digest, read_variants
from ..inference.files import appearing_file
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from .score import ScoreSettings, VariantScore, check_score_settings, score_variants

COLUMNS = (
    *("chrom", "pos", "id", "ref", "alt"),
    *("log_odds", "delta_log_likelihood", "cosine_distance", "l2_distance", "skipped"),
)
MISSING = "NA"
# Alleles that are scored and written together. A resumed job begins at a whole group, so that its batches, and with
# them the last digits, are those of a job that was never interrupted.
GROUP_SIZE = 32
_HEADER = "\t".join(COLUMNS) + "\n"

Progress = Callable[[int, int], None]
"""Called with the alleles done so far, and all of them."""


@dataclass
class JobResult:
    """What a job did.

    Attributes:
        num_alleles: Lines of the output.
        num_scored: Lines with scores.
        num_mismatches: Lines skipped because the reference allele is not what the genome has.
        num_kept: Lines that an earlier, interrupted job had written.
    """

    num_alleles: int
    num_scored: int
    num_mismatches: int
    num_kept: int

    @property
    def num_skipped(self) -> int:
        return self.num_alleles - self.num_scored


def check_variants(path: str | os.PathLike[str], genome: Genome, skip_mismatches: bool = False) -> tuple[int, int]:
    """Read the whole file and compare every reference allele with the genome, before anything is scored.

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
            raise GenomeError(
                f"{path}, line {variant.line} (alternative {variant.alt[:20]}): {problem}; is it another assembly? "
                "--skip-mismatches reports such lines instead"
            )
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

    Lines are appended as groups of alleles are done. What the scores depend on stands beside the table in
    ``<output>.settings.json``; to resume a job, it must be the same.

    Args:
        model: In eval mode.
        genome: The reference.
        variants: VCF or table, see ``read_variants``.
        output: Tab-separated table, one line per allele; ``skipped`` says why a line has no scores (else ".").
        settings: How; the defaults of ``ScoreSettings`` without.
        model_id: What tells this model's weights from others', such as ``model_fingerprint``.
        skip_mismatches: Alleles that do not fit the genome are reported as skipped, not an error.
        resume: Go on after the lines that are there.
        progress: Called after each group.

    Raises:
        ConfigError: The output exists and is not to be resumed, or belongs to other settings; or it cannot be written.
        GenomeError: The file of variants is malformed or does not fit the genome.
    """
    settings = settings or ScoreSettings()
    check_score_settings(settings)
    output = Path(output).expanduser()
    _require_absent(output, resume)
    num_alleles, num_mismatches = check_variants(variants, genome, skip_mismatches)
    identity = _identity(model, genome, variants, settings, model_id, skip_mismatches)
    num_kept = _prepare(output, identity, resume)
    num_scored = _count_scored(output)
    try:
        with output.open("a", encoding="utf-8", newline="") as file:
            done = num_kept
            for group in _groups(variants, num_kept):
                lines = _score_group(model, genome, group, settings)
                file.write("".join(lines))
                file.flush()
                done += len(lines)
                num_scored += sum(line.endswith("\t.\n") for line in lines)
                if progress is not None:
                    progress(done, num_alleles)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror or error}") from error
    return JobResult(num_alleles, num_scored, num_mismatches, num_kept)


def _require_absent(output: Path, resume: bool) -> None:
    if output.is_dir():
        raise ConfigError(f"{output} is a folder; name a file")
    if output.exists() and not resume:
        raise ConfigError(f"{output} exists: --resume goes on with it; name another file, or remove it, to start anew")


def _identity(
    model: HNetNTV2ForMaskedLM,
    genome: Genome,
    variants: str | os.PathLike[str],
    settings: ScoreSettings,
    model_id: str,
    skip_mismatches: bool,
) -> dict[str, Any]:
    """What the lines of a table depend on."""
    return {
        "columns": list(COLUMNS),
        "model": model_id,
        "genome": genome.fingerprint,
        "variants": file_digest(variants),
        "device": model.device.type,
        "skip_mismatches": skip_mismatches,
        "group_size": GROUP_SIZE,
        **dataclasses.asdict(settings),
    }


def _prepare(output: Path, identity: dict[str, Any], resume: bool) -> int:
    """Make the table ready to be appended to; returns how many lines it has."""
    sidecar = output.with_name(f"{output.name}.settings.json")
    if resume and output.exists():
        _check_identity(sidecar, output, identity)
        return _cut_to_whole_groups(output)
    with appearing_file(sidecar) as partial:
        partial.write_text(json.dumps(identity, indent=2) + "\n", encoding="utf-8")
    with appearing_file(output) as partial:
        partial.write_text(_HEADER, encoding="utf-8")
    return 0


def _check_identity(sidecar: Path, output: Path, identity: dict[str, Any]) -> None:
    try:
        stored = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--resume needs {sidecar}, which says how {output} was made: {error}") from error
    other = [f"{key} {stored.get(key)!r}, now {value!r}" for key, value in identity.items() if stored.get(key) != value]
    if other:
        raise ConfigError(f"{output} was made differently ({'; '.join(other)}); name another --output to start anew")


def _cut_to_whole_groups(output: Path) -> int:
    """Drop an unfinished line and an unfinished group; returns how many lines are left."""
    num_lines = -1
    end = whole = 0
    with output.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            if num_lines < 0 and line.decode("utf-8", errors="replace") != _HEADER:
                raise ConfigError(f"{output} does not begin with the columns of this version; it cannot be resumed")
            num_lines += 1
            end += len(line)
            if num_lines % GROUP_SIZE == 0:
                whole = end
        if num_lines < 0:
            raise ConfigError(f"{output} has no complete header; remove it to start anew")
        file.truncate(whole)
    return num_lines // GROUP_SIZE * GROUP_SIZE


def _count_scored(output: Path) -> int:
    with output.open(encoding="utf-8") as file:
        next(file)
        return sum(line.endswith("\t.\n") for line in file)


def _groups(variants: str | os.PathLike[str], num_done: int) -> Iterator[list[Variant]]:
    left = islice(read_variants(variants), num_done, None)
    while group := list(islice(left, GROUP_SIZE)):
        yield group


def _score_group(
    model: HNetNTV2ForMaskedLM, genome: Genome, group: list[Variant], settings: ScoreSettings
) -> list[str]:
    checker = VariantChecker(genome)
    problems = {index: problem for index, variant in enumerate(group) if (problem := checker.problem(variant))}
    fitting = [variant for index, variant in enumerate(group) if index not in problems]
    scores = iter(score_variants(model, genome, fitting, settings))
    return [_line(variant, problems[i] if i in problems else next(scores)) for i, variant in enumerate(group)]


def _line(variant: Variant, result: VariantScore | str) -> str:
    place = (variant.contig, str(variant.position + 1), variant.name, variant.ref, variant.alt)
    if isinstance(result, str):
        return "\t".join([*place, *[MISSING] * len(VariantScore._fields), result]) + "\n"
    numbers = [MISSING if value is None else f"{value:.6g}" for value in result]
    return "\t".join([*place, *numbers, "."]) + "\n"

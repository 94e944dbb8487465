"""Segment regions of a genome into files: block by block, and after an interruption to the same bytes."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError
from ..genome import Genome, Interval
from ..inference.settings_file import describe_job, read_settings, require_same_settings, settings_path
from ..inference.windows import Progress
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from ..storage import appearing_file, growing_file, is_stream, partial_path
from .segment import ResolvedSettings, SegmentSettings, segment_blocks
from .tracks import FINAL, STAGE1, ChunkSummary, ChunkTrack, ProbabilityTrack, Region, Track, Tracks

# How much work an interruption can lose, besides the block of windows that is being worked on.
_SECONDS_BETWEEN_SAVES = 5.0
_CHUNKS, _STAGE1, _PROBABILITY = "chunks", "stage1", "probability"


def segment_regions(
    model: HNetNTV2ForMaskedLM,
    genome: Genome,
    intervals: Sequence[Interval],
    chunks: str | os.PathLike[str],
    stage1: str | os.PathLike[str] | None = None,
    probability: str | os.PathLike[str] | None = None,
    settings: SegmentSettings | None = None,
    *,
    model_id: str = "",
    resume: bool = False,
    progress: Progress | None = None,
) -> ChunkSummary:
    """Write the chunks of regions, in the order of the regions.

    The outputs grow beside their places and appear there when they are complete. What they depend on, and how far they
    are, stands beside the first one in ``<chunks>.settings.json``. Pipes and ``-`` are written to directly; nothing is
    kept then.

    Args:
        model: In eval mode.
        genome: The genome.
        intervals: The regions.
        chunks: BED6 of the final chunks, see ``ChunkTrack``.
        stage1: The same for the chunks of stage 1.
        probability: bedGraph, see ``ProbabilityTrack``; for one strand only, since bedGraph has no strand.
        settings: How; the defaults of ``SegmentSettings`` without.
        model_id: What tells this model's weights from others', such as ``model_fingerprint``.
        resume: Go on with what an interrupted call left, if it left something, to the same bytes. What is complete
            already stays.
        progress: Called after each forward pass.

    Raises:
        ConfigError: A place cannot be written; or what is there was made differently, or was changed, and cannot be
            resumed.
        DataError: There are no regions.
        GenomeError: A region is not in the genome.
    """
    settings = settings or SegmentSettings()
    resolved = settings.resolved(model)
    wanted = {_CHUNKS: chunks, _STAGE1: stage1, _PROBABILITY: probability}
    paths = {name: Path(path) for name, path in wanted.items() if path is not None}
    _check(genome, intervals, resolved, probability)
    regions_text = "".join(f"{each.contig}\t{each.start}\t{each.end}\n" for each in intervals)
    identity = describe_job(
        model,
        model_id,
        genome,
        resolved,
        regions=hashlib.blake2b(regions_text.encode(), digest_size=16).hexdigest(),
        outputs=list(paths),
    )
    journal = _Journal(paths, identity)
    saved = journal.read() if resume else None
    if saved is not None and saved["is_complete"]:
        return journal.move_into_place(saved)
    with ExitStack() as stack:
        outputs = {
            name: _Output(stack.enter_context(growing_file(path, resume=saved is not None)), path)
            for name, path in paths.items()
        }
        tracks = Tracks([_track(name, output) for name, output in outputs.items()])
        num_done, pending = 0, []
        if saved is not None:
            for name, output in outputs.items():
                output.go_on_from(saved["outputs"][name])
            tracks.restore(saved["written"])
            num_done, pending = saved["num_blocks"], saved["pending"]
        # Before the first line: what a killed command leaves can always be told apart.
        journal.save(outputs, tracks, num_done, pending)
        time_saved = time.monotonic()
        regions = (Region(genome, interval) for interval in intervals)
        for block in segment_blocks(model, regions, resolved, progress, num_done, pending):
            for stretches in block.found:
                tracks.add(intervals[stretches.sequence], stretches)
            num_done += 1
            if time.monotonic() - time_saved >= _SECONDS_BETWEEN_SAVES:
                journal.save(outputs, tracks, num_done, block.pending)
                time_saved = time.monotonic()
        journal.save(outputs, tracks, num_done, [], is_complete=True)
    return tracks.summary


def _check(
    genome: Genome,
    intervals: Sequence[Interval],
    settings: ResolvedSettings,
    probability: str | os.PathLike[str] | None,
) -> None:
    if settings.strands == "both" and probability is not None:
        raise ConfigError(
            f"{probability}: bedGraph has no column for the strand; leave the probabilities out, or take one strand"
        )
    if not intervals:
        raise DataError("there is no region to segment")
    for interval in intervals:
        genome.locate(interval)


class _Output:
    """A growing file that knows its content."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file  # what growing_file gives: files, standard output and compressed streams share no type
        self._path = path
        self._digest = hashlib.blake2b(digest_size=16)
        self._num_bytes = 0

    def write(self, text: str, /) -> None:
        """Append lines."""
        data = text.encode("utf-8")
        try:
            self._file.write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._digest.update(data)
        self._num_bytes += len(data)

    def sync(self) -> dict[str, Any]:
        """Bring all that was written to the disk, and describe it."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from error
        return {"bytes": self._num_bytes, "digest": self._digest.hexdigest()}

    def go_on_from(self, saved: dict[str, Any]) -> None:
        """Check that the file begins with what was saved, and drop the rest.

        Raises:
            ConfigError: It does not.
        """
        self._num_bytes = saved["bytes"]
        left = self._num_bytes
        while left and (data := self._file.read(min(left, 1 << 20))):
            self._digest.update(data)
            left -= len(data)
        if left or self._digest.hexdigest() != saved["digest"]:
            raise ConfigError(
                f"{partial_path(self._path)} is not what the interrupted command wrote; start anew without --resume"
            )
        self._file.seek(self._num_bytes)
        self._file.truncate()


def _track(name: str, output: _Output) -> Track:
    if name == _PROBABILITY:
        return ProbabilityTrack(output)
    return ChunkTrack(output, FINAL if name == _CHUNKS else STAGE1)


class _Journal:
    """The file that says what the outputs depend on and how far they are."""

    def __init__(self, paths: dict[str, Path], identity: dict[str, Any]) -> None:
        self._paths = paths
        self._identity = identity
        self._is_kept = not any(map(is_stream, paths.values()))
        self._path = settings_path(paths[_CHUNKS])

    def read(self) -> dict[str, Any] | None:
        """What the last command left; None if it left nothing.

        Raises:
            ConfigError: An output is a stream, or the file is damaged or tells of other settings.
        """
        for path in filter(is_stream, self._paths.values()):
            raise ConfigError(f"{path} is a pipe or device: what went there cannot be resumed; name a file")
        if not self._path.exists():
            return None
        stored = read_settings(self._path)
        settings, progress = stored.get("settings"), stored.get("progress")
        if not isinstance(settings, dict) or not isinstance(progress, dict):
            raise ConfigError(f"{self._path} cannot be read (it is of no segment job); start anew without --resume")
        require_same_settings(settings, self._identity, self._paths[_CHUNKS])
        is_missing = [
            not path.expanduser().exists() and not partial_path(path).exists() for path in self._paths.values()
        ]
        return None if progress["is_complete"] and any(is_missing) else progress

    def save(
        self,
        outputs: dict[str, _Output],
        tracks: Tracks,
        num_blocks: int,
        pending: list[dict[str, Any]],
        is_complete: bool = False,
    ) -> None:
        """Write how far the outputs are, after them."""
        if not self._is_kept:
            return
        progress = {
            "is_complete": is_complete,
            "num_blocks": num_blocks,
            "outputs": {name: output.sync() for name, output in outputs.items()},
            "pending": pending,
            "written": tracks.state(),
        }
        with appearing_file(self._path) as partial:
            partial.write_text(json.dumps({"settings": self._identity, "progress": progress}) + "\n", encoding="utf-8")

    def move_into_place(self, saved: dict[str, Any]) -> ChunkSummary:
        """Let complete outputs appear that an interrupted command had no time to move."""
        for name, path in self._paths.items():
            if partial_path(path).exists():
                with growing_file(path, resume=True) as file:
                    _Output(file, path).go_on_from(saved["outputs"][name])
        return ChunkSummary(**saved["written"]["summary"])

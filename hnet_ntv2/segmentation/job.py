"""Segment regions of a genome into files, block by block; a resumed job writes the same bytes.

The outputs grow as ``<output>.partial``. A journal beside the first one, ``<chunks>.settings.json``, holds the settings
that the bytes depend on, and how far each output is.
"""

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
from .tracks import FINAL, STAGE1, ChunkSummary, ChunkTrack, ProbabilityTrack, Region, Tracks

# Work that an interruption can lose, besides the current block of windows.
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

    Each output takes its name when it is complete. Pipes and ``-`` are written to directly, without a journal.

    Args:
        model: In eval mode.
        genome: The genome.
        intervals: The regions.
        chunks: BED6 of the final chunks, see ``ChunkTrack``.
        stage1: The same for the chunks of stage 1.
        probability: bedGraph, see ``ProbabilityTrack``; for one strand only, since bedGraph has no strand.
        settings: None for the defaults of ``SegmentSettings``.
        model_id: Identifies the model's weights, such as ``model_fingerprint``.
        resume: Continue what an interrupted call left, if it left something. Complete outputs stay.
        progress: Called after each forward pass.

    Raises:
        ConfigError: An output cannot be written; or an interrupted one has other settings, or was edited.
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
        return journal.rename_outputs(saved)
    with ExitStack() as stack:
        outputs = {
            name: _Output(stack.enter_context(growing_file(path, resume=saved is not None)), path)
            for name, path in paths.items()
        }
        stages = {_CHUNKS: FINAL, _STAGE1: STAGE1}
        tracks = Tracks(
            [
                ChunkTrack(output.write, stages[name]) if name in stages else ProbabilityTrack(output.write)
                for name, output in outputs.items()
            ]
        )
        num_done, pending = 0, []
        if saved is not None:
            for name, output in outputs.items():
                output.continue_from(saved["outputs"][name])
            tracks.restore(saved["written"])
            num_done, pending = saved["num_blocks"], saved["pending"]
        # Before the first line: a killed job then always leaves a journal of its settings.
        journal.save(outputs, tracks, num_done, pending)
        time_saved = time.monotonic()
        regions = (Region(genome, interval) for interval in intervals)
        for block in segment_blocks(model, regions, resolved, progress, num_done, pending):
            for stretches in block.found:
                tracks.add(intervals[stretches.sequence], stretches)
            num_done += 1
            # Not after each block: saving waits for the disk.
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
        genome.locate(interval)  # raises; hours later it would be too late


class _Output:
    """A growing file, with the number of its bytes and their digest."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file = file  # Any: plain files, standard output and compressed streams share no type
        self._path = path
        self._digest = hashlib.blake2b(digest_size=16)
        self._num_bytes = 0

    def write(self, text: str, /) -> None:
        """Append lines."""
        data = text.encode("utf-8")
        try:
            self._file.write(data)
        except BrokenPipeError:
            raise  # the reader has enough, as ``head`` has: no error of the place
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._digest.update(data)
        self._num_bytes += len(data)

    def sync(self) -> dict[str, Any]:
        """Wait until the disk has all that was written; its size and digest."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from error
        return {"bytes": self._num_bytes, "digest": self._digest.hexdigest()}

    def continue_from(self, saved: dict[str, Any]) -> None:
        """Check that the file begins with what the journal describes, and cut the rest.

        Raises:
            ConfigError: It does not.
        """
        # Read, not only measured: a file that was edited would be continued into nonsense.
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


class _Journal:
    """The file of the job's settings, and of how far its outputs are."""

    def __init__(self, paths: dict[str, Path], identity: dict[str, Any]) -> None:
        self._paths = paths
        self._identity = identity
        self._is_written = not any(map(is_stream, paths.values()))
        self._path = settings_path(paths[_CHUNKS])

    def read(self) -> dict[str, Any] | None:
        """The progress that the last call saved; None if there is none.

        Raises:
            ConfigError: An output is a stream, or the file is damaged or holds other settings.
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
        # Complete outputs that somebody has moved away are made anew.
        return None if progress["is_complete"] and any(is_missing) else progress

    def save(
        self,
        outputs: dict[str, _Output],
        tracks: Tracks,
        num_blocks: int,
        pending: list[dict[str, Any]],
        is_complete: bool = False,
    ) -> None:
        """Write how far the outputs are."""
        if not self._is_written:
            return
        # The outputs first: a journal must never promise bytes that a power cut can take away.
        progress = {
            "is_complete": is_complete,
            "num_blocks": num_blocks,
            "outputs": {name: output.sync() for name, output in outputs.items()},
            "pending": pending,
            "written": tracks.state(),
        }
        with appearing_file(self._path) as partial:
            partial.write_text(json.dumps({"settings": self._identity, "progress": progress}) + "\n", encoding="utf-8")

    def rename_outputs(self, saved: dict[str, Any]) -> ChunkSummary:
        """Give complete outputs their names, which an interrupted call had no time to do."""
        for name, path in self._paths.items():
            if partial_path(path).exists():
                with growing_file(path, resume=True) as file:
                    _Output(file, path).continue_from(saved["outputs"][name])
        return ChunkSummary(**saved["written"]["summary"])

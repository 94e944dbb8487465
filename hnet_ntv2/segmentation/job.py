"""Segment regions of a genome into files, block by block; a resumed job writes the same bytes."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..genome import Genome, Interval
from ..inference.resumable import resumable_outputs
from ..inference.settings_file import describe_job
from ..inference.windows import Progress
from ..modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from .segment import SegmentSettings, segment_blocks
from .tracks import FINAL, STAGE1, ChunkSummary, ChunkTrack, ProbabilityTrack


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
    resolved = (settings or SegmentSettings()).resolved(model)
    if resolved.strands == "both" and probability is not None:
        raise ConfigError(f"{probability}: bedGraph has no column for the strand; take one strand")
    if not intervals:
        raise DataError("there is no region to segment")
    for interval in intervals:
        genome.locate(interval)  # raises; hours later it would be too late
    wanted = {"chunks": chunks, "stage1": stage1, "probability": probability}
    paths = {name: Path(path) for name, path in wanted.items() if path is not None}
    regions_text = "".join(f"{each.contig}\t{each.start}\t{each.end}\n" for each in intervals)
    identity = describe_job(
        model,
        model_id,
        genome,
        resolved,
        regions=hashlib.blake2b(regions_text.encode(), digest_size=16).hexdigest(),
        outputs=list(paths),
    )
    kinds = {"chunks": ChunkTrack(FINAL), "stage1": ChunkTrack(STAGE1), "probability": ProbabilityTrack()}
    tracks = {name: kinds[name] for name in paths}
    summary, num_done, pending = ChunkSummary(), 0, []
    with resumable_outputs(paths, identity, resume) as outputs:
        if outputs.saved is not None:
            num_done, pending, written = (outputs.saved[name] for name in ("num_blocks", "pending", "written"))
            summary = ChunkSummary(**written["summary"])
            for track, held in zip(tracks.values(), written["tracks"], strict=True):
                track.state = held
        if outputs.is_complete:
            return summary

        def state() -> dict[str, Any]:
            written = {"tracks": [track.state for track in tracks.values()], "summary": dataclasses.asdict(summary)}
            return {"num_blocks": num_done, "pending": pending, "written": written}

        def read(index: int, start: int, end: int) -> NDArray[np.uint8]:
            contig, first = intervals[index].contig, intervals[index].start
            return genome.read(Interval(contig, first + start, first + end))

        # Before the first line: a killed job then always leaves a journal of its settings.
        outputs.save(state())
        for block in segment_blocks(model, map(len, intervals), read, resolved, progress, num_done, pending):
            for stretches in block.found:
                for name, track in tracks.items():
                    outputs.write(name, track.lines(intervals[stretches.sequence], stretches).encode())
                summary.add(stretches)
            num_done, pending = num_done + 1, block.pending
            if outputs.is_save_due():
                outputs.save(state())
        outputs.save(state(), is_complete=True)
    return summary

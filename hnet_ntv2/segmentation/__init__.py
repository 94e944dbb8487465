"""Chunks along a sequence."""

from .joint import joint_boundaries, joint_boundary_probability
from .segment import Segmentation, SegmentSettings, segment_sequences
from .tracks import ChunkSummary, Region, read_region_bases, write_tracks

__all__ = [
    "ChunkSummary",
    "Region",
    "SegmentSettings",
    "Segmentation",
    "joint_boundaries",
    "joint_boundary_probability",
    "read_region_bases",
    "segment_sequences",
    "write_tracks",
]

"""Chunks along a sequence."""

from .job import segment_regions
from .segment import SegmentSettings, segment_sequences
from .stitch import Segmentation
from .tracks import ChunkSummary, Region

__all__ = [
    "ChunkSummary",
    "Region",
    "SegmentSettings",
    "Segmentation",
    "segment_regions",
    "segment_sequences",
]

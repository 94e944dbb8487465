"""Genomes, intervals and annotation, in numpy only: nothing here imports torch or transformers."""

from ..vocabulary import decode, encode, reverse_complement
from .bed import SplitInterval, StrandedInterval, check_disjoint, default_split, read_bed, read_split_intervals
from .cache import file_digest, open_genome
from .fasta import read_fasta_records, read_genome_blocks
from .genome import Genome
from .interval import Interval, SpanIndex
from .repeats import convert_repeatmasker, read_repeats
from .variant import Change, Variant, VariantChecker
from .variant_files import read_variants

__all__ = [
    "Change",
    "Genome",
    "Interval",
    "SpanIndex",
    "SplitInterval",
    "StrandedInterval",
    "Variant",
    "VariantChecker",
    "check_disjoint",
    "convert_repeatmasker",
    "decode",
    "default_split",
    "encode",
    "file_digest",
    "open_genome",
    "read_bed",
    "read_fasta_records",
    "read_genome_blocks",
    "read_repeats",
    "read_split_intervals",
    "read_variants",
    "reverse_complement",
]

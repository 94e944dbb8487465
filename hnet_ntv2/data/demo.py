"""The bundled piece of human chromosome 20, for a first run without any download."""

from importlib import resources
from pathlib import Path
from typing import NamedTuple


class DemoPaths(NamedTuple):
    """Files of the demo: the sequence (.2bit) and its split into train, valid and test (BED)."""

    fasta: Path
    intervals: Path


def demo_paths() -> DemoPaths:
    """Paths of the bundled demo data; ``resources/README.md`` names their origin."""
    folder = Path(str(resources.files("hnet_ntv2.resources")))
    return DemoPaths(folder / "chr20_demo.2bit", folder / "chr20_demo.bed")

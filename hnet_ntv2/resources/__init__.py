"""Paths of the files that ship with the package; README.md in this folder names their origins."""

from importlib import resources
from pathlib import Path

from ..errors import WeightsError

_FOLDER = Path(str(resources.files(__name__)))


def bundled_model() -> Path:
    """The folder of the model that ships with the package.

    Raises:
        WeightsError: This copy of the package came without it.
    """
    folder = _FOLDER / "model"
    absent = [path for name in ("config.json", "model.safetensors") if not (path := folder / name).is_file()]
    if absent:
        raise WeightsError(
            f"this copy of the package has no bundled model ({absent[0]} is missing); name a model folder with "
            "--model, such as checkpoints/hf of a run, or install a package that holds one"
        )
    return folder


def bundled_genome() -> Path:
    """The piece of human chromosome 20 that ships with the package, one contig in a .2bit file."""
    return _FOLDER / "chr20_demo.2bit"


def bundled_split() -> Path:
    """Intervals of that piece for training, validation and test, as BED."""
    return _FOLDER / "chr20_demo.bed"

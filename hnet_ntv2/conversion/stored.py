"""Names, shapes, types and values of the tensors in safetensors files, read without torch."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ..errors import WeightsError


class StoredTensor(NamedTuple):
    """One tensor of a safetensors file.

    Attributes:
        name: Its key.
        dtype: As the format calls it ("F32").
        shape: Its shape.
        path: The file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path

    def values(self) -> NDArray[np.generic]:
        """Read the values; of the types that numpy has, so not of BF16."""
        with safe_open(self.path, framework="np") as file:
            return file.get_tensor(self.name)


def read_headers(paths: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of all files by name.

    Raises:
        WeightsError: A file is no safetensors file or is cut short, or two files hold a tensor of the same name.
    """
    found: dict[str, StoredTensor] = {}
    for path in paths:
        try:
            with safe_open(path, framework="np") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{path} cannot be read as safetensors, or is cut short ({error}); write or download it again"
            ) from error
        for name, part in slices.items():
            if name in found:
                raise WeightsError(f"{name!r} is in {found[name].path.name} and in {path.name}; one of them is wrong")
            found[name] = StoredTensor(name, part.get_dtype(), tuple(part.get_shape()), path)
    return found

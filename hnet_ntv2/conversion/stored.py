"""Names, shapes, types and bytes of the tensors in safetensors files, read without torch and without safetensors."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import WeightsError

_BLOCK_BYTES = 1 << 22
# A damaged length would otherwise make us read gigabytes as JSON.
_MOST_HEADER_BYTES = 1 << 24
_ITEM_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a safetensors file.

    Attributes:
        name: Its key.
        dtype: As the format calls it ("F32").
        shape: Its shape.
        path: The file.
        start: Offset of its first byte in the file.
        num_bytes: How many bytes it has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    start: int
    num_bytes: int

    def blocks(self) -> Iterator[bytes]:
        """The bytes in the file, at most 4 MiB at a time.

        Raises:
            WeightsError: The file ends inside the tensor.
        """
        left = self.num_bytes
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left:
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:  # the file was cut after its header was checked
                    raise WeightsError(f"{self.path} ends inside the tensor {self.name!r}; write or download it again")
                yield block
                left -= len(block)

    def sha256(self) -> str:
        """SHA-256 of the bytes in the file."""
        digest = hashlib.sha256()
        for block in self.blocks():
            digest.update(block)
        return digest.hexdigest()


def read_header(path: str | os.PathLike[str]) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name.

    Raises:
        WeightsError: The file is no safetensors file, is cut short, or a tensor's bytes do not fit its shape.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
            if not 1 < header_bytes <= min(size - 8, _MOST_HEADER_BYTES):
                raise ValueError(f"a header of {header_bytes} bytes in a file of {size}")
            header = json.loads(file.read(header_bytes))
        # Offsets in the header count from behind it, and behind the 8 bytes that hold its length.
        found = {
            name: _read_entry(name, value, path, 8 + header_bytes)
            for name, value in header.items()
            if name != "__metadata__"
        }
    # A damaged header can parse as any JSON: every step that takes it apart can fail in its own way.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read as safetensors ({error}); write or download it again") from error
    for tensor in found.values():
        # 0 for a type that is not in the table, so that it is refused.
        expected = math.prod(tensor.shape) * _ITEM_BYTES.get(tensor.dtype, 0)
        if tensor.start + tensor.num_bytes > size or tensor.num_bytes != expected:
            raise WeightsError(
                f"{path}: the bytes of {tensor.name!r} ({tensor.num_bytes}) do not fit {tensor.dtype} "
                f"{list(tensor.shape)}, or the file is cut short; write or download it again"
            )
    return found


def read_headers(paths: list[Path]) -> dict[str, StoredTensor]:
    """The tensors of all files by name.

    Raises:
        WeightsError: As ``read_header``, and if two files hold a tensor of the same name.
    """
    found: dict[str, StoredTensor] = {}
    for path in paths:
        for name, tensor in read_header(path).items():
            if name in found:
                raise WeightsError(f"{name!r} is in {found[name].path.name} and in {path.name}; one of them is wrong")
            found[name] = tensor
    return found


def _read_entry(name: str, value: dict, path: Path, data_start: int) -> StoredTensor:
    (start, end), dtype, shape = value["data_offsets"], value["dtype"], tuple(value["shape"])
    # type(), not isinstance(): JSON's true is an int to Python.
    if not isinstance(dtype, str) or not all(type(number) is int and number >= 0 for number in (start, end, *shape)):
        raise ValueError(f"the entry of {name!r} is not one of a tensor")
    return StoredTensor(name, dtype, shape, path, data_start + start, end - start)

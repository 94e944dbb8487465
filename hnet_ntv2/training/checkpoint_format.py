"""Write and read training checkpoints: a folder of safetensors and JSON, replaced atomically, checked when read."""

import json
import logging
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..errors import CheckpointError, ConfigError, WeightsError
from ..model_files import require_finite
from ..storage import appearing_folder, remove, restore

logger = logging.getLogger(__name__)


FORMAT = "hnet-ntv2-checkpoint"
VERSION = 1
STRUCTURE_FILE = "checkpoint.json"
TENSOR_FILE = "tensors.safetensors"
_WAY_OUT = "Checkpoints saved before are untouched; free disk space or choose another --output-dir, then --resume"


class SafetensorsCheckpointIO(CheckpointIO):
    """Lets Lightning save and load these checkpoints, optimizer state included, without pickles."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        # Lightning gives no options to a local folder.
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        # On the CPU, whatever the location asked for: Lightning copies tensors to their devices.
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: str | Path) -> None:
        remove(Path(path))


def write_checkpoint(tree: dict[str, Any], path: Path) -> None:
    """Write ``tree`` as the folder ``path``; an older folder of that name is replaced once the new one is complete.

    What a killed writer leaves is called ``NAME.partial``; ``storage.sweep`` clears that up.

    Raises:
        CheckpointError: The disk is full or the folder cannot be written. Nothing that was there before is lost.
    """
    with explained(f"checkpoint {path} could not be saved", _WAY_OUT):
        with appearing_folder(path) as folder:
            _write_files(tree, folder)
        _sync(path.parent)  # the rename itself must survive a power failure


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a whole checkpoint, tensors on the CPU.

    Raises:
        CheckpointError: There is none, or it is truncated, altered, or not one of ours.
    """
    document = _read_document(path)
    tensor_path = path / TENSOR_FILE
    written = document["tensors"]
    size = tensor_path.stat().st_size if tensor_path.is_file() else None
    if size != written["bytes"]:
        found = "is missing" if size is None else f"has {size} bytes"
        raise CheckpointError(f"checkpoint {path} is truncated: {TENSOR_FILE} {found}, {written['bytes']} were written")
    if _file_checksum(tensor_path) != written["crc32"]:
        raise CheckpointError(
            f"checkpoint {path} is damaged: the checksum of {TENSOR_FILE} differs; use an older checkpoint"
        )
    try:
        tensors = load_file(tensor_path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {TENSOR_FILE}: {error}") from error
    for name, tensor in tensors.items():
        # The run would train on NaN. The optimizer's tensors are not checked.
        if name.startswith("state_dict.") and tensor.is_floating_point():
            try:
                require_finite(name, tensor, tensor_path)
            except WeightsError as error:
                raise CheckpointError(f"{error}; resume from an older checkpoint") from error
    return decode(document["tree"], tensors)


def read_structure(path: Path) -> dict[str, Any]:
    """Read a checkpoint without its tensors; strings with their names are in their places.

    Raises:
        CheckpointError: As in :func:`read_checkpoint`.
    """
    return decode(_read_document(path)["tree"], None)


def _write_files(tree: dict[str, Any], folder: Path) -> None:
    encoder = TreeEncoder()
    structure = encoder.encode(tree)
    tensor_path = folder / TENSOR_FILE
    save_file(encoder.tensors, tensor_path)
    tensors = {"bytes": tensor_path.stat().st_size, "crc32": _file_checksum(tensor_path)}
    body = json.dumps(structure, allow_nan=False)
    header = {"format": FORMAT, "version": VERSION, "tensors": tensors, "tree_crc32": zlib.crc32(body.encode())}
    # The tree is inserted as the text that the checksum is of; a second dumps could differ.
    text = json.dumps(header)[:-1] + f', "tree": {body}}}\n'
    (folder / STRUCTURE_FILE).write_text(text, encoding="utf-8")


def _read_document(path: Path) -> dict[str, Any]:
    if restore(path):
        logger.warning("%s was restored from a save that had been interrupted", path)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint at {path}")
    if not (path / STRUCTURE_FILE).is_file():
        raise CheckpointError(
            f"{path} is not a checkpoint of this package: it should be a folder with {STRUCTURE_FILE} and "
            f"{TENSOR_FILE} (pickled .ckpt and .pt files are never loaded)"
        )
    try:
        document = json.loads((path / STRUCTURE_FILE).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"checkpoint {path} is truncated: {STRUCTURE_FILE}: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise CheckpointError(f"{path / STRUCTURE_FILE} was not written by this package: no format {FORMAT!r} in it")
    if document.get("version") != VERSION:
        raise CheckpointError(
            f"checkpoint {path} has version {document.get('version')!r}; this package reads {VERSION}"
        )
    if not {"tree", "tree_crc32", "tensors"} <= document.keys():
        raise CheckpointError(f"checkpoint {path} is incomplete: {STRUCTURE_FILE} lacks its contents")
    if zlib.crc32(json.dumps(document["tree"], allow_nan=False).encode()) != document["tree_crc32"]:
        raise CheckpointError(f"checkpoint {path} is damaged: {STRUCTURE_FILE} was changed after it was written")
    return document


def _file_checksum(path: Path) -> int:
    return zlib.crc32(np.memmap(path, mode="r").data)  # through a map: a checkpoint has gigabytes


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(what: str, way_out: str) -> Iterator[None]:
    """Turn an error of the operating system into one line: what was lost, the reason, what to do.

    Raises:
        CheckpointError: ``what``, the reason, the way out.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, ConfigError) as error:
        if isinstance(error, CheckpointError | torch.OutOfMemoryError):
            raise  # its own message is better
        # A ConfigError of storage names the path, which ``what`` does already.
        reason = error.__cause__ if isinstance(error, ConfigError) and error.__cause__ is not None else error
        text = reason.strerror if isinstance(reason, OSError) and reason.strerror else str(reason)
        raise CheckpointError(f"{what}: {text}. {way_out}") from error


# A value that JSON lacks is an object with one key that starts with this sign.
_SIGN = "$"


class TreeEncoder:
    """Turns one tree into JSON values; its tensors are collected in ``tensors`` under readable names.

    A tensor that occurs twice (tied weights) is stored once and comes back as one object. Floats keep every bit:
    ``json`` writes their shortest exact ``repr``; NaN and the infinities are nodes with a sign.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}
        self._memory: set[int] = set()

    def encode(self, value: Any, where: str = "") -> Any:
        """Encode one value.

        Args:
            value: None, bool, int, float, str, dict, list, tuple, tensor, ``torch.dtype`` or ``torch.device``.
            where: Dotted path of the value, for tensor names and errors.

        Raises:
            CheckpointError: The value has a type that could only be stored as a pickle.
        """
        # type(): an IntEnum is an int too, and would come back as a plain one
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {"$float": repr(float(value))}
        if isinstance(value, torch.Tensor):
            return {"$tensor": self._store(value, where or "tensor")}
        if isinstance(value, Mapping):
            items = {key: self.encode(item, _join(where, key)) for key, item in value.items()}
            if all(isinstance(key, str) and not key.startswith(_SIGN) for key in items):
                return items
            return {"$dict": [[self.encode(key, where), item] for key, item in items.items()]}
        if isinstance(value, list | tuple):
            parts = [self.encode(item, _join(where, i)) for i, item in enumerate(value)]
            return parts if isinstance(value, list) else {"$tuple": parts}
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$device": str(value)}
        raise CheckpointError(
            f"checkpoint entry {where or '(root)'} is a {type(value).__module__}.{type(value).__qualname__}, which "
            "only a pickle could store; keep numbers, strings, lists, dicts and tensors in checkpoints"
        )

    def _store(self, tensor: torch.Tensor, where: str) -> str:
        if tensor.layout != torch.strided or tensor.is_quantized:
            raise CheckpointError(
                f"checkpoint entry {where} is a {tensor.layout} tensor; only dense tensors are stored"
            )
        # The memory, not the object: tied weights are two objects.
        identity = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.numel() and identity in self._names:
            return self._names[identity]
        name = where
        while name in self.tensors:  # such as the keys 1 and "1" of one dict
            name += "'"
        dense = tensor.detach().to("cpu").contiguous()
        memory = dense.untyped_storage()
        if memory.nbytes() != dense.nbytes or memory.data_ptr() in self._memory:
            dense = dense.clone()  # safetensors wants entries that share no memory
        self._memory.add(dense.untyped_storage().data_ptr())
        self.tensors[name] = dense
        self._names[identity] = name
        return name


def decode(node: Any, tensors: Mapping[str, torch.Tensor] | None) -> Any:
    """Undo :meth:`TreeEncoder.encode`.

    Args:
        node: A JSON value.
        tensors: Tensors by name; None leaves their names as strings in their places.
    """
    if isinstance(node, list):
        return [decode(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    tag, content = next(iter(node.items()), ("", ""))
    if len(node) != 1 or not tag.startswith(_SIGN):
        return {key: decode(item, tensors) for key, item in node.items()}
    match tag:
        case "$tensor":
            return content if tensors is None else tensors[content]
        case "$float":
            return float(content)
        case "$tuple":
            return tuple(decode(content, tensors))
        case "$dict":
            return {decode(key, tensors): decode(item, tensors) for key, item in content}
        case "$dtype":
            return getattr(torch, content)
        case "$device":
            return torch.device(content)
    raise CheckpointError(f"a checkpoint node is of the unknown kind {tag!r}; a newer version may have written it")


def _join(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)

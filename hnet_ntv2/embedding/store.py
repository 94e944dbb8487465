"""Finished blocks of embeddings in one growing file, from which an interrupted job goes on."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from ..errors import ConfigError
from ..inference.settings_file import require_same_settings
from .formats import from_safetensors, to_safetensors
from .table import EmbeddingTable

# In front of each frame: its length in bytes and its digest, by which a frame that was cut or damaged is told.
_HEAD = struct.Struct(">Q16s")


class BlockStore:
    """Frames of the settings and of one table per block, in the format of ``.safetensors``.

    Args:
        file: Open for reading and writing at its start; empty, or what an interrupted job left.
        settings: That the bytes depend on; they must be those that the file begins with.
        output: For messages.

    Attributes:
        num_rows: Sequences in all blocks.

    Raises:
        ConfigError: The file was made with other settings.
    """

    def __init__(self, file: BinaryIO, settings: Mapping[str, Any], output: str) -> None:
        self._file = file
        self.num_rows = 0
        stored = self._next()
        if stored is not None:
            require_same_settings(json.loads(stored), json.loads(json.dumps(settings)), output)
            self._start = file.tell()
            end = self._start
            while (block := self._next()) is not None:
                self.num_rows += len(from_safetensors(block).names)
                end = file.tell()
            file.seek(end)
            file.truncate()  # a frame that was being written
            return
        file.seek(0)
        file.truncate()
        self._append(json.dumps(settings).encode())
        self._start = file.tell()

    def append(self, table: EmbeddingTable) -> None:
        """Add a block."""
        self._append(to_safetensors(table))
        self.num_rows += len(table.names)

    def __iter__(self) -> Iterator[EmbeddingTable]:
        """All blocks; the file stands at its end again behind them."""
        self._file.seek(self._start)
        while (block := self._next()) is not None:
            yield from_safetensors(block)

    def _append(self, frame: bytes) -> None:
        try:
            self._file.write(_HEAD.pack(len(frame), _digest(frame)) + frame)
            self._file.flush()
        except OSError as error:
            raise ConfigError(f"the blocks beside the output cannot be written: {error.strerror or error}") from error

    def _next(self) -> bytes | None:
        """The next frame; None where the file ends or is damaged."""
        head = self._file.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        length, digest = _HEAD.unpack(head)
        # Compared first: a damaged length must not ask for more memory than there is.
        if length > os.fstat(self._file.fileno()).st_size - self._file.tell():
            return None
        frame = self._file.read(length)
        return frame if _digest(frame) == digest else None


def _digest(frame: bytes) -> bytes:
    return hashlib.blake2b(frame, digest_size=16).digest()

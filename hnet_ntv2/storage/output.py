"""Write an output beside its place and move it there when it is complete.

What is being written is called ``NAME.partial``. It is locked while its writer lives, so a second writer of the same
output is refused. A killed writer leaves the partial file behind, and the next writer of that output takes it over.
Pipes, devices and ``-`` (standard output) cannot be replaced: they are written to directly.
"""

import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from safetensors import SafetensorError

from ..errors import ConfigError
from .bgzip import BgzipWriter
from .lock import release, take_lock
from .places import PARTIAL, AnyPath, descriptor_of, is_stream, partial_path, resolve

_GZIP = ".gz"
_COMPRESSING = ".compressing"
# safetensors tells errors of the system as text.
_SAFETENSORS_REASON = re.compile(r"serializing: I/O error: (.*?) \(os error")


@contextmanager
def appearing_file(path: AnyPath) -> Iterator[Path]:
    """A file to write to, which takes the name ``path`` when the block ends well; after an error nothing is left.

    For formats that must seek. A stream gets the bytes at the end.

    Raises:
        ConfigError: The place cannot be written, or another process is writing it.
    """
    if is_stream(path):
        with _file_for_stream(path) as temporary:
            yield temporary
        return
    target = _replaceable_file(path)
    # In a folder of its own, since some writers (that of safetensors) first write a temporary file beside theirs.
    with _partial_folder(target) as folder:
        partial = folder / target.name
        yield partial
        _finish(partial, folder)
        partial.replace(target)


@contextmanager
def open_text(path: AnyPath) -> Iterator[TextIO]:
    """A text file to write to, which appears as ``path`` when the block ends well; ``.gz`` is compressed by bgzip.

    Only ``write`` and ``writelines`` are there. Text is UTF-8 with "\\n" on every system.

    Raises:
        ConfigError: The place cannot be written, or another process is writing it.
    """
    if is_stream(path):
        with _named_errors(path), _open_stream(path) as file, _compressed(file, path) as binary:
            yield _lines(binary)
        return
    with appearing_file(path) as partial, partial.open("wb") as file, _compressed(file, path) as binary:
        yield _lines(binary)


@contextmanager
def growing_file(path: AnyPath, resume: bool) -> Iterator[BinaryIO]:
    """A file that is kept after an interruption, so that its writer can go on, and appears as ``path`` at the end.

    It is open for reading and writing at its start. With ``resume`` it holds what an interrupted writer left; the
    caller checks that, cuts it where it stops being good, and appends. It is plain text until the end, also for
    ``.gz``, since compressed blocks cannot be cut at a line.

    Raises:
        ConfigError: The place cannot be written, is a stream that cannot be resumed, or another process is writing it.
    """
    if is_stream(path):
        if resume:
            raise ConfigError(f"{path} is a pipe or device: what went there cannot be resumed; name a file")
        with _named_errors(path), _open_stream(path) as file, _compressed(file, path) as binary:
            yield binary
        return
    target = _replaceable_file(path)
    partial = partial_path(target)
    with _named_errors(target, partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock_partial(target, is_folder=False)
        try:
            if not resume:
                os.ftruncate(descriptor, 0)
            with os.fdopen(os.dup(descriptor), "r+b") as file:
                yield cast(BinaryIO, file)
            _publish(partial, target)
        finally:
            release(descriptor)


@contextmanager
def appearing_folder(path: AnyPath) -> Iterator[Path]:
    """A folder to write to, which takes the name ``path`` when the block ends well; after an error nothing is left.

    A folder of that name stays until the new one is complete, and is replaced then.

    Raises:
        ConfigError: The place cannot be written, or another process is writing it.
    """
    target = resolve(path)
    with _named_errors(path, target):
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{path} exists and is not a folder; name another one")
    with _partial_folder(target) as folder:
        partial = folder / target.name
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _finish(file, folder)
        if target.exists():
            target.rename(_replaced(target))  # two steps: a folder cannot be replaced in one
        partial.rename(target)


def _replaceable_file(path: AnyPath) -> Path:
    """The file that an output names.

    Raises:
        ConfigError: It is a folder, or a file that its owner has protected.
    """
    target = resolve(path)
    with _named_errors(path, target):
        if target.is_dir():
            raise ConfigError(f"{path} is a folder; name a file")
        if target.exists() and not os.access(target, os.W_OK):
            raise ConfigError(f"{path} cannot be written: it is there and write-protected")
    return target


def restore(path: AnyPath) -> bool:
    """Put an old folder back whose writer was killed before the new one had taken its place; False if none was.

    ``appearing_folder`` does so itself; this is for who reads.
    """
    target = resolve(path)
    replaced = _replaced(target)
    if target.exists() or not replaced.exists():
        return False
    replaced.rename(target)
    return True


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder, and put back what they were about to replace.

    The caller holds the folder's lock (or that of the one it lies in), so that nobody is writing there.

    Raises:
        ConfigError: Something cannot be removed.
    """
    with _named_errors(folder, folder):
        for partial in folder.glob(f"*{PARTIAL}"):
            restore(partial.with_name(partial.name.removesuffix(PARTIAL)))
            remove(partial)
        for compressing in folder.glob(f"*{PARTIAL}{_COMPRESSING}"):
            remove(compressing)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """An empty locked folder beside ``target``, which is removed at the end."""
    partial = partial_path(target)
    with _named_errors(target, partial):
        made = [parent for parent in target.parents if not parent.exists()]
        descriptor = _lock_partial(target, is_folder=True)
        try:
            restore(target)
            for entry in partial.iterdir():  # what a killed writer left
                remove(entry)
            yield partial
        finally:
            restore(target)
            shutil.rmtree(partial, ignore_errors=True)
            for parent in made:
                _remove_if_empty(parent)
            release(descriptor)


def _lock_partial(target: Path, is_folder: bool) -> int:
    """The descriptor of the partial file or folder that this process has made or taken over, and locked."""
    partial = partial_path(target)
    while True:
        descriptor = _open_partial(partial, is_folder)
        try:
            take_lock(descriptor, target)
        except BaseException:
            os.close(descriptor)
            raise
        # The writer before may have removed or renamed it between our opening it and our locking it.
        if _is_there(partial, descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == is_folder:
                _compressing(partial).unlink(missing_ok=True)
                return descriptor
            remove(partial)  # a killed writer of the other kind left it
        release(descriptor)


def _open_partial(partial: Path, is_folder: bool) -> int:
    try:
        if is_folder:
            partial.mkdir(parents=True, exist_ok=True)
            return os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)
        return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (FileExistsError, IsADirectoryError):  # it is of the other kind
        return os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)


def _is_there(partial: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(partial.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _publish(partial: Path, target: Path) -> None:
    """Give a complete locked file its name; compressed where the name asks for it."""
    if target.suffix != _GZIP:
        _finish(partial)
        partial.replace(target)
        return
    compressed = _compressing(partial)
    try:
        with partial.open("rb") as source, compressed.open("wb") as file, _compressed(file, target) as sink:
            shutil.copyfileobj(source, sink)
        _finish(compressed)
        compressed.replace(target)
        partial.unlink()  # only now: killed while it compresses, a job has lost nothing
    finally:
        compressed.unlink(missing_ok=True)


def _compressing(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}{_COMPRESSING}")


def _finish(file: Path, folder: Path | None = None) -> None:
    """Let the file be readable as others in its folder are, and wait until the disk has it.

    Some writers (that of safetensors) keep their files from other users; the folder shows what the umask allows.
    """
    descriptor = os.open(file, os.O_RDONLY)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        wanted = mode if folder is None else mode | stat.S_IMODE(folder.stat().st_mode) & 0o666
        if wanted != mode:
            os.fchmod(descriptor, wanted)
        os.fsync(descriptor)  # some file systems tell only here that the disk is full
    finally:
        os.close(descriptor)


@contextmanager
def _named_errors(path: AnyPath, *places: Path) -> Iterator[None]:
    """Tell errors of writing as those of an output; ``places`` are the files and folders that it is written through."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has enough: that is not a place that cannot be written
    except SafetensorError as error:
        reason = _SAFETENSORS_REASON.search(str(error))
        if reason is None:
            raise
        raise ConfigError(f"{os.fspath(path)} cannot be written: {reason[1]}") from error
    except OSError as error:
        # An error that names another file was not caused by this output.
        if error.filename is not None and not _concerns(error.filename, (Path(os.path.abspath(path)), *places)):
            raise
        raise ConfigError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from error


def _concerns(filename: object, places: Iterable[Path]) -> bool:
    if not isinstance(filename, str | bytes):
        return True
    named = Path(os.path.abspath(os.fsdecode(filename)))
    return any(named == place or named in place.parents or place in named.parents for place in places)


@contextmanager
def _file_for_stream(path: AnyPath) -> Iterator[Path]:
    with _named_errors(path), tempfile.TemporaryDirectory() as folder, _named_errors(path, Path(folder)):
        temporary = Path(folder) / f"output{Path(path).suffix}"
        yield temporary
        with temporary.open("rb") as source, _open_stream(path) as sink:
            shutil.copyfileobj(source, sink)


@contextmanager
def _open_stream(path: AnyPath) -> Iterator[BinaryIO]:
    descriptor = descriptor_of(path)
    if descriptor == 1:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif descriptor is not None:
        # Not opened by its name, which would cut what a shell has opened for appending.
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
    else:
        with Path(path).expanduser().open("wb") as file:
            yield file


@contextmanager
def _compressed(file: BinaryIO, path: AnyPath) -> Iterator[BinaryIO]:
    """The file, or what compresses into it where the output's name ends in ``.gz``."""
    if Path(path).suffix != _GZIP:
        yield file
        return
    with BgzipWriter(file) as writer:
        yield cast(BinaryIO, writer)


class _Lines:
    """Text to a binary file. io.TextIOWrapper would close standard output."""

    def __init__(self, binary: BinaryIO) -> None:
        self._binary = binary

    def write(self, text: str) -> int:
        """Write text as UTF-8."""
        return self._binary.write(text.encode("utf-8"))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of them."""
        for line in lines:
            self.write(line)


def _lines(binary: BinaryIO) -> TextIO:
    return cast(TextIO, _Lines(binary))


def _replaced(target: Path) -> Path:
    """Where the old folder is while the new one takes its place."""
    return partial_path(target) / f"{target.name}.replaced"


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()

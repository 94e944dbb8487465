"""Write an output beside its place and move it there when it is complete.

What is being written is called ``NAME.partial``. It is locked while its writer lives, so a second writer of the same
output is refused. A killed writer leaves the partial file behind, and the next writer of that output takes it over.
Pipes, devices and ``-`` (standard output) cannot be replaced: they are written to directly.
"""

import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, TextIO, cast

from ..errors import ConfigError
from .lock import release, take_lock

STANDARD_OUTPUT = "-"
_GZIP = ".gz"
_PARTIAL, _REPLACED = ".partial", ".replaced"


def is_stream(path: str | os.PathLike[str]) -> bool:
    """Whether an output is standard output, a pipe or a device: written to in place, never replaced."""
    if os.fspath(path) == STANDARD_OUTPUT:
        return True
    target = Path(path).expanduser()
    return target.exists() and not stat.S_ISREG(target.stat().st_mode) and not target.is_dir()


def partial_path(path: str | os.PathLike[str]) -> Path:
    """Where an output is written until it is complete; links are followed, so that a link stays a link."""
    target = Path(path).expanduser().resolve()
    return target.with_name(f"{target.name}{_PARTIAL}")


@contextmanager
def appearing_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write to, which takes the name ``path`` when the block ends well; after an error nothing is left.

    For formats that must seek. A stream gets the bytes at the end.

    Raises:
        ConfigError: The place cannot be written, or another process is writing it.
    """
    if is_stream(path):
        with _file_for_stream(path) as temporary:
            yield temporary
        return
    target = Path(path).expanduser().resolve()
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file")
    # In a folder of its own, since some writers (that of safetensors) first write a temporary file beside theirs.
    with _partial_folder(target) as folder:
        partial = folder / target.name
        yield partial
        _sync(partial)
        partial.replace(target)


@contextmanager
def open_text(path: str | os.PathLike[str]) -> Iterator[TextIO]:
    """A text file to write to, which appears as ``path`` when the block ends well; ``.gz`` is compressed by bgzip.

    Raises:
        ConfigError: The place cannot be written, or another process is writing it.
    """
    if is_stream(path):
        with _named_errors(path), _open_stream(path) as binary, _text(binary) as file:
            yield file
        return
    with (
        appearing_file(path) as partial,
        _open_binary(partial, compress=_is_gzip(path)) as binary,
        _text(binary) as file,
    ):
        yield file


@contextmanager
def growing_file(path: str | os.PathLike[str], resume: bool) -> Iterator[BinaryIO]:
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
        with _named_errors(path), _open_stream(path) as file:
            yield file
        return
    target, partial = Path(path).expanduser().resolve(), partial_path(path)
    if target.is_dir():
        raise ConfigError(f"{target} is a folder; name a file")
    with _named_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(lambda: _open_file(partial), partial, target)
        try:
            if not resume:
                os.ftruncate(descriptor, 0)
            with os.fdopen(os.dup(descriptor), "r+b") as file:
                yield cast(BinaryIO, file)
            finished = _compressed(partial) if _is_gzip(path) else partial
            _sync(finished)
            finished.replace(target)
            partial.unlink(missing_ok=True)  # the plain text of a compressed file, which is kept until then
        finally:
            release(descriptor)


@contextmanager
def appearing_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to write to, which takes the name ``path`` when the block ends well; after an error nothing is left.

    A folder of that name stays until the new one is complete, and is replaced then.

    Raises:
        ConfigError: The place cannot be written, or another process is writing it.
    """
    target = Path(path).expanduser().resolve()
    replaced = target.with_name(f"{target.name}{_REPLACED}")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{path} exists and is not a folder; name another one")
    with _partial_folder(target) as partial:
        _restore(replaced, target)
        try:
            yield partial
            if target.exists():
                target.rename(replaced)  # two steps: a folder that is not empty cannot be replaced in one
            partial.rename(target)
        finally:
            _restore(replaced, target)


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder, and put back what they were about to replace.

    The caller holds the folder's lock (or that of the one it lies in), so that nobody is writing there.

    Raises:
        ConfigError: Something cannot be removed.
    """
    with _named_errors(folder):
        for replaced in folder.glob(f"*{_REPLACED}"):
            _restore(replaced, replaced.with_name(replaced.name.removesuffix(_REPLACED)))
        for partial in folder.glob(f"*{_PARTIAL}"):
            remove(partial)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """An empty locked folder beside ``target``, which is removed at the end if it is still there."""
    partial = partial_path(target)
    made = [parent for parent in target.parents if not parent.exists()]
    with _named_errors(target):
        descriptor = _locked(lambda: _open_folder(partial), partial, target)
        try:
            _empty(partial)  # of what a killed writer left
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            for parent in made:
                _remove_if_empty(parent)
            release(descriptor)


def _locked(open_partial: Callable[[], int], partial: Path, target: Path) -> int:
    """The descriptor of a partial file or folder that this process has locked."""
    while True:
        descriptor = open_partial()
        try:
            take_lock(descriptor, target)
        except BaseException:
            os.close(descriptor)
            raise
        # The writer before may have renamed it between our opening it and our locking it.
        if partial.exists() and partial.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
        release(descriptor)


def _open_file(partial: Path) -> int:
    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _open_folder(partial: Path) -> int:
    partial.mkdir(parents=True, exist_ok=True)
    return os.open(partial, os.O_RDONLY | os.O_DIRECTORY)


@contextmanager
def _named_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has enough: that is not a place that cannot be written
    except OSError as error:
        # An error that names another file was not caused by this output.
        if error.filename is not None and not _concerns(error.filename, path):
            raise
        raise ConfigError(f"{os.fspath(path)} cannot be written: {error.strerror or error}") from error


def _concerns(filename: object, path: str | os.PathLike[str]) -> bool:
    target = Path(path).expanduser().resolve()
    named = Path(os.fsdecode(filename)) if isinstance(filename, str | bytes) else target
    return named.name.startswith(target.name) or named in target.parents or target in named.parents


@contextmanager
def _file_for_stream(path: str | os.PathLike[str]) -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        name = "output" if os.fspath(path) == STANDARD_OUTPUT else Path(path).name
        temporary = Path(folder) / name
        yield temporary
        with _named_errors(path), temporary.open("rb") as source, _open_stream(path) as sink:
            shutil.copyfileobj(source, sink)


@contextmanager
def _open_stream(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    if os.fspath(path) == STANDARD_OUTPUT:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with Path(path).expanduser().open("wb") as file:
        yield file


@contextmanager
def _open_binary(path: Path, compress: bool) -> Iterator[BinaryIO]:
    if compress:
        import pysam

        with pysam.BGZFile(str(path), "wb", None) as compressed:
            yield cast(BinaryIO, compressed)
        return
    with path.open("wb") as file:
        yield file


@contextmanager
def _text(binary: BinaryIO) -> Iterator[TextIO]:
    """Lines as UTF-8 with "\\n" on every system."""

    class Writer:
        """The one method that writers of lines need; io.TextIOWrapper would close standard output."""

        def write(self, text: str) -> int:
            return binary.write(text.encode("utf-8"))

        def writelines(self, lines: list[str]) -> None:
            for line in lines:
                self.write(line)

    yield cast(TextIO, Writer())


def _compressed(partial: Path) -> Path:
    """The bgzip-compressed form of a locked file, in a file beside it: a writer that is killed here loses nothing."""
    import pysam

    compressed = partial.with_name(f"{partial.name}.gz")
    try:
        with partial.open("rb") as source, pysam.BGZFile(str(compressed), "wb", None) as sink:
            shutil.copyfileobj(cast(IO[bytes], source), cast(IO[bytes], sink))
    except BaseException:
        compressed.unlink(missing_ok=True)
        raise
    return compressed


def _is_gzip(path: str | os.PathLike[str]) -> bool:
    return Path(path).suffix == _GZIP


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    """Remove what a killed writer left in its partial folder."""
    for entry in folder.iterdir():
        remove(entry)


def _restore(replaced: Path, target: Path) -> None:
    """Undo the first of the two renames where the second never came; drop the old folder where it did."""
    if not replaced.exists():
        return
    if target.exists():
        shutil.rmtree(replaced, ignore_errors=True)
    else:
        replaced.rename(target)


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()

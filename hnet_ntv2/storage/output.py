"""Write an output as ``NAME.partial``, and rename it to ``NAME`` when it is complete.

The partial file or folder is locked while its writer lives, so that a second writer of the same output is refused. A
killed writer leaves it behind, and the next writer of that output takes it over. Pipes, devices and ``-`` (standard
output) cannot be renamed: they are written to directly.
"""

import codecs
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from safetensors import SafetensorError

from ..errors import ConfigError
from .bgzip import bgzip_writer
from .lock import release, take_lock
from .places import PARTIAL, AnyPath, descriptor_of, is_stream, partial_path, resolve

_GZIP = ".gz"
_COMPRESSING = ".compressing"
# Not io.TextIOWrapper, which would close standard output.
_UTF8 = codecs.getwriter("utf-8")
# safetensors raises errors of the system as text only.
_SAFETENSORS_REASON = re.compile(r"serializing: I/O error: (.*?) \(os error")


@contextmanager
def appearing_file(path: AnyPath) -> Iterator[Path]:
    """A file to write to, which takes the name ``path`` when the block ends without error; else nothing is left.

    For formats that must seek. A stream gets the bytes at the end.

    Raises:
        ConfigError: The file cannot be written, or another process is writing it.
    """
    if is_stream(path):
        with as_config_errors(path), tempfile.TemporaryDirectory() as folder, as_config_errors(path, Path(folder)):
            temporary = Path(folder) / f"output{Path(path).suffix}"
            yield temporary
            with temporary.open("rb") as source, _open_stream(path) as sink:
                shutil.copyfileobj(source, sink)
        return
    target = _replaceable_file(path)
    # In a folder of its own, since safetensors first writes a temporary file beside its own.
    with _partial_folder(target) as folder:
        partial = folder / target.name
        yield partial
        _sync(partial, folder)
        partial.replace(target)


@contextmanager
def open_text(path: AnyPath) -> Iterator[TextIO]:
    """A text file to write to, which takes the name ``path`` when the block ends without error; ``.gz`` is bgzip.

    It has ``write`` and ``writelines`` only. Text is UTF-8 with "\\n" on every system.

    Raises:
        ConfigError: The file cannot be written, or another process is writing it.
    """
    if is_stream(path):
        with as_config_errors(path), _open_stream(path) as file, _compressed(file, path) as binary:
            yield cast(TextIO, _UTF8(binary))
        return
    with appearing_file(path) as partial, partial.open("wb") as file, _compressed(file, path) as binary:
        yield cast(TextIO, _UTF8(binary))


@contextmanager
def growing_file(path: AnyPath, resume: bool) -> Iterator[BinaryIO]:
    """A binary file that is kept after an interruption, so that its writer can continue; named ``path`` at the end.

    It is open for reading and writing at its start. With ``resume`` it holds what an interrupted writer left: the
    caller checks that, cuts it after the last good line, and appends. It is compressed only at the end, also for
    ``.gz``, since compressed blocks cannot be cut at a line.

    Raises:
        ConfigError: The file cannot be written, is a stream that cannot be resumed, or another process is writing it.
    """
    if is_stream(path):
        if resume:
            raise ConfigError(f"{path} is a pipe or device: what went there cannot be resumed; name a file")
        with as_config_errors(path), _open_stream(path) as file, _compressed(file, path) as binary:
            yield binary
        return
    target = _replaceable_file(path)
    partial = partial_path(target)
    with as_config_errors(target, partial):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _lock_partial(target, is_folder=False)
        try:
            if not resume:
                os.ftruncate(descriptor, 0)
            # A copy of the descriptor: the original holds the lock until the file has its name.
            with os.fdopen(os.dup(descriptor), "r+b") as file:
                yield cast(BinaryIO, file)
            _publish(partial, target)
        finally:
            release(descriptor)


@contextmanager
def appearing_folder(path: AnyPath) -> Iterator[Path]:
    """A folder to write to, which takes the name ``path`` when the block ends without error; else nothing is left.

    A folder of that name stays until the new one is complete, and is replaced then.

    Raises:
        ConfigError: The folder cannot be written, or another process is writing it.
    """
    target = resolve(path)
    with as_config_errors(path, target):
        if target.exists() and not target.is_dir():
            raise ConfigError(f"{path} exists and is not a folder; name another one")
    with _partial_folder(target) as folder:
        partial = folder / target.name
        partial.mkdir()
        yield partial
        for file in partial.rglob("*"):
            if file.is_file():
                _sync(file, folder)
        if target.exists():
            target.rename(_replaced(target))  # two steps: a folder cannot be replaced in one
        partial.rename(target)


def _replaceable_file(path: AnyPath) -> Path:
    """The file that an output names.

    Raises:
        ConfigError: It is a folder, or write-protected.
    """
    target = resolve(path)
    with as_config_errors(path, target):
        if target.is_dir():
            raise ConfigError(f"{path} is a folder; name a file")
        # Renaming would replace a protected file, since it needs the folder's permission only.
        if target.exists() and not os.access(target, os.W_OK):
            raise ConfigError(f"{path} cannot be written: it is there and write-protected")
    return target


def restore(path: AnyPath) -> bool:
    """Put back an old folder whose writer was killed while replacing it; False if there is none.

    ``appearing_folder`` does so itself; readers call this.
    """
    target = resolve(path)
    replaced = _replaced(target)
    if target.exists() or not replaced.exists():
        return False
    replaced.rename(target)
    return True


def sweep(folder: Path) -> None:
    """Remove the partial outputs of killed writers from a folder, and put back what they were replacing.

    The caller holds the lock of the folder or of its parent, so that nobody is writing there.

    Raises:
        ConfigError: Something cannot be removed.
    """
    with as_config_errors(folder, folder):
        for partial in folder.glob(f"*{PARTIAL}"):
            restore(partial.with_name(partial.name.removesuffix(PARTIAL)))
            remove(partial)
        for compressing in folder.glob(f"*{PARTIAL}{_COMPRESSING}"):
            remove(compressing)


def remove(path: Path) -> None:
    """Delete a file, a link or a whole folder, if it is there."""
    # Of a link to a folder only the link.
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _partial_folder(target: Path) -> Iterator[Path]:
    """An empty locked folder beside ``target``, which is removed at the end."""
    partial = partial_path(target)
    with as_config_errors(target, partial):
        made = [parent for parent in target.parents if not parent.exists()]
        descriptor = _lock_partial(target, is_folder=True)
        try:
            restore(target)  # before clearing: the old folder waits inside the partial one
            for entry in partial.iterdir():  # what a killed writer left
                remove(entry)
            yield partial
        finally:
            restore(target)
            shutil.rmtree(partial, ignore_errors=True)  # the block's own error is the one to report
            for parent in made:
                if parent.is_dir() and not any(parent.iterdir()):
                    parent.rmdir()
            release(descriptor)


def _lock_partial(target: Path, is_folder: bool) -> int:
    """Make or take over the partial file or folder, and lock it; its descriptor."""
    partial = partial_path(target)
    while True:
        descriptor = _open_partial(partial, is_folder)
        take_lock(descriptor, target)
        # Another writer may have removed or renamed it between our opening and our locking it: then try again.
        if _is_same_file(partial, descriptor):
            if stat.S_ISDIR(os.fstat(descriptor).st_mode) == is_folder:
                _compressing(partial).unlink(missing_ok=True)  # a writer was killed while it compressed
                return descriptor
            remove(partial)  # a killed writer of the other kind left it
        release(descriptor)


def _open_partial(partial: Path, is_folder: bool) -> int:
    try:
        if is_folder:
            partial.mkdir(parents=True, exist_ok=True)
            # O_NOFOLLOW: a link of that name, in a folder that others can write to, must not lead elsewhere.
            return os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)
        return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except (FileExistsError, IsADirectoryError):  # it is of the other kind
        return os.open(partial, os.O_RDONLY | os.O_NOFOLLOW)


def _is_same_file(partial: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(partial.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _publish(partial: Path, target: Path) -> None:
    """Rename a complete locked file to its name; compress it first if the name ends in ``.gz``."""
    if target.suffix != _GZIP:
        _sync(partial)
        partial.replace(target)
        return
    compressed = _compressing(partial)
    try:
        with partial.open("rb") as source, compressed.open("wb") as file, _compressed(file, target) as sink:
            shutil.copyfileobj(source, sink)
        _sync(compressed)
        compressed.replace(target)
        partial.unlink()  # only now: a job that is killed while it compresses loses nothing
    finally:
        compressed.unlink(missing_ok=True)


def _compressing(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}{_COMPRESSING}")


def _sync(file: Path, folder: Path | None = None) -> None:
    """Give a file the permissions that the umask allows, as seen on ``folder``, and wait until the disk has it."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        # safetensors makes its files readable by their owner only.
        wanted = mode if folder is None else mode | stat.S_IMODE(folder.stat().st_mode) & 0o666
        if wanted != mode:
            os.fchmod(descriptor, wanted)
        os.fsync(descriptor)  # some file systems report a full disk only here
    finally:
        os.close(descriptor)


@contextmanager
def as_config_errors(path: AnyPath, *places: Path) -> Iterator[None]:
    """Turn errors of writing into ConfigErrors of an output; ``places`` are files and folders that it goes through."""
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of a pipe has enough, which is no error of the output
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
    # abspath, not resolve: the error holds the name that was used, and links may lead nowhere.
    named = Path(os.path.abspath(os.fsdecode(filename)))
    return any(named == place or named in place.parents or place in named.parents for place in places)


@contextmanager
def _open_stream(path: AnyPath) -> Iterator[BinaryIO]:
    descriptor = descriptor_of(path)
    if descriptor == 1:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    elif descriptor is not None:
        # Not opened by its name, which would truncate a file that a shell has opened for appending.
        with os.fdopen(os.dup(descriptor), "wb") as file:
            yield file
    else:
        with Path(path).expanduser().open("wb") as file:
            yield file


def _compressed(file: BinaryIO, path: AnyPath) -> AbstractContextManager[Any]:
    """The file, or a writer that compresses into it if the output's name ends in ``.gz``."""
    return bgzip_writer(file) if Path(path).suffix == _GZIP else nullcontext(file)


def _replaced(target: Path) -> Path:
    """Path of the old folder while the new one takes its name; inside the partial folder, so that it is found."""
    return partial_path(target) / f"{target.name}.replaced"

"""The memory-mapped genome: built once per content of a source file, one byte per base, read by window.

``open_genome`` looks the file's content up in the cache directory and builds what is missing. A finished cache is one
directory ``<digest>-v1`` with ``genome.u8`` (the contigs in a row), ``n_runs.npy`` and ``index.json``. It comes
into being by one rename, so a killed build never leaves something that looks finished.
"""

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ..errors import GenomeError
from .alphabet import is_n
from .fasta import Progress, read_genome_blocks
from .files import check_readable
from .genome import Genome
from .interval import SpanIndex
from .twobit import find_runs

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
CACHE_VARIABLE = "HNET_NTV2_CACHE"
_DIGESTS = "digests.json"


def default_cache_dir() -> Path:
    """``$HNET_NTV2_CACHE``, else ``$XDG_CACHE_HOME/hnet_ntv2``, else ``~/.cache/hnet_ntv2``."""
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser() / "hnet_ntv2"


def open_genome(
    path: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Genome:
    """Open a genome file through its cache, building the cache on the first call.

    Safe to call from several processes at once: one builds, the others wait for it.

    Args:
        path: FASTA (plain, gzip, bgzip) or .2bit.
        cache_dir: Where caches live; default ``default_cache_dir()``. Needs one byte per base.
        progress: Called while building with the bytes of the source read so far and its size.

    Raises:
        GenomeError: if the source cannot be read as a genome (see ``read_genome_blocks``), or the cache directory
            cannot be written or is full.
    """
    source = check_readable(path)
    root = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    with _cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        digest = _content_digest(source, root)
        target = root / f"{digest}-v{FORMAT_VERSION}"
        genome = _open_finished(target, source)
        if genome is None:
            with _build_lock(target):
                genome = _open_finished(target, source) or _build(source, digest, target, progress)
    return genome


def _open_finished(target: Path, source: Path) -> Genome | None:
    """The finished cache, or None if there is none or it is damaged."""
    if not target.is_dir():
        return None
    try:
        return Genome(target, source=source)
    except GenomeError as error:
        logger.warning("%s; it will be built again", error)
        return None


def _build(source: Path, digest: str, target: Path, progress: Progress | None) -> Genome:
    """Build into a temporary directory, then rename it. Called under the build lock."""
    _remove_leftovers(target)
    logger.info("caching %s in %s", source, target)
    partial = Path(tempfile.mkdtemp(prefix=_partial_prefix(target), dir=target.parent))
    try:
        _write_cache(source, digest, partial, progress)
        if target.exists():
            shutil.rmtree(target)
        partial.chmod(0o755)
        _publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Genome(target, source=source)


def _publish(partial: Path, target: Path) -> None:
    try:
        partial.rename(target)
    except OSError as error:
        # Without working locks another process may have been first; its cache has the same content.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _write_cache(source: Path, digest: str, folder: Path, progress: Progress | None) -> None:
    contigs: dict[str, int] = {}
    run_starts, run_ends = [], []
    position = 0
    with (folder / "genome.u8").open("wb") as file:
        for contig, bases in read_genome_blocks(source, progress):
            _write(file, bases.data)
            starts, ends = find_runs(is_n(bases))
            run_starts.append(starts + position)
            run_ends.append(ends + position)
            contigs[contig] = contigs.get(contig, 0) + len(bases)
            position += len(bases)
        file.flush()
        os.fsync(file.fileno())
    n_runs = SpanIndex(np.concatenate(run_starts), np.concatenate(run_ends))
    np.save(folder / "n_runs.npy", np.stack([n_runs.starts, n_runs.ends]))
    index = {"format": FORMAT_VERSION, "digest": digest, "num_bases": position, "contigs": list(contigs.items())}
    (folder / "index.json").write_text(json.dumps(index))


def _write(file: io.BufferedIOBase, data: memoryview) -> None:
    file.write(data)


def _partial_prefix(target: Path) -> str:
    # With the host's name, because the lock may not reach across the hosts of a cluster.
    return f"{target.name}.partial-{platform.node()}-"


def _remove_leftovers(target: Path) -> None:
    """Remove what killed builds left behind: whoever holds the lock knows that nobody else is building."""
    for leftover in target.parent.glob(f"{_partial_prefix(target)}*"):
        logger.info("removing the leftover of an interrupted build: %s", leftover)
        shutil.rmtree(leftover, ignore_errors=True)


@contextmanager
def _build_lock(target: Path) -> Iterator[None]:
    """Hold the lock of one cache; the system releases it when the process ends, however it ends."""
    lock = target.with_name(f"{target.name}.lock")
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise
            # Some cluster file systems have no locks: two builds then both work, and the rename decides.
            logger.warning("%s has no file locks; start one process first to build the genome cache", target.parent)
        yield


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GenomeError(
            f"the genome cache in {root} cannot be written: {error.strerror or error}. It needs one byte per base "
            f"(3.2 GB for hg38); choose another place with cache_dir or ${CACHE_VARIABLE}. Nothing partial was kept"
        ) from error


def _content_digest(source: Path, root: Path) -> str:
    """Digest of the file's content; remembered by path, size and time, so that reopening does not read the file."""
    status = source.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
    known = _read_digests(root)
    entry = known.get(str(source.resolve()))
    if isinstance(entry, dict) and entry.get("stamp") == stamp:
        return str(entry["digest"])
    digest = file_digest(source)
    try:
        _remember_digest(root, str(source.resolve()), {"stamp": stamp, "digest": digest})
    except OSError as error:
        # A finished cache may be shared read-only; then the file is read again each time.
        logger.info("the digest of %s is not remembered in %s: %s", source, root, error)
    return digest


def _remember_digest(root: Path, source: str, entry: dict) -> None:
    known = _read_digests(root) | {source: entry}
    handle, name = tempfile.mkstemp(dir=root, prefix=f"{_DIGESTS}.")
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(known, file, indent=1)
        os.replace(name, root / _DIGESTS)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


def _read_digests(root: Path) -> dict:
    try:
        known = json.loads((root / _DIGESTS).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return known if isinstance(known, dict) else {}


def file_digest(path: str | os.PathLike[str]) -> str:
    """BLAKE2b digest (128 bits, hexadecimal) of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

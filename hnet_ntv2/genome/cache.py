"""The memory-mapped genome: built once per content of a source file, one byte per base, read by window.

``open_genome`` finds the cache by the digest of the file's content and builds a missing one. A finished cache is one
directory ``<digest>-v1`` with ``genome.u8`` (the contigs in a row), its checksums ``sums.npy``, ``n_runs.npy`` and
``index.json``. One rename creates it, so a killed build never leaves a cache that seems finished. Damage is detected
when bases are read (see ``genome``), and the cache is built again.
"""

import errno
import fcntl
import hashlib
import io
import json
import logging
import os
import platform
import secrets
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, GenomeError
from ..storage import appearing_file
from ..vocabulary import is_n
from .fasta import BLOCK_BYTES, Progress, SequenceBlock, read_genome_blocks
from .files import check_readable, check_rereadable
from .genome import BASES, BLOCK_BITS, INDEX, N_RUNS, SUMS, Genome, checksum, index_checksum
from .interval import SpanIndex, find_runs

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
        GenomeError: if the source is a pipe or cannot be read as a genome (see ``read_genome_blocks``), or the cache
            directory cannot be written or is full.
    """
    source = check_rereadable(path, "a genome (once to recognise it and once for the cache)")
    root = Path(cache_dir).expanduser() if cache_dir is not None else default_cache_dir()
    with _cache_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        digest = _content_digest(source, root)
        target = root / f"{digest}-v{FORMAT_VERSION}"
        genome = _open_finished(target, source)
        if genome is None:
            with _build_lock(target) as is_alone:
                # Again, since another process may have built it while this one waited for the lock.
                genome = _open_finished(target, source, logs=True) or _build(source, target, is_alone, progress)
    return genome


def _digest_of(target: Path) -> str:
    return target.name.removesuffix(f"-v{FORMAT_VERSION}")


def _open_finished(target: Path, source: Path, logs: bool = False) -> Genome | None:
    """The finished cache; None if there is none or it is damaged (logged if ``logs``)."""
    if not target.is_dir():
        return None
    try:
        genome = Genome(target, source, rebuild=partial(_build_again, source, target))
        if genome.fingerprint != _digest_of(target):
            raise GenomeError(f"the genome cache {target} is that of another file")
    except GenomeError as error:
        if logs:
            logger.warning("%s; it is built again", error)
        return None
    return genome


def _build_again(source: Path, target: Path) -> None:
    """Replace a cache whose bases are damaged, unless another process has done so already."""
    with _cache_errors(target.parent), _build_lock(target) as is_alone:
        try:
            Genome(target, source).check()
            return
        except GenomeError:
            pass  # expected: the caller has logged it
        if file_digest(check_readable(source)) != _digest_of(target):
            raise GenomeError(f"the genome cache {target} is damaged, and {source} has changed since it was built")
        _build(source, target, is_alone, None)


def _build(source: Path, target: Path, is_alone: bool, progress: Progress | None) -> Genome:
    """Build into a temporary directory, then rename it. ``is_alone`` says that no other process is building."""
    # With the host's name, because the lock may not reach across the hosts of a cluster.
    prefix = f"{target.name}.partial-{platform.node()}-"
    for leftover in target.parent.glob(f"{prefix}*") if is_alone else ():  # of killed builds
        logger.info("removing the leftover of an interrupted build: %s", leftover)
        shutil.rmtree(leftover, ignore_errors=True)
    logger.info("caching %s in %s", source, target)
    folder = target.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}")
    folder.mkdir()  # with the modes that the umask grants to others, so that a cache can be shared
    try:
        _write_cache(source, _digest_of(target), folder, progress)
        _publish(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Genome(target, source, rebuild=partial(_build_again, source, target))


def _publish(folder: Path, target: Path) -> None:
    """Give a finished folder its name, in the place of a damaged cache if there is one."""
    if target.exists():
        # Renamed and not deleted in place: others may be reading it, or, without locks, replacing it too.
        damaged = folder.with_name(f"{folder.name}.damaged")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    try:
        folder.rename(target)
    except OSError as error:
        # Without working locks another process may have been first; its cache has the same content.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _write_cache(source: Path, digest: str, folder: Path, progress: Progress | None) -> None:
    contigs: dict[str, int] = {}
    run_starts, run_ends, sums = [], [], []
    position = 0
    with (folder / BASES).open("wb") as file:
        for bases in _whole_blocks(read_genome_blocks(source, progress), contigs):
            _write(file, bases.data)
            starts, ends = find_runs(is_n(bases))
            run_starts.append(starts + position)
            run_ends.append(ends + position)
            block = 1 << BLOCK_BITS
            sums += [zlib.crc32(bases[start : start + block].data) for start in range(0, len(bases), block)]
            position += len(bases)
        file.flush()
        # The rename may reach the disk before the data: a power cut would leave an empty file in a finished folder.
        os.fsync(file.fileno())
    n_runs = SpanIndex(np.concatenate(run_starts), np.concatenate(run_ends))
    files = {
        N_RUNS: _write_array(folder / N_RUNS, np.stack([n_runs.starts, n_runs.ends])),
        SUMS: _write_array(folder / SUMS, np.array(sums, dtype=np.uint32)),
    }
    index = {
        "format": FORMAT_VERSION,
        "digest": digest,
        "num_bases": position,
        "contigs": [list(item) for item in contigs.items()],
        "files": files,
    }
    (folder / INDEX).write_text(json.dumps(index | {"checksum": index_checksum(index)}))


def _whole_blocks(pieces: Iterator[SequenceBlock], contigs: dict[str, int]) -> Iterator[NDArray[np.uint8]]:
    """Regroup bases into pieces of whole checksum blocks; only the last piece may end within a block.

    ``contigs`` gets the number of bases of each contig.
    """
    held, count = [], 0
    for contig, piece in pieces:
        contigs[contig] = contigs.get(contig, 0) + len(piece)
        held.append(piece)
        count += len(piece)
        if count >= BLOCK_BYTES:
            joined = np.concatenate(held)
            end = count >> BLOCK_BITS << BLOCK_BITS
            yield joined[:end]
            held, count = [joined[end:]], count - end
    if count:
        yield np.concatenate(held)


def _write(file: io.BufferedIOBase, data: memoryview) -> None:
    # A function of its own, so that a test can let the disk be full.
    file.write(data)


def _write_array(path: Path, array: NDArray[Any]) -> str:
    """Write an array; returns the file's checksum."""
    data = io.BytesIO()
    np.save(data, array, allow_pickle=False)
    path.write_bytes(data.getvalue())
    return checksum(data.getvalue())


@contextmanager
def _build_lock(target: Path) -> Iterator[bool]:
    """Hold the lock of one cache; the system releases it when the process ends, however it ends.

    Yields:
        Whether this process is the only one that builds; False where the file system has no locks.
    """
    lock = target.with_name(f"{target.name}.lock")
    # Reading is enough to lock, and another user's lock file cannot be written.
    descriptor = os.open(lock, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        is_alone = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF):
                raise
            # Some cluster file systems have no locks: two builds then both work, and the rename decides.
            logger.warning("%s has no file locks; start one process first to build the genome cache", target.parent)
            is_alone = False
        yield is_alone
    finally:
        os.close(descriptor)


@contextmanager
def _cache_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GenomeError(
            f"the genome cache in {root} cannot be written: {error.strerror or error}; it needs one byte per base "
            f"(3.2 GB for hg38), choose another place with cache_dir or ${CACHE_VARIABLE}"
        ) from error


def _content_digest(source: Path, root: Path) -> str:
    """Digest of the file's content; stored by path, size and time, so that reopening does not read the file."""
    status, path = source.stat(), str(source.resolve())
    stamp = [status.st_size, status.st_mtime_ns, status.st_ino]
    entry = _read_digests(root).get(path)
    if isinstance(entry, dict) and entry == _digest_entry(path, stamp, entry.get("digest")):
        return str(entry["digest"])
    digest = file_digest(source)
    try:
        with appearing_file(root / _DIGESTS) as written:
            known = _read_digests(root) | {path: _digest_entry(path, stamp, digest)}
            written.write_text(json.dumps(known, indent=1))
    except ConfigError as error:
        # A finished cache may be shared read-only; then the file is read again each time.
        logger.info("the digest of %s is not remembered in %s: %s", source, root, error)
    return digest


def _digest_entry(path: str, stamp: list[int], digest: Any) -> dict[str, Any]:
    """The stored entry of a file, with a checksum, so that a damaged entry does not equal a recomputed one."""
    return {"stamp": stamp, "digest": digest, "checksum": checksum(json.dumps([path, stamp, digest]).encode())}


def _read_digests(root: Path) -> dict[str, Any]:
    try:
        known = json.loads((root / _DIGESTS).read_bytes())
    except (OSError, ValueError):  # only saves time: digests that cannot be read are computed again
        return {}
    return known if isinstance(known, dict) else {}


def file_digest(path: str | os.PathLike[str]) -> str:
    """BLAKE2b digest (128 bits, hexadecimal) of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

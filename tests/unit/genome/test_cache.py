"""The genome cache: reading windows, keyed by content, and what happens when it cannot be written."""

import errno
import json
import os
import pickle
import platform
import random
import shutil
import stat

import numpy as np
import pytest

from hnet_ntv2.errors import ContigNotFound, GenomeError, IntervalError
from hnet_ntv2.genome import Interval, cache, decode, open_genome
from tests.builders import piped

FASTA = b">chr1\nNNNNACGT\nacgtNN\n>chr2\nGGGCCC\n"


@pytest.fixture
def fasta(tmp_path):
    path = tmp_path / "genome.fa"
    path.write_bytes(FASTA)
    return path


def caches(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


@pytest.mark.parametrize(
    ("interval", "bases"),
    [
        (Interval("chr1", 0, 8), b"NNNNACGT"),
        (Interval("chr1", 6, 10), b"GTac"),
        (Interval("1", 13, 14), b"N"),
        (Interval("chr2", 0, 6), b"GGGCCC"),
        (Interval("NC_000002.12", 5, 6), b"C"),
    ],
)
def test_an_interval_gives_its_bases(fasta, tmp_path, interval, bases):
    genome = open_genome(fasta, tmp_path / "cache")
    assert decode(genome.read(interval)) == bases


def test_what_lies_outside_is_an_error(fasta, tmp_path):
    genome = open_genome(fasta, tmp_path / "cache")
    with pytest.raises(IntervalError, match=r"chr2:0-7 goes past the end of 'chr2', which has 6 bases"):
        genome.read(Interval("chr2", 0, 7))
    with pytest.raises(ContigNotFound, match="'chr3' is not in"):
        genome.read(Interval("chr3", 0, 7))


def test_the_genome_knows_its_contigs_and_n_runs(fasta, tmp_path):
    genome = open_genome(fasta, tmp_path / "cache")
    assert genome.contigs == {"chr1": 14, "chr2": 6}
    assert genome.offsets == {"chr1": 0, "chr2": 14}
    assert genome.n_runs.count([0, 2, 4, 10, 14], [4, 6, 12, 14, 20]).tolist() == [4, 2, 0, 2, 0]
    assert [decode(row) for row in genome.gather(np.array([2, 14]), 4)] == [b"NNAC", b"GGGC"]


def test_the_cache_follows_content_and_not_name(fasta, tmp_path):
    folder = tmp_path / "cache"
    first = open_genome(fasta, folder)
    copy = tmp_path / "copy.fa"
    shutil.copy(fasta, copy)
    assert open_genome(copy, folder).fingerprint == first.fingerprint
    assert len(caches(folder)) == 1
    fasta.write_bytes(FASTA.replace(b"GGGCCC", b"GGGCCA"))
    changed = open_genome(fasta, folder)
    assert changed.fingerprint != first.fingerprint
    assert decode(changed.read(Interval("chr2", 0, 6))) == b"GGGCCA"
    assert len(caches(folder)) == 2


def test_reopening_builds_nothing_and_reads_no_source(fasta, tmp_path, monkeypatch):
    calls = []
    open_genome(fasta, tmp_path / "cache", lambda *state: calls.append(state))
    assert calls
    calls.clear()
    monkeypatch.setattr(cache, "file_digest", lambda path: pytest.fail("the source was read again"))
    open_genome(fasta, tmp_path / "cache", lambda *state: calls.append(state))
    assert not calls


def test_a_damaged_cache_is_built_again(fasta, tmp_path, caplog):
    folder = tmp_path / "cache"
    open_genome(fasta, folder)
    (folder / caches(folder)[0] / "genome.u8").write_bytes(b"\x07" * 5)
    genome = open_genome(fasta, folder)
    assert "incomplete" in caplog.text
    assert decode(genome.read(Interval("chr2", 0, 6))) == b"GGGCCC"


LONG = np.random.default_rng(0).choice(np.frombuffer(b"ACGTacgtN", dtype=np.uint8), 200_000).tobytes()


@pytest.fixture
def long_fasta(tmp_path):
    path = tmp_path / "long.fa"
    path.write_bytes(b">chr1\n" + LONG[:150_000] + b"\n>chr2\n" + LONG[150_000:] + b"\n")
    return path


def read_everything(fasta, folder) -> bytes:
    genome = open_genome(fasta, folder)
    is_n = np.frombuffer(LONG, dtype=np.uint8) == ord("N")
    np.testing.assert_array_equal(genome.n_runs.mask(0, genome.num_bases), is_n)
    return b"".join(decode(genome.read(Interval(name, 0, size))) for name, size in genome.contigs.items())


@pytest.mark.parametrize("name", ["genome.u8", "index.json", "n_runs.npy", "sums.npy", "../digests.json"])
@pytest.mark.parametrize("damage", ["flip", "set", "cut", "grow", "remove", "empty"])
def test_damage_of_any_kind_is_noticed_and_built_again(long_fasta, tmp_path, name, damage):
    folder = tmp_path / "cache"
    draw = random.Random(f"{name} {damage}")
    fingerprint = open_genome(long_fasta, folder).fingerprint
    path = folder / caches(folder)[0] / name
    for _ in range(1 if damage in ("remove", "empty") else 5):
        content = bytearray(path.read_bytes())
        place = draw.randrange(len(content))
        if damage == "flip":
            content[place] ^= 1 << draw.randrange(8)
        elif damage == "set":
            content[place : place + 4] = draw.randbytes(4)
        elif damage == "cut":
            del content[place:]
        elif damage == "grow":
            content += b"0"
        path.write_bytes(b"" if damage == "empty" else content)
        if damage == "remove":
            path.unlink()
        assert read_everything(long_fasta, folder) == LONG
        assert open_genome(long_fasta, folder).fingerprint == fingerprint
        assert len(caches(folder)) == 1


def test_other_lengths_in_the_index_are_noticed(fasta, tmp_path, caplog):
    folder = tmp_path / "cache"
    open_genome(fasta, folder)
    index = folder / caches(folder)[0] / "index.json"
    index.write_text(index.read_text().replace('["chr1", 14], ["chr2", 6]', '["chr1", 13], ["chr2", 7]'))
    assert open_genome(fasta, folder).contigs == {"chr1": 14, "chr2": 6}
    assert "index.json is not what was written; it is built again" in caplog.text


def test_a_cache_of_another_file_is_not_taken(fasta, long_fasta, tmp_path):
    folder = tmp_path / "cache"
    open_genome(fasta, folder)
    (name,) = caches(folder)
    open_genome(long_fasta, folder)
    (other,) = set(caches(folder)) - {name}
    shutil.rmtree(folder / other)
    (folder / name).rename(folder / other)
    assert read_everything(long_fasta, folder) == LONG


def test_damage_that_comes_while_a_genome_is_open_is_mended(fasta, tmp_path, caplog):
    folder = tmp_path / "cache"
    genome = pickle.loads(pickle.dumps(open_genome(fasta, folder)))
    path = folder / caches(folder)[0] / "genome.u8"
    content = path.read_bytes()
    path.write_bytes(content[:5] + b"\x07" + content[6:])  # in place, so that the map sees it
    assert decode(genome.read(Interval("chr2", 0, 6))) == b"GGGCCC"
    assert "is damaged: wrong bases from byte 0 on; it is built again" in caplog.text
    assert path.read_bytes() == content


def test_damage_cannot_be_mended_from_a_file_that_has_changed(fasta, tmp_path):
    folder = tmp_path / "cache"
    genome = open_genome(fasta, folder)
    path = folder / caches(folder)[0] / "genome.u8"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    fasta.write_bytes(FASTA + b"A\n")
    with pytest.raises(GenomeError, match=r"is damaged, and .* has changed since it was built"):
        genome.read(Interval("chr2", 0, 6))


def test_a_cache_of_before_checksums_is_built_again(fasta, tmp_path):
    folder = tmp_path / "cache"
    open_genome(fasta, folder)
    path = folder / caches(folder)[0] / "index.json"
    index = json.loads(path.read_text())
    path.write_text(json.dumps({name: index[name] for name in ("format", "digest", "num_bases", "contigs")}))
    (path.parent / "sums.npy").unlink()
    assert decode(open_genome(fasta, folder).read(Interval("chr2", 0, 3))) == b"GGG"
    assert (path.parent / "sums.npy").exists()


def test_other_users_can_read_what_the_umask_lets_them(fasta, tmp_path):
    before = os.umask(0o022)
    try:
        open_genome(fasta, tmp_path / "cache")
    finally:
        os.umask(before)
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644), path


def test_without_file_locks_a_build_leaves_other_builds_alone(fasta, tmp_path, monkeypatch, caplog):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    folder = tmp_path / "cache"
    open_genome(fasta, folder)
    finished = folder / caches(folder)[0]
    others = finished.with_name(f"{finished.name}.partial-{platform.node()}-1234-abcd")
    finished.rename(others)
    with monkeypatch.context() as patch:
        patch.setattr(cache.fcntl, "flock", no_locks)
        assert decode(open_genome(fasta, folder).read(Interval("chr2", 0, 3))) == b"GGG"
    assert "has no file locks" in caplog.text
    assert (others / "genome.u8").exists(), "it may belong to a process that lives"
    shutil.rmtree(finished)
    open_genome(fasta, folder)
    assert not others.exists(), "who holds the lock knows that its builder is dead"


def test_a_genome_from_a_pipe_is_refused_with_the_reason(tmp_path):
    with piped(FASTA) as path, pytest.raises(GenomeError, match=r"a pipe cannot be read twice, as a genome"):
        open_genome(path, tmp_path / "cache")


def test_a_genome_survives_pickling_without_its_bases(fasta, tmp_path):
    genome = open_genome(fasta, tmp_path / "cache")
    packed = pickle.dumps(genome)
    assert len(packed) < 1000
    assert decode(pickle.loads(packed).read(Interval("chr2", 0, 3))) == b"GGG"


def test_a_full_disk_is_told_and_leaves_nothing_partial(fasta, tmp_path, monkeypatch):
    def no_space(file, data):
        file.write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    folder = tmp_path / "cache"
    with monkeypatch.context() as patch:
        patch.setattr(cache, "_write", no_space)
        with pytest.raises(GenomeError, match="No space left on device") as caught:
            open_genome(fasta, folder)
    assert str(folder) in str(caught.value)
    assert caches(folder) == []
    assert decode(open_genome(fasta, folder).read(Interval("chr2", 0, 3))) == b"GGG"


def test_a_source_that_turns_out_broken_leaves_no_cache(tmp_path):
    source = tmp_path / "genome.fa"
    source.write_bytes(b">chr1\nACGT\n>chr2\nACQT\n")
    with pytest.raises(GenomeError, match="letter 'Q'"):
        open_genome(source, tmp_path / "cache")
    assert caches(tmp_path / "cache") == []


def test_a_cache_folder_that_cannot_be_made_is_told(fasta, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GenomeError, match="cannot be written") as caught:
        open_genome(fasta, tmp_path / "file" / "cache")
    assert "HNET_NTV2_CACHE" in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_cache_folder_is_told(fasta, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o555)
    with pytest.raises(GenomeError, match="Permission denied"):
        open_genome(fasta, folder)


def test_a_damaged_digest_memory_is_replaced(fasta, tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "digests.json").write_text("{half")
    genome = open_genome(fasta, folder)
    assert json.loads((folder / "digests.json").read_text())[str(fasta.resolve())]["digest"] == genome.fingerprint


@pytest.mark.parametrize(
    ("own", "xdg", "expected"),
    [("/own", "/xdg", "/own"), ("", "/xdg", "/xdg/hnet_ntv2"), ("", "", "/home/me/.cache/hnet_ntv2")],
)
def test_the_default_folder_follows_the_environment(monkeypatch, own, xdg, expected):
    monkeypatch.setenv("HNET_NTV2_CACHE", own)
    monkeypatch.setenv("XDG_CACHE_HOME", xdg)
    monkeypatch.setenv("HOME", "/home/me")
    assert str(cache.default_cache_dir()) == expected

"""The genome cache: reading windows, keyed by content, and what happens when it cannot be written."""

import errno
import json
import os
import pickle
import shutil

import numpy as np
import pytest

from hnet_ntv2.errors import ContigNotFound, GenomeError, IntervalError
from hnet_ntv2.genome import Interval, cache, decode, default_cache_dir, open_genome

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
    assert str(default_cache_dir()) == expected

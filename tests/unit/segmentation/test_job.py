"""Files of chunks: BED6 and bedGraph of the regions, the same bytes in blocks, at once, and after an interruption."""

import gzip
import json
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise

import numpy as np
import pytest

from hnet_ntv2.errors import ConfigError, DataError, IntervalError
from hnet_ntv2.genome import Interval, open_genome
from hnet_ntv2.inference import resumable, windows
from hnet_ntv2.segmentation import Region, SegmentSettings, segment_regions, segment_sequences
from hnet_ntv2.storage import partial_path
from tests.builders import lively_model, random_letters

SMALL = {"window": 100, "flank": 20, "batch_bases": 200}
REGIONS = [Interval("chr2", 100, 700), Interval("chrX", 0, 7), Interval("chr2", 0, 100), Interval("chrX", 5, 305)]


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("genome")
    contigs = {"chr2": random_letters(1000, 1, "ACGT" * 4 + "N"), "chrX": "acgtNNA" + random_letters(700, 2)}
    (folder / "genome.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in contigs.items()))
    return open_genome(folder / "genome.fa", folder / "cache")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(windows, "_BATCHES_PER_BLOCK", 1)
    monkeypatch.setattr(resumable, "_SECONDS_BETWEEN_SAVES", 0.0)


class StoppedError(Exception):
    """Ends a job in the middle."""


def write(model, genome, folder, suffix="", stop_after=None, intervals=REGIONS, strands="forward", **options):
    """All outputs that the strands allow, or an interruption after so many forward passes."""
    folder.mkdir(exist_ok=True)
    num_passes = 0

    def progress(done):
        nonlocal num_passes
        num_passes += 1
        if stop_after is not None and num_passes > stop_after:
            raise StoppedError

    paths = [folder / f"chunks.bed{suffix}", folder / f"stage1.bed{suffix}", folder / f"p.bedgraph{suffix}"]
    settings = SegmentSettings(strands=strands, **SMALL)
    paths = paths[:2] if strands == "both" else paths
    return segment_regions(model, genome, intervals, *paths, settings=settings, progress=progress, **options)


def content(folder, suffix=""):
    """Of the outputs, each by its name without the suffix."""
    opened = gzip.open if suffix else open
    found = {}
    for path in folder.iterdir():
        if path.suffix != ".json":
            with opened(path, "rt") as file:
                found[path.name.removesuffix(suffix)] = file.read()
    return found


def rows(text):
    return [line.split("\t") for line in text.splitlines()]


def test_tracks_are_bed_and_bedgraph_of_the_regions(model, genome, tmp_path):
    summary = write(model, genome, tmp_path / "out")
    tracks = {name: rows(text) for name, text in content(tmp_path / "out").items()}
    whole = segment_sequences(model, [Region(genome, each) for each in REGIONS], SegmentSettings(**SMALL))
    lengths = []
    left = {name: iter(track) for name, track in tracks.items()}
    for region, found in whole:
        start, end, contig = region.interval.start, region.interval.end, region.interval.contig
        for name, stage in (("chunks.bed", -1), ("stage1.bed", 0)):
            written = [next(left[name]) for _ in found.starts[stage]]
            assert [int(row[1]) - start for row in written] == found.starts[stage].tolist()
            assert [int(row[2]) - start for row in written] == found.chunk_ends(stage).tolist()
            expected = np.rint(found.beginning(stage) * 1000).astype(int)
            assert [int(row[4]) for row in written] == expected.tolist()
            assert expected[0] == 1000
            assert {(row[0], row[5]) for row in written} == {(contig, "+")}
        values = []
        spans = [start]
        while spans[-1] < end:
            row = next(left["p.bedgraph"])
            assert (row[0], int(row[1])) == (contig, spans[-1])
            spans.append(int(row[2]))
            assert not values or values[-1] != row[3], "neighbours that read alike share a line"
            values += [row[3]] * (spans[-1] - int(row[1]))
        assert values == [f"{value:.4f}" for value in np.rint(found.probability * 10_000) / 10_000]
        lengths += found.chunk_lengths().tolist()
    assert all(next(track, None) is None for track in left.values())
    for name in ("chunks.bed", "stage1.bed"):
        assert [row[3] for row in tracks[name]] == [f"chunk{number}" for number in range(1, len(tracks[name]) + 1)]
    assert (summary.num_chunks, summary.num_bases, summary.num_regions) == (len(lengths), 1007, 4)
    assert summary.mean_length == pytest.approx(np.mean(lengths))
    assert summary.percentile(1.0) == max(lengths)
    assert summary.percentile(0.5) == sorted(lengths)[(len(lengths) + 1) // 2 - 1]


def test_both_strands_are_two_sets_in_one_sorted_file(model, genome, tmp_path):
    write(model, genome, tmp_path / "one")
    summary = write(model, genome, tmp_path / "both", strands="both")
    for name, one in content(tmp_path / "one").items():
        if name == "p.bedgraph":
            continue
        both = rows(content(tmp_path / "both")[name])
        forward = [row[:3] + row[4:] for row in both if row[5] == "+"]
        assert forward == [row[:3] + row[4:] for row in rows(one)]
        reverse = [row for row in both if row[5] == "-"]
        assert len(forward) + len(reverse) == len(both)
        for track in (forward, reverse):
            ends = {interval.end for interval in REGIONS}
            assert sum(int(row[2]) - int(row[1]) for row in track) == sum(map(len, REGIONS))
            assert all(a[2] == b[1] or int(a[2]) in ends for a, b in pairwise(track))
        regions = [[(int(row[1]), row[5]) for row in group] for _, group in groupby(both, key=lambda row: row[0])]
        assert len(regions) == len(REGIONS)
        assert all(region == sorted(region) for region in regions), "by start, the forward strand first"
        assert [row[3] for row in both] == [f"chunk{number}" for number in range(1, len(both) + 1)]
    assert summary.num_bases == 1007
    assert summary.mean_length * summary.num_chunks == pytest.approx(2 * 1007)


@pytest.mark.parametrize("strands", ["forward", "both"])
def test_blocks_of_any_size_write_the_same_bytes(model, genome, tmp_path, strands, monkeypatch):
    # Even lengths: the windows of one are all of the same length, and so batched alike in any block.
    intervals = [Interval("chr2", 0, 600)]
    write(model, genome, tmp_path / "small", strands=strands, intervals=intervals)
    monkeypatch.setattr(windows, "_BATCHES_PER_BLOCK", 1_000)
    write(model, genome, tmp_path / "large", strands=strands, intervals=intervals)
    assert content(tmp_path / "small") == content(tmp_path / "large")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("strands", ["forward", "both"])
def test_an_interrupted_job_goes_on_to_the_same_bytes(model, genome, tmp_path, strands, suffix):
    reference = write(model, genome, tmp_path / "whole", suffix, strands=strands)
    folder = tmp_path / "stopped"
    for num_passes in (0, 1, 3, 2):
        with pytest.raises(StoppedError):
            write(model, genome, folder, suffix, stop_after=num_passes, strands=strands, resume=True)
        names = {path.name for path in folder.iterdir() if path.suffix != ".json"}
        assert names == {f"{name}{suffix}.partial" for name in content(tmp_path / "whole", suffix)}
        for path in folder.glob("*.partial"):  # what a killed process wrote after it last said how far it was
            with path.open("a") as file:
                file.write("chr2\t1\t" * 20_000)
    assert write(model, genome, folder, suffix, strands=strands, resume=True) == reference
    assert content(folder, suffix) == content(tmp_path / "whole", suffix)
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".json") == [
        f"chunks.bed{suffix}.settings.json"
    ]


def test_what_was_done_is_not_done_again(model, genome, tmp_path):
    passes = []
    write_all = {"chunks": tmp_path / "a.bed", "settings": SegmentSettings(**SMALL)}
    segment_regions(model, genome, REGIONS, **write_all, progress=passes.append)
    assert passes[-1] == 1007
    assert passes == sorted(set(passes))
    with pytest.raises(StoppedError):
        write(model, genome, tmp_path / "b", stop_after=5)
    left = []
    paths = [tmp_path / "b" / name for name in ("chunks.bed", "stage1.bed", "p.bedgraph")]
    again = (model, genome, REGIONS, *paths, SegmentSettings(**SMALL))
    segment_regions(*again, resume=True, progress=left.append)
    assert left == passes[5:]
    left.clear()
    assert segment_regions(*again, resume=True, progress=left.append).num_bases == 1007
    assert left == [], "a complete job is not done again"


def test_a_job_that_ended_between_its_outputs_is_completed(model, genome, tmp_path, monkeypatch):
    write(model, genome, tmp_path / "whole")
    folder = tmp_path / "out"
    write(model, genome, folder)
    os.rename(folder / "chunks.bed", partial_path(folder / "chunks.bed"))
    write(model, genome, folder, resume=True, stop_after=0)
    assert content(folder) == content(tmp_path / "whole")
    (folder / "stage1.bed").unlink()  # someone removed a complete output: there is nothing to go on from
    write(model, genome, folder, resume=True)
    assert content(folder) == content(tmp_path / "whole")


def test_without_resume_a_job_begins_anew(model, genome, tmp_path):
    write(model, genome, tmp_path / "whole")
    with pytest.raises(StoppedError):
        write(model, genome, tmp_path / "out", stop_after=5, strands="both")
    write(model, genome, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_was_made_differently_or_changed_is_not_gone_on_with(model, genome, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(StoppedError):
        write(model, genome, folder, stop_after=5, model_id="one")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ConfigError, match=r"chunks.bed was made differently \(model 'one', now 'other'\)"):
        write(model, genome, folder, model_id="other", resume=True)
    with pytest.raises(ConfigError, match=r"made differently \(regions '\w+', now '\w+'\)"):
        write(model, genome, folder, model_id="one", resume=True, intervals=REGIONS[:2])
    with pytest.raises(ConfigError, match=r"outputs \[.*\], now \[.*\]; strands 'forward', now 'both'"):
        write(model, genome, folder, model_id="one", resume=True, strands="both")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    partial = partial_path(folder / "stage1.bed")
    lines = before[partial.name].splitlines(keepends=True)
    partial.write_bytes(b"".join([lines[1], lines[0], *lines[2:]]))
    with pytest.raises(ConfigError, match=r"stage1.bed.partial is not what the interrupted command wrote"):
        write(model, genome, folder, model_id="one", resume=True)
    partial.write_bytes(before[partial.name][:-200])
    with pytest.raises(ConfigError, match=r"stage1.bed.partial is not what the interrupted command wrote"):
        write(model, genome, folder, model_id="one", resume=True)
    (folder / "chunks.bed.settings.json").write_text("{")
    with pytest.raises(ConfigError, match=r"chunks.bed.settings.json cannot be read .* start anew"):
        write(model, genome, folder, model_id="one", resume=True)


def test_the_settings_stand_beside_the_output(model, genome, tmp_path):
    write(model, genome, tmp_path / "out", model_id="some")
    told = json.loads((tmp_path / "out" / "chunks.bed.settings.json").read_text())["settings"]
    assert told["model"] == "some"
    assert (told["strands"], told["window"], told["flank"]) == ("forward", 100, 20)
    assert told["genome"] == genome.fingerprint


def test_a_pipe_is_written_to_and_cannot_be_resumed(model, genome, tmp_path, capfdbinary):
    write(model, genome, tmp_path / "whole")
    settings = SegmentSettings(**SMALL)
    segment_regions(model, genome, REGIONS, "-", tmp_path / "s.bed", settings=settings)
    assert capfdbinary.readouterr().out.decode() == content(tmp_path / "whole")["chunks.bed"]
    assert (tmp_path / "s.bed").read_text() == content(tmp_path / "whole")["stage1.bed"]
    pipe = tmp_path / "pipe.bed.gz"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(pipe.read_bytes)
        segment_regions(model, genome, REGIONS, pipe, settings=settings)
    assert gzip.decompress(reader.result()).decode() == content(tmp_path / "whole")["chunks.bed"]
    pipe.unlink()
    with pytest.raises(ConfigError, match=r"^- is a pipe or device: .* cannot be resumed"):
        segment_regions(model, genome, REGIONS, tmp_path / "c.bed", "-", settings=settings, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.bed", "whole"]


def test_nothing_is_written_without_regions_or_for_what_cannot_be(model, genome, tmp_path):
    with pytest.raises(DataError, match="no region"):
        segment_regions(model, genome, [], tmp_path / "chunks.bed")
    with pytest.raises(IntervalError, match="goes past the end"):
        segment_regions(model, genome, [*REGIONS, Interval("chr2", 0, 1001)], tmp_path / "chunks.bed")
    both = SegmentSettings(strands="both")
    with pytest.raises(ConfigError, match=r"p.bedgraph: bedGraph has no column for the strand"):
        segment_regions(model, genome, REGIONS, tmp_path / "c.bed", None, tmp_path / "p.bedgraph", both)
    assert list(tmp_path.iterdir()) == []

"""Suites: the published layouts as published, folders of one's own, and every task of the provided data."""

import gzip
import pickle
from collections import Counter

import pyarrow as pa
import pytest
from pyarrow import parquet

from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.genome import Interval, decode, open_genome, reverse_complement
from hnet_ntv2.tasks import open_suite
from tests.builders import random_letters


def rows(count: int, length: int, num_classes: int = 2, seed: int = 0) -> list[tuple[str, str]]:
    return [(random_letters(length, seed * 10_000 + i), str(i % num_classes)) for i in range(count)]


def write_csv(path, found, compress: bool = False):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "sequence,label\n" + "".join(f"{sequence},{label}\n" for sequence, label in found)
    path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())


def write_fasta(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f">chr1_{i}|{label}\n{sequence}\n" for i, (sequence, label) in enumerate(found)))


def write_parquet(path, found):
    path.parent.mkdir(parents=True, exist_ok=True)
    sequences, labels = zip(*found, strict=True)
    names = [f"chr1_{i}" for i in range(len(found))]
    parquet.write_table(pa.table({"sequence": sequences, "name": names, "label": labels, "task": names}), path)


def test_nt_has_ten_folds_of_train_that_no_seed_changes(tmp_path):
    write_fasta(tmp_path / "promoter_tata" / "train.fna", rows(60, 300))
    write_fasta(tmp_path / "promoter_tata" / "test.fna", rows(8, 300, seed=1))
    write_parquet(tmp_path / "H3K4me3" / "train.parquet", rows(60, 500))
    write_parquet(tmp_path / "H3K4me3" / "test.parquet", rows(8, 500, seed=1))
    marks, promoters = open_suite("nt", tmp_path)
    assert (marks.name, promoters.name) == ("H3K4me3", "promoter_tata")
    assert (promoters.suite, promoters.metric, promoters.num_folds) == ("nt", "mcc", 10)
    data = [promoters.load(fold, seed=0) for fold in range(10)]
    devs = [set(task.dev.table.places) for task in data]
    assert sum(map(len, devs)) == len(set.union(*devs)) == 60
    assert all(len(task.train.table) == 54 and len(task.test.table) == 8 for task in data)
    assert promoters.load(3, seed=7).dev.table.places == data[3].dev.table.places
    assert data[0].name == "nt/promoter_tata"
    assert not any("published" in warning for warning in data[0].warnings)
    assert "68 of 68 sequences differ from the published 1,000 bases: not comparable with published figures" in (
        marks.load(0, 0).warnings
    )
    original = open_suite("nt-original", tmp_path, ["H3K4me3"])[0]
    assert not any("published" in warning for warning in original.load(0, 0).warnings)
    with pytest.raises(ConfigError, match="folds 0 to 9, not 10"):
        promoters.load(10, 0)


def test_gue_reads_its_three_files(tmp_path):
    for split, count in (("train", 20), ("dev", 4), ("test", 6)):
        write_csv(tmp_path / "prom" / "prom_core_tata" / f"{split}.csv.gz", rows(count, 70, seed=count), compress=True)
        write_csv(tmp_path / "virus" / "covid" / f"{split}.csv", rows(count * 9, 40, 9, seed=count))
    promoters, covid = open_suite("gue", tmp_path)
    assert (promoters.name, promoters.metric, promoters.num_folds) == ("prom/prom_core_tata", "mcc", 1)
    assert (covid.metric, covid.load(0, 0).metric) == ("f1", "f1")
    data = promoters.load(0, 5)
    assert [len(split.table) for split in (data.train, data.dev, data.test)] == [20, 4, 6]
    assert data.warnings == ()
    assert pickle.loads(pickle.dumps(promoters)) == promoters  # worker processes get tasks


def test_without_train_dev_is_trained_on_and_told(tmp_path):
    write_csv(tmp_path / "EMP" / "H3" / "dev.csv", rows(50, 500))
    write_csv(tmp_path / "EMP" / "H3" / "test.csv", rows(10, 500, 3, seed=1))
    with pytest.raises(DataError, match=r"test.csv, line 4: the label '2' is none of those"):
        open_suite("gue", tmp_path)[0].load(0, 0)
    write_csv(tmp_path / "EMP" / "H3" / "test.csv", rows(10, 500, seed=1))
    data = open_suite("gue", tmp_path)[0].load(0, 0)
    assert [len(split.table) for split in (data.train, data.dev, data.test)] == [45, 5, 10]
    assert "there is no train file" in data.warnings[0]


def test_genomic_benchmarks_intervals_against_a_genome(tmp_path):
    (tmp_path / "g.fa").write_text(f">chr1\n{random_letters(3000, 1)}\n")
    genome = open_genome(tmp_path / "g.fa", tmp_path / "cache")
    folder = tmp_path / "human_enhancers_cohn"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for number, name in enumerate(("positive", "negative")):
            lines = [f"{i},chr1,{i * 20 + number},{i * 20 + 500 + number},{'+-'[i % 2]}" for i in range(20)]
            text = "id,region,start,end,strand\n" + "\n".join(lines)
            (folder / split / f"{name}.csv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "metadata.yaml").write_text("version: 0\n")
    task = open_suite("genomic-benchmarks", tmp_path, genome=genome)[0]
    assert (task.name, task.metric, task.num_folds) == ("human_enhancers_cohn", "accuracy", 1)
    data = task.load(0, 0)
    assert data.scheme.names == ("negative", "positive")
    assert [len(split.table) for split in (data.train, data.dev, data.test)] == [36, 4, 40]
    test = data.test.table
    assert test.coordinates[1] == Interval("chr1", 21, 521)
    assert (test.strands[1], test.labels[1], data.test.targets[1]) == ("-", "negative", 0)
    assert decode(test.bases[1]) == decode(reverse_complement(genome.read(Interval("chr1", 21, 521))))
    assert "test has 40 rows, 6,948 in the published task: not comparable with published figures" in data.warnings
    assert task.load(0, 1).dev.table.places != data.dev.table.places
    with pytest.raises(DataError, match="give their genome with --genome"):
        open_suite("genomic-benchmarks", tmp_path)[0].load(0, 0)


def test_a_folder_of_ones_own(tmp_path):
    write_csv(tmp_path / "mine" / "train.csv", rows(20, 30))
    write_fasta(tmp_path / "mine" / "valid.fa", rows(4, 30, seed=1))
    write_parquet(tmp_path / "mine" / "test.parquet", rows(6, 30, seed=2))
    write_csv(tmp_path / "other" / "train.csv", rows(20, 30, 4))
    write_csv(tmp_path / "other" / "test.csv", rows(6, 30, 4, seed=2))
    settings = tmp_path / "other" / "task.json"
    settings.write_text('{"metric": "spearman", "kind": "regression"}')
    mine, other = open_suite(str(tmp_path))
    assert (mine.name, mine.suite, mine.metric, mine.num_folds) == ("mine", tmp_path.name, None, 1)
    assert mine.load(0, 0).metric == "mcc"
    assert len(mine.load(0, 0).dev.table) == 4
    assert other.load(0, 0).scheme.kind == "regression"
    assert other.load(0, 0).metric == "spearman"
    assert [task.name for task in open_suite(str(tmp_path / "mine"))] == ["mine"]  # a folder that is a task
    settings.rename(settings.with_suffix(".yaml")).write_text("label_column: class\n")
    with pytest.raises(DataError, match="no column 'class'"):
        open_suite(str(tmp_path), tasks=["other"])[0].load(0, 0)


@pytest.mark.parametrize("text", ["[1]", "{", '{"metrics": "mcc"}', '{"metric": 1}', "{}" + " " * 20_000])
def test_settings_files_that_are_refused(tmp_path, text):
    write_csv(tmp_path / "train.csv", rows(4, 8))
    write_csv(tmp_path / "test.csv", rows(4, 8))
    (tmp_path / "task.json").write_text(text)
    with pytest.raises(ConfigError, match=r"task\.json"):
        open_suite(str(tmp_path))


def test_what_is_missing_is_answered_with_what_there_is(tmp_path):
    with pytest.raises(ConfigError, match="'bend' is none of nt, nt-original, gue, genomic-benchmarks"):
        open_suite("bend", tmp_path)
    with pytest.raises(ConfigError, match="'gue' needs the folder"):
        open_suite("gue")
    with pytest.raises(DataError, match="is no folder; give one of nt, "):
        open_suite(str(tmp_path / "none"))
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(DataError, match=r"holds no tasks: .* it holds readme\.md"):
        open_suite("gue", tmp_path)
    for name in ("tf/0", "mouse/0", "tf/1"):
        write_csv(tmp_path / name / "train.csv", rows(4, 101))
        write_csv(tmp_path / name / "test.csv", rows(4, 101))
    assert [task.name for task in open_suite("gue", tmp_path, ["tf/0", "1", "tf/1"])] == ["tf/0", "tf/1"]
    with pytest.raises(ConfigError, match="'0' could be mouse/0, tf/0"):
        open_suite("gue", tmp_path, ["0"])
    with pytest.raises(ConfigError, match=r"'tf/2' is none of those in .*: mouse/0, tf/0, tf/1"):
        open_suite("gue", tmp_path, ["tf/2"])
    (tmp_path / "tf" / "0" / "test.csv").rename(tmp_path / "tf" / "0" / "held_out.csv")
    with pytest.raises(DataError, match=r"tf/0 has no test file; it holds held_out\.csv, train\.csv"):
        open_suite("gue", tmp_path)
    write_fasta(tmp_path / "tf" / "1" / "test.fa", rows(4, 101))
    with pytest.raises(DataError, match=r"has both test\.csv and test\.fa for test; remove one"):
        open_suite("gue", tmp_path)


@pytest.mark.slow
def test_every_provided_task_is_read(real_data):
    root = real_data / "downstream"
    suites = [
        *open_suite("gue", root / "gue"),
        *open_suite("genomic-benchmarks", root / "genomic_benchmarks"),
        *open_suite(str(root / "enhancers_iEnhancer2L")),
    ]
    data = {task.name: task.load(0, 0) for task in suites}
    assert len(data) == 16
    assert Counter(task.metric for task in data.values()) == {"mcc": 13, "accuracy": 3}
    without_train = {name for name, task in data.items() if any("no train file" in line for line in task.warnings)}
    assert without_train == {"EMP/H3", "EMP/H3K36me3", "EMP/H3K4me1", "prom/prom_300_all", "splice/reconstructed"}
    assert len(data["prom/prom_core_all"].train.table) == 47_356
    assert "16 of 613 rows of test are also in train" in "".join(data["prom/prom_core_tata"].warnings)
    assert data["human_ensembl_regulatory"].scheme.names == ("0", "1", "2")
    assert data["human_enhancers_cohn"].test.table.coordinates[0].contig == "chr20"


@pytest.mark.slow
def test_provided_intervals_give_the_provided_sequences(real_data, tmp_path):
    genome = open_genome(real_data / "hg38" / "hg38_part.fa.gz", tmp_path / "cache")
    downstream = real_data / "downstream"
    task = open_suite("genomic-benchmarks", downstream / "genomic_benchmarks", ["human_ensembl_regulatory"])[0]
    table = task.load(0, 0).test.table
    table = table.take([row for row, place in enumerate(table.coordinates) if place.contig == "chr20"])
    folder = tmp_path / "human_ensembl_regulatory"
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        for path in (downstream / "genomic_benchmarks_intervals" / folder.name / split).iterdir():
            header, *lines = gzip.decompress(path.read_bytes()).decode().splitlines()
            kept = [line for line in lines if line.split(",")[1] == "chr20" and int(line.split(",")[3]) < 10**7]
            (folder / split / path.name.removesuffix(".gz")).write_text("\n".join([header, *kept]))
    found = open_suite("genomic-benchmarks", tmp_path, genome=genome)[0].load(0, 0).test.table
    by_place = {str(place): bases for place, bases in zip(found.coordinates, found.bases, strict=True)}
    assert len(table) > 100
    for place, bases in zip(table.coordinates, table.bases, strict=True):
        assert decode(by_place[str(place)]).upper() == decode(bases).upper()

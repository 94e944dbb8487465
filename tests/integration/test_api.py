"""The verbs as functions give what the command line writes, and take lists and mappings as well as files."""

import csv
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

import hnet_ntv2
from hnet_ntv2.api import Predictions
from hnet_ntv2.cli.main import app
from hnet_ntv2.embedding import read_embeddings
from hnet_ntv2.errors import ConfigError, DataError, GenomeError
from hnet_ntv2.genome import open_genome
from hnet_ntv2.tasks import LabelScheme
from tests.builders import lively_model, random_letters

SEQUENCES = {"one": random_letters(90, seed=1), "two": random_letters(300, seed=2), "none": "NNNN"}
LABELLED = [
    (random_letters(20, seed=seed) + ("TATAAA" if seed % 2 else "GCGCGC") * 3, "yes" if seed % 2 else "no")
    for seed in range(40)
]
pytestmark = pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("api")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HNET_NTV2_CACHE", str(folder / "cache"))
        lively_model(n_main_layer=1).save_pretrained(folder / "model")
        (folder / "some.fa").write_text("".join(f">{name}\n{bases}\n" for name, bases in SEQUENCES.items()))
        (folder / "genome.fa").write_text(f">chr1\n{SEQUENCES['two']}\n")
        for name, rows in {"train": LABELLED[:24], "dev": LABELLED[24:32], "test": LABELLED[32:]}.items():
            path = folder / "suite" / "motif" / f"{name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("sequence,label\n" + "".join(f"{bases},{label}\n" for bases, label in rows))
        yield folder


def run(*words) -> None:
    result = CliRunner().invoke(app, [*map(str, words), "--device", "cpu"], catch_exceptions=False)
    assert result.exit_code == 0, result.output


def table(path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines(), delimiter="\t"))


def test_embed_equals_the_command(places, tmp_path):
    options = ("--layer", "last", "--layer", "trunk_0", "--pool", "mean", "--pool", "bins", "--window", "200")
    run("embed", "--input", places / "some.fa", "--model", places / "model", "--output", tmp_path / "v.npz", *options)
    wanted = read_embeddings(tmp_path / "v.npz")
    for sequences in (places / "some.fa", SEQUENCES):
        found = hnet_ntv2.embed(
            sequences,
            model=places / "model",
            layers=("last", "trunk_0"),
            pools=("mean", "bins"),
            window=200,
            device="cpu",
        )
        assert found.names == wanted.names == tuple(SEQUENCES)
        assert list(found.vectors) == list(wanted.vectors)
        for name, vectors in found.vectors.items():
            np.testing.assert_allclose(vectors, wanted.vectors[name], atol=1e-5)
    assert np.isnan(found.embeddings[2]).all()


def test_a_loaded_model_and_a_list_are_taken(places):
    model = hnet_ntv2.load(places / "model", device="cpu")
    assert not model.training
    listed = hnet_ntv2.embed(list(SEQUENCES.values()), model=model)
    assert listed.names == ("1", "2", "3")
    named = hnet_ntv2.embed(SEQUENCES, model=model, strands="forward")
    assert not np.allclose(listed.embeddings[0], named.embeddings[0])


def test_segment_equals_the_command(places, tmp_path):
    own = ("--genome", places / "genome.fa", "--model", places / "model", "--strands", "both", "--window", "200")
    run("segment", *own, "--output", tmp_path / "chunks.bed")
    rows = [line.split("\t") for line in (tmp_path / "chunks.bed").read_text().splitlines()]
    found = hnet_ntv2.segment(
        {"chr1": SEQUENCES["two"]}, model=places / "model", strands="both", window=200, device="cpu"
    )
    assert [(each.name, each.chunks.strand) for each in found] == [("chr1", "+"), ("chr1", "-")]
    for _, chunks in found:
        spans = [[int(row[1]), int(row[2])] for row in rows if row[5] == chunks.strand]
        assert np.stack([chunks.starts[-1], chunks.chunk_ends()], 1).tolist() == spans


def test_score_variants_equals_the_command(places, tmp_path):
    text = SEQUENCES["two"]
    other = "A" if text[99] != "A" else "C"
    alleles = [
        ("chr1", 100, text[99], other),
        ("chr1", 150, text[149], "<DEL>"),
        ("1", 200, text[199], f"{text[199]}AC"),
    ]
    lines = "".join("\t".join(map(str, allele)) + "\n" for allele in alleles)
    (tmp_path / "some.tsv").write_text("chrom\tpos\tref\talt\n" + lines)
    own = ("--genome", places / "genome.fa", "--model", places / "model", "--window", "64")
    run("variants", "--vcf", tmp_path / "some.tsv", "--output", tmp_path / "scores.tsv", *own)
    genome = open_genome(places / "genome.fa")
    for variants in (alleles, tmp_path / "some.tsv"):
        found = hnet_ntv2.score_variants(variants, genome, model=places / "model", window=64, device="cpu")
        for each, row in zip(found, table(tmp_path / "scores.tsv"), strict=True):
            assert (each.skipped or ".") == row["skipped"]
            assert (each.score is None) == (row["delta_log_likelihood"] == "NA")
            for name, value in (each.score._asdict() if each.score else {}).items():
                assert (
                    row[name] == "NA" if value is None else float(row[name]) == pytest.approx(value, rel=1e-3, abs=1e-5)
                )
        assert [each.score is None for each in found] == [False, True, False]


def test_a_reference_that_the_genome_does_not_have_is_told_or_skipped(places):
    text = SEQUENCES["two"]
    wrong = "A" if text[99] != "A" else "C"
    alleles = [("chr1", 100, wrong, text[99]), ("chr1", 100, text[99], wrong)]
    with pytest.raises(GenomeError, match=r"1 of 2 alleles: reference allele . at chr1:100"):
        hnet_ntv2.score_variants(alleles, places / "genome.fa", model=places / "model")
    found = hnet_ntv2.score_variants(
        alleles, places / "genome.fa", model=places / "model", window=64, skip_mismatches=True
    )
    assert "the genome has" in found[0].skipped
    assert found[1].score is not None


def test_finetune_and_predict_equal_the_commands(places, tmp_path):
    task, own = places / "suite" / "motif", {"epochs": 2, "batch_size": 8}
    files = {name: task / f"{name}.csv" for name in ("train", "dev", "test")}
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    run("finetune", *options, "--model", places / "model", "--output", tmp_path / "one", *_words(own))
    run("predict", "--model", tmp_path / "one", "--input", files["test"], "--output", tmp_path / "one.tsv")
    result = hnet_ntv2.finetune(
        LABELLED[:24],
        tmp_path / "two",
        dev=LABELLED[24:32],
        test=LABELLED[32:],
        model=places / "model",
        device="cpu",
        **own,
    )
    assert result.unit.scores.shape == (8, 2)
    found = hnet_ntv2.predict([bases for bases, _ in LABELLED[32:]] + ["NNN"], tmp_path / "two", device="cpu")
    rows = table(tmp_path / "one.tsv")
    assert found.classes == [row["class"] for row in rows] + [None]
    assert found.scheme.names == ("no", "yes")
    wanted = np.array([[row["probability_no"], row["probability_yes"]] for row in rows], float)
    np.testing.assert_allclose(found.scores[:-1], wanted, atol=1e-5)


def test_classes_are_those_of_a_classification():
    scores = np.array([[0.1, 0.9], [np.nan, np.nan]])
    found = Predictions(("1", "2"), LabelScheme("classification", ("no", "yes")), scores)
    assert found.classes == ["yes", None]
    with pytest.raises(ConfigError, match="multilabel names no single class"):
        _ = replace(found, scheme=LabelScheme("multilabel", ("no", "yes"))).classes


def test_evaluate_equals_the_command(places, tmp_path):
    suite, chosen = places / "suite", ("majority", "composition")
    words = [word for name in chosen for word in ("--baselines", name)]
    run("evaluate", "--suite", suite, "--models", "none", "--no-audit", *words, "--output", tmp_path / "one")
    summary = hnet_ntv2.evaluate(suite, tmp_path / "two", models=(), baselines=chosen, audit=False, device="cpu")
    assert summary.is_complete
    first, second = ((tmp_path / name / "report" / "summary.csv").read_text() for name in ("one", "two"))
    rows = [[row | {"seconds": None} for row in csv.DictReader(text.splitlines())] for text in (first, second)]
    assert rows[0] == rows[1]
    assert {row.model: round(row.value, 6) for row in summary.rows} == {"majority": 0, "composition": 1}


def test_wrong_sequences_are_named():
    with pytest.raises(DataError, match="sequence 2: letter 'X' at position 2"):
        hnet_ntv2.embed(["ACGT", "ACX"])
    with pytest.raises(DataError, match="sequence first: the sequence is empty"):
        hnet_ntv2.segment({"first": ""})
    with pytest.raises(DataError, match="ACGT: the suffix '' says no format"):
        hnet_ntv2.embed("ACGT")
    with pytest.raises(DataError, match="sequence 1: the label is empty"):
        hnet_ntv2.finetune([("ACGT", ""), ("ACGA", "yes")])


@pytest.mark.slow
def test_importing_the_package_imports_no_verb():
    program = (
        "import sys, hnet_ntv2\n"
        "early = {'hnet_ntv2.api', 'hnet_ntv2.embedding', 'hnet_ntv2.tasks', 'pysam'} & set(sys.modules)\n"
        "assert not early, early\n"
        "assert callable(hnet_ntv2.embed)\n"
        "late = {'hnet_ntv2.downstream', 'pyarrow', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "assert not late, late\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def _words(settings: dict[str, int]) -> list[str]:
    return [word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value))]

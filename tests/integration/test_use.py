"""``embed``, ``segment`` and ``variants`` end to end on the bundled piece of human chromosome 20."""

import csv
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from hnet_ntv2.cli.main import app, main
from hnet_ntv2.embedding import read_embeddings
from hnet_ntv2.genome import Interval, decode, open_genome
from hnet_ntv2.resources import bundled_genome, bundled_model
from hnet_ntv2.tokenization_hnet_ntv2 import HNetNTV2Tokenizer
from tests.builders import lively_model, piped

CONTIG = "GRCh38_chr20_2097152-8388608"
SMALL = ("--window", "400", "--device", "cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def use_cache(cache, monkeypatch):
    monkeypatch.setenv("HNET_NTV2_CACHE", str(cache))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    lively_model().save_pretrained(folder)
    HNetNTV2Tokenizer().save_pretrained(folder)
    return str(folder)


def run(*arguments) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def refuse(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    assert caught.value.code == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("error: ")
    return told


def write_regions(tmp_path):
    path = tmp_path / "regions.bed"
    path.write_text(f"{CONTIG}\t1000\t2001\tfirst\n{CONTIG}\t500000\t500100\n")
    return path


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_embed_regions(model, tmp_path, suffix):
    output = tmp_path / "out" / f"vectors.{suffix}"
    told = run(
        "embed", "--regions", write_regions(tmp_path), "--output", output, "--model", model, "--per-base", *SMALL
    )
    assert "2 sequences embedded to" in told
    table = read_embeddings(output)
    assert table.names == (f"{CONTIG}:1000-2001", f"{CONTIG}:500000-500100")
    assert table.num_bases.tolist() == [1001, 100]
    assert [each.shape for each in table.per_base] == [(1001, 32), (100, 32)]
    np.testing.assert_allclose(table.embeddings[0], table.per_base[0].mean(0), atol=1e-5)
    assert (table.settings["window"], table.settings["flank"], table.settings["layers"]) == (400, 50, ["last"])
    assert sorted(path.name for path in output.parent.iterdir()) == [output.name]


def test_embed_records_equals_embedding_the_same_regions(model, tmp_path):
    regions = write_regions(tmp_path)
    genome = open_genome(bundled_genome())
    text = decode(genome.read(Interval(CONTIG, 1000, 2001))).decode()
    (tmp_path / "some.fa").write_text(f">one\n{text.lower()}\n")
    own = ("--model", model, "--layer", "trunk_1", *SMALL)
    run("embed", "--fasta", tmp_path / "some.fa", "--output", tmp_path / "one.npz", *own)
    run("embed", "--regions", regions, "--genome", bundled_genome(), "--output", tmp_path / "two.npz", *own)
    one, two = (read_embeddings(tmp_path / name) for name in ("one.npz", "two.npz"))
    assert one.names == ("one",)
    np.testing.assert_allclose(one.embeddings[0], two.embeddings[0], atol=1e-5)


def test_embed_tells_a_name_that_comes_twice_before_it_works(model, tmp_path, capsys, monkeypatch):
    path = tmp_path / "some.fa"
    path.write_text(">one\nACGT\n>two\nACGT\n>one\nACGT\n")
    monkeypatch.setattr("hnet_ntv2.inference.model.load_model", lambda *arguments: pytest.fail("it has begun to work"))
    told = refuse(capsys, "embed", "--fasta", path, "--output", tmp_path / "v.npz", "--model", model, *SMALL)
    assert "holds the contig 'one' twice" in told


def test_embed_a_table_with_labels(model, tmp_path, capsys):
    (tmp_path / "t.csv").write_text("id,dna,label,chrom,start,end\na,ACGTAC,yes,c,5,11\nb,NNN,no,c,20,23\n")
    own = ("--model", model, *SMALL, "--sequence-column", "dna", "--layer", "trunk_1", "--layer", "last")
    output = tmp_path / "v.parquet"
    command = ["embed", "--input", tmp_path / "t.csv", "--output", output, *own, "--pool", "max", "--pool", "bins"]
    result = CliRunner().invoke(app, [*map(str, command), "--per-chunk"], catch_exceptions=False)
    assert "1 sequences have no A, C, G or T, the first is 2: their vectors are NaN" in result.stderr
    table = read_embeddings(output)
    assert (table.names, table.labels, table.starts.tolist()) == (("1", "2"), ("yes", "no"), [5, 20])
    assert list(table.vectors) == ["trunk_1_max", "trunk_1_bins", "last_max", "last_bins"]
    assert [each.spans[-1, 1] for each in table.per_chunk] == [6, 3]
    before = output.read_bytes()
    assert "2 sequences embedded to" in run(*command, "--per-chunk", "--resume")
    assert "per_chunk True, now False" in refuse(capsys, *command, "--resume")
    assert output.read_bytes() == before


def test_embed_reads_the_strand_and_the_context_of_regions(model, tmp_path):
    regions = tmp_path / "r.bed"
    regions.write_text(f"{CONTIG}\t1000\t1100\tx\t0\t+\n{CONTIG}\t1000\t1100\tx\t0\t-\n")
    command = ("embed", "--regions", regions, "--model", model, *SMALL, "--per-base")
    run(*command, "--output", tmp_path / "v.npz")
    run(*command, "--output", tmp_path / "w.npz", "--context", "50")
    one, two = (read_embeddings(tmp_path / name) for name in ("v.npz", "w.npz"))
    assert one.strands == ("+", "-")
    np.testing.assert_allclose(one.per_base[0], one.per_base[1][::-1], atol=1e-4)
    assert [each.shape for each in two.per_base] == [(100, 32)] * 2
    assert two.num_bases.tolist() == [100, 100]
    assert np.abs(one.embeddings - two.embeddings).max() > 1e-4


def test_pipes_are_read_where_they_are_read_once(model, tmp_path, capsys):
    own = ("--model", model, *SMALL)
    with piped(b">one\nACGTACGTAC\n>two\nAACC\n") as fasta:
        assert "2 sequences" in run("embed", "--fasta", fasta, "--output", tmp_path / "v.npz", *own)
    with piped(f"{CONTIG}\t1000\t2000\n".encode()) as regions:
        told = run("segment", "--regions", regions, "--output", tmp_path / "c.bed", *own)
    assert "1 regions of 1,000 bases" in told
    with piped(b">one\nACGT\n") as fasta:
        told = refuse(capsys, "segment", "--genome", fasta, "--output", tmp_path / "c.bed", *own)
    assert "a pipe cannot be read twice" in told


def test_regions_that_do_not_fit_are_skipped_on_demand(model, tmp_path, capsys):
    regions = tmp_path / "regions.bed"
    regions.write_text(f"{CONTIG}\t1000\t2000\n{CONTIG}\t7\t7\n{CONTIG}\t9\t99999999\n")
    for verb, output in (("segment", "c.bed"), ("embed", "v.npz")):
        command = (verb, "--regions", regions, "--output", tmp_path / output, "--model", model, *SMALL)
        assert "line 2: " in refuse(capsys, *command)
        result = CliRunner().invoke(app, [*map(str, command), "--skip-bad-regions"], catch_exceptions=False)
        assert result.exit_code == 0
        assert "2 regions skipped, the first because of" in result.stderr


def test_segment_a_region(model, tmp_path):
    paths = [tmp_path / name for name in ("chunks.bed", "stage1.bed", "p.bedgraph")]
    options = ("--output", paths[0], "--stage1", paths[1], "--probability", paths[2], "--model", model, *SMALL)
    told = run("segment", "--region", f"{CONTIG}:1,000,001-1,001,500", *options)
    assert (tmp_path / "chunks.bed.settings.json").is_file()
    assert run("segment", "--region", f"{CONTIG}:1,000,001-1,001,500", "--resume", *options) == told
    rows = [line.split("\t") for line in paths[0].read_text().splitlines()]
    bounds = [int(row[1]) for row in rows] + [int(rows[-1][2])]
    assert (bounds[0], bounds[-1]) == (1_000_000, 1_001_500)
    assert [int(row[2]) for row in rows] == bounds[1:]
    assert f"{len(rows):,} chunks in 1 regions of 1,500 bases" in told
    assert f"max {max(np.diff(bounds))}" in told
    stage1 = {line.split("\t")[1] for line in paths[1].read_text().splitlines()}
    assert {row[1] for row in rows} < stage1
    probability = np.loadtxt(paths[2], usecols=(1, 2, 3))
    assert probability[:, 1].max() == 1_001_500
    assert (probability[1:, 0] == probability[:-1, 1]).all()


def test_segment_both_strands_to_standard_output(model, tmp_path):
    command = ("segment", "--region", f"{CONTIG}:1,000,001-1,001,500", "--model", model, *SMALL, "--strands", "both")
    result = CliRunner().invoke(app, [*command, "--output", "-"], catch_exceptions=False)
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    assert {len(row) for row in rows} == {6}
    for strand in "+-":
        assert sum(int(row[2]) - int(row[1]) for row in rows if row[5] == strand) == 1_500
    assert f"{len(rows):,} chunks in 1 regions of 1,500 bases" in result.stderr
    assert list(tmp_path.iterdir()) == []


def write_variants(tmp_path, wrong: bool = False):
    genome = open_genome(bundled_genome())
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for position in (0, 1_000_000, 6_291_455):
        ref = decode(genome.read(Interval(CONTIG, position, position + 1))).decode().upper()
        alt = "ACGT".replace(ref, "")
        shown = alt[0] if wrong and position else ref
        lines.append(f"{CONTIG}\t{position + 1}\t.\t{shown}\t{alt[1]},{shown}TT,<DEL>\t.\t.\t.")
    path = tmp_path / "some.vcf"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_score_variants(model, tmp_path, capsys):
    vcf, output = write_variants(tmp_path), tmp_path / "scores.tsv"
    command = ("variants", "--vcf", vcf, "--output", output, "--model", model, "--window", "100", "--device", "cpu")
    assert "9 alleles in" in (told := run(*command))
    assert "6 scored, 3 skipped" in told
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [row["skipped"] for row in rows] == [".", ".", "symbolic allele <DEL>"] * 3
    assert [row["log_odds"] == "NA" for row in rows] == [False, True, True] * 3
    assert all(float(row["l2_distance"]) > 0 for row in rows if row["skipped"] == ".")
    assert json.loads((tmp_path / "scores.tsv.settings.json").read_text())["window"] == 100
    whole = output.read_bytes()
    assert "--resume goes on with it" in refuse(capsys, *command)
    output.write_bytes(whole[: len(whole) // 2])
    run(*command, "--resume")
    assert output.read_bytes() == whole
    wrong = write_variants(tmp_path, wrong=True)
    command = (*command[:2], wrong, "--output", tmp_path / "wrong.tsv", *command[5:])
    assert "some.vcf, line 4 (alternative " in (told := refuse(capsys, *command))
    assert f"at {CONTIG}:1000001, but the genome has" in told
    assert "9 alleles in" in (told := run(*command, "--skip-mismatches"))
    assert "7 skipped, 4 of them because they do not fit the genome" in told  # not the <DEL>


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["embed", "--output", "v.npz"], "either --fasta FASTA, or --regions BED"),
        (["embed", "--output", "v.npz", "--fasta", "no.fa", "--model", "MODEL"], "no.fa does not exist"),
        (["embed", "--output", "v.npz", "--fasta", "/dev/null", "--model", "MODEL"], "/dev/null is empty"),
        (["embed", "--output", "v.txt", "--regions", "no.bed"], ".npz, .safetensors, .parquet or .h5ad"),
        (["embed", "--output", "v.npz", "--fasta", "a", "--genome", "b"], "--genome is for --regions"),
        (["embed", "--output", "v.npz", "--fasta", "a", "--input", "b"], "or --input FILE"),
        (["embed", "--output", "v.npz", "--fasta", "a", "--context", "9"], "--context 9 is for --regions"),
        (["embed", "--output", "v.h5ad", "--fasta", "a", "--per-base"], "one row per sequence"),
        (["embed", "--output", "v.npz", "--input", "no.csv", "--model", "MODEL"], "no.csv does not exist"),
        (["segment", "--output", "c.bed", "--region", "chr9:5-10", "--model", "MODEL"], "'chr9' is not in"),
        (["segment", "--output", "c.bed", "--region", f"{CONTIG}:5²", "--model", "MODEL"], "1-based, both ends"),
        (["segment", "--output", "c.bed", "--region", f"{CONTIG}:5-9999999", "--model", "MODEL"], "goes past the end"),
        (["segment", "--output", "c.bed", "--region", f"{CONTIG}:5-9", "--model", "no"], "no is not a folder"),
        (["segment", "--output", "c.bed", "--region", "x", "--regions", "y"], "contradict each other"),
        (["segment", "--output", "c.bed", "--stage1", "c.bed"], "same name: c.bed"),
        (
            ["segment", "--output", "c.bed", "--probability", "./x/../c.bed"],
            "c.bed (--output) and x/../c.bed (--prob",
        ),
        (["segment", "--output", "-", "--resume", "--model", "MODEL"], "- is a pipe or device"),
        (["segment", "--output", "c.bed", "--probability", "p", "--strands", "both", "--model", "MODEL"], "no column"),
        (["variants", "--vcf", "no.vcf", "--output", "s.tsv", "--model", "MODEL"], "no.vcf does not exist"),
        (["variants", "--vcf", "no.vcf", "--output", "s.tsv", "--model", "MODEL", "--device", "abacus"], "abacus"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(model, arguments, problem, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [model if argument == "MODEL" else argument for argument in arguments]
    assert problem in refuse(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_model_is_the_default(tmp_path):
    weights = bundled_model() / "model.safetensors"
    assert weights.stat().st_size <= 15_000_000
    chunks, vectors = tmp_path / "chunks.bed", tmp_path / "vectors.npz"
    assert "regions of 3,000 bases" in run("segment", "--region", f"{CONTIG}:1-3000", "--output", chunks)
    run("embed", "--regions", chunks, "--output", vectors)
    assert json.loads((tmp_path / "chunks.bed.settings.json").read_text())["settings"]["window"] == 768
    table = read_embeddings(vectors)
    assert table.settings["window"] == 768
    assert np.isfinite(table.embeddings).all()
    run("variants", "--vcf", write_variants(tmp_path), "--output", tmp_path / "scores.tsv")

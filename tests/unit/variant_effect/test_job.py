"""A file of variants: one line per allele in order, mismatches told, and interruptions that leave no trace."""

import csv

import pytest

from hnet_ntv2.errors import ConfigError, GenomeError
from hnet_ntv2.genome import open_genome
from hnet_ntv2.variant_effect import ScoreSettings, job, score_file
from tests.builders import lively_model, random_letters

SETTINGS = ScoreSettings(window=40, near=5)
CONTIG = random_letters(300, 21)


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "genome.fa").write_text(f">chr20\n{CONTIG}\n")
    return open_genome(tmp_path / "genome.fa", tmp_path / "cache")


@pytest.fixture(autouse=True)
def small_groups(monkeypatch):
    monkeypatch.setattr(job, "GROUP_SIZE", 4)


def write(path, *rows: str):
    path.write_text("\n".join(["#CHROM\tPOS\tID\tREF\tALT", *rows]) + "\n")
    return path


def snv(position: int, contig: str = "20") -> str:
    ref = CONTIG[position]
    return f"{contig}\t{position + 1}\trs{position}\t{ref}\t{'ACGT'[('ACGT'.index(ref) + 1) % 4]}"


def rows_of(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_every_allele_has_a_line_in_order(model, genome, tmp_path):
    ref = CONTIG[50]
    listed = write(
        tmp_path / "v.vcf",
        snv(150),
        f"chr20\t51\t.\t{ref}\t<DEL>,{ref}GG,*",
        snv(0, "NC_000020.11"),
        snv(299),
        f"20\t11\t.\t{CONTIG[10:40]}\t{CONTIG[10]}",
    )
    output = tmp_path / "new" / "scores.tsv"
    result = score_file(model, genome, listed, output, SETTINGS)
    found = rows_of(output)
    assert [(row["chrom"], row["pos"], row["alt"]) for row in found[1:4]] == [
        ("chr20", "51", "<DEL>"),
        ("chr20", "51", f"{ref}GG"),
        ("chr20", "51", "*"),
    ]
    assert [row["skipped"].split(" ")[0] for row in found] == [".", "symbolic", ".", "allele", ".", ".", "allele"]
    assert found[1]["log_odds"] == found[1]["l2_distance"] == found[2]["log_odds"] == "NA"
    for row in found:
        if row["skipped"] == ".":
            assert all(abs(float(row[name])) < 100 for name in ("delta_log_likelihood", "cosine_distance"))
    assert abs(float(found[0]["log_odds"])) > 1e-4
    assert (result.num_alleles, result.num_scored, result.num_skipped, result.num_mismatches) == (7, 4, 3, 0)


def test_a_reference_allele_that_is_not_there_stops_before_anything_is_written(model, genome, tmp_path):
    wrong = {"A": "C", "C": "G", "G": "T", "T": "A"}[CONTIG[99]]
    listed = write(tmp_path / "v.vcf", snv(10), f"chr20\t100\t.\t{wrong}\t{CONTIG[99]}", snv(20, "chr7"), snv(30))
    output = tmp_path / "scores.tsv"
    expected = rf"v\.vcf, line 3 \(alternative {CONTIG[99]}\): reference allele {wrong} at chr20:100, but the genome "
    with pytest.raises(GenomeError, match=f"{expected}has {CONTIG[99]}.*--skip-mismatches"):
        score_file(model, genome, listed, output, SETTINGS)
    assert not output.exists()
    result = score_file(model, genome, listed, output, SETTINGS, skip_mismatches=True)
    assert (result.num_alleles, result.num_scored, result.num_mismatches) == (4, 2, 2)
    skipped = [row["skipped"] for row in rows_of(output)]
    assert skipped[0] == skipped[3] == "."
    assert "but the genome has" in skipped[1]
    assert "'chr7' is not in" in skipped[2]


class _InterruptedError(Exception):
    pass


@pytest.mark.parametrize("keep", [0, 4, 8])
@pytest.mark.parametrize("torn", ["", "20\t5", "20\t5\t.\tA\tC\t1\t1\t1\t1\t.\n"], ids=["clean", "half", "group"])
def test_an_interrupted_job_goes_on_to_the_same_bytes(model, genome, tmp_path, keep, torn):
    listed = write(tmp_path / "v.vcf", *[snv(position) for position in range(20, 130, 11)])
    whole, output = tmp_path / "whole.tsv", tmp_path / "scores.tsv"
    score_file(model, genome, listed, whole, SETTINGS)

    def interrupt(done: int, total: int) -> None:
        assert total == 10
        if done >= keep:
            raise _InterruptedError

    with pytest.raises(_InterruptedError):
        score_file(model, genome, listed, output, SETTINGS, progress=interrupt)
    written = max(keep, 4)
    assert len(output.read_text().splitlines()) == 1 + written
    with output.open("a") as file:
        file.write(torn)
    result = score_file(model, genome, listed, output, SETTINGS, resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert (result.num_alleles, result.num_scored, result.num_kept) == (10, 10, written)
    again = score_file(model, genome, listed, output, SETTINGS, resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert again.num_kept == 8


def test_other_work_is_neither_overwritten_nor_continued(model, genome, tmp_path):
    listed, output = write(tmp_path / "v.vcf", snv(10)), tmp_path / "scores.tsv"
    score_file(model, genome, listed, output, SETTINGS, resume=True)
    with pytest.raises(ConfigError, match="exists: --resume"):
        score_file(model, genome, listed, output, SETTINGS)
    with pytest.raises(ConfigError, match="window 40, now 50"):
        score_file(model, genome, listed, output, ScoreSettings(window=50, near=5), resume=True)
    with pytest.raises(ConfigError, match="model '', now 'another'"):
        score_file(model, genome, listed, output, SETTINGS, model_id="another", resume=True)
    write(listed, snv(11))
    with pytest.raises(ConfigError, match="variants"):
        score_file(model, genome, listed, output, SETTINGS, resume=True)
    write(listed, snv(10))
    (tmp_path / "scores.tsv").write_text("chrom\tpos\n")
    with pytest.raises(ConfigError, match="does not begin with the columns"):
        score_file(model, genome, listed, output, SETTINGS, resume=True)
    (tmp_path / "scores.tsv.settings.json").unlink()
    with pytest.raises(ConfigError, match=r"needs .*scores\.tsv\.settings\.json"):
        score_file(model, genome, listed, output, SETTINGS, resume=True)

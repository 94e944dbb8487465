"""A file of variants: one line per allele in order, mismatches told, and interruptions that leave no trace."""

import csv
import gzip
import json
import os
import re
import subprocess

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
    partial = tmp_path / "scores.tsv.partial"
    assert not output.exists()  # what has this name is complete
    assert len(partial.read_text().splitlines()) == 1 + written
    with partial.open("a") as file:
        file.write(torn)
    with pytest.raises(ConfigError, match="interrupted job left: --resume"):
        score_file(model, genome, listed, output, SETTINGS)
    result = score_file(model, genome, listed, output, SETTINGS, resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert (result.num_alleles, result.num_scored, result.num_kept) == (10, 10, written)
    again = score_file(model, genome, listed, output, SETTINGS, resume=True)
    assert output.read_bytes() == whole.read_bytes()
    assert again.num_kept == 8


DAMAGES = {
    "lost": (lambda lines: lines[:5] + lines[6:], "line 6 of .* is not that of allele 5"),
    "doubled": (lambda lines: lines[:6] + lines[5:], "line 7 of .* is not that of allele 6"),
    "reordered": (lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]], "line 8 of .* is not that of allele 7"),
    "no UTF-8": (lambda lines: [*lines[:5], b"\xff" + lines[5], *lines[6:]], "line 6"),
    "other number": (lambda lines: [*lines[:5], lines[5].replace(b"\t.\n", b"x\t.\n"), *lines[6:]], "line 6"),
    "other columns": (lambda lines: [*lines[:5], lines[5].replace(b"\t.\n", b"\n"), *lines[6:]], "line 6"),
    "more than there are": (lambda lines: lines + lines[10:], "line 12"),
    "cut": (lambda lines: lines[:6], None),
}


@pytest.mark.parametrize("place", ["scores.tsv", "scores.tsv.partial"])
@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_kept_lines_are_those_of_the_input(model, genome, tmp_path, damage, message, place):
    """Also of a table that an older version left under its final name."""
    listed = write(tmp_path / "v.vcf", *[snv(position) for position in range(20, 130, 11)])
    output = tmp_path / "scores.tsv"
    score_file(model, genome, listed, output, SETTINGS)
    whole = output.read_bytes()
    output.unlink()
    (tmp_path / place).write_bytes(b"".join(damage(whole.splitlines(keepends=True))))
    result = score_file(model, genome, listed, output, SETTINGS, resume=True)
    assert output.read_bytes() == whole
    assert result.num_kept == (8 if damage is DAMAGES["more than there are"][0] else 4)
    if message is None:
        assert result.damage is None
    else:
        assert re.search(message, result.damage)
    assert sorted(path.name for path in tmp_path.glob("scores*")) == ["scores.tsv", "scores.tsv.settings.json"]


def test_two_jobs_on_one_table_are_one_too_many(model, genome, tmp_path):
    listed, output = write(tmp_path / "v.vcf", snv(10), snv(20)), tmp_path / "scores.tsv"
    refused = []

    def start_another(done: int, total: int) -> None:
        for resume in (False, True):
            with pytest.raises(ConfigError, match="another process is writing") as caught:
                score_file(model, genome, listed, output, SETTINGS, resume=resume)
            refused.append(caught.value)

    score_file(model, genome, listed, output, SETTINGS, progress=start_another)
    assert len(refused) == 2
    assert len(rows_of(output)) == 2


def test_the_output_may_be_compressed_or_a_pipe(model, genome, tmp_path):
    listed = write(tmp_path / "v.vcf", *[snv(position) for position in range(20, 80, 11)])
    plain, packed, pipe = tmp_path / "scores.tsv", tmp_path / "scores.tsv.gz", tmp_path / "pipe"
    score_file(model, genome, listed, plain, SETTINGS)
    score_file(model, genome, listed, packed, SETTINGS)
    assert packed.read_bytes()[12:14] == b"BC"  # bgzip
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    again = score_file(model, genome, listed, packed, SETTINGS, resume=True)
    assert again.num_kept == 4
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        score_file(model, genome, listed, pipe, SETTINGS)
        assert reader.communicate()[0] == plain.read_bytes()
    assert pipe.is_fifo()
    assert not (tmp_path / "pipe.settings.json").exists()
    with pytest.raises(ConfigError, match="cannot be resumed"):
        score_file(model, genome, listed, pipe, SETTINGS, resume=True)


def test_a_file_without_variants_gives_an_empty_table(model, genome, tmp_path):
    output = tmp_path / "scores.tsv"
    result = score_file(model, genome, write(tmp_path / "v.vcf"), output, SETTINGS)
    assert (result.num_alleles, result.num_scored) == (0, 0)
    assert output.read_text() == "\t".join(job.COLUMNS) + "\n"


def test_structural_variants_and_telomeres_are_skipped_without_being_asked_for(model, genome, tmp_path):
    listed = write(
        tmp_path / "v.vcf",
        "chr20\t50\t.\tN\t<DEL>",
        "chr20\t60\t.\tN\tN[chr2:200[",
        "chr20\t0\t.\tN\t]chr2:100]N",
        "chr20\t301\t.\tN\tN[chr2:100[",
        f"chr20\t61\t.\t{CONTIG[60]}\t*",
        snv(200),
    )
    output = tmp_path / "scores.tsv"
    result = score_file(model, genome, listed, output, SETTINGS)
    assert (result.num_scored, result.num_mismatches) == (1, 0)
    reasons = [row["skipped"] for row in rows_of(output)]
    assert reasons == ["symbolic allele <DEL>", *["breakend"] * 3, "allele * (spanned by another deletion)", "."]


def test_one_change_has_one_score_and_keeps_its_spelling(model, tmp_path):
    contig = f"{random_letters(60, 3)}CAAAAAAG{random_letters(60, 4)}"
    (tmp_path / "genome.fa").write_text(f">c\n{contig}\n")
    genome = open_genome(tmp_path / "genome.fa", tmp_path / "cache")
    spellings = [
        [(64, "A", "G"), (61, "AAAAA", "AAAGA"), (60, contig[60:70], contig[60:64] + "G" + contig[65:70])],
        [(60, "CA", "C"), (65, "AA", "A"), (60, "CAAAAAA", "CAAAAA"), (66, "AG", "G")],
        [(60, "C", "CAA"), (66, "A", "AAA"), (67, "G", "AAG"), (58, contig[58:62], contig[58:62] + "AA")],
    ]
    for group in spellings:
        rows = [f"c\t{position + 1}\t.\t{ref}\t{alt}" for position, ref, alt in group]
        listed, output = write(tmp_path / "v.vcf", *rows), tmp_path / f"{group[0][0]}{group[0][2]}.tsv"
        score_file(model, genome, listed, output, SETTINGS)
        found = rows_of(output)
        assert [(int(row["pos"]) - 1, row["ref"], row["alt"]) for row in found] == group
        scores = {tuple(row[name] for name in job.COLUMNS[5:]) for row in found}
        assert len(scores) == 1
        assert scores.pop()[-1] == "."


@pytest.mark.parametrize(("trained", "expected"), [(None, 1024), (64, 64)])
def test_windows_are_as_long_as_in_training_where_the_model_tells(
    model, genome, tmp_path, monkeypatch, trained, expected
):
    monkeypatch.setattr(model.config, "training_length", trained)
    output = tmp_path / "scores.tsv"
    score_file(model, genome, write(tmp_path / "v.vcf", snv(150)), output, ScoreSettings(near=5))
    assert json.loads((tmp_path / "scores.tsv.settings.json").read_text())["window"] == expected
    explicit = tmp_path / "explicit.tsv"
    score_file(model, genome, tmp_path / "v.vcf", explicit, ScoreSettings(window=expected, near=5))
    assert output.read_bytes() == explicit.read_bytes()


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
    assert not (tmp_path / "scores.tsv.partial").exists()  # what was refused has changed nothing
    (tmp_path / "scores.tsv.settings.json").write_text("[]")
    with pytest.raises(ConfigError, match="no JSON object"):
        score_file(model, genome, listed, output, SETTINGS, resume=True)
    (tmp_path / "scores.tsv.settings.json").unlink()
    with pytest.raises(ConfigError, match=r"needs .*scores\.tsv\.settings\.json"):
        score_file(model, genome, listed, output, SETTINGS, resume=True)

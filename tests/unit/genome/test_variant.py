"""Variants: what is read from VCF and tables, what is refused with its line, and what does not fit the genome."""

import gzip

import pytest

from hnet_ntv2.errors import GenomeError
from hnet_ntv2.genome import Variant, VariantChecker, open_genome, read_variants

VCF = """##fileformat=VCFv4.2
##contig=<ID=chr1>
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO
chr1\t6\trs1\tA\tG\t.\t.\t.
1\t7\t.\tcg\tc,CGG,*\t.\t.\t.
chr1\t8\t.\tG\t<DEL>\t.\t.\t.
"""


def write(tmp_path, text, name="some.vcf"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("pack", [str.encode, lambda text: gzip.compress(text.encode())], ids=["plain", "gzip"])
def test_alleles_are_split_in_the_order_of_the_file(tmp_path, pack):
    assert list(read_variants(write(tmp_path, pack(VCF)))) == [
        Variant(4, "chr1", 5, "rs1", "A", "G"),
        Variant(5, "1", 6, ".", "cg", "c"),
        Variant(5, "1", 6, ".", "cg", "CGG"),
        Variant(5, "1", 6, ".", "cg", "*"),
        Variant(6, "chr1", 7, ".", "G", "<DEL>"),
    ]


@pytest.mark.parametrize("header", ["chrom\tpos\tref\talt", "#CHROM\tPos\tREF\tAlt"])
def test_a_table_needs_four_columns_only(tmp_path, header):
    rows = list(read_variants(write(tmp_path, f"{header}\tlabel\nchr2\t1\tA\tT\tx\n")))
    assert rows == [Variant(2, "chr2", 0, ".", "A", "T")]


@pytest.mark.parametrize(
    ("ref", "alt", "reason"),
    [
        ("A", "C", None),
        ("A", "ACC", None),
        ("A", "*", "allele *"),
        ("A", ".", "no alternative"),
        ("A", "<INS:ME>", "symbolic allele <INS:ME>"),
        ("A", "A[chr2:100[", "breakend"),
        ("A", "]chr2:100]A", "breakend"),
        ("A", ".A", "breakend"),
        ("A", "a", "equals reference"),
        ("A", "N", "with N"),
        ("R", "A", "with N"),
    ],
)
def test_what_cannot_be_scored_says_why(tmp_path, ref, alt, reason):
    path = write(tmp_path, f"chrom\tpos\tref\talt\nc\t1\t{ref}\t{alt}\n")
    found = next(read_variants(path)).unscorable
    assert found is None if reason is None else reason in found


LINE = "chrom\tpos\tref\talt\n"
BROKEN = {
    "empty": ("", "is empty"),
    "header only": (LINE, "holds no variants"),
    "no header": ("chr1\t1\tA\tC\n", "line 1: no column chrom, pos, ref, alt.*found chr1, 1, a, c"),
    "other columns": ("chrom\tpos1\tref\talt\n", "line 1: no column pos;"),
    "spaces": (f"{LINE}chr1 1 A C\n", "line 2: 1 columns, at least 4"),
    "position": (f"{LINE}chr1\t1\tA\tC\nchr1\t1e3\tA\tC\n", "line 3: position '1e3'"),
    "position 0": (f"{LINE}chr1\t0\tA\tC\n", "line 2: position '0'"),
    "no ref": (f"{LINE}chr1\t1\t-\tC\n", "line 2: .*ref '-'"),
    "dash": (f"{LINE}chr1\t1\tA\t-\n", "line 2: alternative allele '-'.*the base before"),
    "no alt": (f"{LINE}chr1\t1\tA\tC,\n", "line 2: alternative allele ''"),
    "letters": (f"{LINE}chr1\t1\tA\tXYZ\n", "line 2: alternative allele 'XYZ'"),
    "binary": (LINE.encode() + b"\xff\x00\n", "line 2: not text"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_with_its_line(tmp_path, text, problem):
    path = write(tmp_path, text)
    with pytest.raises(GenomeError, match=problem) as caught:
        list(read_variants(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("contig", "position", "ref", "problem"),
    [
        ("chr1", 5, "ACG", None),
        ("1", 9, "acgt", None),
        ("NC_000001.11", 0, "N", None),
        ("chr1", 5, "AGGT", "reference allele AGGT at chr1:6, but the genome has ACGT"),
        ("chr1", 12, "TT", "at chr1:13 goes past the contig's end at 13"),
        ("chr7", 5, "A", "'chr7' is not in"),
    ],
)
def test_reference_alleles_are_compared_with_the_genome(tmp_path, contig, position, ref, problem):
    genome = open_genome(write(tmp_path, ">chr1\nNNNNNACGTacgt\n", "genome.fa"), tmp_path / "cache")
    found = VariantChecker(genome).problem(Variant(1, contig, position, ".", ref, "C"))
    assert found is None if problem is None else problem in found


def test_real_variants_fit_the_genome_they_were_called_on(real_data, tmp_path):
    """Sixteen thousand of one person's, against the bundled piece: where it begins in chromosome 20 is known."""
    from hnet_ntv2.resources import bundled_genome

    genome = open_genome(bundled_genome(), tmp_path / "cache")
    contig, length = next(iter(genome.contigs.items()))
    checker, start = VariantChecker(genome), 2_097_152
    found = [
        Variant(each.line, contig, each.position - start, each.name, each.ref, each.alt)
        for each in read_variants(real_data / "variants" / "na12878_platinum_chr20_0-10M.vcf.gz")
        if 0 <= each.position - start < length - 100
    ]
    assert len(found) > 5000
    assert [checker.problem(each) for each in found] == [None] * len(found)

"""Files of variants: VCF, BCF and tables give the same alleles, and what is malformed is told with its line."""

import gzip
import os
import time

import pysam.bcftools
import pytest

from hnet_ntv2.errors import GenomeError
from hnet_ntv2.genome import Variant, read_variants
from hnet_ntv2.genome.variant_files import _is_other_allele

HEADER = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
VCF = f"""{HEADER}chr1\t6\trs1\tA\tG\t.\t.\t.
1\t7\t.\tcg\tc,CGG,*\t.\t.\tAC=1,1,1
chr1\t8\t.\tG\t<DEL>\t.\t.\t.
"""
ALLELES = [
    Variant(4, "chr1", 5, "rs1", "A", "G"),
    Variant(5, "1", 6, ".", "cg", "c"),
    Variant(5, "1", 6, ".", "cg", "CGG"),
    Variant(5, "1", 6, ".", "cg", "*"),
    Variant(6, "chr1", 7, ".", "G", "<DEL>"),
]


def write(tmp_path, text, name="some.vcf"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def bgzip(data: bytes, path) -> bytes:
    with pysam.BGZFile(str(path), "wb", None) as file:
        file.write(data)
    return path.read_bytes()


@pytest.mark.parametrize("pack", ["plain", "gzip", "bgzip", "mark", "mark gzip", "windows", "no fileformat"])
def test_alleles_are_split_in_the_order_of_the_file(tmp_path, capfd, pack):
    data = VCF.encode()
    if "mark" in pack:
        data = b"\xef\xbb\xbf" + data
    if pack == "windows":
        data = data.replace(b"\n", b"\r\n")
    if pack == "no fileformat":
        data = data.replace(b"##fileformat=VCFv4.2", b"##source=none")
    if "gzip" in pack:
        data = bgzip(data, tmp_path / "packed") if pack == "bgzip" else gzip.compress(data)
    assert list(read_variants(write(tmp_path, data))) == ALLELES
    assert capfd.readouterr().err == ""  # htslib would warn of the undefined contig and the undefined AC


def test_a_bcf_is_read_as_its_vcf(tmp_path):
    bcf = tmp_path / "some.bcf"
    contig_1 = VCF.replace("\n1\t", "\nchr1\t")
    info = '##INFO=<ID=AC,Number=A,Type=Integer,Description="">\n##contig'
    path = write(tmp_path, contig_1.replace("##contig", info))
    pysam.bcftools.view("-Ob", "-o", str(bcf), str(path), catch_stdout=False)
    found = [(each.line, each.position, each.ref, each.alt) for each in read_variants(bcf)]
    assert found == [(each.line - 3, each.position, each.ref, each.alt) for each in ALLELES]
    write(tmp_path, bcf.read_bytes()[:-40], "cut.bcf")
    with pytest.raises(GenomeError, match=r"cut\.bcf is truncated"):
        list(read_variants(tmp_path / "cut.bcf"))
    write(tmp_path, gzip.decompress(bcf.read_bytes())[:-3], "cut.bcf")
    with pytest.raises(GenomeError, match=r"cut\.bcf, record 3 cannot be read"):
        list(read_variants(tmp_path / "cut.bcf"))


def test_columns_that_are_not_read_may_be_in_any_encoding(tmp_path):
    text = HEADER.replace("\n", "\n##source=Universit\xe9\n", 1).replace("INFO", "INFO\tFORMAT\tAndr\xe9")
    line = "chr1\t6\trs1\tA\tG\t.\t.\tNAME=\xe9;AC=x\tGT\tno genotype\n"
    found = list(read_variants(write(tmp_path, (text + line).encode("latin-1"))))
    assert found == [Variant(5, "chr1", 5, "rs1", "A", "G")]


def test_a_table_may_be_in_any_encoding(tmp_path):
    text = "\ufeffgene\tchrom\tpos\tref\talt\r\n".encode() + b"\xe9\tchr2\t1\tA\tT\r\n"
    assert list(read_variants(write(tmp_path, text, "some.tsv"))) == [Variant(2, "chr2", 0, ".", "A", "T")]


def test_a_pipe_is_refused_by_that_reason(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(GenomeError, match="a pipe cannot be read twice"):
        read_variants(tmp_path / "pipe")


def test_the_ends_of_a_contig_are_positions(tmp_path):
    found = list(read_variants(write(tmp_path, f"{HEADER}chr1\t0\t.\tN\t]chr2:1]N\t.\t.\t.\n")))
    assert found == [Variant(4, "chr1", -1, ".", "N", "]chr2:1]N")]
    assert next(read_variants(write(tmp_path, f"{LINE}chr1\t0\tN\t.A\n", "some.tsv"))).position == -1


@pytest.mark.parametrize("header", ["chrom\tpos\tref\talt", "#CHROM\tPos\tREF\tAlt"])
def test_a_table_needs_four_columns_only(tmp_path, header):
    rows = list(read_variants(write(tmp_path, f"{header}\tlabel\nchr2\t1\tA\tT\tx\n")))
    assert rows == [Variant(2, "chr2", 0, ".", "A", "T")]


def test_a_table_may_be_separated_by_commas(tmp_path):
    rows = list(read_variants(write(tmp_path, 'label,chrom,pos,ref,alt\n"a, b",chr2,1,A,"T,TA"\n', "some.csv")))
    assert rows == [Variant(2, "chr2", 0, ".", "A", "T"), Variant(2, "chr2", 0, ".", "A", "TA")]


@pytest.mark.parametrize("text", [HEADER, "chrom\tpos\tref\talt\n", "#CHROM\tPOS\tID\tREF\tALT"])
def test_a_file_without_variants_has_none(tmp_path, text):
    assert list(read_variants(write(tmp_path, text))) == []


LINE = "chrom\tpos\tref\talt\n"
BROKEN = {
    "empty": ("", "is empty"),
    "comments only": ("##source=x\n", "has no header line"),
    "no header": ("chr1\t1\tA\tC\n", "line 1: no column chrom, pos, ref, alt.*found chr1, 1, a, c"),
    "other columns": ("chrom\tpos1\tref\talt\n", "line 1: no column pos;"),
    "spaces": (f"{LINE}chr1 1 A C\n", "line 2: 1 columns, at least 4 are needed, by tabs"),
    "commas": ("chrom,pos,ref,alt\nchr1,1,A\n", "line 2: 3 columns, at least 4 are needed, by commas"),
    "position": (f"{LINE}chr1\t1\tA\tC\nchr1\t1e3\tA\tC\n", "line 3: position '1e3'"),
    "other digits": (f"{LINE}chr1\t1\u00b2\tA\tC\n", "line 2: position '1\u00b2'"),
    "5,000 digits": (f"{LINE}chr1\t{'9' * 5000}\tA\tC\n", r"line 2: position '9+'\.\.\. \(5,000 characters\)"),
    "no ref": (f"{LINE}chr1\t1\t-\tC\n", "line 2: .*ref '-'"),
    "dash": (f"{LINE}chr1\t1\tA\t-\n", "line 2: alternative allele '-'.*the base before"),
    "no alt": (f"{LINE}chr1\t1\tA\tC,\n", "line 2: alternative allele ''"),
    "letters": (f"{LINE}chr1\t1\tA\tXYZ\n", "line 2: alternative allele 'XYZ'"),
    "binary": (LINE.encode() + b"\xff\x00\n", "line 2: not text"),
    "escape": (f"{LINE}\x1b]0;chr1\t1\tA\tC\n", r"line 2: chrom '\\x1b\]0;chr1' and id '\.' must be printable"),
    "quoted tab": ('chrom,pos,ref,alt\n"chr1\t9",1,A,C\n', r"line 2: chrom 'chr1\\t9'"),
    "vcf columns": (f"{HEADER}chr1\t5\t.\tA\tC\n", r"line 4: not a line of a VCF.*found 'chr1\\t5\\t\.\\tA\\tC'"),
    "vcf position": (f"{VCF}chr1\t1e3\t.\tA\tC\t.\t.\t.\n", r"line 7: not a line of a VCF.*1e3"),
    "vcf blank line": (f"{VCF}\n", "line 7: not a line of a VCF.*found ''"),
    "vcf digits": (f"{HEADER}chr1\t{'9' * 5000}\t.\tA\tC\t.\t.\t.\n", r"line 4: not a line.*\(5,0.. characters\)"),
    "vcf letters": (f"{VCF}chr1\t9\t.\tA\tXYZ\t.\t.\t.\n", "line 7: alternative allele 'XYZ'"),
    "vcf escape": (f"{HEADER}\x1b]0;chr1\t5\t.\tA\tC\t.\t.\t.\n", r"line 4: chrom '\\x1b"),
    "vcf name": (f"{HEADER}chr1\t5\t".encode() + b"\xff\tA\tC\t.\t.\t.\n", "line 4: CHROM or ID is not UTF-8"),
    "vcf header": ("##fileformat=VCFv4.2\nchr1\t5\t.\tA\tC\t.\t.\t.\n", "htslib cannot read its header"),
    "vcf cut gzip": (gzip.compress(VCF.encode() * 50)[:-30], "is truncated"),
}


@pytest.mark.parametrize(("text", "problem"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_refused_with_its_line(tmp_path, capfd, text, problem):
    path = write(tmp_path, text)
    with pytest.raises(GenomeError, match=problem) as caught:
        list(read_variants(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    assert capfd.readouterr().err == ""


def test_a_damaged_bgzip_file_is_told_as_such(tmp_path, capfd):
    """The damage lies far behind the first block, and closing the file fails a second time."""
    lines = "".join(f"chr1\t{position}\t.\tA\tC\t.\t.\tX={position * 7919}\n" for position in range(1, 20_000))
    data = bytearray(bgzip((HEADER + lines).encode(), tmp_path / "packed"))
    data[len(data) * 2 // 3] ^= 255
    with pytest.raises(GenomeError, match="is damaged"):
        list(read_variants(write(tmp_path, bytes(data))))
    assert capfd.readouterr().err == ""


def test_an_allele_is_judged_in_linear_time():
    start = time.perf_counter()
    assert not _is_other_allele("[A" * 20_000 + " x")
    assert time.perf_counter() - start < 1
    assert _is_other_allele("]chr2:100]A")


def test_the_verbosity_of_htslib_is_given_back(tmp_path):
    before = pysam.get_verbosity()
    next(read_variants(write(tmp_path, VCF)))
    assert pysam.get_verbosity() == before != 0

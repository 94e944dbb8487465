"""Repeat annotation: RepeatMasker's table keeps both strands, and lookups follow the genome."""

import numpy as np
import pytest

from hnet_ntv2.errors import ContigNotFound, GenomeError
from hnet_ntv2.genome import convert_repeatmasker, open_genome, read_repeats

OUT = """   SW   perc perc perc  query     position in query              matching       repeat         position in rep.
score   div. del. ins.  sequence  begin    end          (left)   repeat         class/family begin end  (left) ID

  463   1.3  0.6  1.7   chr1          3        6 (248945953) +  (CCCTAA)n      Simple_repeat     1  463  (0)     1
 3612  11.4 21.5  1.3   chr1          9        9 (248944975) C  TAR1           Satellite/telo (399) 1712  483     2 *
"""


def test_both_strands_are_kept_and_coordinates_become_half_open(tmp_path):
    source, target = tmp_path / "rm.out", tmp_path / "rm.bed"
    source.write_text(OUT)
    assert convert_repeatmasker(source, target) == 2
    assert target.read_text().splitlines() == [
        "chr1\t2\t6\t(CCCTAA)n|Simple_repeat\t463\t+",
        "chr1\t8\t9\tTAR1|Satellite/telo\t3612\t-",
    ]


def test_the_table_of_nhmmer_has_bit_scores(tmp_path):
    source, target = tmp_path / "rm.out", tmp_path / "rm.bed"
    source.write_text(
        OUT.replace("   SW   perc", "  bit   perc").replace("  463 ", " 46.7 ").replace(" 3612 ", " 36.1 ")
    )
    assert convert_repeatmasker(source, target) == 2
    assert [line.split("\t")[4] for line in target.read_text().splitlines()] == ["47", "36"]


HITS = """#seq_name\tfamily_acc\tfamily_name\tbits\te-value\tbias\thmm-st\thmm-en\tstrand\tali-st\tali-en
chr1\tDF000000001.4\tMIR\t24.6\t3.2e-07\t3.5\t10\t80\t+\t3\t6
chr1\tDF000000002.4\tAluY\t304.2\t0\t12.1\t1\t309\t-\t9\t8
"""


def test_hits_of_dfam_keep_both_strands(tmp_path):
    source, target = tmp_path / "hits", tmp_path / "rm.bed"
    source.write_text(HITS)
    assert convert_repeatmasker(source, target) == 2
    assert target.read_text().splitlines() == [
        "chr1\t2\t6\tMIR|DF000000001.4\t25\t+",
        "chr1\t7\t9\tAluY|DF000000002.4\t304\t-",
    ]
    source.write_text(HITS.replace("\t-\t", "\t?\t"))
    with pytest.raises(GenomeError, match="line 3: not a line of Dfam's hits"):
        convert_repeatmasker(source, target)
    source.write_text("# target name  acc  query name  bits\n")
    with pytest.raises(GenomeError, match="line 1: this is HMMER's own table"):
        convert_repeatmasker(source, target)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("(248944975) C", "(248944975) ?", "line 5: not a line"),
        ("        9        9", "        9        8", "line 5: begin 9 and end 8"),
        ("        9        9", "        0        8", "line 5: begin 0"),
        ("        9        9", "      one        9", "line 5: begin 'one'"),
        ("        9        9", "        9      1_0", "line 5: begin '9' and end '1_0'"),
        (" 3612  11.4", "  abc  11.4", "line 5: the score 'abc'"),
        (OUT[OUT.index("  463") :], "", "no repeats"),
    ],
)
def test_a_table_that_is_none_is_refused_and_nothing_is_written(tmp_path, old, new, problem):
    source, target = tmp_path / "rm.out", tmp_path / "rm.bed"
    assert old in OUT
    source.write_text(OUT.replace(old, new))
    with pytest.raises(GenomeError, match=problem):
        convert_repeatmasker(source, target)
    assert list(tmp_path.iterdir()) == [source]


@pytest.fixture
def genome(tmp_path):
    (tmp_path / "genome.fa").write_bytes(b">chr1\nACGTACGTAC\n>chr2\nACGTA\n")
    return open_genome(tmp_path / "genome.fa", tmp_path / "cache")


def test_repeats_are_looked_up_by_position_in_the_genome(tmp_path, genome):
    bed = tmp_path / "repeats.bed"
    bed.write_text("2\t1\t3\tL1\nchr1\t8\t10\tAlu\nchr1\t2\t4\tAlu\nchr9\t0\t5\tL2\n")
    repeats = read_repeats(bed, genome)
    assert np.flatnonzero(repeats.mask(0, 15)).tolist() == [2, 3, 8, 9, 11, 12]


def test_a_file_for_another_genome_is_refused(tmp_path, genome):
    bed = tmp_path / "repeats.bed"
    bed.write_text("IV\t1\t3\n")
    with pytest.raises(ContigNotFound, match=r"none of its contigs \(IV\).*chr1"):
        read_repeats(bed, genome)

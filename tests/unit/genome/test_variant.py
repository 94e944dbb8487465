"""Variants: what cannot be scored, what does not fit the genome, and one form however a change is spelled."""

import random

import pysam.bcftools
import pytest

from hnet_ntv2.genome import Variant, VariantChecker, decode, open_genome, read_variants

HEADER = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def write(tmp_path, text, name="some.vcf"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


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


@pytest.mark.parametrize(
    ("position", "ref", "alt", "reason"),
    [
        (-1, "A", "C", "position 0 (telomere)"),
        (-1, "N", "]chr2:100]N", "breakend"),
        (13, "A", "C", "position 14 (telomere)"),
        (13, "N", "N[chr2:100[", "breakend"),
        (900, "N", "<DEL>", "symbolic allele <DEL>"),
        (5, "N", "<DEL>", "symbolic allele <DEL>"),
        (5, "T", "*", "allele *"),
        (5, "T", ".", "no alternative allele"),
        (5, "N", "C", "allele with N"),
        (5, "R", "C", "allele with N"),
        (4, "GA", "G", "where the genome has N"),  # M in the file: an ambiguity code
        (5, "A", "C", None),
    ],
)
def test_what_says_nothing_of_the_assembly_is_skipped_with_its_reason(tmp_path, position, ref, alt, reason):
    checker = VariantChecker(open_genome(write(tmp_path, ">chr1\nNNNNMACGTacgt\n", "genome.fa"), tmp_path / "cache"))
    variant = Variant(1, "chr1", position, ".", ref, alt)
    assert checker.problem(variant) is None
    found = checker.skip_reason(variant)
    assert found is None if reason is None else reason in found


def test_a_wrong_base_beside_n_is_still_a_wrong_base(tmp_path):
    checker = VariantChecker(open_genome(write(tmp_path, ">chr1\nNNNNMACGTacgt\n", "genome.fa"), tmp_path / "cache"))
    assert "the genome has NA" in checker.problem(Variant(1, "chr1", 4, ".", "GT", "G"))
    assert "past the contig's end" in checker.problem(Variant(1, "chr1", 14, ".", "A", "G"))


def _repetitive(generator: random.Random, length: int) -> str:
    """Sequence of short tandem repeats and single bases, where indels can be moved."""
    text = ""
    while len(text) < length:
        text += "".join(generator.choices("ACGT", k=generator.randint(1, 4))) * generator.choice([1, 1, 3, 8])
    return text[:length]


def _random_alleles(generator: random.Random, contig: str) -> tuple[int, str, str]:
    """Any spelling: alleles with bases in front and behind that they share."""
    start = generator.randrange(len(contig) - 1)
    end = min(start + generator.randint(1, 12), len(contig))
    ref = contig[start:end]
    cut = generator.randrange(len(ref))
    inserted = generator.choice(
        ["", contig[start:end], "".join(generator.choices("ACGT", k=2)), contig[max(start - 3, 0) : start]]
    )
    alt = ref[:cut] + inserted + ref[min(cut + generator.randint(0, 4), len(ref)) :]
    return (start, ref, alt) if alt and alt != ref else _random_alleles(generator, contig)


def _with_base_in_front(contig: str, start: int, deleted: str, inserted: str) -> tuple[int, str, str]:
    """As VCF writes it: no empty alleles, the base behind at the very start of a contig."""
    if deleted and inserted:
        return start, deleted, inserted
    if start == 0:
        behind = contig[len(deleted)]
        return 0, deleted + behind, inserted + behind
    return start - 1, contig[start - 1] + deleted, contig[start - 1] + inserted


def test_alleles_are_normalised_as_bcftools_norm_does(tmp_path):
    generator = random.Random(5)
    contig = _repetitive(generator, 400)
    fasta = write(tmp_path, f">c\n{contig}\n", "genome.fa")
    alleles = [_random_alleles(generator, contig) for _ in range(600)]
    lines = [f"c\t{start + 1}\t{index}\t{ref}\t{alt}\t.\t.\t.\n" for index, (start, ref, alt) in enumerate(alleles)]
    vcf = write(tmp_path, f"##fileformat=VCFv4.2\n##contig=<ID=c,length=400>\n{HEADER}{''.join(lines)}")
    normalised = tmp_path / "normalised.vcf"
    pysam.bcftools.norm("-f", str(fasta), "-o", str(normalised), str(vcf), catch_stdout=False)
    expected = {int(each.name): (each.position, each.ref, each.alt) for each in read_variants(normalised)}
    checker = VariantChecker(open_genome(fasta, tmp_path / "cache"))
    moved = 0
    for variant in read_variants(vcf):
        change = checker.change(variant)
        deleted, inserted = decode(change.deleted).decode(), decode(change.inserted).decode()
        assert _with_base_in_front(contig, change.start, deleted, inserted) == expected[int(variant.name)]
        moved += change.start < variant.position
        haplotype = contig[: variant.position] + variant.alt + contig[variant.position + len(variant.ref) :]
        assert contig[: change.start] + inserted + contig[change.end :] == haplotype
        turn = change.slack % max(len(inserted), 1)
        last = change.start + change.slack
        assert contig[:last] + inserted[turn:] + inserted[:turn] + contig[last + len(deleted) :] == haplotype
    assert moved > 50


def test_an_indel_moves_through_a_long_repeat(tmp_path):
    """Ten thousand bases are more than are looked at at once."""
    contig = "G" + "AC" * 5000 + "T"
    checker = VariantChecker(open_genome(write(tmp_path, f">c\n{contig}\n", "genome.fa"), tmp_path / "cache"))
    change = checker.change(Variant(1, "c", 9000, ".", contig[9000:9003], contig[9000]))
    assert (change.start, decode(change.deleted), change.slack) == (1, b"AC", 9998)


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

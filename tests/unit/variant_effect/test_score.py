"""Scores equal a direct computation, turn their sign when alleles are exchanged, and do not depend on the strand."""

import math

import pytest
import torch

from hnet_ntv2.genome import Variant, open_genome
from hnet_ntv2.variant_effect import ScoreSettings, score_variants
from tests.builders import ids, lively_model, random_letters

SETTINGS = ScoreSettings(window=80, near=10)
CONTIG = random_letters(200, 11)
COMPLEMENT = str.maketrans("ACGT", "TGCA")


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture
def genome_of(tmp_path):
    def make(text: str):
        path = tmp_path / f"{abs(hash(text))}.fa"
        path.write_text(f">c\n{text}\n")
        return open_genome(path, tmp_path / "cache")

    return make


def other(letter: str, step: int = 1) -> str:
    return "ACGT"[("ACGT".index(letter) + step) % 4]


def variant(position: int, length: int, alt: str, contig: str = CONTIG) -> Variant:
    return Variant(1, "c", position, ".", contig[position : position + length], alt)


def variants() -> list[Variant]:
    return [
        variant(100, 1, other(CONTIG[100])),
        variant(100, 1, other(CONTIG[100], 2)),
        variant(0, 1, other(CONTIG[0])),
        variant(199, 1, other(CONTIG[199])),
        variant(60, 3, CONTIG[60] + other(CONTIG[61]) + CONTIG[62]),
        variant(60, 2, other(CONTIG[60]) + other(CONTIG[61])),
        variant(150, 1, CONTIG[150] + "ACGTT"),
        variant(30, 7, CONTIG[30]),
    ]


def exchanged(each: Variant) -> tuple[str, Variant]:
    """The genome that has the alternative, and the way back."""
    end = each.position + len(each.ref)
    return CONTIG[: each.position] + each.alt + CONTIG[end:], Variant(1, "c", each.position, ".", each.alt, each.ref)


def mirrored(each: Variant) -> Variant:
    position = len(CONTIG) - each.position - len(each.ref)
    return Variant(1, "c", position, ".", *(allele.translate(COMPLEMENT)[::-1] for allele in (each.ref, each.alt)))


def test_log_odds_are_what_the_model_says_of_a_masked_base(model, genome_of):
    """k is 4 here: two spans, one base before and two behind, and the other way round; window 100 - 39 to 100 + 40."""
    each = variant(100, 1, other(CONTIG[100]))
    expected = []
    for first in (99, 98):
        row = CONTIG[61:first] + "MMMM" + CONTIG[first + 4 : 140]
        with torch.no_grad():
            logits = model(ids(row), strands="both").logits[0, 100 - 61, 7:11].log_softmax(-1)
        expected.append(float(logits["ACGT".index(each.alt)] - logits["ACGT".index(each.ref)]))
    score = score_variants(model, genome_of(CONTIG), [each], SETTINGS)[0]
    assert score.log_odds == pytest.approx(sum(expected) / 2, abs=1e-5)
    assert abs(score.log_odds) > 1e-3


def test_delta_and_distances_are_what_the_model_says_of_both_windows(model, genome_of):
    assert (CONTIG[150], CONTIG[151]) == ("A", "C")  # the insertion has no other place
    each = variant(150, 1, CONTIG[150] + "ACGTT")  # five bases in front of base 151; flanks (80 - 5) / 2 = 37
    sums, means = [], []
    for allele in ("", "ACGTT"):
        row = CONTIG[114:151] + allele + CONTIG[151:188]
        with torch.no_grad():
            log_probs = model(ids(row), strands="both").logits[0, :, 7:11].log_softmax(-1)
            vectors = model.model(ids(row), strands="both").last_hidden_state[0]
        near = range(27, 37 + len(allele) + 10)
        sums.append(sum(float(log_probs[i, "ACGT".index(row[i])]) for i in near))
        means.append(vectors[list(near)].double().mean(0))
    score = score_variants(model, genome_of(CONTIG), [each], SETTINGS)[0]
    assert score.log_odds is None
    assert score.delta_log_likelihood == pytest.approx(sums[1] - sums[0], abs=1e-4)
    assert score.l2_distance == pytest.approx(float((means[1] - means[0]).norm()), abs=1e-5)
    cosine = torch.nn.functional.cosine_similarity(*means, dim=0)
    assert score.cosine_distance == pytest.approx(1 - float(cosine), abs=1e-6)


def test_exchanging_the_alleles_turns_the_sign(model, genome_of):
    here = score_variants(model, genome_of(CONTIG), variants(), SETTINGS)
    for each, score in zip(variants(), here, strict=True):
        changed, back = exchanged(each)
        other_way = score_variants(model, genome_of(changed), [back], SETTINGS)[0]
        assert (score.log_odds is None) == (other_way.log_odds is None)
        if score.log_odds is not None:
            assert score.log_odds == pytest.approx(-other_way.log_odds, abs=1e-5)
        assert score.delta_log_likelihood == pytest.approx(-other_way.delta_log_likelihood, abs=1e-4)
        assert score.l2_distance == pytest.approx(other_way.l2_distance, abs=1e-5)
    assert [score.log_odds is None for score in here] == [False] * 5 + [True] * 3


def test_scores_do_not_depend_on_the_strand(model, genome_of):
    here = score_variants(model, genome_of(CONTIG), variants(), SETTINGS)
    reverse = genome_of(CONTIG.translate(COMPLEMENT)[::-1])
    there = score_variants(model, reverse, [mirrored(each) for each in variants()], SETTINGS)
    for one, other_strand in zip(here, there, strict=True):
        for name, value in one._asdict().items():
            assert getattr(other_strand, name) == pytest.approx(value, abs=1e-4), name
    forward = ScoreSettings(window=80, near=10, strands="forward")
    assert abs(score_variants(model, genome_of(CONTIG), variants()[:1], forward)[0].log_odds - here[0].log_odds) > 1e-4


def test_scores_do_not_depend_on_their_company(model, genome_of):
    genome = genome_of(CONTIG)
    together = score_variants(model, genome, variants(), SETTINGS)
    for each, score in zip(variants(), together, strict=True):
        alone = score_variants(model, genome, [each], ScoreSettings(window=80, near=10, batch_bases=1))[0]
        assert [*alone] == pytest.approx([*score], abs=1e-4)


def test_what_is_not_scored_keeps_its_place(model, genome_of):
    listed = [variant(5, 1, "<DEL>"), variant(100, 1, other(CONTIG[100])), variant(20, 50, CONTIG[20])]
    found = score_variants(model, genome_of(CONTIG), listed, SETTINGS)
    assert found[0] == "symbolic allele <DEL>"
    assert math.isfinite(found[1].log_odds)
    assert found[2] == "allele longer than half of the window (80)"

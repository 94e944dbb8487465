"""Each chunker does what its name says, and what is forced holds for all of them."""

import json
import math

import pytest
import torch

from hnet_ntv2.chunkers import (
    BranchingEntropy,
    PeakRouter,
    Ruler,
    ScorePeaks,
    greatest_neighbour,
    hash_bases,
    hash_positions,
)
from hnet_ntv2.chunking import ChunkLimits
from hnet_ntv2.configuration_hnet_ntv2 import HNetNTV2Config
from hnet_ntv2.conversion.calibrate import calibrate_routers
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.kmers import reverse_complement
from hnet_ntv2.levels import BoundaryReason, final_boundaries
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from tests.builders import ids, level_of, lively_model, random_dna, random_letters, tiny_model

CHUNKERS = ("learned", "peak", "ruler", "grid", "minimizer", "entropy", "shuffled", "none")


def free_level(length: int, batch: int = 1, **fields):
    """A level on which only the row start is forced."""
    is_valid = torch.ones(batch, length, dtype=torch.bool)
    forced = torch.zeros(batch, length, dtype=torch.bool)
    forced[:, 0] = True
    reason = torch.where(forced, BoundaryReason.ROW_START.value, BoundaryReason.ROUTER.value)
    return level_of(is_valid, forced, reason)._replace(**fields)


def cuts(chunking) -> list[int]:
    return chunking.is_boundary[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize("neighbours", [2, 3, 5])
def test_greatest_neighbour_is_that_of_the_definition(neighbours):
    torch.manual_seed(0)
    score, level = torch.rand(2, 40), free_level(40, batch=2)
    found = greatest_neighbour(score, level, neighbours)
    for row in range(2):
        for position in range(1, 40):
            first = position - (neighbours - 1) // 2
            around = [each for each in range(first, first + neighbours) if 0 <= each < 40 and each != position]
            expected = max(1e4 if each == 0 else float(score[row, each]) for each in around) if around else -1e4
            assert float(found[row, position]) == pytest.approx(expected)


@pytest.mark.parametrize("target", [1 / 3, 1 / 2])
def test_a_peak_router_cuts_at_peaks_and_holds_its_ratio_on_any_scores(target):
    torch.manual_seed(1)
    router, level = PeakRouter(8, ChunkLimits(), target), free_level(6000)
    score = torch.rand(1, 5999) * 0.1  # a router that is sure of nothing
    chunking = router.decide(score, level)
    whole = torch.cat([torch.ones(1, 1), score], dim=1)
    expected = whole > greatest_neighbour(whole, level, router.neighbours)
    assert torch.equal(chunking.is_boundary[:, 1:], expected[:, 1:])
    assert float(chunking.achieved_ratio) == pytest.approx(target, rel=0.03)


def test_a_peak_router_gets_a_gradient_from_decisions():
    router, level = PeakRouter(8, ChunkLimits(), 0.5), free_level(30, hidden=torch.randn(1, 30, 8))
    router(level).probability.sum().backward()
    assert router.query.weight.grad is not None
    assert router.query.weight.grad.abs().sum() > 0


def test_a_ruler_cuts_at_even_distances():
    chunking = Ruler(ChunkLimits(), 0.3)(free_level(101))
    gaps = torch.tensor(cuts(chunking)).diff()
    assert set(gaps.tolist()) <= {3, 4}
    assert len(gaps) == 30


@pytest.mark.parametrize("target", [0.25, 0.3, 0.5])
def test_a_ruler_counts_anew_from_a_forced_boundary_and_puts_none_beside_it(target):
    length, forced = 60, (0, 23, 24, 41)
    level = free_level(length)
    for at in forced:
        level.forced_boundary[0, at] = True
        level.forced_reason[0, at] = BoundaryReason.MASK.value
    expected = []
    for first, end in zip(forced, (*forced[1:], length), strict=True):
        wanted = [first + n for n in range(1, length) if math.floor(n * target) > math.floor((n - 1) * target)]
        # The neighbourhood of a peak reaches half its size to the right.
        last = end - round(1 / target) // 2 if end < length else length
        expected += [first, *(at for at in wanted if at < end and at < last)]
    assert cuts(Ruler(ChunkLimits(), target)(level)) == expected


def test_a_minimizer_cuts_copies_alike_wherever_they_stand():
    generator = torch.Generator().manual_seed(2)
    part = random_dna(60, generator)
    bases = torch.cat([part, random_dna(17, generator), part], dim=1)
    chunking = ScorePeaks(ChunkLimits(), 1 / 3)(free_level(137, score=hash_bases(bases)))
    found = torch.tensor(cuts(chunking))
    first, second = found[(found > 3) & (found < 54)], found[(found > 80) & (found < 131)] - 77
    assert torch.equal(first, second)
    assert float(chunking.achieved_ratio) == pytest.approx(1 / 3, abs=0.06)


def branching_entropy(texts: list[str], k: int) -> BranchingEntropy:
    module = BranchingEntropy(k)
    module.count([ids(text) for text in texts])
    return module


def entropy_behind(kmer: str, texts: list[str]) -> float:
    """Of the base behind a k-mer on both strands, from the definition."""
    pair = dict(zip("ACGT", "TGCA", strict=True))
    counts = dict.fromkeys("ACGT", 0.5)
    for text in texts:
        for strand in (text, "".join(pair.get(letter, letter) for letter in reversed(text))):
            for start in range(len(strand) - len(kmer)):
                letter = strand[start + len(kmer)]
                if strand[start:].startswith(kmer) and letter in counts:
                    counts[letter] += 1
    total = sum(counts.values())
    return -sum(count / total * math.log2(count / total) for count in counts.values())


def test_branching_entropy_is_that_of_its_definition():
    k, texts = 2, [random_letters(60, seed, "AACGTTTN") for seed in range(5)]
    module = branching_entropy(texts, k)
    text = random_letters(40, 9, "ACGTTN")
    found = module(ids(text))[0].tolist()
    pair = dict(zip("ACGT", "TGCA", strict=True))
    for at in range(len(text)):
        around = text[max(at - k - 1, 0) : at + k + 1]
        if len(around) < 2 * k + 2 or "N" in around:
            assert found[at] == 0
            continue
        forward = entropy_behind(text[at - k : at], texts) - entropy_behind(text[at - k - 1 : at - 1], texts)
        # Given the k bases behind it: read on the other strand.
        before = [
            entropy_behind("".join(pair[letter] for letter in reversed(text[start : start + k])), texts)
            for start in (at, at + 1)
        ]
        assert found[at] == pytest.approx(forward + before[0] - before[1], abs=1e-5)


def test_branching_entropy_without_counts_is_refused():
    with pytest.raises(ConfigError, match="has counted no k-mers"):
        tiny_model(chunker="entropy").model.chunk(ids("ACGT"))


def test_branching_entropy_cuts_both_strands_between_the_same_bases():
    texts = [random_letters(300, seed) for seed in range(8)]
    module = branching_entropy(texts, 3)
    text = ids(random_letters(80, 99))
    other = reverse_complement(text, torch.ones_like(text, dtype=torch.bool))
    # The junction in front of base i lies in front of base n - i of the other strand.
    torch.testing.assert_close(module(text)[0, 1:], module(other)[0, 1:].flip(0))


def test_branching_entropy_rises_where_words_end():
    words = ["ACGTTGCA", "GGATCCTTA", "TTGACCA", "CATCATGG"]
    generator = torch.Generator().manual_seed(4)
    order = torch.randint(0, len(words), (400,), generator=generator).tolist()
    text = "".join(words[number] for number in order)
    starts = torch.tensor([len(words[number]) for number in order]).cumsum(0)[:-1]
    model = tiny_model(chunker="entropy", kmer_size=6)
    model.model.branching.count([ids(text)])
    is_start = torch.zeros(len(text), dtype=torch.bool)
    is_start[starts] = True
    cut = final_boundaries(model.model.chunk(ids(text)))[0]
    assert (cut & is_start).sum() > 0.8 * is_start.sum()
    assert (cut & is_start).sum() > 0.7 * cut.sum()


def test_calibration_counts_the_text_where_there_is_more_of_it():
    few, many = ids(random_letters(50, 1)), ids(random_letters(5_000, 2))
    for text, counted in ((None, few), (many, many)):
        model = tiny_model(chunker="entropy")
        calibrate_routers(model.model, [few], text)
        expected = BranchingEntropy(model.config.kmer_size)
        expected.count([counted])
        assert torch.equal(model.model.branching.behind, expected.behind)


def test_branching_entropy_is_saved_with_the_model(tmp_path):
    model = tiny_model(chunker="entropy")
    text = ids(random_letters(400, 5))
    model.model.branching.count([text])
    model.save_pretrained(tmp_path)
    again = HNetNTV2ForMaskedLM.from_pretrained(tmp_path)
    assert model.model.branching.behind.std() > 0
    assert torch.equal(model.model.branching.behind, again.model.branching.behind)
    assert torch.equal(model.eval()(text).logits, again.eval()(text).logits)


def test_shuffled_chunks_are_spaced_as_a_minimizers_and_know_nothing_of_the_bases():
    rows = random_dna(6000, torch.Generator().manual_seed(3), batch=2)
    level = free_level(6000, batch=2)
    places, minima = (
        ScorePeaks(ChunkLimits(), 1 / 3)(level._replace(score=scored(rows))).is_boundary
        for scored in (hash_positions, hash_bases)
    )
    assert torch.equal(places[0], places[1])
    assert not torch.equal(minima[0], minima[1])
    gaps = [torch.bincount(each[0].nonzero()[:, 0].diff(), minlength=20).double() / 2000 for each in (places, minima)]
    assert float(places.double().mean()) == pytest.approx(1 / 3, rel=0.03)
    torch.testing.assert_close(gaps[0], gaps[1], atol=0.03, rtol=0)


def test_shuffled_chunks_depend_on_the_row_alone():
    model = lively_model(chunker="shuffled")
    rows = random_dna(60, torch.Generator().manual_seed(3), batch=3)
    alone = [model.model.chunk(rows[:1, :40])[-1].is_boundary for _ in range(2)]
    padded = torch.cat([rows[:, :40], torch.full((3, 20), model.config.pad_token_id)], dim=1)
    together = model.model.chunk(padded, padded != model.config.pad_token_id)[-1].is_boundary
    assert torch.equal(*alone)
    assert torch.equal(alone[0][0].nonzero(), together[0].nonzero())


def test_without_a_chunker_the_cap_makes_the_chunks():
    model = tiny_model(chunker="none", guard_stage1=(0.0, 1.0), guard_stage2=(0.0, 1.0), max_chunk_length=9)
    boundaries = final_boundaries(model.model.chunk(random_dna(100, torch.Generator().manual_seed(3))))
    assert boundaries[0].nonzero()[:, 0].tolist() == list(range(0, 100, 9))


def test_the_grid_chunker_is_the_forced_grid():
    bases = random_dna(90, torch.Generator().manual_seed(4), batch=2)
    bases[:, 30:33] = 3
    grid, learned = tiny_model(chunker="grid"), tiny_model()
    learned.load_state_dict(grid.state_dict(), strict=False)
    for strands in ("forward", "both"):
        expected = learned(bases, on_grid=True, strands=strands).logits
        assert torch.equal(grid(bases, strands=strands).logits, expected)


@pytest.mark.parametrize("chunker", CHUNKERS)
def test_every_chunker_trains_saves_and_keeps_what_is_forced(chunker, tmp_path):
    model = tiny_model(chunker=chunker).train()
    bases = random_dna(120, torch.Generator().manual_seed(5), batch=2)
    calibrate_routers(model.model, [bases])
    labels = torch.full_like(bases, -100)
    labels[:, 40:50] = bases[:, 40:50]
    masked = bases.clone()
    masked[:, 40:50] = 3
    output = model(masked, labels=labels)
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    boundaries = final_boundaries(output.stages)
    assert boundaries[:, [0, 40, 50]].all()  # row start, the masked run and its end
    longest = torch.cat([boundaries[0].nonzero()[:, 0], torch.tensor([120])]).diff().max()
    assert int(longest) <= model.config.max_chunk_length
    model.eval().save_pretrained(tmp_path)
    loaded = HNetNTV2ForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(masked).logits, model(masked).logits)


def test_an_unknown_chunker_is_refused():
    with pytest.raises(Exception, match="chunker='clever'"):
        HNetNTV2Config(chunker="clever")


def test_a_config_from_before_there_was_a_choice_means_the_threshold(tmp_path):
    """So that models that were saved then are what they were."""
    assert HNetNTV2Config().chunker == "peak"
    HNetNTV2Config().save_pretrained(tmp_path)
    assert HNetNTV2Config.from_pretrained(tmp_path).chunker == "peak"
    path = tmp_path / "config.json"
    settings = json.loads(path.read_text())
    del settings["chunker"]
    path.write_text(json.dumps(settings))
    assert HNetNTV2Config.from_pretrained(tmp_path).chunker == "learned"


def test_a_control_without_trunk_blocks_runs_and_is_saved(tmp_path):
    model = tiny_model(n_main_layer=0).eval()
    bases = random_dna(90, torch.Generator().manual_seed(3))
    model.save_pretrained(tmp_path)
    loaded = HNetNTV2ForMaskedLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(bases).logits, model(bases).logits)
        states = model.model(bases, output_hidden_states=True, strands="forward").hidden_states
    assert [name for name in states if name.startswith("trunk")] == ["trunk_0"]

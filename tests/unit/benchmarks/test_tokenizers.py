"""The positive control of the chunkers: readable languages, trials that are kept, tables that tell the truth."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.tokenizers import control
from benchmarks.tokenizers.__main__ import SIZES, main
from benchmarks.tokenizers.control import Setup, Trial, build, closed_skips, perform
from benchmarks.tokenizers.languages import LANGUAGES, LENGTH, TEST_SEED, mask_chunks, replace_masks, sample
from benchmarks.tokenizers.report import Arm, headroom, less, read_runs, render
from hnet_ntv2.errors import ConfigError
from hnet_ntv2.genome import open_genome, read_split_intervals
from hnet_ntv2.levels import final_boundaries
from hnet_ntv2.resources import bundled_genome, bundled_split
from hnet_ntv2.vocabulary import BASE_BITS, FIRST_BASE, MASK_ID
from tests.builders import free_level

TINY = Setup(width=32, blocks=1, rows=4, steps=2, test_batches=2)


@pytest.mark.parametrize("language", LANGUAGES)
def test_masked_spans_were_said_before_and_far_away(language):
    """What a mask hides stands in the first part of the row, so that the trunk can find it, but no local layer."""
    known = total = 0
    for seed in range(20):
        rows = sample(language, 8, seed)
        masked = rows.labels != -100
        assert torch.equal(masked, rows.input_ids == MASK_ID)
        for labels, input_ids in zip(rows.labels.numpy(), rows.input_ids.numpy(), strict=True):
            bases = np.where(labels == -100, input_ids, labels)
            at = np.flatnonzero(labels != -100)
            for span in np.split(at, np.flatnonzero(np.diff(at) > 1) + 1):
                hidden = bases[span].tobytes()
                earlier = bases[: span[0] - 32].tobytes()
                known += hidden in earlier
                total += 1
    # One base in a hundred is noise; both copies of six bases are clean in 88 % of all cases.
    assert known / total > 0.75


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_same_seed_gives_the_same_rows(language):
    first, again, other = sample(language, 4, 1), sample(language, 4, 1), sample(language, 4, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first.input_ids, other.input_ids)
    assert first.input_ids.shape == (4, LENGTH)
    assert int(first.input_ids[first.labels == -100].min()) >= FIRST_BASE


@pytest.mark.parametrize("language", ["copy", "human_copy"])
def test_boundaries_of_copies_agree_in_both_copies(language):
    rows = sample(language, 64, 3)
    for truth, bases in zip(rows.truth.numpy(), rows.bases.numpy(), strict=True):
        # Low complexity can look like a copy at other gaps, too; the right one is the best.
        gap = max(range(1, 32), key=lambda gap: np.mean(bases[:80] == bases[80 + gap : 160 + gap]))
        assert np.mean(bases[:80] == bases[80 + gap : 160 + gap]) > 0.9
        # Places near an end look at what lies outside the copy.
        assert np.array_equal(truth[10:70], truth[90 + gap : 150 + gap])


def test_human_copies_are_human_dna_and_measured_on_other_rows():
    """16 bases of a row are found in the bundled sequence, of training and of test rows in different intervals."""
    genome = open_genome(bundled_genome())
    found = {}
    for split, seed in (("train", 1), ("valid", TEST_SEED)):
        intervals = [each for each in read_split_intervals(bundled_split(), genome.contigs) if each.split == split]
        pieces = [genome.gather(np.array([genome.locate(each)]), len(each)).tobytes() for each in intervals]
        text = b"|".join(pieces)
        text = bytes(np.frombuffer(text, np.uint8) & BASE_BITS)
        rows = sample("human_copy", 24, seed, noise=0.0).bases.numpy().astype(np.uint8)
        found[split] = np.mean([row[:80].tobytes() in text for row in rows])
    assert found == {"train": 1.0, "valid": 1.0}


def test_noise_is_the_share_of_random_bases():
    """Two bases that were drawn anew for each copy agree in a quarter of all cases."""
    for noise, differ in ((0.0, 0.0), (0.1, 0.75 * (1 - 0.9**2))):
        rows = sample("copy", 200, 3, noise).bases.numpy()
        gaps = [min(np.mean(row[:80] != row[80 + gap : 160 + gap]) for gap in range(1, 32)) for row in rows]
        assert np.mean(gaps) == pytest.approx(differ, abs=0.02)


@pytest.mark.parametrize("language", LANGUAGES)
def test_own_masks_are_whole_chunks_that_were_said_before(language):
    rows = sample(language, 16, 6)
    starts = torch.rand(rows.input_ids.shape, generator=torch.Generator().manual_seed(1)) < 0.15
    starts[:, 0] = True
    masked = mask_chunks(rows, starts, 7)
    is_target = masked.labels != -100
    assert torch.equal(masked.bases, rows.bases)
    assert torch.equal(is_target, masked.input_ids == MASK_ID)
    assert rows.is_repeated[is_target].all()
    chunk = starts.long().cumsum(1)
    for row in range(16):
        whole = torch.isin(chunk[row], chunk[row][is_target[row]])
        assert torch.equal(whole, is_target[row])
        numbers = chunk[row][is_target[row]].unique()
        assert (numbers.diff() > 1).all()
    assert 0.01 < is_target.float().mean() < 0.2


def test_replaced_spans_show_random_bases_and_keep_their_labels():
    rows = sample("words", 64, 1)
    shown = replace_masks(rows, 0.5, 2)
    was_masked, is_masked = rows.input_ids == MASK_ID, shown.input_ids == MASK_ID
    assert torch.equal(shown.labels, rows.labels)
    assert torch.equal(shown.input_ids[~was_masked], rows.input_ids[~was_masked])
    share = 1 - is_masked.sum() / was_masked.sum()
    assert 0.35 < share < 0.65
    # Whole spans: the state changes only where a span begins or ends.
    inside = was_masked[:, 1:] & was_masked[:, :-1]
    assert torch.equal(is_masked[:, 1:][inside], is_masked[:, :-1][inside])
    same = (shown.input_ids == rows.labels)[was_masked & ~is_masked].float().mean()
    assert 0.15 < same < 0.35
    assert torch.equal(replace_masks(rows, 0.0, 2).input_ids, rows.input_ids)


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_oracle_cuts_where_the_language_says(language):
    trial = Trial(language, "oracle", 1, {})
    model = build(trial, TINY).eval()
    rows = sample(language, 8, 4)
    for stage in model.model.stages:
        stage.router.truth = rows.truth
    cuts = final_boundaries(model.model.chunk(rows.bases))
    assert (cuts & rows.truth).sum() >= 0.99 * rows.truth.sum()
    assert cuts.sum() <= 1.15 * rows.truth.sum()  # the cap adds some in the longest words


def test_a_trial_is_trained_measured_and_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setitem(SIZES, "hour", SIZES["hour"]._replace(setup=TINY))
    arguments = [str(tmp_path), "--run", "copy:ruler:1", "--run", "copy:learned:2:window=8"]
    main(arguments)
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert sorted(files) == ["copy-learned-2-window=8-2.json", "copy-ruler-1-2.json"]
    main(arguments)
    assert files == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    run = json.loads((tmp_path / "copy-ruler-1-2.json").read_text())
    assert 1.5 < run["final"]["bits"] < 3
    assert run["final"]["chunks_per_base"] == pytest.approx(0.15, abs=0.02)
    assert "## copy: masks are whole ideal chunks; local layers see 32 positions; 2 steps" in render(tmp_path)


def test_a_trial_repeats_itself():
    trial = Trial.parse("words:peak:3")
    first, again = (perform(trial, TINY)["final"] for _ in range(2))
    assert first == again


@pytest.mark.parametrize("text", ["copy", "copy:peak:one", "copy:peak:1:window", "copy:peak:1:window=x"])
def test_a_trial_that_cannot_be_read_is_refused(text):
    with pytest.raises(ConfigError, match="is not LANGUAGE:CHUNKER:SEED"):
        Trial.parse(text)


@pytest.mark.parametrize("text", ["prose:peak:1", "copy:pike:1"])
def test_unknown_parts_of_a_trial_are_named(text, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "runs"), "--run", text])
    assert "there is no " in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_every_arm_runs_once_before_any_second_seed():
    trials = SIZES["day"].trials()
    seeds = [trial.seed for trial in trials]
    assert seeds == sorted(seeds)
    assert len(set(map(str, trials))) == len(trials)
    assert {trial.language for trial in trials} == set(LANGUAGES)
    assert [str(trial) for trial in trials] == [str(Trial.parse(str(trial))) for trial in trials]
    # Masks are words where there are words, else whole chunks of the model's own; each with both kinds of local layers.
    changes = {(trial.language in ("words", "spaced"), *trial.changes.items()) for trial in trials}
    assert changes == {
        (True,), (True, ("window", 8)), (False, ("masks", "own")), (False, ("masks", "own"), ("window", 8)),
    }  # fmt: skip


def write_run(folder, chunker, seed, bits, pooling="first", masks="ideal"):
    final = {
        "bits": float(np.mean(bits)), "bits_of_batches": list(bits), "precision": 0.5, "recall": 0.25,
        "chunks_per_base": 0.15, "truth_per_base": 0.14, "cap_share": 0.1,
    }  # fmt: skip
    run = {
        "language": "copy", "chunker": chunker, "pooling": pooling, "seed": seed,
        "changes": {"masks": masks} if masks == "own" else {}, "steps": 10,
        "cpu_seconds": 60.0, "final": final,
    }  # fmt: skip
    (folder / f"{chunker}-{pooling}-{seed}-{masks}.json").write_text(json.dumps(run))


def test_the_share_of_the_headroom_is_read_off_the_table(tmp_path):
    noise = np.random.default_rng(1).normal(0, 0.01, (3, 8))
    for seed in (1, 2, 3):
        write_run(tmp_path, "ruler", seed, 1.8 + noise[seed - 1])
        # As runs of before decision 0025: no other seeds of the ruler, but another arm.
        write_run(tmp_path, "ruler", seed, 1.5 + noise[seed - 1], "mean")
        write_run(tmp_path, "oracle", seed, 1.6 + noise[seed - 1])
        write_run(tmp_path, "peak", seed, 1.65 + noise[seed - 1])
    write_run(tmp_path, "peak", 1, 1.2 + noise[0], masks="own")
    arms = read_runs(tmp_path)["copy", "ideal", 32, 10]
    room = headroom(arms)
    assert room is not None
    assert room.estimate == pytest.approx(0.2)
    peak = less(arms[Arm("peak", "{}")], arms[Arm("ruler", "{}")])
    assert peak is not None
    assert peak.estimate == pytest.approx(-0.15)
    text = render(tmp_path)
    row, own = [line for line in text.splitlines() if line.startswith("| peak")]
    assert "1.2" in own
    assert "| 75 % |" in row
    assert "shows nothing" not in text


def test_a_language_without_headroom_says_so(tmp_path):
    for seed in (1, 2):
        for chunker in ("ruler", "oracle"):
            write_run(tmp_path, chunker, seed, np.full(4, 1.9) + 0.01 * seed)
    text = render(tmp_path)
    assert "shows nothing" in text
    assert "%" not in text.partition("| chunker")[2]


def test_a_folder_without_runs_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        read_runs(tmp_path)


def test_a_budget_spends_its_boundaries_where_scores_are_great():
    """As many as the target over a whole row, but unevenly; peaks make as many in each half."""
    model = build(Trial.parse("copy:budget:1:max_chunk_length=null"), TINY)
    router = model.model.routers[0]
    generator = torch.Generator().manual_seed(1)
    score = torch.rand(4, 191, generator=generator) * torch.linspace(0, 1, 191)
    level = free_level(torch.ones(4, 192, dtype=torch.bool))
    chunking = router.decide(score, level)
    assert float(chunking.is_boundary.float().mean()) == pytest.approx(0.3, abs=0.03)
    halves = chunking.is_boundary.float().view(4, 2, 96).mean((0, 2))
    assert halves[1] > 3 * halves[0]


def test_jitter_moves_boundaries_in_training_alone():
    model = build(Trial.parse("copy:peak:1:jitter=0.5"), TINY)
    bases = sample("copy", 4, 1).bases
    plain = build(Trial.parse("copy:peak:1"), TINY).eval()
    assert torch.equal(*(final_boundaries(each.model.chunk(bases)) for each in (model.eval(), plain)))
    model.train()
    first, again = (final_boundaries(model.model.chunk(bases)) for _ in range(2))
    assert not torch.equal(first, again)


def test_closed_skips_show_the_decoders_chunks_alone():
    """With other vectors of positions, but the same chunks, the output of the upsampler stays."""
    model = build(Trial.parse("copy:ruler:1"), TINY).eval()
    upsampler, chunking = model.model.stages[0].upsampler, model.model.chunk(sample("copy", 2, 1).bases)[0]
    nn.init.eye_(upsampler.skip.weight)  # it starts at zero
    coarse = torch.randn(*chunking.has_chunk.shape, upsampler.skip.in_features)
    for closed in (False, True):
        with closed_skips(model, closed):
            first, other = (
                upsampler(coarse, torch.randn(2, LENGTH, coarse.shape[-1]), chunking, chunking.is_valid)
                for _ in range(2)
            )
        assert torch.equal(first, other) == closed


def test_frozen_routers_stay_as_they_were_drawn(monkeypatch):
    made = []
    monkeypatch.setattr(control, "build", lambda *given: made.append(build(*given)) or made[-1])
    for frozen in ("true", "false"):
        perform(Trial.parse(f"words:peak:3:frozen_routers={frozen}"), TINY)
    drawn = build(Trial.parse("words:peak:3"), TINY)
    for stage in range(2):
        of_frozen, of_moved, as_drawn = (m.model.routers[stage].state_dict() for m in (*made, drawn))
        assert all(torch.equal(of_frozen[name], value) for name, value in as_drawn.items())
        assert not all(torch.equal(of_moved[name], value) for name, value in as_drawn.items())

"""Differences by what windows hold, on made-up runs and on the bundled DNA."""

import json

import numpy as np
import pytest

from benchmarks.learning import classes
from benchmarks.learning.classes import main, windows_in, windows_with_copies
from benchmarks.learning.run import open_place
from hnet_ntv2.data.windows import WindowIndex
from hnet_ntv2.genome import read_split_intervals
from hnet_ntv2.resources import bundled_split
from hnet_ntv2.storage import open_text
from hnet_ntv2.vocabulary import BASE_BITS, FIRST_BASE

RARE_WINDOWS = 8


@pytest.fixture
def place(tmp_path):
    (tmp_path / "setup.json").write_text('{"size": "minutes"}', encoding="utf-8")
    return open_place(tmp_path)


@pytest.fixture
def starts(place) -> np.ndarray:
    """First base, in its contig, of each validation window. The bundled genome has one contig."""
    index: WindowIndex = place.validation_data().window_index("valid")
    return index.fixed(index.evenly_spread(place.setup.windows)).start


def write_bed(path, spans):
    contig = read_split_intervals(bundled_split())[0].contig
    with open_text(path) as file:
        file.writelines(f"{contig}\t{start}\t{end}\n" for start, end in spans)
    return path


def test_a_window_is_in_a_class_from_a_quarter_of_its_bases_on(place, starts, tmp_path):
    enough = [(starts[0] + 100, starts[0] + 292), (starts[3], starts[3] + 100), (starts[3] + 300, starts[3] + 392)]
    too_little = [(starts[1], starts[1] + 191), (starts[5] - 300, starts[5])]
    found = windows_in(place, write_bed(tmp_path / "some.bed", enough + too_little))
    assert np.flatnonzero(found).tolist() == [0, 3]


def test_windows_with_copies_are_those_that_say_enough_twice(place, starts, monkeypatch):
    least = 0.02  # none of the few bundled windows says a twentieth twice
    monkeypatch.setattr(classes, "_LEAST_COPIES", least)
    genome = place.validation_data().genome
    found = windows_with_copies(place)
    for begin, is_found in zip(starts, found, strict=True):
        text = "".join("ACGTN?"[base - FIRST_BASE] for base in genome.gather(begin[None], 768)[0] & BASE_BITS)
        twice = np.zeros(768, bool)
        for at in range(64, 768 - 15):
            if "N" not in text[at : at + 16] and text.find(text[at : at + 16]) <= at - 64:
                twice[at : at + 16] = True
        assert is_found == (twice.mean() >= least)
    assert found.any()
    assert not found.all()


def write_run(work, arm, bits):
    """A run with so many bits in each window, in both views."""
    folder, targets = work / "runs" / arm / "seed1", np.full(len(bits), 50)
    folder.mkdir(parents=True)
    windows = {"is_repeat_rich": np.arange(len(bits)) % 4 == 0, "block": np.arange(len(bits)) // 2}
    for view in ("anchors_off", "anchors_on"):
        nats = bits * targets * np.log(2)
        windows |= {f"{view}/nats": nats, f"{view}/targets": targets, f"{view}/correct": targets}
    np.savez(folder / "windows.npz", **windows)
    summary = {"bits": float(bits.mean()), "accuracy": 1.0, "targets": int(targets.sum()), "windows": len(bits)}
    result = {
        **{"arm": arm, "seed": 1, "description": arm, "steps": 1, "train_bases": 1, "cpu_seconds": 1.0},
        **{"wall_seconds": 1.0, "bases_per_second": 1.0, "strands": "forward", "device": "a CPU", "ratios": None},
        **{"chunk_length": None, "parameters": 1, "curve": [{"step": 0, "cpu_seconds": 0.0, "bits": 2.0}]},
        "validation": {"anchors_off": summary, "anchors_on": summary},
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


def test_the_table_tells_a_class_from_the_others(place, starts, tmp_path, capsys):
    """The second arm is better where the class is, and there only."""
    is_rare = np.arange(len(starts)) < RARE_WINDOWS
    write_run(tmp_path, "first", np.full(len(starts), 1.9))
    write_run(tmp_path, "second", np.where(is_rare, 1.8, 1.9))
    (tmp_path / "source.json").write_text("{}", encoding="utf-8")
    context = dict.fromkeys(("uniform", "composition", "k2", "k6"), 2.0)
    (tmp_path / "context.json").write_text(json.dumps(context), encoding="utf-8")
    rare = write_bed(tmp_path / "rare.bed", [(start, start + 768) for start in starts[:RARE_WINDOWS]])
    common = write_bed(tmp_path / "common.bed", [(start, start + 768) for start in starts[RARE_WINDOWS:]])
    output = tmp_path / "classes.md"
    main([str(tmp_path), "first", "second", f"--bed=rare={rare}", f"--bed=common={common}", f"--output={output}"])
    table = output.read_text(encoding="utf-8")
    assert table == capsys.readouterr().out
    assert f"| second | 1 | rare | {RARE_WINDOWS} | 1.8000 | 1.8000 | -0.1000 [-0.1000, -0.1000]*" in table
    assert "| 1.9000 | 1.9000 | +0.0000 [+0.0000, +0.0000]*" in table.split("common")[-1]
    with pytest.raises(SystemExit):
        main([str(tmp_path), "first", "third", f"--output={output}"])
    assert "no run of third" in capsys.readouterr().err

"""Operations of a training step: more chunks cost more, and the packaged model is counted as it stands."""

import pytest

from benchmarks.learning.arithmetic import main, operations_per_base, render
from benchmarks.learning.dna import Dna
from benchmarks.learning.run import Workplace
from benchmarks.learning.setup import SIZES
from hnet_ntv2.resources import bundled_genome, bundled_split
from tests.builders import finish_packaged_run, lively_model


def test_the_trunk_costs_by_the_chunk(tmp_path):
    place = Workplace(tmp_path, Dna(bundled_genome(), bundled_split()), SIZES["minutes"])
    many, few = (
        operations_per_base(place, lively_model(chunker="ruler", **settings), windows=2, anchors=False)
        for settings in ({}, {"target_ratio_stage2": 0.25, "guard_stage2": [0.125, 0.45]})
    )
    assert 0 < few < many, (few, many)


def test_the_first_arm_is_the_reference():
    table = render({"ruler": [(1e6, 2e6), (3e6, 2e6)], "peak": [(2.2e6, 2e6)]})
    assert "| ruler | 2 | 2.000 (+0.0%) | 2.000 (+0.0%) |" in table
    assert "| peak | 1 | 2.200 (+10.0%) | 2.000 (+0.0%) |" in table


def test_finished_runs_are_counted_and_others_refused(tmp_path, capsys):
    (tmp_path / "setup.json").write_text('{"size": "minutes"}', encoding="utf-8")
    output = tmp_path / "out.md"
    with pytest.raises(SystemExit):
        main([str(tmp_path), "packaged", "--output", str(output)])
    assert "no finished run of packaged" in capsys.readouterr().err
    finish_packaged_run(tmp_path)
    main([str(tmp_path), "packaged", "--windows", "2", "--output", str(output)])
    assert "| packaged | 1 |" in output.read_text(encoding="utf-8")

"""What survives an edit: content-defined cuts do, cuts that count from the row's start do not."""

import json

import pytest
import torch

from benchmarks.learning.edits import EDITS, main, render, survival
from hnet_ntv2.vocabulary import MASK_ID
from tests.builders import finish_packaged_run, lively_model, random_dna


def rows_of(length=400, batch=2):
    clean = random_dna(length, torch.Generator().manual_seed(4), batch)
    is_target = torch.zeros_like(clean, dtype=torch.bool)
    is_target[:, 250:256] = is_target[:, 350:356] = True
    return clean.masked_fill(is_target, MASK_ID), clean.masked_fill(~is_target, -100), clean


def test_every_edit_moves_what_stands_behind_it():
    clean = rows_of()[2]
    for edit in EDITS.values():
        edited = edit.apply(clean)
        assert edited.shape[1] == clean.shape[1] + edit.move
        assert torch.equal(edited[:, 192 + edit.move :], clean[:, 192:])


def test_a_hash_of_the_bases_survives_and_a_ruler_does_not():
    for name, edit in EDITS.items():
        hashed = survival(lively_model(chunker="minimizer").eval(), *rows_of(), edit)
        ruled = survival(lively_model(chunker="ruler").eval(), *rows_of(), edit)
        assert hashed.boundaries == 1, name
        assert ruled.boundaries < 0.3, name
        assert hashed.vectors < ruled.vectors / 10, name


def test_the_table_has_means_and_ranges():
    two = {name: {"boundaries": [0.5, 0.7], "vectors": [0.2, 0.4], "prediction": [0.1, 0.1]} for name in EDITS}
    table = render({"ruler_kept": two})
    assert "| ruler_kept | 2 | 0.600 [0.500, 0.700] | 0.300 [0.200, 0.400] | 0.100 [0.100, 0.100] |" in table


def test_finished_runs_are_measured_and_others_refused(tmp_path, capsys):
    output = tmp_path / "out"
    with pytest.raises(SystemExit):
        main([str(tmp_path), "packaged", "--output", str(output)])
    assert "has no setup.json" in capsys.readouterr().err
    (tmp_path / "setup.json").write_text('{"size": "minutes"}', encoding="utf-8")
    with pytest.raises(SystemExit):
        main([str(tmp_path), "packaged", "--output", str(output)])
    assert "no finished run of packaged" in capsys.readouterr().err
    finish_packaged_run(tmp_path)
    main([str(tmp_path), "packaged", "--windows", "4", "--output", str(output)])
    found = json.loads((output / "edits.json").read_text(encoding="utf-8"))["packaged"]
    for edit in EDITS:
        assert found[edit]["boundaries"][0] > 0.98
        assert found[edit]["vectors"][0] < 0.05
        assert found[edit]["prediction"][0] < 0.05

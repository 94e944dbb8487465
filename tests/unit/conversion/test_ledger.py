"""The ledger accounts for everything, and the saved files are held to it."""

import dataclasses
import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file

from hnet_ntv2.conversion import saving
from hnet_ntv2.conversion.graft import Start, config_for, copy_source, graft, sha256_of
from hnet_ntv2.conversion.keys import copied_targets, destination
from hnet_ntv2.conversion.ledger import LEDGER_FILE, Ledger, verify
from hnet_ntv2.conversion.saving import render_card, render_table, save_start
from hnet_ntv2.conversion.source import open_source
from hnet_ntv2.errors import ConfigError, WeightsError
from hnet_ntv2.modeling_hnet_ntv2 import HNetNTV2ForMaskedLM
from tests.unit.conversion.sources import TINY, any_sequence, rewrite_config, rewrite_weights


@pytest.fixture(scope="module")
def start() -> Start:
    settings = {"n_main_layer": 3, "window": 16}
    return graft(open_source(str(TINY)), any_sequence(), settings=settings, layers="0,1,3", seed=1)


@pytest.fixture
def saved(start, tmp_path):
    save_start(start, tmp_path / "start")
    return tmp_path / "start"


def test_every_tensor_is_accounted_for(start):
    ledger, stored = start.ledger, load_file(TINY / "model.safetensors")
    state = start.model.state_dict()
    assert {entry.name for entry in ledger.source_tensors} == set(stored)
    assert {entry.name for entry in ledger.model_tensors} == set(state)
    for entry in ledger.source_tensors:
        assert entry.sha256 == hashlib.sha256(stored[entry.name].numpy().tobytes()).hexdigest()
        assert entry.shape == tuple(stored[entry.name].shape)
        if entry.target is not None:
            assert torch.equal(state[entry.target], stored[entry.name])
    left = {entry.name: entry.reason for entry in ledger.source_tensors if entry.target is None}
    assert left["esm.encoder.layer.2.LayerNorm.weight"] == "block 2 is not among the chosen layers"
    assert all(left.values())
    assert len(left) == 14 + 2 + 1 + 4


def test_kinds_are_what_the_values_say(start):
    state = start.model.state_dict()
    kinds = {entry.name: entry.kind for entry in start.ledger.model_tensors}
    for name, kind in kinds.items():
        if kind == "zero":
            assert not state[name].any(), name
        if kind == "random":
            assert state[name].std() > 0, name
    assert kinds["head.residual.output.weight"] == "zero"
    assert kinds["model.hierarchy.router.beta"] == "calibrated"
    assert kinds["model.hierarchy.router.query.weight"] == "constant"
    assert kinds["model.hierarchy.decoder.blocks.0.mlp_output.weight"] == "random"
    assert kinds["model.hierarchy.main.main.layers.blocks.2.output.dense.weight"] == "copied"
    assert not any("main.main.layers" in name and kind != "copied" for name, kind in kinds.items())


def test_parts_add_up_to_the_model(start):
    totals = {part: counts["total"] for part, counts in start.ledger.parameters_per_part().items()}
    assert totals == start.model.count_parameters()
    assert start.ledger.parameters_per_part()["trunk"].keys() == {"copied", "total"}


def test_json_round_trip_and_reports(start):
    assert Ledger.from_json(start.ledger.to_json()) == start.ledger
    table, card = render_table(start.ledger), render_card(start.ledger)
    for entry in start.ledger.source_tensors:
        assert entry.name in table
    assert "license: cc-by-nc-sa-4.0" in card
    assert "blocks 0, 1, 3 of 4 were kept" in card
    assert [entry["block"] for entry in start.ledger.layers["similarities"]] == [0, 1, 2, 3]
    with pytest.raises(WeightsError, match="not a ledger"):
        Ledger.from_json("{}")


def without(ledger: Ledger, field: str, name: str) -> Ledger:
    return dataclasses.replace(ledger, **{field: tuple(e for e in getattr(ledger, field) if e.name != name)})


def changed(ledger: Ledger, field: str, name: str, **changes) -> Ledger:
    entries = tuple(dataclasses.replace(e, **changes) if e.name == name else e for e in getattr(ledger, field))
    return dataclasses.replace(ledger, **{field: entries})


QUERY = "model.hierarchy.main.main.layers.blocks.0.attention.self.query.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda led: without(led, "source_tensors", "lm_head.bias"), "without an entry: lm_head.bias"),
        (
            lambda led: changed(led, "source_tensors", "lm_head.bias", target=None, reason=""),
            "without a reason: lm_head",
        ),
        (lambda led: changed(led, "model_tensors", QUERY, kind="random", source=None), f"not copied: {QUERY}"),
        (lambda led: without(led, "model_tensors", QUERY), f"not copied: {QUERY}"),
        (lambda led: changed(led, "model_tensors", QUERY, sha256="0"), f"changed on the way: {QUERY}"),
        (lambda led: changed(led, "model_tensors", QUERY, kind="guessed"), f"of an unknown kind: {QUERY}"),
        (lambda led: changed(led, "source_tensors", "lm_head.bias", target=QUERY), f"two places: {QUERY}"),
    ],
)
def test_a_gap_in_the_ledger_is_named(start, change, message):
    copies, names = copied_targets((0, 1, 3), 2), set(load_file(TINY / "model.safetensors"))
    start.ledger.require_complete(copies, names)
    with pytest.raises(WeightsError, match=message):
        change(start.ledger).require_complete(copies, names)


def test_key_table_refuses_what_it_does_not_know():
    with pytest.raises(WeightsError, match=r"esm\.encoder\.layer\.0\.attention\.self\.gate\.weight"):
        destination("esm.encoder.layer.0.attention.self.gate.weight", (0,), 2)


def test_a_tensor_that_does_not_fit_its_place_is_named(start):
    source = open_source(str(TINY))
    model = HNetNTV2ForMaskedLM(config_for(source, {"n_main_layer": 2, "window": 16}))
    with pytest.raises(WeightsError, match=r"esm.encoder.layer.2\..* does not fit .*no such tensor"):
        copy_source(model, source, (0, 1, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"d_model": 128}, "--config says d_model=128, the source model ntv2_tiny has 64"),
        ({"intermediate_size": 160}, "intermediate_size=160, the source model ntv2_tiny has 320"),
        ({"layer_norm_eps": 1e-12}, "layer_norm_eps=1e-12, the source model ntv2_tiny has 1e-05"),
        ({"kmer_size": 6}, "kmer_size=6, the source model ntv2_tiny has 4"),
        ({"n_head": 8}, "n_head=8, the source model ntv2_tiny has 4"),
        ({"rope_theta": 5000.0}, "rope_theta=5000.0, the source model ntv2_tiny has 10000"),
        ({"n_main_layer": 5}, "n_main_layer=5, the source model ntv2_tiny has 4"),
        ({"d_modle": 64}, "d_modle"),
    ],
)
def test_a_config_that_disagrees_names_both_sides(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_for(open_source(str(TINY)), settings)


def test_the_shape_follows_the_source():
    config = config_for(open_source(str(TINY)))
    assert (config.d_model, config.n_head, config.intermediate_size, config.n_main_layer) == (64, 4, 320, 4)
    assert (config.kmer_size, config.layer_norm_eps, config.max_trunk_positions) == (4, 1e-5, 128)


def test_the_saved_folder_loads_as_it_was(start, saved):
    model = HNetNTV2ForMaskedLM.from_pretrained(saved)
    assert {n: sha256_of(t) for n, t in model.state_dict().items()} == {
        entry.name: entry.sha256 for entry in start.ledger.model_tensors
    }
    assert verify(saved) == start.ledger
    assert {"README.md", "ntv2_graft.json", "ntv2_graft.txt", "config.json"} <= {p.name for p in saved.iterdir()}
    assert [path.name for path in saved.parent.iterdir()] == ["start"]


def flip_one_byte(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def edit_ledger(folder):
    content = json.loads((folder / LEDGER_FILE).read_text())
    next(e for e in content["source_tensors"] if e["name"] == "lm_head.bias")["sha256"] = "0" * 64
    (folder / LEDGER_FILE).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (flip_one_byte, "the values of .* differ"),
        (lambda f: rewrite_weights(f, lambda t: t.pop("head.source.bias")), "head.source.bias is missing"),
        (lambda f: rewrite_weights(f, lambda t: t.update(more=torch.zeros(1))), "more is not in the ledger"),
        (
            lambda f: rewrite_weights(f, lambda t: t.update({"head.source.bias": t["head.source.bias"].half()})),
            "head.source.bias is F16",
        ),
        (lambda f: rewrite_config(f, layer_norm_eps=1e-12), "config.json says layer_norm_eps=1e-12 instead of 1e-05"),
        (edit_ledger, "head.source.bias differs from its source"),
        (lambda f: (f / LEDGER_FILE).unlink(), "does not exist"),
    ],
)
def test_tampering_is_found(saved, tamper, message):
    tamper(saved)
    with pytest.raises(WeightsError, match=message):
        verify(saved)


def test_a_folder_that_cannot_be_verified_is_not_shown(start, tmp_path, monkeypatch):
    entries = start.ledger.model_tensors
    wrong = dataclasses.replace(start.ledger, model_tensors=(dataclasses.replace(entries[0], sha256="0"), *entries[1:]))
    with pytest.raises(WeightsError, match=f"could not be verified: .*{entries[0].name} differ"):
        save_start(Start(start.model, wrong), tmp_path / "new" / "start")
    assert not list(tmp_path.iterdir())

    def no_space(ledger):
        raise OSError("no space left")

    monkeypatch.setattr(saving, "render_card", no_space)
    with pytest.raises(ConfigError, match="no space left"):
        save_start(start, tmp_path / "new" / "start")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_something_is_left_alone(start, tmp_path):
    (tmp_path / "mine").write_text("")
    with pytest.raises(ConfigError, match="not an empty folder"):
        save_start(start, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]

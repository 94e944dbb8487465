import numpy as np
import pytest

from hnet_ntv2.downstream.units import RESULT, Unit, do_unit, read_unit, shard
from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.storage import folder_lock


def unit(**changes) -> Unit:
    return Unit(**({"task": "gue/tf", "fold": 0, "seed": 1, "model": "a", "mode": "probe", "identity": {}} | changes))


def made():
    return {"test": 0.5}, {"scores": np.ones((2, 2), np.float32), "targets": np.array([0, 1])}


def unused():
    raise AssertionError("the unit was done again")


def test_the_folder_of_a_unit_follows_from_all_that_it_depends_on():
    changes = [
        {"task": "gue/tf0"},
        {"fold": 1},
        {"seed": 2},
        {"model": "b"},
        {"mode": "lora"},
        {"identity": {"data": "x"}},
    ]
    names = {unit(**change).name for change in [{}, *changes]}
    assert len(names) == 1 + len(changes)
    assert unit(identity={"a": 1, "b": 2}).name == unit(identity={"b": 2, "a": 1}).name


@pytest.mark.parametrize("model", ["../../etc", "random:/data/a b", "x" * 500, "ä|<b>", "."])
def test_the_folder_of_a_unit_is_one_plain_name(model, tmp_path):
    place = unit(model=model).place(tmp_path)
    assert place.parent == tmp_path / "units"
    place.mkdir(parents=True)


def test_models_of_similar_names_have_folders_of_their_own():
    assert unit(model="a/b").name != unit(model="a:b").name


def test_a_finished_unit_is_read_as_written_and_not_done_again(tmp_path):
    do_unit(unit(), tmp_path, made)
    do_unit(unit(), tmp_path, unused)
    record = read_unit(unit(), tmp_path)
    assert record.content["test"] == 0.5
    np.testing.assert_array_equal(record.scores, made()[1]["scores"])
    np.testing.assert_array_equal(record.targets, [0, 1])


def test_numpy_values_and_undefined_metrics_are_plain_json(tmp_path):
    content = {"k": np.int64(3), "rates": np.array([0.5, np.nan]), "test": float("nan")}
    do_unit(unit(), tmp_path, lambda: (content, made()[1]))
    stored = read_unit(unit(), tmp_path).content
    assert (stored["k"], stored["rates"], stored["test"]) == (3, [0.5, None], None)


def test_a_failed_unit_says_why_and_can_be_tried_again(tmp_path):
    do_unit(unit(), tmp_path, lambda: 1 / 0)
    assert not unit().is_finished(tmp_path)
    assert unit().read_error(tmp_path) == "ZeroDivisionError: division by zero"
    unit().forget_error(tmp_path)
    do_unit(unit(), tmp_path, made)
    assert unit().is_finished(tmp_path)
    assert unit().read_error(tmp_path) is None


def test_a_unit_that_another_process_is_doing_is_left_to_it(tmp_path):
    place = unit().place(tmp_path)
    place.mkdir(parents=True)
    with folder_lock(place):
        do_unit(unit(), tmp_path, unused)
    assert list(place.iterdir()) == []


def test_a_unit_killed_before_its_last_file_is_not_finished(tmp_path, monkeypatch):
    def kill(path, text):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("hnet_ntv2.downstream.units._write", kill)
        with pytest.raises(KeyboardInterrupt):
            do_unit(unit(), tmp_path, made)
    assert not unit().is_finished(tmp_path)
    do_unit(unit(), tmp_path, made)
    assert unit().is_finished(tmp_path)


@pytest.mark.parametrize("damage", ["scores.npz", RESULT])
def test_a_damaged_file_is_named(tmp_path, damage):
    do_unit(unit(), tmp_path, made)
    path = unit().place(tmp_path) / damage
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(DataError, match=damage):
        read_unit(unit(), tmp_path)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shards_are_disjoint_and_together_everything(count):
    units = [unit(seed=seed) for seed in range(5)]
    parts = [shard(units, (index + 1, count)) for index in range(count)]
    assert sorted(each.seed for part in parts for each in part) == list(range(5))


@pytest.mark.parametrize("part", [(0, 2), (3, 2), (1, 0)])
def test_a_shard_outside_the_count_is_refused(part):
    with pytest.raises(ConfigError, match="--shard"):
        shard([unit()], part)

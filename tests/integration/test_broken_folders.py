"""Every verb tells a broken model folder in one line and exits with status 2, before it writes anything."""

import shutil
from pathlib import Path

import pytest

from hnet_ntv2.cli.main import main
from tests.broken_folders import BROKEN, WEIGHTS, with_settings
from tests.builders import random_letters, tiny_model
from tests.unit.conversion.sources import copy_tiny

VERBS = {
    "embed": "embed --fasta g.fa --output out/x.npz --model",
    "segment": "segment --genome g.fa --output out/x.bed --model",
    "variants": "variants --genome g.fa --vcf v.tsv --output out/x.tsv --model",
    "pretrain": "pretrain --output-dir out --init",
    "init": "init --output-dir out --save-model --ntv2-model",
}
# One of each way to fail: before the weights are opened, at their header, at their values, at the index.
KINDS = ("no config", "config is no JSON", "weights are empty", "weights cut short", "NaN", "index names a pickle")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model and a source that are whole."""
    home = tmp_path_factory.mktemp("whole")
    tiny_model().save_pretrained(home / "model")
    copy_tiny(home / "source")
    return home


@pytest.fixture
def place(folders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HNET_NTV2_CACHE", str(tmp_path / "cache"))
    Path("g.fa").write_text(f">chr1\n{random_letters(60, 0)}\n")
    Path("v.tsv").write_text("chrom\tpos\tref\talt\n")
    return folders


def fails(verb: str, folder: str, capsys) -> str:
    """Run a verb on a folder and return its error, which is its only one and stands on one line."""
    overrides = ["--", "data=demo", "trainer.accelerator=cpu"] if verb == "pretrain" else []
    with pytest.raises(SystemExit) as exit_:
        main([*VERBS[verb].split(), folder, *overrides])
    assert exit_.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("error: ")
    return last


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", VERBS)
def test_a_broken_folder(place, capsys, verb, kind):
    shutil.copytree(place / ("source" if verb == "init" else "model"), "broken")
    change, _ = BROKEN[kind]
    change(Path("broken"))
    assert "broken" in fails(verb, "broken", capsys)
    assert not any(path.is_file() for path in Path("out").rglob("*"))


@pytest.mark.parametrize("verb", VERBS)
def test_another_kind_of_model(place, capsys, verb):
    other = place / ("model" if verb == "init" else "source")
    shutil.copytree(other, "other")
    assert "other" in fails(verb, "other", capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_sizes_that_no_machine_has(place, capsys, verb):
    shutil.copytree(place / ("source" if verb == "init" else "model"), "huge")
    name = "hidden_size" if verb == "init" else "d_model"
    with_settings(**{name: 10**9})(Path("huge"))
    assert f"{name}=1000000000" in fails(verb, "huge", capsys)


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_and_nothing_at_all(place, capsys, verb):
    shutil.copy(place / "model" / WEIGHTS, "weights")
    for name in ("weights", "./nowhere"):
        assert name.strip("./") in fails(verb, name, capsys)

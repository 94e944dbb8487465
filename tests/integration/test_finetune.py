"""``finetune`` and ``predict`` end to end with tiny models: resumed, merged, refused, the same for any batch size."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainerCallback
from typer.testing import CliRunner

from hnet_ntv2 import HNetNTV2ForSequenceClassification
from hnet_ntv2.cli.main import app, main
from hnet_ntv2.downstream.classifier import load_classifier, predict_scores, start_classifier
from hnet_ntv2.downstream.finetune import FinetuneSettings, finetune, freeze_routers
from hnet_ntv2.errors import ConfigError, DataError, TrainingStopped, WeightsError
from hnet_ntv2.storage import folder_lock
from hnet_ntv2.tasks import load_tables, read_table
from tests.builders import lively_model, random_letters, tiny_model
from tests.unit.conversion.sources import TINY

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pin_memory.*:UserWarning", "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
SMALL = FinetuneSettings(epochs=2, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    lively_model(n_main_layer=1).save_pretrained(folder)
    return folder


def write_rows(path, count, seed, label=lambda index: "TATA" if index % 2 else "none"):
    """Rows of unequal length; every second one has a motif."""
    with path.open("w") as file:
        file.write("sequence,label\n")
        for index in range(count):
            motif = "TATAAA" * 3 if index % 2 else ""
            text = random_letters(24 + 3 * (index % 4), seed=seed * 1000 + index) + motif
            file.write(f"{text},{label(index)}\n")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    return [write_rows(folder / f"{name}.csv", count, seed) for seed, (name, count) in
            enumerate([("train", 32), ("dev", 12), ("test", 12)])]  # fmt: skip


@pytest.fixture(scope="module")
def data(files):
    return load_tables(*files)


@pytest.fixture(scope="module")
def tuned(data, start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "classifier"
    return finetune(data, replace(SMALL, epochs=6), folder, folder=start), folder


def run(*words) -> str:
    result = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refuse(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, words)))
    assert stopped.value.code == 2
    return capsys.readouterr().err


def read_rows(path, delimiter=","):
    return list(csv.DictReader(path.read_text().splitlines(), delimiter=delimiter))


def weights(folder):
    return load_classifier(folder, "cpu").state_dict()


def test_the_folder_is_an_ordinary_classifier_that_learned(tuned, data):
    result, folder = tuned
    assert result.unit.scores.shape == (12, 2)
    assert result.metrics["test"]["mcc"] > 0.6
    for kind in (HNetNTV2ForSequenceClassification, AutoModelForSequenceClassification):
        model = kind.from_pretrained(folder)
        assert model.config.id2label == {0: "TATA", 1: "none"}
        assert model.config.problem_type == "single_label_classification"
        np.testing.assert_array_equal(predict_scores(model, data.test.table.bases), result.unit.scores)
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["dev"]["mcc"] == result.unit.dev_metric == max(row["dev_mcc"] for row in result.unit.history)
    low, high = metrics["test_interval"]
    assert low <= metrics["test"]["mcc"] <= high
    rows = read_rows(folder / "history.csv")
    assert [row["epoch"] for row in rows] == [str(epoch + 1) for epoch in range(metrics["epochs"])]
    assert json.loads((folder / "settings.json").read_text())["learning_rate"] == 3e-3
    assert "| mcc |" in (folder / "README.md").read_text()
    assert not folder.with_name("classifier.training").exists()
    assert not list(folder.glob("*.bin")) + list(folder.glob("*.pt"))  # no pickles


class KilledError(Exception):
    pass


class _KillAfter(TrainerCallback):
    def __init__(self, epochs: int):
        self.epochs = epochs

    def on_epoch_begin(self, args, state, control, **_):
        if round(state.epoch) == self.epochs:
            raise KilledError


@pytest.mark.parametrize("mode", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_an_interrupted_run_resumes_to_the_same_result(mode, data, start, tmp_path, monkeypatch):
    settings = replace(SMALL, mode=mode, epochs=3, reverse_complement_augmentation=True)
    whole = finetune(data, settings, tmp_path / "whole", folder=start, seed=3)
    train, halt = Trainer.train, tmp_path / "halted"

    def killed(self, **keywords):
        self.add_callback(_KillAfter(2))
        return train(self, **keywords)

    monkeypatch.setattr(Trainer, "train", killed)
    with pytest.raises(KilledError):
        finetune(data, settings, halt, folder=start, seed=3)
    monkeypatch.undo()
    assert not halt.exists()
    # As if it had been killed while it wrote the next one.
    place = halt.with_name("halted.training")
    shutil.copytree(place / "checkpoints" / "checkpoint-8", place / "checkpoints" / "checkpoint-99")
    (place / "checkpoints" / "checkpoint-99" / "trainer_state.json").write_text('{"epo')
    with pytest.raises(ConfigError, match=r"halted\.training holds an unfinished run; give --resume"):
        finetune(data, settings, halt, folder=start, seed=3)
    with pytest.raises(ConfigError, match=r"made differently \(seed 3, now 4\)"):
        finetune(data, settings, halt, folder=start, seed=4, resume=True)
    resumed = finetune(data, settings, halt, folder=start, seed=3, resume=True)
    np.testing.assert_array_equal(resumed.unit.scores, whole.unit.scores)
    assert resumed.unit.history == whole.unit.history
    expected = weights(tmp_path / "whole")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(halt).items())
    assert not place.exists()


def test_a_run_that_was_killed_after_it_stopped_early_trains_no_more(data, start, tmp_path, monkeypatch):
    settings = replace(SMALL, epochs=9, patience=1, learning_rate=0.0)  # never better than after the first epoch
    with monkeypatch.context() as patched:
        patched.setattr("hnet_ntv2.downstream.finetune.write_result", lambda *_: (_ for _ in ()).throw(KilledError))
        with pytest.raises(KilledError):
            finetune(data, settings, tmp_path / "out", folder=start)
    result = finetune(data, settings, tmp_path / "out", folder=start, resume=True)
    assert [row["epoch"] for row in result.unit.history] == [1, 2]
    assert result.unit.chosen == {"epoch": 1}


@pytest.mark.slow
def test_lora_leaves_the_start_but_for_adapters_and_is_merged(data, start, tmp_path):
    result = finetune(data, replace(SMALL, mode="lora"), tmp_path / "out", folder=start)
    tuned, before = weights(tmp_path / "out"), tiny_model(n_main_layer=1).state_dict()
    untouched = lively_model(n_main_layer=1).state_dict()
    changed = {name for name, tensor in tuned.items() if name in before and not torch.equal(tensor, untouched[name])}
    assert changed
    assert all("blocks" in name for name in changed)
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").exists()
    np.testing.assert_allclose(predict_scores(load_classifier(tmp_path / "out"), data.test.table.bases),
                               result.unit.scores, atol=1e-6)  # fmt: skip


@pytest.mark.parametrize(
    ("chunker", "routers"),
    [
        ("peak", "frozen"),
        pytest.param("peak", "ratio", marks=pytest.mark.slow),
        pytest.param("learned", "ratio", marks=pytest.mark.slow),
    ],
)
def test_routers_are_frozen_or_move_with_their_offsets(chunker, routers, data, tmp_path):
    model = lively_model(n_main_layer=1, chunker=chunker)
    model.save_pretrained(tmp_path / "start")
    finetune(data, replace(SMALL, routers=routers, epochs=1), tmp_path / "out", folder=tmp_path / "start")
    before = model.state_dict()
    moved = {name.rsplit(".", 2)[-2:][0] + "." + name.rsplit(".", 1)[-1]: not torch.equal(tensor, before[name])
             for name, tensor in weights(tmp_path / "out").items() if ".router." in name}  # fmt: skip
    assert set(moved) == {"router.beta", "query.weight", "key.weight"}
    assert moved.pop("router.beta") == (chunker == "learned")
    assert all(moved.values()) == any(moved.values()) == (routers == "ratio")


@pytest.mark.parametrize("kind", [pytest.param("multilabel", marks=pytest.mark.slow), "regression"])
def test_other_kinds_of_labels(kind, start, tmp_path):
    label = {"multilabel": lambda i: "a;b" if i % 2 else "b", "regression": lambda i: 1000.5 + 50 * (i % 2)}[kind]
    files = [write_rows(tmp_path / f"{name}.csv", 24, seed, label) for seed, name in enumerate(("train", "dev"))]
    data = load_tables(*files, files[1])
    assert data.scheme.kind == kind
    result = finetune(data, replace(SMALL, epochs=4), tmp_path / "out", folder=start)
    is_motif = np.arange(24) % 2 == 1
    scores = result.unit.scores[:, 0]
    assert scores[is_motif].mean() > scores[~is_motif].mean()
    if kind == "regression":
        assert abs(scores.mean() - 1025) < 25, "in the unit of the table"
    run("predict", "--model", tmp_path / "out", "--input", files[1], "--output", tmp_path / "p.tsv")
    row = read_rows(tmp_path / "p.tsv", "\t")[0]
    assert set(row) == ({"name", "value"} if kind == "regression" else
                        {"name", "labels", "probability_a", "probability_b"})  # fmt: skip


@pytest.mark.slow
def test_random_weights_are_those_of_the_seed(data, start):
    settings = replace(SMALL, epochs=1)
    first, again, other = (finetune(data, settings, folder=f"random:{start}", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.unit.scores, again.unit.scores)
    assert not np.array_equal(first.unit.scores, other.unit.scores)
    assert first.folder is None


def test_one_writer_at_a_time(data, start, tmp_path):
    place = tmp_path / "out.training"
    place.mkdir()
    with folder_lock(place), pytest.raises(ConfigError, match=r"another process is writing .*out\.training"):
        finetune(data, SMALL, tmp_path / "out", folder=start)


def test_a_run_that_cannot_start_leaves_nothing(data, start, tmp_path):
    split = replace(
        data.train, table=replace(data.train.table, bases=(np.full(9, 11, np.uint8),) * len(data.train.table))
    )
    with pytest.raises(DataError, match="no row holds A, C, G or T"):
        finetune(replace(data, train=split), SMALL, tmp_path / "out", folder=start)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_tensorboard_gets_the_curves(data, start, tmp_path):
    finetune(data, replace(SMALL, report_to="tensorboard"), tmp_path / "out", folder=start)
    assert list((tmp_path / "out" / "tensorboard").glob("events*"))


@pytest.mark.parametrize("mode", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_an_ntv2_folder_is_tuned_and_predicts(mode, data, files, tmp_path):
    result = finetune(data, replace(SMALL, mode=mode), tmp_path / "out", folder=TINY)
    np.testing.assert_allclose(predict_scores(load_classifier(tmp_path / "out"), data.test.table.bases),
                               result.unit.scores, atol=1e-6)  # fmt: skip
    told = run("predict", "--model", tmp_path / "out", "--input", files[2], "--output", tmp_path / "p.parquet")
    assert "12 records predicted" in told
    with pytest.raises(ConfigError, match="reads one strand"):
        finetune(data, replace(SMALL, strands="both"), folder=TINY)


def test_rows_of_n_are_left_out_of_training_and_get_the_average(data, start, caplog):
    split = data.train
    bases = (np.full(9, 11, np.uint8), *split.table.bases[1:])
    with_n = replace(split, table=replace(split.table, bases=bases))
    result = finetune(replace(data, train=with_n, test=with_n), replace(SMALL, epochs=1), folder=start)
    assert "1 rows without A, C, G and T are left out, the first at" in caplog.text
    np.testing.assert_allclose(result.unit.scores[0], [0.5, 0.5])


def test_a_loss_that_is_no_number_stops(data, start):
    with pytest.raises(TrainingStopped, match=r"the loss is (nan|inf) at step .*lower --learning-rate"):
        finetune(data, replace(SMALL, learning_rate=1e30), folder=start)


def test_the_command_line(files, start, tmp_path):
    train, dev, test = files
    out = tmp_path / "out"
    words = ("finetune", "--train", train, "--dev", dev, "--test", test, "--model", start, "--output", out,
             "--epochs", 1, "--pooling", "bins", "--strands", "both", "--device", "cpu")  # fmt: skip
    told = run(*words)
    assert "epoch 1 of 1" in told
    assert "test:" in told
    assert load_classifier(out).config.classification_pooling == "bins"
    told = run("predict", "--model", out, "--input", test, "--labels", "--output", tmp_path / "p.tsv")
    assert "12 records predicted" in told
    assert "mcc" in told
    rows = read_rows(tmp_path / "p.tsv", "\t")
    assert [row["name"] for row in rows] == [str(number) for number in range(1, 13)]
    for row in rows:
        assert row["class"] == max(("TATA", "none"), key=lambda name: float(row[f"probability_{name}"]))


def test_refusals(files, start, tuned, tmp_path, capsys):
    _, folder = tuned
    train, _, test = files
    own = ("--train", train, "--model", start, "--output")
    assert "exists; name another --output, or give --overwrite" in refuse(capsys, "finetune", *own, folder)
    assert "patience=0 must be at least 1" in refuse(capsys, "finetune", *own, tmp_path / "a", "--patience", 0)
    told = refuse(capsys, "finetune", *own, tmp_path / "a", "--lora", "--routers", "ratio")
    assert "adapters hold none" in told
    told = refuse(capsys, "predict", "--model", start, "--input", test, "--output", tmp_path / "p.tsv")
    assert "without a classifier's head; train one with `hnet-ntv2 finetune" in told
    one = ("predict", "--model", folder, "--input")
    assert "the suffix says the format" in refuse(capsys, *one, test, "--output", tmp_path / "p.txt")
    (tmp_path / "p.tsv").touch()
    assert "exists; name another one" in refuse(capsys, *one, test, "--output", tmp_path / "p.tsv")
    other = write_rows(tmp_path / "other.csv", 4, 9, lambda index: "CAAT")
    told = refuse(capsys, *one, other, "--labels", "--output", tmp_path / "q.tsv")
    assert "'CAAT'" in told
    assert "was trained for classification with 'TATA', 'none'" in told
    assert not (tmp_path / "q.tsv").exists()


@pytest.mark.parametrize("suffix", [".fa", pytest.param(".csv", marks=pytest.mark.slow)])
def test_predictions_are_the_same_text_for_any_batch_size(suffix, tuned, tmp_path):
    _, folder = tuned
    texts = [random_letters(8 + 37 * index % 150, seed=index) for index in range(40)]
    texts[7] = "NNNN"
    source = tmp_path / f"some{suffix}"
    rows = [
        f">s{number} more\n{text}\n" if suffix == ".fa" else f"s{number},{text}\n" for number, text in enumerate(texts)
    ]
    source.write_text(("" if suffix == ".fa" else "name,sequence\n") + "".join(rows))
    written = []
    for number, size in enumerate((1, 100, 16384)):
        output = tmp_path / f"{number}.tsv"
        told = run("predict", "--model", folder, "--input", source, "--output", output, "--batch-bases", size)
        assert "1 records have no A, C, G or T" in told
        written.append(output.read_text())
    assert written[0] == written[1] == written[2]
    lines = [line.split("\t") for line in written[0].splitlines()]
    assert [line[0] for line in lines[1:]] == [f"s{number}" for number in range(40)]
    assert lines[8] == ["s7", "NA", "NA", "NA"]
    expected = predict_scores(load_classifier(folder, "cpu"), read_table(source, need_labels=False).bases)
    found = np.array([line[2:] for line in lines[1:] if line[1] != "NA"], float)
    np.testing.assert_allclose(found, np.delete(expected, 7, 0), atol=1e-4)


def test_regions_are_read_from_a_genome_as_their_strand_has_them(tuned, tmp_path):
    from pyarrow import parquet

    _, folder = tuned
    text = random_letters(200, seed=5)
    (tmp_path / "g.fa").write_text(f">chr1\n{text}\n")
    (tmp_path / "r.bed").write_text("chr1\t10\t90\ta\t0\t+\nchr1\t10\t90\tb\t0\t-\n")
    run("predict", "--model", folder, "--regions", tmp_path / "r.bed", "--genome", tmp_path / "g.fa",
        "--output", tmp_path / "p.parquet")  # fmt: skip
    table = parquet.read_table(tmp_path / "p.parquet").to_pydict()
    assert table["name"] == ["a", "b"]
    assert (table["contig"], table["start"], table["end"]) == (["chr1"] * 2, [10, 10], [90, 90])
    assert table["strand"] == ["+", "-"]
    assert table["probability_TATA"][0] != table["probability_TATA"][1]


def test_a_new_head_does_not_depend_on_the_one_that_was_there(tuned, data):
    _, folder = tuned
    heads = []
    for _ in range(2):
        torch.manual_seed(0)
        options = {"pooling": "mean", "strands": "forward", "sequences": data.train.table.bases}
        heads.append(start_classifier(folder, data.scheme, **options).classifier[1].weight)
    assert torch.equal(*heads)
    assert not torch.equal(heads[0], load_classifier(folder).classifier[1].weight)


def test_frozen_routers_hold_no_gradient():
    model = tiny_model()
    freeze_routers(model)
    assert {name.split(".")[-2] for name, p in model.named_parameters() if not p.requires_grad} == {"query", "key"}


def test_no_classifier_without_a_model(data, tmp_path):
    with pytest.raises(WeightsError, match="is not a folder"):
        finetune(data, SMALL, folder=tmp_path / "none")

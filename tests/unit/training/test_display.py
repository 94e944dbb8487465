"""Logs survive a resume, and a logging service can never end a run."""

import logging
import math
import resource

import pytest
from lightning.pytorch.loggers import Logger

from hnet_ntv2.errors import ConfigError, DataError
from hnet_ntv2.training.display import (
    CarefulLogger,
    HistoryLogger,
    build_loggers,
    read_history,
    without_threads_tracebacks,
)
from hnet_ntv2.training.settings import LoggerSettings, PretrainSettings


def test_rows_go_to_the_file_of_their_part_at_once(tmp_path):
    history = HistoryLogger(tmp_path)
    history.log_metrics({"train/loss": 0.1, "other": 3.0}, 1)
    history.log_metrics({"validation/bits": 1.9}, 1)
    history.log_metrics({"train/loss": math.nan}, 2)
    assert read_history(tmp_path / "train.csv")[0] == {"step": 1.0, "loss": 0.1}
    assert math.isnan(read_history(tmp_path / "train.csv")[1]["loss"])
    assert read_history(tmp_path / "validation.csv") == [{"step": 1.0, "bits": 1.9}]


def test_a_new_column_joins_the_old_rows(tmp_path):
    history = HistoryLogger(tmp_path)
    history.log_metrics({"train/a": 1.0}, 1)
    history.log_metrics({"train/a": 2.0, "train/b": 5.0}, 2)
    history.log_metrics({"train/b": 6.0}, 3)
    assert read_history(tmp_path / "train.csv") == [
        {"step": 1.0, "a": 1.0},
        {"step": 2.0, "a": 2.0, "b": 5.0},
        {"step": 3.0, "b": 6.0},
    ]


def test_a_resumed_run_drops_the_rows_after_its_checkpoint(tmp_path):
    history = HistoryLogger(tmp_path)
    for step in range(1, 6):
        history.log_metrics({"train/loss": step / 10}, step)
    HistoryLogger(tmp_path, resume_step=3).log_metrics({"train/loss": 9.0}, 4)
    assert [row["loss"] for row in read_history(tmp_path / "train.csv")] == [0.1, 0.2, 0.3, 9.0]
    HistoryLogger(tmp_path)
    assert read_history(tmp_path / "train.csv") == []


def test_a_step_that_is_logged_again_has_one_row(tmp_path):
    history = HistoryLogger(tmp_path)
    for step, bits in [(1, 2.0), (2, 1.9), (2, 1.8), (3, 1.7)]:
        history.log_metrics({"validation/bits": bits}, step)
    assert [(row["step"], row["bits"]) for row in read_history(tmp_path / "validation.csv")] == [
        (1, 2.0),
        (2, 1.8),
        (3, 1.7),
    ]


def test_a_row_that_was_cut_off_is_no_row(tmp_path):
    history = HistoryLogger(tmp_path)
    for step in (9, 10, 125):
        history.log_metrics({"train/loss": step / 8, "train/bits": 1.5}, step)
    path = tmp_path / "train.csv"
    content = path.read_bytes()
    for cut in (2, 4, 8, 14):  # at 14 the last line is "1", which would be a step
        path.write_bytes(content[:-cut])
        assert [row["step"] for row in read_history(path)] == [9, 10], content[:-cut]


def test_a_foreign_file_in_the_logs_place_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("step,loss\none,two\n")
    with pytest.raises(DataError, match=r"train\.csv is no log of a run"):
        HistoryLogger(tmp_path, resume_step=3)


def test_a_full_disk_is_told_with_the_file_that_it_met(tmp_path):
    history = HistoryLogger(tmp_path)
    history.log_metrics({"train/loss": 0.125}, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
    try:
        for name in ("train/loss", "train/other"):  # appended, and written anew with another column
            with pytest.raises(ConfigError, match=r"train\.csv cannot be written: File too large$"):
                log_steps(history, name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_history(tmp_path / "train.csv")[0] == {"step": 1, "loss": 0.125}


def log_steps(history: HistoryLogger, name: str) -> None:
    for step in range(2, 9):
        history.log_metrics({name: 0.125}, step)


class FailingLogger(Logger):
    name = "failing"
    version = ""
    calls = 0

    def log_metrics(self, metrics, step=None):
        self.calls += 1
        raise ConnectionError("no network")

    def log_hyperparams(self, params, *args, **kwargs):
        pass


def test_a_failing_service_is_told_once_and_switched_off(caplog):
    inner = FailingLogger()
    careful = CarefulLogger(lambda: inner, "Weights & Biases")
    with caplog.at_level(logging.WARNING):
        careful.log_metrics({"a": 1.0}, 1)
        careful.log_metrics({"a": 1.0}, 2)
        careful.finalize("success")
    assert inner.calls == 1
    assert not careful.is_alive
    assert [record.message for record in caplog.records] == [
        "Weights & Biases failed and is switched off, training goes on: ConnectionError: no network"
    ]


def test_a_service_that_cannot_be_started_is_told_too(caplog):
    def build():
        raise ImportError("No module named 'wandb'")

    careful = CarefulLogger(build, "Weights & Biases")
    assert not careful.is_alive
    assert "No module named 'wandb'" in caplog.text


def test_csv_and_tensorboard_always(tmp_path):
    loggers = build_loggers(tmp_path, PretrainSettings())
    assert [each.name for each in loggers] == ["history", "TensorBoard"]
    loggers[1].log_metrics({"train/loss": 1.0}, 1)
    loggers[1].finalize("success")
    assert loggers[1].is_alive
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_tensorboard_on_a_full_disk_is_switched_off_without_a_traceback(tmp_path, capfd, caplog):
    board = build_loggers(tmp_path, PretrainSettings())[1]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with without_threads_tracebacks():
        board.log_metrics({"train/loss": 1.0}, 0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            for step in range(1, 400):
                board.log_metrics({"train/loss": 1.0}, step)
            board.finalize("failed")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [record.message for record in caplog.records] == [
        "TensorBoard failed and is switched off, training goes on: OSError: [Errno 27] File too large"
    ]
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
def test_weights_and_biases_works_offline_without_an_account(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_SILENT", "true")
    settings = PretrainSettings(logger=LoggerSettings(wandb_project="test", wandb_mode="offline"))
    loggers = build_loggers(tmp_path, settings)
    assert loggers[-1].is_alive
    loggers[-1].log_metrics({"train/loss": 1.0}, 1)
    loggers[-1].finalize("success")
    assert loggers[-1].is_alive
    assert list((tmp_path / "wandb").glob("offline-run-*"))

import csv
import os
import sys
from dataclasses import replace

import pytest
from training_runs import make_config, make_encoder, make_workspace

from s2robot.checkpoint import load_checkpoint
from s2robot.interfaces import ConfigError, TrainingError
from s2robot.training import train
from s2robot.training.loggers import write_log_csv


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("loggers"))


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def log_rows(folder):
    """The rows of log.csv, without empty cells."""
    with (folder / "log.csv").open() as file:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def test_log_has_a_column_for_everything_and_empty_cells_where_nothing_was_measured(workspace, encoder, tmp_path):
    checkpoint = train(make_config(workspace, tmp_path, training={"epochs": 3, "validate_every": 2}), encoder)
    rows = log_rows(tmp_path)
    assert rows == load_checkpoint(checkpoint)[0].loss_curve
    assert [row["step"] for row in rows] == [8, 16, 24]
    assert ["validation_loss" in row for row in rows] == [False, True, True]


def test_a_log_of_no_rows_is_a_file(tmp_path):
    write_log_csv(tmp_path / "log.csv", [])
    assert (tmp_path / "log.csv").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_library_names_the_extra_before_anything_is_encoded(workspace, tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # as if not installed
    config = make_config(workspace, tmp_path, training={"loggers": [name]}, cache_dir=str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=rf"needs '{name}': pip install 's2robot\[{name}\]'"):
        train(config)
    assert not (tmp_path / "cache").exists()


def read_events(folder):
    """What TensorBoard would show: name -> {step: value}."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {name: {event.step: event.value for event in events.Scalars(name)} for name in events.Tags()["scalars"]}


def test_tensorboard_shows_the_rows_of_the_log_also_of_a_resumed_run(workspace, encoder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 's2robot[tensorboard]'")
    training = {"epochs": 4, "validate_every": 2, "loggers": ["tensorboard"], "save_every_steps": 16}
    config = make_config(workspace, tmp_path, training=training)
    interrupt_after(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(config, encoder)
    assert len(read_events(tmp_path)["train_loss"]) == 3
    monkeypatch.undo()
    train(config, encoder)
    shown = read_events(tmp_path)
    rows = log_rows(tmp_path)
    assert set(shown) == set(rows[-1]) - {"step"}
    for name, values in shown.items():
        assert values == pytest.approx({int(row["step"]): row[name] for row in rows if name in row}, rel=1e-5)


def interrupt_after(monkeypatch, epochs):
    """Stop the run, as Ctrl-C does, once the row of the epoch is written."""
    from s2robot.training.loggers import TensorBoard

    log = TensorBoard.log

    def interrupting(self, row):
        log(self, row)
        if row["epoch"] == epochs:
            raise KeyboardInterrupt

    monkeypatch.setattr(TensorBoard, "log", interrupting)


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """The library, without the settings and the files of this machine's user."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return pytest.importorskip("wandb", reason="wandb is not installed: pip install 's2robot[wandb]'")


def test_weights_and_biases_is_given_the_rows_of_the_log(workspace, encoder, tmp_path, monkeypatch, wandb):
    runs = []

    class Run:
        def __init__(self, **settings):
            self.settings, self.rows, self.ended = settings, [], False
            runs.append(self)

        def log(self, row, step):
            assert step == row["step"]
            self.rows.append(row)

        def finish(self):
            self.ended = True

    monkeypatch.setattr(wandb, "init", Run)
    config = make_config(workspace, tmp_path / "run", training={"epochs": 3, "validate_every": 2, "loggers": ["wandb"]})
    train(config, encoder)
    train(replace(config, output=str(tmp_path / "other")), encoder)
    train(replace(config, resume=False), encoder)
    first, other, again = runs
    assert first.rows == log_rows(tmp_path / "run")
    assert all(run.ended for run in runs)
    assert (first.settings["project"], first.settings["name"], first.settings["resume"]) == ("s2robot", "run", "allow")
    assert first.settings["config"]["training"]["epochs"] == 3
    assert first.settings["id"] == again.settings["id"] != other.settings["id"]  # every folder is a run of its own


@pytest.mark.slow
def test_weights_and_biases_itself_keeps_the_rows_on_disk(workspace, encoder, tmp_path, monkeypatch, wandb):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(make_config(workspace, tmp_path, training={"epochs": 1, "loggers": ["wandb"]}), encoder)
    (path,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert b"validation_action_error" in path.read_bytes()


def test_a_service_that_cannot_be_used_is_one_clear_error(workspace, encoder, tmp_path, monkeypatch, wandb):
    def refuse(**settings):
        raise wandb.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(TrainingError, match=r"cannot be used \(api_key not configured.*WANDB_MODE=offline"):
        train(make_config(workspace, tmp_path, training={"loggers": ["wandb"]}), encoder)

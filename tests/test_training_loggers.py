import csv
import json
import sys
from dataclasses import replace

import pytest
from training_runs import make_config, make_encoder, make_workspace

from s2robot.checkpoint import load_checkpoint
from s2robot.interfaces import ConfigError, TrainingError
from s2robot.training import train
from s2robot.training.loggers import write_csv


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
    write_csv(tmp_path / "log.csv", [])
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


def read_offline_run(path):
    """Rows of a W&B file: protobuf records in LevelDB's log format, after a header of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    content, position, parts, rows = path.read_bytes(), 7, [], []
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:  # a block ends in padding
            position += left
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts.append(content[position + 7 : position + 7 + size])
        position += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record.FromString(b"".join(parts))
            parts = []
            if record.WhichOneof("record_type") == "history":
                items = {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                rows.append({name: json.loads(value) for name, value in items.items() if not name.startswith("_")})
    return rows


def test_weights_and_biases_keeps_the_rows_of_the_log_offline(workspace, encoder, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: pip install 's2robot[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    config = make_config(workspace, tmp_path, training={"epochs": 3, "validate_every": 2, "loggers": ["wandb"]})
    train(config, encoder)
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    (path,) = folder.glob("*.wandb")
    assert read_offline_run(path) == [pytest.approx(row) for row in log_rows(tmp_path)]

    other = replace(config, output=str(tmp_path / "other"))
    train(other, encoder)
    (path,) = (tmp_path / "other").glob("wandb/offline-run-*/*.wandb")
    assert path.name not in {file.name for file in folder.iterdir()}  # every output folder is a run of its own


def test_a_service_that_cannot_be_used_is_one_clear_error(workspace, encoder, tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="wandb is not installed: pip install 's2robot[wandb]'")

    def refuse(**settings):
        raise wandb.errors.UsageError("api_key not configured (no-tty)")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(TrainingError, match=r"cannot be used \(api_key not configured.*WANDB_MODE=offline"):
        train(make_config(workspace, tmp_path, training={"loggers": ["wandb"]}), encoder)

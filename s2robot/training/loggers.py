"""Loggers for the rows of a run: always `log.csv`; TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import io
import json
from pathlib import Path
from typing import Any, Protocol

from s2robot.interfaces import ConfigError, TrainingError
from s2robot.system.files import write_durably

_LIBRARIES = {"tensorboard": "tensorboard", "wandb": "wandb"}  # logger -> library that it needs; extras have its name


class Logger(Protocol):
    """Receives one row per epoch."""

    def log(self, row: dict[str, float]) -> None:
        """Log one row."""
        ...

    def close(self) -> None:
        """Write everything that is still buffered."""
        ...


def require_loggers(names: list[str]) -> None:
    """Check that the libraries of all loggers are installed.

    Raises:
        ConfigError: a library is missing; the message has the command that installs it.
    """
    for name in names:
        if importlib.util.find_spec(_LIBRARIES[name]) is None:
            raise ConfigError(f"training.loggers={names!r} needs {_LIBRARIES[name]!r}: pip install 's2robot[{name}]'")


def write_log_csv(path: Path, rows: list[dict[str, float]]) -> None:
    """Replace the log by all rows so far; columns that a row lacks are empty."""
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    write_durably(path, text.getvalue().encode())


class TensorBoard:
    """Event files under `<output>/tensorboard`; entries logged after the resumed step are dropped."""

    def __init__(self, output: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(output / "tensorboard"), purge_step=step + 1)

    def log(self, row: dict[str, float]) -> None:
        """Log one scalar per column, over optimizer steps."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(row["step"]))
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        self._writer.close()


class WeightsAndBiases:
    """One run of Weights & Biases per output folder, resumed with it; `WANDB_MODE=offline` keeps it on disk.

    Raises:
        TrainingError: the service cannot be reached, or the user is not logged in.
    """

    def __init__(self, output: Path, project: str, run: dict[str, Any]) -> None:
        import wandb

        # The id follows from folder and settings: a resumed run continues its curves, a changed one starts new ones.
        unique = json.dumps([str(output.resolve()), run], sort_keys=True)
        try:
            self._run = wandb.init(
                project=project,
                name=output.name,
                id=hashlib.sha256(unique.encode()).hexdigest()[:16],
                resume="allow",
                dir=str(output),
                config=run,
            )
        except (wandb.errors.Error, OSError) as error:
            raise TrainingError(
                f"Weights & Biases cannot be used ({error}); run `wandb login`, or set WANDB_MODE=offline to upload "
                "later"
            ) from error

    def log(self, row: dict[str, float]) -> None:
        """Log the row unchanged, over optimizer steps."""
        self._run.log(dict(row), step=int(row["step"]))

    def close(self) -> None:
        """Upload or write everything that is left."""
        self._run.finish()


def make_loggers(names: list[str], output: Path, step: int, project: str, run: dict[str, Any]) -> list[Logger]:
    """Make the loggers of a run that starts or resumes after `step` steps.

    Args:
        names: loggers to make: any of tensorboard, wandb.
        output: folder of the run.
        step: optimizer steps done so far.
        project: project of Weights & Biases.
        run: settings of the run, shown beside the curves.
    """
    loggers: list[Logger] = []
    for name in names:
        match name:
            case "tensorboard":
                loggers.append(TensorBoard(output, step))
            case "wandb":
                loggers.append(WeightsAndBiases(output, project, run))
    return loggers

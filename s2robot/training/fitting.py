"""Fitting a policy to all training windows in one pass, and the training of policies without trainable parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from s2robot.config import TrainConfig, TrainingConfig
from s2robot.interfaces import Batch, ConfigError
from s2robot.policies.base import Policy
from s2robot.system.machine import machine_facts
from s2robot.training.data import TrainingData, loaded_ahead
from s2robot.training.loggers import make_loggers, write_log_csv
from s2robot.training.processes import Processes
from s2robot.training.state import STATE_FILE, load_state, save_state, set_aside
from s2robot.training.validation import make_validation
from s2robot.training.windows import WindowDataset


def require_fit(policy: Policy, config: TrainConfig) -> None:
    """Check that the training settings have an effect on the policy.

    Raises:
        ConfigError: shifted copies are requested, but the policy sees every window only once: it would see just one
            copy of each.
    """
    weights = config.dataset_weights
    if weights is not None and not policy.trainable:
        raise ConfigError(
            f"dataset_weights={weights} is not possible; valid: null, because policy {config.policy.name} sees each "
            "training window once"
        )
    if not policy.trainable:
        refuse_shifts(config.policy.name, config.training)


def refuse_shifts(name: str, settings: TrainingConfig) -> None:
    """Refuse shifted copies for the policy `name`, which is fitted and not trained.

    Raises:
        ConfigError: shifted copies are requested.
    """
    if settings.num_shifts:
        raise ConfigError(
            f"training.num_shifts={settings.num_shifts} is not possible; valid: 0, because policy {name} sees each "
            "training window once"
        )


def fit(policy: Policy, windows: WindowDataset, batch_size: int, processes: Processes) -> None:
    """Pass every training window to `Policy.fit` once, if the policy overrides it; every process does so."""
    if not policy.has_fit:
        return
    parts = np.split(np.arange(len(windows)), range(batch_size, len(windows), batch_size))

    def batches() -> Iterator[Batch]:
        loaded = loaded_ahead(parts, windows.__getitems__, processes.device)
        for _, batch in tqdm(loaded, total=len(parts), unit="batch", desc="fitting", disable=not processes.main):
            yield batch.to(processes.device)

    policy.eval()
    with torch.no_grad():
        policy.fit(batches())


class Fitting:
    """Replaces `TrainingLoop` for a policy without trainable parameters: one pass over the windows, one row in the log.

    A killed run starts again, since a run takes only seconds. Several processes all do the same, and the main one
    writes.

    Args:
        policy: the policy, on the device of `processes`.
        data: the data to fit the policy to.
        config: settings of the run.
        processes: the processes that were started together.
        run: identity of the run (see `identity`).
    """

    def __init__(
        self, policy: Policy, data: TrainingData, config: TrainConfig, processes: Processes, run: dict[str, Any]
    ) -> None:
        self.policy, self.processes, self.settings = policy, processes, config.training
        self.was_finished = False  # whether the run was finished before this start
        self.rows: list[dict[str, float]] = []
        self.machines = [machine_facts(processes.device)]
        self.former_epochs: list[int] = []  # a policy that is fitted has no epochs
        self._resume, self._run, self._output = config.resume, run, Path(config.output)
        self._windows = data.windows(data.plan.training_episodes, config.policy)
        self._validation = make_validation(data, config)

    def run(self) -> None:
        """Fit the policy, unless a saved state holds the result.

        Raises:
            TrainingError: the saved state belongs to another run.
        """
        path = self._output / STATE_FILE
        state = load_state(path, self._run) if self._resume else None
        if state is not None:
            self.was_finished = True
            self.rows, self.machines = state["rows"], state["machines"]
            self.policy.load_state_dict(state["policy"])
            return
        if self.processes.main:
            set_aside(self._output)
        fit(self.policy, self._windows, self.settings.batch_size, self.processes)
        if self.processes.main:
            self._log()
            state = {"run": self._run, "rows": self.rows, "machines": self.machines, "policy": self.averaged_state()}
            save_state(path, state)

    def _log(self) -> None:
        row: dict[str, float] = {"epoch": 1, "step": 0}
        if self._validation is not None:
            row |= self._validation(self.policy, self.processes.device)
        self.rows = [row]
        write_log_csv(self._output / "log.csv", self.rows)
        settings = self.settings
        for logger in make_loggers(settings.loggers, self._output, 0, settings.wandb_project, self._run):
            logger.log(row)
            logger.close()

    def averaged_state(self) -> dict[str, Tensor]:
        """Return the policy's state; without optimizer steps there is nothing to average."""
        return {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}

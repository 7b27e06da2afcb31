"""The one training loop, for every policy and any number of processes.

A step depends on (seed, step) alone: which windows, in which order, with which noise. So a run that continues from a
saved state repeats the steps of an uninterrupted run, bit for bit on a CPU of the same machine.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from s2robot.checkpoint import set_checkpoint_aside
from s2robot.config import TrainConfig
from s2robot.interfaces import Batch, TrainingError
from s2robot.policies import Policy
from s2robot.system.machine import Machine, differing_facts, machine_facts, with_machine
from s2robot.training.data import Batches, TrainingData, shares_of
from s2robot.training.fitting import fit
from s2robot.training.loggers import Logger, make_loggers, write_log_csv
from s2robot.training.optimization import autocast, make_average, make_optimizer, make_schedule, seed_noise
from s2robot.training.processes import Processes
from s2robot.training.state import (
    STATE_FILE,
    finished_epochs,
    intermediate,
    keep_last,
    load_state,
    save_state,
    set_aside,
)
from s2robot.training.validation import make_validation

SaveCheckpoint = Callable[[Path, dict[str, Tensor], list[dict[str, float]], list[Machine], list[int]], None]
"""`save(folder, state, rows, machines, former_epochs)`: write a checkpoint of these weights."""


class _Loss(nn.Module):
    """A policy as a module whose `forward` is its loss, because `DistributedDataParallel` wraps `forward` only."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch) -> Tensor:
        return self.policy.loss(batch)


class TrainingLoop:
    """AdamW under warm-up and decay, with an exponential moving average of the weights.

    Args:
        policy: the policy, on the device of `processes`.
        data: the data to train on.
        config: settings of the run.
        processes: the processes that train together.
        run: identity of the run (see `identity`).
        save_checkpoint: function that writes intermediate checkpoints.

    Attributes:
        step: number of batches done.
        rows: rows of the log, one per epoch.
        machines: machines of the main process, in this session and in the sessions that it continues.
        former_epochs: numbers of epochs at whose end the run was finished, and then continued with more.
    """

    def __init__(
        self,
        policy: Policy,
        data: TrainingData,
        config: TrainConfig,
        processes: Processes,
        run: dict[str, Any],
        save_checkpoint: SaveCheckpoint,
    ) -> None:
        self.policy, self.processes, self.settings = policy, processes, config.training
        self.module: nn.Module = _Loss(policy)
        self.step = 0
        self.was_finished = False  # whether the run was finished before this start
        self.rows: list[dict[str, float]] = []
        self.machines = [machine_facts(processes.device)]
        self.former_epochs: list[int] = []
        self._seed, self._resume, self._run = config.seed, config.resume, run
        self._output = Path(config.output)
        self._save_checkpoint = save_checkpoint
        self._losses: list[Tensor] = []  # this process's share of the loss of each batch of this epoch
        self._windows = data.windows(data.plan.training_episodes, config.policy)
        shares = shares_of(data.plan.sources[self._windows.demonstration], config.dataset_weights)
        self._batches = Batches(self._windows, self.settings, config.seed, processes, shares)
        self._validation = make_validation(data, config)
        self.steps_per_epoch = len(self._batches)
        self.total_steps = self.settings.epochs * self.steps_per_epoch

        self.optimizer = make_optimizer(policy, self.settings, processes.device)
        self.schedule = make_schedule(self.optimizer, self.settings, self.total_steps)
        self.average = make_average(policy, self.settings)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=self.settings.precision == "fp16")

    def run(self) -> None:
        """Train to the last epoch, starting from the saved state if there is one.

        Raises:
            TrainingError: the loss or its gradients are not finite, or the saved state belongs to another run.
        """
        self._restore()
        if not self.step:
            fit(self.policy, self._windows, self.settings.batch_size, self.processes)
        self.module = self.processes.wrap(self.module)
        with ExitStack() as stack:
            bar = stack.enter_context(self._progress_bar())
            loggers = self._open_loggers(stack)
            while self.step < self.total_steps:
                epoch, position = divmod(self.step, self.steps_per_epoch)
                for indices, batch in self._batches.of_epoch(epoch, position):  # position > 0 only after a resume
                    self._train_step(indices, batch)
                    self.step += 1
                    bar.update()
                    if self.step % self.steps_per_epoch == 0:  # before saving: the state must hold the epoch's row
                        self._finish_epoch(loggers)
                    if self.step % self.settings.save_every_steps == 0 or self.step == self.total_steps:
                        self._save()
                    bar.set_postfix(epoch=epoch + 1, loss=f"{float(self._last_loss):.4g}", refresh=False)

    def averaged_state(self) -> dict[str, Tensor]:
        """Return the policy's state with the moving average in place of the raw weights."""
        with self._averaged():
            return {name: tensor.detach().clone() for name, tensor in self.policy.state_dict().items()}

    # One step -------------------------------------------------------------------------------------------------

    def _train_step(self, indices: np.ndarray, batch: Batch) -> None:
        """Take one optimizer step on the windows `indices`, of which `batch` holds this process's share."""
        weight = self._batches.weight(indices)
        self.policy.train()
        self._seed_noise()
        with autocast(self.settings.precision, self.processes.device):
            loss = self.module(batch.to(self.processes.device)).float()
        self.optimizer.zero_grad(set_to_none=True)
        # Gradients are averaged over processes as if all shares were equal; the weight corrects for unequal shares.
        self.scaler.scale(loss * (weight * self.processes.count)).backward()
        self.scaler.unscale_(self.optimizer)
        # Without clipping, inf still measures the norm, by which gradients that are not finite are found.
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.settings.gradient_clip or math.inf)
        taken = bool(torch.isfinite(norm + loss.detach()))
        if not taken:
            self._refuse_step(loss.detach(), indices)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if taken:
            self.schedule.step()
            if self.processes.main:  # only the main process validates and saves, so only it needs the average
                self.average.step(self.policy.parameters())
        self._last_loss = loss.detach()
        self._losses.append(self._last_loss * weight)

    def _seed_noise(self) -> None:
        """Seed the noise from (seed, step, rank), so that a resumed run draws the same."""
        seed_noise([self._seed, self.step, self.processes.rank], self.processes.device)

    def _refuse_step(self, loss: Tensor, indices: np.ndarray) -> None:
        """Raise an error that names the windows, unless fp16 overflowed: the scaler then skips the step by itself.

        It also lowers its scale each time. A scale below 1 means that overflow is not the cause.
        """
        if self.scaler.is_enabled() and torch.isfinite(loss) and self.scaler.get_scale() >= 1:
            return
        what = "gradients are not finite" if torch.isfinite(loss) else f"loss is {loss.item()}"
        culprits = indices[[not torch.isfinite(self._loss_alone(index)) for index in indices]]
        where = (
            f"{len(culprits)} of its {len(indices)} windows cause this on their own: "
            if len(culprits)
            else f"no window causes this on its own, only all {len(indices)} together: "
        )
        epoch, position = divmod(self.step, self.steps_per_epoch)
        raise TrainingError(
            f"{what} at epoch {epoch + 1}, batch {position} (step {self.step}); {where}"
            f"{self._windows.describe(culprits if len(culprits) else indices)}. Lower training.learning_rate (now "
            f"{self.settings.learning_rate}) or look at the dataset with `s2robot inspect`"
        )

    @torch.no_grad()
    def _loss_alone(self, index: int) -> Tensor:
        self._seed_noise()
        with autocast(self.settings.precision, self.processes.device):
            return self.policy.loss(self._windows[index].to(self.processes.device))

    # Ends of epochs -------------------------------------------------------------------------------------------

    def _finish_epoch(self, loggers: list[Logger]) -> None:
        epoch = self.step // self.steps_per_epoch
        last = epoch == self.settings.epochs
        row: dict[str, float] = {
            "epoch": epoch,
            "step": self.step,
            "learning_rate": float(self.schedule.get_last_lr()[0]),
            "train_loss": float(self._epoch_losses().mean()),
        }
        self._losses = []
        if not self.processes.main:
            return
        if self._validation is not None and (last or epoch % self.settings.validate_every == 0):
            with self._averaged():
                row |= self._validation(self.policy, self.processes.device)
        self.rows.append(row)
        write_log_csv(self._output / "log.csv", self.rows)
        for logger in loggers:
            logger.log(row)
        if self.settings.keep_checkpoints and not last and epoch % self.settings.checkpoint_every == 0:
            folder = intermediate(self._output, epoch)
            self._save_checkpoint(folder, self.averaged_state(), self.rows, self.machines, self.former_epochs)
            keep_last(self._output, self.settings.keep_checkpoints)

    def _epoch_losses(self) -> Tensor:
        """Return the losses of this epoch's batches so far, summed over the processes."""
        return self.processes.sum(torch.stack(self._losses))

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Swap the moving average into the policy's weights during the block."""
        # With decay 0, diffusers computes average - (average - weights), which differs from the weights by rounding.
        if not self.settings.ema_max_decay:
            yield
            return
        self.average.store(self.policy.parameters())
        self.average.copy_to(self.policy.parameters())
        try:
            yield
        finally:
            self.average.restore(self.policy.parameters())

    def _progress_bar(self) -> tqdm:
        return tqdm(
            total=self.total_steps,
            initial=self.step,
            unit="step",
            desc="training",
            disable=not self.processes.main,
        )

    def _open_loggers(self, stack: ExitStack) -> list[Logger]:
        if not self.processes.main:
            return []
        settings = self.settings
        loggers = make_loggers(settings.loggers, self._output, self.step, settings.wandb_project, self._run)
        for logger in loggers:
            stack.callback(logger.close)
        return loggers

    # State ----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Save the whole training state. Every process must call this: the losses are summed over all of them."""
        losses = self._epoch_losses() if self._losses else torch.zeros(0)
        if self.processes.main:
            state = {
                "run": self._run,
                "step": self.step,
                "rows": self.rows,
                "machines": self.machines,
                "former_epochs": self.former_epochs,
                "losses": losses.cpu(),
                "policy": self.policy.state_dict(),
                "average": self.average.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
            }
            save_state(self._output / STATE_FILE, state)

    def _move(self, former: list[Machine]) -> None:
        """Record that this machine continues a state of `former` machines; print a line if it is of another kind."""
        (here,) = self.machines
        if former and self.was_finished:
            self.machines = former  # this machine has nothing left to train, so it is not recorded
            return
        if former and self.processes.main and (moved := differing_facts(former[-1], here)):
            print(
                f"training continues from step {self.step} on another kind of machine ({moved}): rounding will make "
                "the weights differ from those of an uninterrupted run; the checkpoint records both machines",
                file=sys.stderr,
            )
        self.machines = with_machine(former, here)

    def _restore(self) -> None:
        state = load_state(self._output / STATE_FILE, self._run) if self._resume else None
        step = state["step"] if state else 0
        if self.processes.share(step) != step:
            raise TrainingError(
                f"process {self.processes.rank} does not see the training state that the main process resumes from; "
                f"output {str(self._output)!r} must be on a disk that all machines share"
            )
        if state is None:
            if self.processes.main:
                set_aside(self._output)
            return
        self.was_finished = step == self.total_steps
        self.step, self.rows = step, state["rows"]
        self.former_epochs = state.get("former_epochs", [])  # states of earlier versions have none, and no machines
        self._move(state.get("machines", []))
        device = self.processes.device
        # The saved losses are sums over all processes, and will be summed again: one process takes them, the others 0.
        losses = state["losses"].to(device)
        self._losses = list(losses if self.processes.main else torch.zeros_like(losses))
        self.policy.load_state_dict(state["policy"])
        self.average.load_state_dict(state["average"])
        self.average.to(device)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        former = finished_epochs(state, self._run)
        if former is not None:
            self._continue(former)

    def _continue(self, former: int) -> None:
        """Go on from the end of a finished run of `former` epochs, with the learning rate of the longer run."""
        self.former_epochs = [*self.former_epochs, former]
        # The schedule sets the rate after a step: without this, the first one would still be that of the shorter run.
        rates = [
            base * factor(self.schedule.last_epoch)
            for base, factor in zip(self.schedule.base_lrs, self.schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        if not self.processes.main:
            return
        set_checkpoint_aside(self._output / "checkpoint")  # or it would pass for the result of the longer run
        epochs = self.settings.epochs
        rest = (
            f"its learning rate stays constant, so this gives what {epochs} epochs at once give"
            if self.settings.schedule == "constant"
            else f"its learning rate had fallen to zero, and now follows the cosine over {epochs} epochs, from "
            f"{rates[0]:.3g} on: this does not give what {epochs} epochs at once give"
        )
        print(f"the finished run of {former} epochs continues to epoch {epochs}: {rest}", file=sys.stderr)

"""Training in one process or several: which one writes, which ones wait, and where gradients are averaged."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from s2robot.interfaces import ConfigError, TrainingError, resolve_device

T = TypeVar("T")


class Processes:
    """A single process; all methods do nothing. `LaunchedProcesses` overrides them.

    Attributes:
        device: device of this process.
        rank: index of this process, 0 … count-1.
        count: number of processes that train together.
    """

    def __init__(self, device: torch.device, rank: int = 0, count: int = 1) -> None:
        self.device = device
        self.rank = rank
        self.count = count

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files and draws the progress bar."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Return the module wrapped so that its gradients are averaged over the processes."""
        return module

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes."""
        return values

    def share(self, value: T) -> T:
        """Return the main process's value; the others wait for it."""
        return value

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go through the block before the others enter it."""
        yield

    def close(self) -> None:
        """Leave the group of processes."""


class LaunchedProcesses(Processes):
    """Processes started by `accelerate launch` or torchrun: data-parallel training on one machine or several.

    Raises:
        ConfigError: accelerate is not installed, or `device` names one device by number.
        TrainingError: the launcher is configured to shard the model.
    """

    def __init__(self, device: str) -> None:
        if importlib.util.find_spec("accelerate") is None:
            raise ConfigError("several processes need 'accelerate': pip install 's2robot[accelerate]'")
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device={device!r} is not possible with several processes; valid: auto, cpu, cuda")
        if device == "cuda":
            resolve_device(device)
        from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs

        # The others wait while the main process encodes, which can take hours; the default is 10 to 30 minutes.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
        # The loop handles precision itself, in the same way for one process and for several.
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[patience])
        kind = self._accelerator.distributed_type
        if kind not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise TrainingError(
                f"launched as {kind.value}, but only data-parallel training is possible; valid: MULTI_CPU, MULTI_GPU"
            )
        super().__init__(self._accelerator.device, self._accelerator.process_index, self._accelerator.num_processes)

    def wrap(self, module: nn.Module) -> nn.Module:
        """Wrap the module in `DistributedDataParallel`."""
        return self._accelerator.prepare_model(module)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over the processes; every process must call this."""
        return self._accelerator.reduce(values, reduction="sum")

    def share(self, value: T) -> T:
        """Return the main process's value; every process must call this."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Let the main process go through the block before the others enter it."""
        with self._accelerator.main_process_first():
            yield

    def close(self) -> None:
        """Leave the group of processes; nothing can be shared afterwards."""
        self._accelerator.end_training()


def make_processes(device: str) -> Processes:
    """Return the processes of this run, according to the launcher's environment variables.

    Raises:
        ConfigError: the device does not exist on this machine.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return LaunchedProcesses(device)
    return Processes(resolve_device(device))

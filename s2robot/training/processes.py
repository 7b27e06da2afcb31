"""One process or several: who writes, who waits for whom, and where gradients meet."""

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
    """A single process: nothing stands between the loop and PyTorch.

    Attributes:
        device: where this process computes.
        rank: 0 … count-1.
        count: processes that train together.
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
        """The module whose gradients are averaged over the processes."""
        return module

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        return values

    def share(self, value: T) -> T:
        """The main process's value; the others wait for it."""
        return value

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others enter it."""
        yield

    def close(self) -> None:
        """Leave the group."""


class LaunchedProcesses(Processes):
    """Started by `accelerate launch` (or torchrun): data parallel, on one machine or several.

    Raises:
        ConfigError: accelerate is not installed, or one device is asked for by number.
        TrainingError: the launcher was told to shard the model.
    """

    def __init__(self, device: str) -> None:
        if importlib.util.find_spec("accelerate") is None:
            raise ConfigError("several processes need 'accelerate': pip install 's2robot[accelerate]'")
        if device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"device={device!r} is not possible with several processes; valid: auto, cpu, cuda")
        if device == "cuda":
            resolve_device(device)
        from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs

        # The others wait while the main process encodes the frames, which can take hours.
        patience = InitProcessGroupKwargs(timeout=timedelta(days=2))
        # Precision is the loop's own affair, the same in one process and in several.
        self._accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no", kwargs_handlers=[patience])
        kind = self._accelerator.distributed_type
        if kind not in (DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
            raise TrainingError(
                f"launched as {kind.value}, but only data-parallel training is possible; valid: MULTI_CPU, MULTI_GPU"
            )
        super().__init__(self._accelerator.device, self._accelerator.process_index, self._accelerator.num_processes)

    def wrap(self, module: nn.Module) -> nn.Module:
        """In `DistributedDataParallel`."""
        return self._accelerator.prepare_model(module)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes; every one of them must call it."""
        return self._accelerator.reduce(values, reduction="sum")

    def share(self, value: T) -> T:
        """The main process's value; every process must call it."""
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process goes through the block before the others enter it."""
        with self._accelerator.main_process_first():
            yield

    def close(self) -> None:
        """Leave the group; nothing can be shared afterwards."""
        self._accelerator.end_training()


def make_processes(device: str) -> Processes:
    """The processes of this run, as the launcher's environment variables say.

    Raises:
        ConfigError: the device does not exist here.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return LaunchedProcesses(device)
    return Processes(resolve_device(device))

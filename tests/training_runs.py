"""Training at the size of tests: a toy dataset, a toy encoder, and runs in separate processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers import write_dataset
from torch.distributed import TCPStore

from s2robot import S2Encoder
from s2robot.config import EncoderConfig, ReadoutConfig, TrainConfig, TrainingConfig
from s2robot.policies.bc import BCConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.training import TrainingLoop, train

SLOW_IMPORTS = ("s2robot.training", "timm", "diffusers.optimization", "diffusers.training_utils", "accelerate")
"""What a training imports before or while it runs, and what takes seconds."""

SMALL_DIFFUSION = DiffusionUNetConfig(down_dims=[16], groups=4, train_timesteps=5, inference_steps=5)


def make_workspace(folder: Path, lengths: tuple[int, ...] = (30, 30, 30, 30, 30)) -> Path:
    """Make a folder with a dataset; runs in it share a feature cache."""
    write_dataset(folder / "demos.hdf5", lengths)
    return folder


def make_encoder() -> S2Encoder:
    """Random weights, the same in every process."""
    torch.manual_seed(0)
    return S2Encoder("test_efficientnet", scales=(32, 64), weights="none")


def make_config(workspace: Path, output: Path, *, policy: Any = None, training: Any = None, **changes) -> TrainConfig:
    """Return settings of a run that takes seconds; `training` and `changes` replace single settings."""
    settings = TrainingConfig(epochs=6, batch_size=16, learning_rate=3e-3, warmup_steps=5, validation_fraction=0.2)
    config = TrainConfig(
        dataset=str(workspace / "demos.hdf5"),
        output=str(output),
        cache_dir=str(workspace / "cache"),
        device="cpu",
        encoder=EncoderConfig(backbone="test_efficientnet", scales=[32, 64], weights="none"),
        readout=ReadoutConfig(name="mean", width=8),
        policy=policy or BCConfig(hidden=[32]),
        training=replace(settings, **(training or {})),
    )
    return replace(config, **changes)


def visible(folder: Path) -> list[str]:
    """Return the names of a folder's files, without its lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def train_in_processes(
    config: TrainConfig, count: int = 1, kill_at: int | None = None, report: Path | None = None
) -> list[int | None]:
    """Train in one group of `count` new processes, each of which kills itself with SIGKILL before step `kill_at`.

    They are forked from a server that has imported everything once. Returns their exit codes.

    Raises:
        TimeoutError: a process did not end within ten minutes.
    """
    context = multiprocessing.get_context("forkserver")
    # Without this module, which the server would not find, because it does not search the folder of the tests.
    context.set_forkserver_preload(list(SLOW_IMPORTS))
    # Where they meet, on a port that nobody can take in between; they find it as those of `torchrun` find its store.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    arguments = [(config, rank, count, store.port, kill_at, report) for rank in range(count)]
    processes = [context.Process(target=_train, args=one) for one in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(600)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    if None in codes:
        raise TimeoutError(f"training in {count} processes does not end; exit codes so far: {codes}")
    return codes


def _train(config: TrainConfig, rank: int, count: int, port: int, kill_at: int | None, report: Path | None) -> None:
    torch.set_num_threads(1)  # sums by several threads may be rounded differently
    if count > 1:  # the variables that `accelerate launch --cpu` sets
        local = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        store = {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
        os.environ.update({name: str(value) for name, value in {**local, **address, **store}.items()})
    step = TrainingLoop._train_step

    def dying(self: TrainingLoop, *arguments: Any) -> None:
        if self.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        step(self, *arguments)

    TrainingLoop._train_step = dying
    encoder = make_encoder()
    if report is not None:
        count_frames(encoder, report / f"frames_{rank}")
    train(config, encoder)


def count_frames(encoder: S2Encoder, path: Path) -> None:
    """Write the number of frames that the encoder gets to `path`."""
    path.write_text("0")
    forward: Callable[..., Any] = encoder.forward

    def counting(images: torch.Tensor) -> Any:
        path.write_text(str(int(path.read_text()) + len(images)))
        return forward(images)

    encoder.forward = counting

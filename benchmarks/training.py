"""Speed of training from cached features and with encoding in every step, data loading, memory: docs/training.md.

Run: python benchmarks/training.py DATASET [POLICY …] [key=value …] [--demonstrations 60] [--steps 30] [--plain-steps 2]
     python benchmarks/training.py --memory [--sizes 50 500]

For each policy, with the settings of `train_policy.py` (key=value, for example +experiment=lift_bc):
- cached: `--steps` steps of the real training loop from cached features, after equally many warm-up steps;
- plain: `--plain-steps` steps that first read and encode the images of the same windows, as recipes without a cache do,
  with the same encoder and the same optimizer step;
- waiting: the time that the loop waits for its batches; gathering: the time that it would wait without the thread.
All steps of an epoch have the same size, so the ratio of steps is also the ratio of epochs.

--memory trains on SYNTHETIC features (random numbers in the shape of two cameras at scales {224, 448}, 50 steps per
demonstration) in one process per size, and reads the process's memory from /proc/self/smaps_rollup.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

from s2robot.cli.words import compose
from s2robot.config import ReadoutConfig, TrainConfig, TrainingConfig
from s2robot.data import DemonstrationDataset, open_dataset
from s2robot.encoder import S2Encoder
from s2robot.feature_cache import CachedFeatures
from s2robot.interfaces import Batch, FeatureShape, Observation, PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.training import TrainingData, TrainingLoop, TrainingPlan, make_processes, prepare
from s2robot.training.windows import Demonstrations

SHAPE = FeatureShape(channels=640, height=7, width=7)  # EfficientNet-Lite-0 at two scales
EPISODE_STEPS = 50


def make_loop(config: TrainConfig, data: TrainingData) -> TrainingLoop:
    """Make the training loop of `train`, without its files."""
    torch.manual_seed(config.seed)
    policy = make_policy(config.policy, config.readout, data.plan.spec)
    policy.fit_normalization(data.demonstrations.actions, data.demonstrations.proprioception)
    processes = make_processes(config.device)

    def no_checkpoint(*_: object) -> None:
        return None

    return TrainingLoop(policy.to(processes.device), data, config, processes, {}, no_checkpoint)


def cached_steps(loop: TrainingLoop, steps: int) -> tuple[list[float], list[float]]:
    """Return the seconds of each step of the loop, including the wait for its batch, and of the wait alone."""
    total: list[float] = []
    waiting: list[float] = []
    while len(total) < steps:
        batches = loop._batches.of_epoch(*divmod(loop.step, loop.steps_per_epoch))
        while len(total) < steps:
            start = time.perf_counter()
            item = next(batches, None)
            if item is None:
                break
            arrived = time.perf_counter()
            loop._train_step(*item)
            loop.step += 1
            total.append(time.perf_counter() - start)
            waiting.append(arrived - start)
    return total, waiting


def plain_steps(loop: TrainingLoop, dataset: DemonstrationDataset, encoder: S2Encoder, steps: int) -> list[float]:
    """Return the seconds of steps that read and encode the images of their windows."""
    seconds = []
    for indices, batch in loop._batches.of_epoch(0):
        if len(seconds) == steps:
            break
        start = time.perf_counter()
        fresh = {
            camera: encode_windows(loop, dataset, encoder, camera, indices) for camera in batch.observation.features
        }
        for camera, rows in fresh.items():  # must equal the cached features except for rounding (other batch size)
            torch.testing.assert_close(rows, batch.observation.features[camera], atol=0.1, rtol=0.1)
        seen = Observation(fresh, batch.observation.proprioception, batch.observation.past_actions)
        loop._train_step(indices, Batch(seen, batch.actions))
        seconds.append(time.perf_counter() - start)
    return seconds


def encode_windows(
    loop: TrainingLoop, dataset: DemonstrationDataset, encoder: S2Encoder, camera: str, indices: np.ndarray
) -> torch.Tensor:
    """Compute the features of windows from their images, float16 [B, To, numel]."""
    rows = loop._windows.rows(indices)
    starts = np.concatenate([[0], np.cumsum(dataset.lengths)])
    images = np.empty((rows.size, *dataset.image_size(camera), 3), np.uint8)
    for image, row in zip(images, rows.flatten(), strict=True):
        episode = int(np.searchsorted(starts, row, "right")) - 1
        dataset.read_images(episode, camera, int(row - starts[episode]), image[None])
    shape = encoder.feature_shape(*dataset.image_size(camera))
    return shape.flatten(encoder(torch.from_numpy(images))).to("cpu", torch.float16).unflatten(0, rows.shape)


def gather_seconds(loop: TrainingLoop, count: int) -> float:
    """Return the median time to gather one batch while nothing else runs."""
    size = loop.settings.batch_size
    order = np.random.default_rng(0).permutation(len(loop._windows))
    seconds = []
    for index in range(count):
        indices = order[np.arange(index * size, (index + 1) * size) % len(order)]
        start = time.perf_counter()
        loop._windows.__getitems__(indices)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def save_seconds(loop: TrainingLoop) -> tuple[float, float]:
    """Return the time to save the whole state, and its size [MB]."""
    with tempfile.TemporaryDirectory() as folder:
        loop._output = Path(folder)
        start = time.perf_counter()
        loop._save()
        return time.perf_counter() - start, sum(file.stat().st_size for file in Path(folder).iterdir()) / 1e6


def compare(config: TrainConfig, arguments: argparse.Namespace) -> list[str]:
    """Return one line of the table."""
    encoder = S2Encoder(**asdict(config.encoder), device=make_processes(config.device).device)
    data = prepare(config, encoder)
    loop = make_loop(config, data)
    cached_steps(loop, arguments.steps)
    total, waiting = cached_steps(loop, arguments.steps)
    with open_dataset(config.dataset) as dataset:
        plain = statistics.median(plain_steps(loop, dataset, encoder, arguments.plain_steps))
    step = statistics.median(total)
    saving, size = save_seconds(loop)
    return [
        config.policy.name,
        f"{config.training.batch_size} × {config.policy.observation_steps} × {len(data.features)}",
        str(loop.steps_per_epoch),
        f"{1000 * step:.1f}",
        f"{1000 * plain:.0f}",
        f"{plain / step:.0f}×",
        f"{sum(waiting) / sum(total):.1%}",
        f"{gather_seconds(loop, arguments.steps) / step:.1%}",
        f"{saving:.2f} s, {size:.0f} MB",
    ]


COLUMNS = [
    "policy",
    "frames a step (windows × To × cameras)",
    "steps an epoch",
    "cached step ms",
    "plain step ms",
    "epoch from the cache",
    "waiting for data",
    "gathering, were it not in a thread",
    "saving the state",
]


def synthetic_data(folder: Path, demonstrations: int) -> TrainingData:
    """Write random features in the shape of a real run's to disk, and make random actions."""
    rng = np.random.default_rng(0)
    frames = demonstrations * EPISODE_STEPS
    features = {}
    for camera in ("agentview", "wrist"):
        rows = np.memmap(folder / camera, np.float16, "w+", shape=(frames, SHAPE.numel))
        for start in range(0, frames, 500):
            rows[start : start + 500] = rng.random((len(rows[start : start + 500]), SHAPE.numel), np.float32)
        rows.flush()
        del rows
        features[camera] = CachedFeatures(
            SHAPE, np.memmap(folder / camera, np.float16, "r", shape=(frames, SHAPE.numel))
        )
    actions = [rng.uniform(-1, 1, (EPISODE_STEPS, 7)).astype(np.float32) for _ in range(demonstrations)]
    low_dim = [rng.normal(size=(EPISODE_STEPS, 9)).astype(np.float32) for _ in range(demonstrations)]
    starts = [index * EPISODE_STEPS for index in range(demonstrations)]
    everything = Demonstrations(actions, low_dim, starts, [f"demo_{index}" for index in range(demonstrations)])
    spec = PolicySpec(dict.fromkeys(features, SHAPE), 9, 7)
    plan = TrainingPlan(everything, list(range(demonstrations)), [], spec, [], {}, {}, "", [])
    return TrainingData(plan, features)


def memory_of(demonstrations: int, steps: int) -> dict[str, float]:
    """Train on synthetic features; return the process's peak memory [MB]: its own, and pages of files."""
    with tempfile.TemporaryDirectory(dir=".") as folder:
        data = synthetic_data(Path(folder), demonstrations)
        config = TrainConfig(
            "", folder, device="cpu", policy=BCConfig(), readout=ReadoutConfig(), training=TrainingConfig()
        )
        loop = make_loop(config, data)
        peak = {"Anonymous": 0.0, "Pss_File": 0.0}
        for _ in range(0, steps, 10):
            cached_steps(loop, 10)
            peak = {name: max(value, held(name)) for name, value in peak.items()}
        return peak


def held(name: str) -> float:
    """Read a field of /proc/self/smaps_rollup [MB]."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith(f"{name}:"))


def memory_lines(arguments: argparse.Namespace) -> list[list[str]]:
    """Return a line for each number of demonstrations, each measured in a separate process."""
    lines = []
    for size in arguments.sizes:
        words = [sys.executable, __file__, "--memory-of", str(size), "--steps", str(arguments.steps)]
        printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        own, files = printed.split()[-2:]
        cached = 2 * 2 * size * EPISODE_STEPS * SHAPE.numel / 1e6
        lines.append([str(size), f"{cached:.0f}", own, files])
    return lines


def table(header: list[str], lines: list[list[str]]) -> str:
    """Format a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="DATASET [POLICY …] [key=value …]")
    parser.add_argument("--demonstrations", type=int, default=60)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--plain-steps", type=int, default=2)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.memory_of:
        peak = memory_of(arguments.memory_of, arguments.steps)
        print(*(f"{value:.0f}" for value in peak.values()))
        return
    print(f"`{' '.join(['python', 'benchmarks/training.py', *sys.argv[1:]])}`\n")
    if arguments.memory:
        header = ["demonstrations (synthetic features)", "cache MB", "own memory MB", "file pages MB (reclaimable)"]
        print(table(header, memory_lines(arguments)))
        return
    if not arguments.words:
        parser.error("name a dataset, or give --memory")
    dataset, *words = arguments.words
    settings = [word for word in words if "=" in word]
    policies = [word for word in words if "=" not in word] or ["bc"]
    lines = []
    for policy in policies:
        fixed = [f"dataset={dataset}", f"policy={policy}", f"num_demonstrations={arguments.demonstrations}"]
        config: TrainConfig = compose("train_policy", [*fixed, *settings])
        # All steps must do the same work: no log rows, no checkpoints, no end of training.
        training = replace(config.training, epochs=10**6, validation_fraction=0.0)
        lines.append(compare(replace(config, training=training), arguments))
    print(table(COLUMNS, lines))


if __name__ == "__main__":
    main()

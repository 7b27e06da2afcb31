"""Synthetic result folders for the tests of the report: the files a benchmark leaves behind."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from s2robot.report import write_report
from s2robot.report.contrasts import Comparisons, compare_all
from s2robot.report.load import load_arms
from s2robot.report.plan import Plan
from s2robot.report.plan_document import PlannedContrast

SCALES = PlannedContrast("more scales", {"scales": (224,)}, {"scales": (224, 448)})
BACKBONES = {"efficientnet_lite0": (0.4, 4.7e6), "efficientnet_lite2": (0.9, 6.1e6), "vit_small_16": (4.6, 22e6)}


def make_results(successes: list[bool] | np.ndarray, first_seed: int = 100_000, **changes: Any) -> dict[str, Any]:
    """Make a `results.json` document with these outcomes at consecutive evaluation seeds."""
    outcomes = [bool(success) for success in successes]
    document = {
        "schema": 1,
        "task": "Lift",
        "policy": "bc",
        "backbone": "efficientnet_lite0",
        "scales": [224],
        "readout": "conv",
        "training_seed": 0,
        "demonstrations": 60,
        "gmacs": 0.4,
        "parameters": 4.7e6,
        "feature_width": 320,
        "success_rate": sum(outcomes) / len(outcomes),
        "successes": sum(outcomes),
        "episodes": len(outcomes),
        "interval": [0.0, 1.0],
        "confidence": 0.95,
        "seconds": 61.2,
        "latency_ms": 12.3,
        "episode_results": [
            {
                "seed": first_seed + index,
                "success": success,
                "steps": 34 + index % 20 if success else 100,
                "error": None,
            }
            for index, success in enumerate(outcomes)
        ],
        "loss_curve": [
            {"epoch": epoch, "train_loss": 0.3 * 0.9**epoch + 0.01, "validation_loss": 0.3 * 0.92**epoch + 0.02}
            for epoch in range(1, 41)
        ],
        "videos": [],
        "command": "s2robot evaluate checkpoint=outputs/run/checkpoint",
        "versions": {"s2robot": "0.1.0", "torch": "2.12.0"},
        "fingerprints": {"encoder": "e" * 64, "data": "d" * 64},
    }
    return {**document, **changes}


def write_results(folder: Path, document: dict[str, Any]) -> Path:
    """Write one document to `<folder>/results.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "results.json"
    path.write_text(json.dumps(document))
    return path


def write_video(folder: Path, seed: int, success: bool) -> dict[str, Any]:
    """Write a short H.264 video below `folder` and return its entry for `results.json`."""
    name = f"videos/seed{seed}_{'success' if success else 'failure'}.mp4"
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    frames = np.zeros((10, 64, 64, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[8:56, 4 * index : 4 * index + 16] = (40, 200, 90) if success else (220, 90, 40)
    iio.imwrite(folder / name, frames, fps=10, codec="libx264", macro_block_size=8)
    return {"path": name, "seed": seed, "success": success}


def write_benchmark(
    root: Path,
    tasks: tuple[str, ...] = ("Lift", "NutAssembly"),
    policies: tuple[str, ...] = ("bc",),
    backbones: dict[str, tuple[float, float]] = BACKBONES,
    scale_sets: tuple[tuple[int, ...], ...] = ((112,), (224,), (224, 448)),
    training_seeds: int = 3,
    episodes: int = 100,
    videos: int = 0,
) -> Path:
    """A whole grid with its `benchmark.json`; larger backbones and more scales succeed a little more often."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 0.8, episodes)
    for task, policy, name, scales in itertools.product(tasks, policies, backbones, scale_sets):
        gmacs, parameters = backbones[name]
        cost = gmacs * sum((size / 224) ** 2 for size in scales)
        skill = 0.35 * np.log2(cost / 0.1) - 0.6 + 0.8 * (task == "Lift") + 0.2 * (policy != "bc")
        for seed in range(training_seeds):
            folder = root / "cells" / f"{task}-{policy}-{name}-{'_'.join(map(str, scales))}-seed{seed}"
            outcomes = skill + rng.normal(0, 0.15) + difficulty + rng.normal(0, 0.6, episodes) > 0
            document = make_results(
                outcomes,
                task=task,
                policy=policy,
                backbone=name,
                scales=list(scales),
                training_seed=seed,
                gmacs=cost,
                parameters=parameters,
                latency_ms=8 + 3 * cost,
                loss_curve=[
                    {"epoch": epoch, "train_loss": level * 0.95, "validation_loss": level}
                    for epoch in range(1, 41)
                    for level in [0.02 / (1 + cost) ** 0.2 * rng.uniform(0.95, 1.05) + 0.3 * 0.9**epoch]
                ],
                fingerprints={"encoder": f"{name}{scales}".encode().hex(), "data": task.encode().hex()},
            )
            if seed == 0:
                document["videos"] = [write_video(folder, 100_000 + i, bool(outcomes[i])) for i in range(videos)]
            write_results(folder, document)
    contrasts = [
        {"name": f"{task}: scales {list(scale_sets[-1])} against {list(scale_sets[0])}"}
        | {
            side: {"task": task, "scales": list(scales)}
            for side, scales in zip(("baseline", "treatment"), (scale_sets[0], scale_sets[-1]), strict=True)
        }
        for task in tasks
    ]
    plan = {"contrasts": contrasts, "failed": [{"cell": "Door-bc-vit", "error": "Traceback\nRuntimeError: <no GPU>"}]}
    (root / "benchmark.json").write_text(json.dumps(plan))
    return root


@functools.cache
def shared_report(session: Path) -> Path:
    """Return the page of a small benchmark with videos, in its folder `out`; written once for all tests.

    Args:
        session: `tmp_path_factory.getbasetemp()`.
    """
    root = session / "shared benchmark"
    backbones = {"efficientnet_lite0": (0.4, 4.7e6), "vit|small": (4.6, 22e6)}
    write_benchmark(root, tasks=("Lift",), backbones=backbones, scale_sets=((112,), (224,)), episodes=40, videos=3)
    return write_report([root], root / "out")


def outcomes(rate: float, size: int = 100, seed: int = 0) -> np.ndarray:
    """Random outcomes, bool [size]."""
    return np.random.default_rng(seed).random(size) < rate


def cell_writer(root: Path) -> Callable[..., Path]:
    """Return a function that writes one more cell below `root` and returns `root`."""
    numbers = itertools.count()

    def write(successes: list[bool] | np.ndarray, **changes: Any) -> Path:
        write_results(root / str(next(numbers)), make_results(successes, **changes))
        return root

    return write


def compare(folder: Path, *planned: PlannedContrast) -> Comparisons:
    """The planned contrasts of the results in a folder."""
    return compare_all(load_arms([folder]), Plan(contrasts=planned))

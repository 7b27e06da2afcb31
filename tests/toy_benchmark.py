"""A benchmark for tests: real training, encoding and rollouts, on a toy task that needs no simulator.

The toy: a bright square is on the left or right of the image. Moving toward it until the position passes 1 is success;
only the image shows the direction. Demonstrations do this. Independent of the policy, every third initial state is
solved by any action and every third by none, so that each cell has both outcomes.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from helpers import needs_films
from vectors import InProcess

from s2robot.benchmark import Cell, TaskFacts, make_grid, run_benchmark
from s2robot.config import BenchmarkConfig, CollectConfig, EncoderConfig, ReadoutConfig, TrainingConfig
from s2robot.data import RobomimicWriter
from s2robot.interfaces import Episode
from s2robot.policies.bc import BCConfig
from s2robot.report.plan_document import PlannedContrast

SIDE, HORIZON, STEP = 64, 12, 0.25


def draw(sign: float, rng: np.random.Generator, contrast: float = 1.0) -> np.ndarray:
    """Draw a square on one side of an image of noise, uint8 [64, 64, 3]."""
    image = rng.integers(0, 120, (SIDE, SIDE, 3)).astype(np.uint8)
    column = 40 if sign > 0 else 8
    image[24:40, column : column + 16] = int(130 + 120 * contrast)
    return image


def enlarge(image: np.ndarray, side: int) -> np.ndarray:
    """Enlarge the image by repeating every pixel."""
    return image.repeat(side // SIDE, 0).repeat(side // SIDE, 1)


class Toy(gymnasium.Env):
    """One episode of the toy; a step executes a chunk of actions, as `s2robot_envs.ActionChunk` does."""

    def __init__(
        self, action_steps: int, observation_steps: int, horizon: int, variant: dict[str, Any], side: int
    ) -> None:
        self.observation_space = spaces.Dict(
            {
                "agentview_image": spaces.Box(0, 255, (observation_steps, side, side, 3), np.uint8),
                "position": spaces.Box(-9, 9, (observation_steps, 1), np.float32),
            }
        )
        self.action_space = spaces.Box(-1, 1, (action_steps, 1), np.float32)
        self._side = side
        self._observation_steps, self._horizon, self._contrast = (
            observation_steps,
            horizon,
            variant.get("contrast", 1.0),
        )

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._fate = None if seed is None else {0: False, 1: True}.get(seed % 3)
        self._sign = 1.0 if self.np_random.random() < 0.5 else -1.0
        self._image = enlarge(draw(self._sign, self.np_random, self._contrast), self._side)
        self._position, self._steps, self._over = float(self.np_random.uniform(-0.5, 0.5)), 0, False
        self._record = bool((options or {}).get("record"))
        return self._observation(), self._info(False, 0)

    def step(self, actions: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if pause := float(os.environ.get("TOY_PAUSE", "0")):
            time.sleep(pause)
        executed, success = 0, False
        for action in actions:
            if self._over:
                break
            self._position += STEP * float(np.clip(action[0], -1, 1))
            self._steps += 1
            executed += 1
            success = self._position * self._sign > 1 if self._fate is None else self._fate
            self._over = success or self._steps == self._horizon
        return self._observation(), 0.0, False, self._steps == self._horizon, self._info(success, executed)

    def _observation(self) -> dict[str, np.ndarray]:
        position = np.full((self._observation_steps, 1), self._position, np.float32)
        return {"agentview_image": np.repeat(self._image[None], self._observation_steps, 0), "position": position}

    def _info(self, success: bool, executed: int) -> dict[str, Any]:
        info: dict[str, Any] = {"is_success": success, "steps": executed}
        if self._record:
            info["frames"] = np.repeat(self._image[None], max(executed, 1), 0)
        return info


def make_toys(
    task: str,
    num_envs: int,
    *,
    observation_steps: int,
    action_steps: int,
    horizon: int = HORIZON,
    variant: dict[str, Any] | None = None,
    image_size: dict[str, int],
    **_: Any,
) -> InProcess:
    """Make toy environments; the counterpart of `s2robot_envs.make_vector_env`."""
    return InProcess(
        lambda: Toy(
            action_steps=action_steps,
            observation_steps=observation_steps,
            horizon=horizon,
            variant=variant or {},
            side=image_size["agentview"],
        ),
        num_envs,
    )


def collect_toys(config: CollectConfig) -> None:
    """Write toy demonstrations; the counterpart of `s2robot.cli.demonstrations.collect_demonstrations`."""
    environment = {"task": config.task, "horizon": config.horizon or HORIZON, "variant": dict(config.variant)}
    with RobomimicWriter(Path(config.out), {"env_name": config.task, "type": 1, "s2robot": environment}) as writer:
        for index in range(writer.count, config.num):
            writer.add(_demonstration(config, config.seed * 10_000 + index))


def _demonstration(config: CollectConfig, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    sign = 1.0 if rng.random() < 0.5 else -1.0
    image = enlarge(draw(sign, rng, config.variant.get("contrast", 1.0)), config.size)
    length = config.variant.get("length", 6)
    return Episode(
        actions=np.full((length, 1), sign, np.float32),
        images={"agentview": np.repeat(image[None], length, 0)},
        proprioception={"position": rng.uniform(-1, 1, (length, 1)).astype(np.float32)},
        attributes={"seed": seed},
    )


def toy_facts(task: str) -> TaskFacts:
    """Return the toy's facts; the counterpart of `s2robot.cli.cells.task_facts`."""
    return TaskFacts(HORIZON, ("agentview",))


def toy_config(output: Path, **changes: Any) -> BenchmarkConfig:
    """Return settings of two scale sets of a tiny backbone × two training seeds, which run in seconds."""
    config = BenchmarkConfig(
        output=str(output),
        tasks=["Lift"],
        backbones=["test_efficientnet"],
        scale_sets=[[32], [32, 64]],
        training_seeds=[0, 1],
        demonstrations=10,
        size=SIDE,
        episodes=6,
        videos=1,
        device="cpu",
        encoder=EncoderConfig(weights="none"),
        readout=ReadoutConfig(name="mean", width=8),
        policy=BCConfig(hidden=[16], action_steps=4, execute_steps=4),
        training=TrainingConfig(epochs=4, batch_size=16, learning_rate=3e-3, warmup_steps=2, save_every_steps=4),
    )
    return replace(config, **changes)


def make_cells(config: BenchmarkConfig) -> list[Cell]:
    """Return all cells of a benchmark."""
    return list(make_grid(config).cells)


def planned_contrasts(config: BenchmarkConfig) -> list[PlannedContrast]:
    """Return all contrasts of a benchmark."""
    return list(make_grid(config).contrasts)


def run_toys(config: BenchmarkConfig) -> Path | None:
    """Run the benchmark on the toy with two environments at a time; skip the test if videos cannot be made."""
    if config.videos:
        needs_films()
    return run_benchmark(config, collect_toys, make_toys, 2)


def empty_report(folders: list[Path], out: Path) -> Path:
    """Stand in for `write_report`, which takes seconds."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.md").write_text("")
    return out / "report.html"

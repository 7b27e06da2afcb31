"""Rollouts of a checkpoint in simulation: vector environments, one batched encoder call per step.

The environments execute a whole action chunk per step and render only the frames the policy will look at.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from s2robot.checkpoint import Checkpoint, load_policy, package_versions, write_durably
from s2robot.config import EncoderConfig, EvaluateConfig
from s2robot.encoder import S2Encoder
from s2robot.interfaces import CheckpointError, Observation, RolloutError, resolve_device
from s2robot.policies import Policy
from s2robot.statistics import wilson_interval

RESULTS_SCHEMA = 1
_VIDEO_FPS = 20  # robosuite's control frequency: videos play in real time

MakeVectorEnv = Callable[..., VectorEnv]
"""`make_vector_env(task, num_envs, *, observation_steps, action_steps, **environment)`, auto-reset disabled."""


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one rollout: its seed, whether the task was solved at any step, and how many steps it took."""

    seed: int
    success: bool
    steps: int
    error: str | None = None


@dataclass
class _Slot:
    """The episode one environment is running."""

    seed: int
    generator: torch.Generator
    steps: int = 0
    frames: list[np.ndarray] | None = None


class Actor:
    """Policy and encoder together: raw observations of several environments → action chunks."""

    def __init__(self, policy: Policy, encoder: S2Encoder, checkpoint: Checkpoint, device: torch.device) -> None:
        self._policy = policy
        self._encoder = encoder
        self._shapes = checkpoint.spec.features
        self._keys = checkpoint.proprioception
        self._device = device
        self.execute_steps = checkpoint.config.policy.execute_steps
        self.latencies: list[float] = []  # seconds per call

    def act(self, observation: dict[str, np.ndarray], generators: Sequence[torch.Generator]) -> np.ndarray:
        """Actions float32 [n, execute_steps, A] for n environments.

        Args:
            observation: `<camera>_image` uint8 [n, To, H, W, 3] and proprioception float32 [n, To, d].
            generators: one per environment, seeded by its episode.
        """
        start = time.perf_counter()
        n, steps = observation[f"{next(iter(self._shapes))}_image"].shape[:2]
        images = {camera: torch.from_numpy(observation[f"{camera}_image"]).flatten(0, 1) for camera in self._shapes}
        encoded = self._encoder.encode_cameras(images)
        features = {  # rounded to float16 as the cache is
            camera: self._shapes[camera].flatten(rows).half().unflatten(0, (n, steps))
            for camera, rows in encoded.items()
        }
        low_dim = [torch.from_numpy(observation[key]).flatten(2).float() for key in self._keys]
        proprioception = torch.cat([torch.zeros(n, steps, 0), *low_dim], dim=-1)
        actions = self._policy.act(Observation(features, proprioception).to(self._device), generators)
        result = actions[:, : self.execute_steps].cpu().numpy()
        self.latencies.append(time.perf_counter() - start)
        return result


@dataclass
class Recording:
    """Frames uint8 [n, H, W, 3] of one filmed episode."""

    seed: int
    success: bool
    frames: np.ndarray = field(repr=False)


def rollout(
    actor: Actor, envs: VectorEnv, seeds: Sequence[int], film: Sequence[int] = ()
) -> Iterator[tuple[EpisodeResult, Recording | None]]:
    """Run one episode per seed and yield each as it ends, with its recording if its seed is in `film`.

    An episode's outcome depends on its seed alone: the slot it runs in and its neighbours do not matter.
    """
    if envs.num_envs > len(seeds):
        raise RolloutError(f"{envs.num_envs} environments for {len(seeds)} episodes; use at most one per episode")
    pending = deque(seeds)
    slots: list[_Slot | None] = [None] * envs.num_envs
    observation = _start_episodes(envs, slots, pending, set(film))
    while any(slots):
        running = [index for index, slot in enumerate(slots) if slot is not None]
        chosen = {key: values[running] for key, values in observation.items()}
        actions = np.zeros(envs.action_space.shape or (), np.float32)
        actions[running] = actor.act(chosen, [slot.generator for slot in slots if slot is not None])
        observation, _, _, truncated, info = envs.step(actions)
        for index in running:
            slot = slots[index]
            assert slot is not None  # for the type checker: `running` holds the occupied slots
            slot.steps += int(info["steps"][index])
            if slot.frames is not None:
                slot.frames.append(info["frames"][index])
            success = bool(info["is_success"][index])
            if success or truncated[index]:
                film_roll = Recording(slot.seed, success, np.concatenate(slot.frames)) if slot.frames else None
                yield EpisodeResult(slot.seed, success, slot.steps), film_roll
                slots[index] = None
        observation = _start_episodes(envs, slots, pending, set(film), observation)


def _start_episodes(
    envs: VectorEnv,
    slots: list[_Slot | None],
    pending: deque[int],
    film: set[int],
    observation: dict[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Give every free slot the next seed and reset just those environments."""
    free = [index for index, slot in enumerate(slots) if slot is None]
    fresh = dict(zip(free, [pending.popleft() for _ in range(min(len(free), len(pending)))], strict=False))
    for record in (False, True):
        mask = np.array([index in fresh and (fresh[index] in film) == record for index in range(len(slots))])
        if not mask.any():
            continue
        seeds = [fresh.get(index) for index in range(len(slots))]
        observation, info = envs.reset(seed=seeds, options={"reset_mask": mask, "record": record})  # type: ignore[arg-type]
        for index in np.flatnonzero(mask):
            seed = fresh[index]
            slots[index] = _Slot(
                seed, torch.Generator().manual_seed(seed), frames=[info["frames"][index]] if record else None
            )
    assert observation is not None  # the first call always resets at least one environment
    return observation


def evaluate(config: EvaluateConfig, make_vector_env: MakeVectorEnv, num_envs: int) -> dict[str, Any]:
    """Roll a checkpoint out over held-out seeds; write `results.json` and videos; return the results.

    Raises:
        CheckpointError: the checkpoint is damaged, or records no environment.
    """
    start = time.perf_counter()
    device = resolve_device(config.device)
    policy, encoder, checkpoint = load_policy(config.checkpoint, device)
    if "task" not in checkpoint.environment:
        raise CheckpointError(f"checkpoint {config.checkpoint!r} records no environment: its dataset had no task")
    actor = Actor(policy, encoder, checkpoint, device)
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    environment = dict(checkpoint.environment)
    if config.horizon is not None:
        environment["horizon"] = config.horizon
    envs = make_vector_env(
        num_envs=min(num_envs, config.episodes),
        observation_steps=checkpoint.config.policy.observation_steps,
        action_steps=actor.execute_steps,
        **environment,
    )
    output = Path(config.output or Path(config.checkpoint).parent)
    output.mkdir(parents=True, exist_ok=True)
    episodes: list[EpisodeResult] = []
    videos = []
    try:
        with tqdm(total=config.episodes, unit="episode", desc="rollouts") as bar:
            for result, recording in rollout(actor, envs, seeds, film=seeds[: config.videos]):
                episodes.append(result)
                if recording is not None:
                    videos.append(_write_video(output, recording))
                bar.set_postfix(success=f"{sum(e.success for e in episodes)}/{len(episodes)}")
                bar.update()
    finally:
        envs.close()
    results = _results(checkpoint, environment, encoder, episodes, actor, time.perf_counter() - start)
    results["videos"] = sorted(videos, key=lambda video: video["seed"])
    write_durably(output / "results.json", json.dumps(results, indent=1).encode())
    return results


def _write_video(output: Path, recording: Recording) -> dict[str, Any]:
    folder = output / "videos"
    folder.mkdir(exist_ok=True)
    path = folder / f"seed{recording.seed}_{'success' if recording.success else 'failure'}.mp4"
    iio.imwrite(path, recording.frames, fps=_VIDEO_FPS, codec="libx264", macro_block_size=8)
    return {"path": str(path.relative_to(output)), "seed": recording.seed, "success": recording.success}


def _hash(document: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _variant(encoder: EncoderConfig) -> str:
    """Name what sets this encoder apart from the default one of its backbone and scale set; empty for none."""
    default = EncoderConfig()
    names = ("tile", "antialias", "pool_to", "cover", "keep_aspect", "upsampled")
    changed = [(name, getattr(encoder, name)) for name in names if getattr(encoder, name) != getattr(default, name)]
    return ", ".join(name if value is True else f"{name}={value}" for name, value in changed)


def _results(
    checkpoint: Checkpoint,
    environment: dict[str, Any],
    encoder: S2Encoder,
    episodes: list[EpisodeResult],
    actor: Actor,
    seconds: float,
) -> dict[str, Any]:
    """The document `results.json` holds: one evaluated cell."""
    ordered = sorted(episodes, key=lambda episode: episode.seed)
    successes = sum(episode.success for episode in ordered)
    cost = encoder.cost()
    config = checkpoint.config
    return {
        "schema": RESULTS_SCHEMA,
        "task": environment["task"],
        "policy": config.policy.name,
        "backbone": config.encoder.backbone,
        "variant": _variant(config.encoder),
        "scales": list(config.encoder.scales),
        "readout": config.readout.name,
        "training_seed": config.seed,
        "demonstrations": checkpoint.demonstrations,
        "gmacs": cost.gmacs,
        "parameters": cost.parameters,
        "feature_width": next(iter(checkpoint.spec.features.values())).channels,
        "success_rate": successes / len(ordered),
        "successes": successes,
        "episodes": len(ordered),
        "interval": list(wilson_interval(successes, len(ordered))),
        "confidence": 0.95,
        "seconds": round(seconds, 1),
        "latency_ms": round(1000 * float(np.median(actor.latencies)), 2),
        "episode_results": [asdict(episode) for episode in ordered],
        "loss_curve": checkpoint.loss_curve,
        "environment": environment,
        "fingerprints": {**checkpoint.fingerprints, "environment": _hash(environment)},
        "versions": package_versions(),
        "command": " ".join(sys.argv),
        "training_command": checkpoint.command,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }

"""Success rate of a checkpoint over held-out seeds: rollouts, videos, and one `results.json`.

Finished episodes are appended to `episodes.jsonl` as they end, so that an evaluation that was killed goes on with
the seeds that are left; an episode depends on its seed alone, so the results are those of an uninterrupted run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import imageio.v3 as iio
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from s2robot.checkpoint import Checkpoint, load_policy, package_versions, write_durably
from s2robot.config import EncoderConfig, EvaluateConfig
from s2robot.encoder import S2Encoder
from s2robot.interfaces import CheckpointError, resolve_device
from s2robot.rollout import Actor, EpisodeResult, Recording, rollout
from s2robot.statistics import wilson_interval

RESULTS_SCHEMA = 1
_VIDEO_FPS = 20  # robosuite's control frequency: videos play in real time

MakeVectorEnv = Callable[..., VectorEnv]
"""`make_vector_env(task=…, num_envs=…, observation_steps=…, action_steps=…, **environment)`, auto-reset disabled."""


def evaluate(config: EvaluateConfig, make_vector_env: MakeVectorEnv, num_envs: int) -> dict[str, Any]:
    """Roll a checkpoint out over held-out seeds; write `results.json` and videos; return the results.

    Raises:
        CheckpointError: the checkpoint is damaged, or records no environment.
    """
    start = time.perf_counter()
    device = resolve_device(config.device)
    policy, encoder, checkpoint = load_policy(config.checkpoint, device, config.engine)
    if "task" not in checkpoint.environment:
        raise CheckpointError(f"checkpoint {config.checkpoint!r} records no environment: its dataset had no task")
    environment = dict(checkpoint.environment)
    if config.horizon is not None:
        environment["horizon"] = config.horizon
    output = Path(config.output or Path(config.checkpoint).parent)
    output.mkdir(parents=True, exist_ok=True)
    recorded = (Path(config.checkpoint) / "config.json").read_text()
    log = EpisodeLog(output / "episodes.jsonl", _hash([recorded, environment, config.first_seed, config.videos]))
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    left = [seed for seed in seeds if seed not in log.episodes]
    actor = Actor(policy, encoder, checkpoint, device)
    with tqdm(total=config.episodes, initial=config.episodes - len(left), unit="episode", desc="rollouts") as bar:
        for result, recording in _rollouts(actor, checkpoint, environment, left, config, make_vector_env, num_envs):
            video = _write_video(output, recording) if recording else None
            log.add(result, video, time.perf_counter() - start)
            bar.set_postfix(success=f"{sum(e.success for e in log.episodes.values())}/{len(log.episodes)}")
            bar.update()
    episodes = [log.episodes[seed] for seed in seeds]
    results = _results(checkpoint, environment, encoder, episodes)
    results |= {"seconds": round(log.seconds, 1), "latency_ms": actor.latency_ms(), "videos": log.videos}
    write_durably(output / "results.json", json.dumps(results, indent=1).encode())
    log.path.unlink(missing_ok=True)
    return results


def _rollouts(
    actor: Actor,
    checkpoint: Checkpoint,
    environment: dict[str, Any],
    seeds: list[int],
    config: EvaluateConfig,
    make_vector_env: MakeVectorEnv,
    num_envs: int,
) -> Iterator[tuple[EpisodeResult, Recording | None]]:
    """Make the environments, run the seeds, close the environments."""
    if not seeds:
        return
    envs = make_vector_env(
        num_envs=min(num_envs, len(seeds)),
        observation_steps=checkpoint.config.policy.observation_steps,
        action_steps=actor.execute_steps,
        **environment,
    )
    try:
        yield from rollout(actor, envs, seeds, film=range(config.first_seed, config.first_seed + config.videos))
    finally:
        envs.close()


class EpisodeLog:
    """The episodes an evaluation has finished, one JSON line each after a first line that identifies it.

    Lines of another evaluation (other checkpoint, environment or seeds) are discarded.
    """

    def __init__(self, path: Path, identity: str) -> None:
        self.path = path
        self.episodes: dict[int, EpisodeResult] = {}
        self.videos: list[dict[str, Any]] = []
        self.seconds = 0.0
        first, *rest = self._lines() or [None]
        if first != {"evaluation": identity}:
            write_durably(path, json.dumps({"evaluation": identity}).encode() + b"\n")
            rest = []
        for line in rest:
            self._keep(EpisodeResult(**line["episode"]), line["video"], line["seconds"])
        self._earlier = self.seconds

    def _lines(self) -> list[Any]:
        lines = []
        for line in self.path.read_text().splitlines() if self.path.exists() else ():
            try:
                lines.append(json.loads(line))
            except json.JSONDecodeError:  # the line being written when the process was killed
                continue
        return lines

    def _keep(self, episode: EpisodeResult, video: dict[str, Any] | None, seconds: float) -> None:
        self.episodes[episode.seed] = episode
        if video is not None:
            self.videos = sorted([*self.videos, video], key=lambda entry: entry["seed"])
        self.seconds = seconds

    def add(self, episode: EpisodeResult, video: dict[str, Any] | None, seconds: float) -> None:
        """Record a finished episode, `seconds` after this process began, durably."""
        self._keep(episode, video, self._earlier + seconds)
        line = {"episode": asdict(episode), "video": video, "seconds": self.seconds}
        with self.path.open("a") as file:
            file.write("\n" + json.dumps(line) + "\n")  # the first newline ends a line cut short by a kill
            file.flush()
            os.fsync(file.fileno())


def _write_video(output: Path, recording: Recording) -> dict[str, Any]:
    folder = output / "videos"
    folder.mkdir(exist_ok=True)
    path = folder / f"seed{recording.seed}_{'success' if recording.success else 'failure'}.mp4"
    iio.imwrite(path, recording.frames, fps=_VIDEO_FPS, codec="libx264", macro_block_size=8)
    return {"path": str(path.relative_to(output)), "seed": recording.seed, "success": recording.success}


def _hash(document: Any) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _variant(encoder: EncoderConfig) -> str:
    """Name what sets this encoder apart from the default one of its backbone and scale set; empty for none."""
    default = EncoderConfig()
    names = ("tile", "antialias", "pool_to", "cover", "keep_aspect", "upsampled", "duplicate")
    changed = [(name, getattr(encoder, name)) for name in names if getattr(encoder, name) != getattr(default, name)]
    return ", ".join(name if value is True else f"{name}={value}" for name, value in changed)


def _results(
    checkpoint: Checkpoint, environment: dict[str, Any], encoder: S2Encoder, episodes: list[EpisodeResult]
) -> dict[str, Any]:
    """The document `results.json` holds: one evaluated cell."""
    successes = sum(episode.success for episode in episodes)
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
        "success_rate": successes / len(episodes),
        "successes": successes,
        "episodes": len(episodes),
        "interval": list(wilson_interval(successes, len(episodes))),
        "confidence": 0.95,
        "episode_results": [asdict(episode) for episode in episodes],
        "loss_curve": checkpoint.loss_curve,
        "environment": environment,
        "fingerprints": {**checkpoint.fingerprints, "environment": _hash(environment)},
        "versions": package_versions(),
        "command": " ".join(sys.argv),
        "training_command": checkpoint.command,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }

"""Episodes per minute and success of `s2robot evaluate`, compared with a plain recipe.

Run: python benchmarks/rollout.py CHECKPOINT [--plain-checkpoint CHECKPOINT] [--episodes 50] [--num-envs N]

The plain recipe is one environment in this process, robosuite's default rendering (profile `full`: shadows,
reflections, antialiasing), every camera rendered and encoded at every step, one call of the backbone per camera and
scale, and eager PyTorch in fp32. Checkpoint, seeds, chunk execution and noise are the same as in `s2robot evaluate`, so
that only speed and images differ. A policy trained on images of the `fast` profile sees unfamiliar images in the plain
recipe. For a fair success rate, give --plain-checkpoint a policy that was trained on the same demonstrations rendered
in full (`s2robot render dataset=… out=… render_profile=full`).

Environments and encoders are made, and called once, before the clocks start. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from s2robot.checkpoint import Checkpoint, load_policy
from s2robot.config import EVALUATION_SEED
from s2robot.encoder import S2Encoder
from s2robot.interfaces import Features, Observation
from s2robot.policies import Policy
from s2robot.rollout import Actor, EpisodeResult, rollout
from s2robot.s2 import multiscale_forward
from s2robot.statistics import paired_bootstrap, wilson_interval
from s2robot_envs import default_num_envs, make_env, make_vector_env

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Outcome:
    """The episodes of one recipe and the seconds that they took."""

    episodes: list[EpisodeResult]
    seconds: float

    @property
    def successes(self) -> int:
        """Number of solved episodes."""
        return sum(episode.success for episode in self.episodes)

    @property
    def per_minute(self) -> float:
        """Episodes per minute."""
        return 60 * len(self.episodes) / self.seconds


class PlainEncoder:
    """Encode one camera and one scale per call of the eager fp32 backbone, as S²'s reference code does."""

    def __init__(self, encoder: S2Encoder) -> None:
        self._encoder = encoder

    def __call__(self, image: np.ndarray) -> Features:
        """Encode one image uint8 [H, W, 3]."""
        pixels = self._encoder.normalize(torch.from_numpy(image)[None])
        settings = self._encoder.scale_set
        maps, prefixes = [], []
        for size in settings.sizes:
            scale_map, prefix = multiscale_forward(
                self._encoder.backbone.forward_features,
                pixels,
                (size,),
                tile=settings.tile,
                antialias=settings.antialias,
                cover=settings.cover,
                keep_aspect=settings.keep_aspect,
            )
            maps.append(scale_map)
            prefixes.append(prefix)
        grid = max(m.shape[-2:] for m in maps) if settings.pool_to == "largest" else maps[0].shape[-2:]
        pooled = [m if m.shape[-2:] == grid else F.interpolate(m, grid, mode="area") for m in maps]
        return Features(torch.cat(pooled, 1).float(), torch.cat(prefixes, 2).float())


@torch.inference_mode()
def run_plain(folder: str, seeds: range) -> Outcome:
    """Run the plain recipe, one episode after another."""
    policy, encoder, checkpoint = load_policy(folder, CPU, "eager")
    if encoder.precision != "fp32" or encoder.scale_set.upsampled or encoder.duplicate > 1:
        raise SystemExit("the plain recipe is written for fp32 encoders that resize the image as given, duplicate=1")
    env = make_env(**{**checkpoint.environment, "render_profile": "full"})
    plain = PlainEncoder(encoder)
    observation, _ = env.reset(seed=0)
    _check_features(plain, encoder, observation[f"{next(iter(checkpoint.spec.features))}_image"])
    episodes = []
    start = time.perf_counter()
    for seed in tqdm(seeds, desc="plain", unit="episode"):
        episodes.append(_plain_episode(policy, plain, checkpoint, env, seed))
    seconds = time.perf_counter() - start
    env.close()
    return Outcome(episodes, seconds)


def _check_features(plain: PlainEncoder, encoder: S2Encoder, image: np.ndarray) -> None:
    ours = encoder(torch.from_numpy(image)[None])
    torch.testing.assert_close(plain(image).map, ours.map, atol=1e-3, rtol=1e-3)


def _plain_episode(policy: Policy, encode: PlainEncoder, checkpoint: Checkpoint, env: Any, seed: int) -> EpisodeResult:
    settings, shapes = checkpoint.config.policy, checkpoint.spec.features
    history: deque[dict[str, torch.Tensor]] = deque(maxlen=settings.observation_steps)
    past = deque([torch.zeros(checkpoint.spec.action_width)] * settings.observation_steps, settings.observation_steps)
    generator = torch.Generator().manual_seed(seed)
    plan: deque[torch.Tensor] = deque()

    def look(observation: dict[str, np.ndarray]) -> None:
        step = {camera: shapes[camera].flatten(encode(observation[f"{camera}_image"]))[0].half() for camera in shapes}
        low_dim = [torch.from_numpy(observation[key]).flatten().float() for key in checkpoint.proprioception]
        step["proprioception"] = torch.cat([torch.zeros(0), *low_dim])
        history.extend([step] * (1 if history else settings.observation_steps))

    observation, _ = env.reset(seed=seed)
    look(observation)
    for _ in range(env.horizon):
        if not plan:
            stacked = {key: torch.stack([step[key] for step in history])[None] for key in history[-1]}
            proprioception = stacked.pop("proprioception")
            seen = Observation(stacked, proprioception, torch.stack(list(past))[None])
            plan.extend(policy.act(seen, [generator])[0, : settings.execute_steps])
        past.append(plan[0])
        observation, _, _, truncated, info = env.step(plan.popleft().numpy())
        look(observation)
        if info["is_success"] or truncated:
            break
    return EpisodeResult(seed, bool(info["is_success"]), steps=env.horizon - env.steps_left)


def run_ours(folder: str, seeds: range, num_envs: int, engine: str | None) -> Outcome:
    """Run the recipe of `s2robot evaluate`: vector environments, fast rendering, only frames that the policy uses."""
    policy, encoder, checkpoint = load_policy(folder, CPU, engine)
    actor = Actor(policy, encoder, checkpoint, CPU)
    envs = make_vector_env(
        num_envs=min(num_envs, len(seeds)),
        observation_steps=checkpoint.config.policy.observation_steps,
        action_steps=actor.execute_steps,
        **{**checkpoint.environment, "render_profile": "fast"},
    )
    envs.reset(seed=0)  # the first frames start OpenGL
    actor.prepare(envs)
    start = time.perf_counter()
    episodes = [episode for episode, _ in tqdm(rollout(actor, envs, seeds), total=len(seeds), desc="ours")]
    seconds = time.perf_counter() - start
    envs.close()
    print(f"\nour calls of act(): {actor.times.summary()}")
    return Outcome(episodes, seconds)


def report(plain: Outcome, ours: Outcome) -> Iterator[str]:
    """Return the table, the ratio of the speeds, and the difference in success."""
    yield "| recipe | episodes/minute | success | 95% Wilson interval |"
    yield "|---|---|---|---|"
    for name, outcome in (("plain", plain), ("s2robot", ours)):
        count = len(outcome.episodes)
        low, high = wilson_interval(outcome.successes, count)
        yield f"| {name} | {outcome.per_minute:.2f} | {outcome.successes}/{count} | {low:.1%} to {high:.1%} |"
    solved = [
        np.array([[e.success for e in sorted(outcome.episodes, key=lambda e: e.seed)]]) for outcome in (plain, ours)
    ]
    difference = paired_bootstrap(*solved)
    low, high = difference.interval
    only_plain, only_ours = (int((one & ~other).sum()) for one, other in (solved, solved[::-1]))
    yield f"\nepisodes per minute: {ours.per_minute / plain.per_minute:.1f}x"
    yield (
        f"difference in success over the same seeds: {difference.value:+.1%} (95% interval {low:+.1%} to {high:+.1%}, "
        f"paired bootstrap); solved by the plain recipe alone {only_plain}, by ours alone {only_ours}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--plain-checkpoint", type=Path, help="of a policy trained on fully rendered demonstrations")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--first-seed", type=int, default=EVALUATION_SEED)
    parser.add_argument("--num-envs", type=int, default=default_num_envs())
    parser.add_argument("--engine", help="what runs our backbone; the checkpoint's own when left out")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.episodes)
    ours = run_ours(str(options.checkpoint), seeds, options.num_envs, options.engine)
    plain = run_plain(str(options.plain_checkpoint or options.checkpoint), seeds)
    print(f"\n{options.checkpoint}: {options.episodes} episodes, {options.num_envs} environments")
    print("\n".join(report(plain, ours)))


if __name__ == "__main__":
    main()

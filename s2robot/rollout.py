"""Rollouts of a checkpoint in simulation: vector environments, one batched encoder call per step.

The environments execute a whole action chunk per step and render only the frames the policy will look at.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from gymnasium.vector import VectorEnv

from s2robot.checkpoint import Checkpoint
from s2robot.encoder import S2Encoder
from s2robot.interfaces import Observation, RolloutError
from s2robot.policies import Policy


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
    past_actions: np.ndarray  # float32 [To, A], see `Observation`
    steps: int = 0
    frames: list[np.ndarray] | None = None

    def executed(self, actions: np.ndarray) -> None:
        """Count and remember the actions [n, A] that were executed."""
        self.steps += len(actions)
        self.past_actions = np.concatenate([self.past_actions, actions])[-len(self.past_actions) :]


class Actor:
    """Policy and encoder together: raw observations of several environments → action chunks."""

    def __init__(self, policy: Policy, encoder: S2Encoder, checkpoint: Checkpoint, device: torch.device) -> None:
        self._policy = policy
        self._encoder = encoder
        self._shapes = checkpoint.spec.features
        self._keys = checkpoint.proprioception
        self._device = device
        self.execute_steps = checkpoint.config.policy.execute_steps
        self.no_actions = np.zeros(
            (checkpoint.config.policy.observation_steps, checkpoint.spec.action_width), np.float32
        )  # past actions of an episode that begins
        self._latencies: list[float] = []  # seconds per call

    def act(
        self, observation: dict[str, np.ndarray], past_actions: np.ndarray, generators: Sequence[torch.Generator]
    ) -> np.ndarray:
        """Actions float32 [n, execute_steps, A] for n environments.

        Args:
            observation: `<camera>_image` uint8 [n, To, H, W, 3] and proprioception float32 [n, To, d].
            past_actions: float32 [n, To, A], see `Observation`.
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
        seen = Observation(features, proprioception, torch.from_numpy(past_actions)).to(self._device)
        actions = self._policy.act(seen, generators)
        result = actions[:, : self.execute_steps].cpu().numpy()
        self._latencies.append(time.perf_counter() - start)
        return result

    def latency_ms(self) -> float | None:
        """Median time of a call [ms]; None before the first."""
        return round(1000 * float(np.median(self._latencies)), 2) if self._latencies else None


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
    observation = _start_episodes(actor, envs, slots, pending, set(film))
    while any(slots):
        running = [index for index, slot in enumerate(slots) if slot is not None]
        occupied = [slot for slot in slots if slot is not None]
        chosen = {key: values[running] for key, values in observation.items()}
        actions = np.zeros(envs.action_space.shape or (), np.float32)
        past_actions = np.stack([slot.past_actions for slot in occupied])
        actions[running] = actor.act(chosen, past_actions, [slot.generator for slot in occupied])
        observation, _, _, truncated, info = envs.step(actions)
        for index, slot in zip(running, occupied, strict=True):
            slot.executed(actions[index, : int(info["steps"][index])])
            if slot.frames is not None:
                slot.frames.append(info["frames"][index])
            success = bool(info["is_success"][index])
            if success or truncated[index]:
                film_roll = Recording(slot.seed, success, np.concatenate(slot.frames)) if slot.frames else None
                yield EpisodeResult(slot.seed, success, slot.steps), film_roll
                slots[index] = None
        observation = _start_episodes(actor, envs, slots, pending, set(film), observation)


def _start_episodes(
    actor: Actor,
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
                seed,
                torch.Generator().manual_seed(seed),
                actor.no_actions,
                frames=[info["frames"][index]] if record else None,
            )
    assert observation is not None  # the first call always resets at least one environment
    return observation

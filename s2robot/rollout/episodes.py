"""One episode per seed, in vector environments where one episode may fail without stopping the others."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from s2robot.interfaces import RolloutError
from s2robot.rollout.actor import Actor
from s2robot.rollout.running import RunningEpisode
from s2robot.rollout.timing import median_ms

ATTEMPTS = 2
"""How many times an episode is started if its simulator fails."""


@dataclass(frozen=True)
class EpisodeResult:
    """Outcome of one rollout.

    Attributes:
        seed: seed of the initial state and of the policy's noise; on one machine, it determines everything else except
            the latency.
        success: whether the task was solved at any step; False, without meaning, if there is an error.
        steps: number of environment steps executed.
        error: why the simulator failed at the last attempt; None for an episode that ran.
        latency_ms: median duration of the calls of `Actor.act` that the episode took part in [ms].
        renderer: renderer of its images, as OpenGL's renderer and version; None if the environment does not say.
    """

    seed: int
    success: bool
    steps: int
    error: str | None = None
    latency_ms: float | None = field(default=None, compare=False)
    renderer: str | None = field(default=None, compare=False)


@dataclass
class EpisodeFilm:
    """Frames uint8 [n, H, W, 3] of one filmed episode."""

    seed: int
    success: bool
    frames: np.ndarray = field(repr=False)


def rollout(
    actor: Actor, envs: VectorEnv, seeds: Sequence[int], film: Sequence[int] = ()
) -> Iterator[tuple[EpisodeResult, EpisodeFilm | None]]:
    """Run one episode per seed and yield each as it ends, with its recording if its seed is in `film`.

    - On one machine, an episode's outcome depends on its seed alone. It does not matter which environment it runs in
      or, on a CPU, which episodes run beside it. On a GPU and on other machines, rounding differs
      (docs/architecture.md).
    - If `info["error"]` reports that the simulator of an environment failed, its episode is started once more. If that
      fails too, the episode ends with an error. The other episodes continue.

    Raises:
        RolloutError: there are more environments than seeds, the environments do not fit the policy, or the policy
            gives NaN or infinite actions.
    """
    if envs.num_envs > len(seeds):
        raise RolloutError(f"{envs.num_envs} environments for {len(seeds)} episodes; use at most one per episode")
    actor.prepare(envs)
    yield from _Rollouts(actor, envs, seeds, film).run()


class _Rollouts:
    """The waiting seeds, the running episodes (one slot per environment), and the current observations."""

    def __init__(self, actor: Actor, envs: VectorEnv, seeds: Sequence[int], film: Sequence[int]) -> None:
        self._actor = actor
        self._envs = envs
        self._film = set(film)
        self._waiting = deque(seeds)
        self._failures: Counter[int] = Counter()
        self._slots: list[RunningEpisode | None] = [None] * envs.num_envs
        self._observation: dict[str, np.ndarray] = {}

    def run(self) -> Iterator[tuple[EpisodeResult, EpisodeFilm | None]]:
        """Run until no seed waits and no episode runs."""
        while True:
            yield from self._begin()
            if not any(self._slots):
                return
            yield from self._advance()

    def _begin(self) -> Iterator[tuple[EpisodeResult, EpisodeFilm | None]]:
        """Give every free slot the next seed, and reset only those environments."""
        while True:
            free = [index for index, slot in enumerate(self._slots) if slot is None]
            fresh = {index: self._waiting.popleft() for index in free[: len(self._waiting)]}
            if not fresh:
                return
            for record in (False, True):  # separately, because one reset films all of its environments or none
                chosen = {index: seed for index, seed in fresh.items() if (seed in self._film) == record}
                if chosen:
                    yield from self._reset(chosen, record)

    def _reset(self, seeds: dict[int, int], record: bool) -> Iterator[tuple[EpisodeResult, EpisodeFilm | None]]:
        mask = np.array([index in seeds for index in range(len(self._slots))])
        start = time.perf_counter()
        self._observation, info = self._envs.reset(
            seed=[seeds.get(index) for index in range(len(self._slots))],  # type: ignore[arg-type]  # None where unused
            options={"reset_mask": mask, "record": record},
        )
        self._actor.times.simulate += time.perf_counter() - start
        for index, seed in seeds.items():
            if (reason := _error(info, index)) is not None:
                yield from self._failed(seed, 0, reason)
                continue
            episode = self._actor.start(seed, info["frames"][index] if record else None)
            episode.renderer = info["renderer"][index] if "renderer" in info else None
            if info["is_success"][index]:  # solved by the reset itself; the environment idles until its next seed
                yield _finished(episode, True)
            else:
                self._slots[index] = episode

    def _advance(self) -> Iterator[tuple[EpisodeResult, EpisodeFilm | None]]:
        """Execute one chunk of actions in every environment that runs an episode."""
        running = {index: slot for index, slot in enumerate(self._slots) if slot is not None}
        rows = list(running)
        actions = np.zeros(self._envs.action_space.shape or (), np.float32)
        seen = {key: values[rows] for key, values in self._observation.items()}
        actions[rows] = self._actor.act(seen, list(running.values()))
        for index, episode in running.items():
            if not np.isfinite(actions[index]).all():
                raise RolloutError(
                    f"the policy gave NaN or infinite actions at step {episode.steps} of seed {episode.seed}"
                )
        start = time.perf_counter()
        self._observation, _, _, truncated, info = self._envs.step(actions)
        self._actor.times.simulate += time.perf_counter() - start
        for index, episode in running.items():
            if (reason := _error(info, index)) is not None:
                self._slots[index] = None
                yield from self._failed(episode.seed, episode.steps, reason)
                continue
            frames = None if episode.frames is None else info["frames"][index]
            episode.executed(actions[index, : int(info["steps"][index])], frames)
            success = bool(info["is_success"][index])
            if success or truncated[index]:
                self._slots[index] = None
                yield _finished(episode, success)

    def _failed(self, seed: int, steps: int, reason: str) -> Iterator[tuple[EpisodeResult, None]]:
        """Queue the seed once more, or yield an error after the last attempt."""
        self._failures[seed] += 1
        if self._failures[seed] < ATTEMPTS:
            self._waiting.appendleft(seed)
        else:
            yield EpisodeResult(seed, False, steps, error=reason), None


def _error(info: dict[str, Any], index: int) -> str | None:
    return info["error"][index] if "error" in info else None


def _finished(episode: RunningEpisode, success: bool) -> tuple[EpisodeResult, EpisodeFilm | None]:
    latency_ms = median_ms(episode.latencies)
    result = EpisodeResult(episode.seed, success, episode.steps, latency_ms=latency_ms, renderer=episode.renderer)
    if episode.frames is None:
        return result, None
    return result, EpisodeFilm(episode.seed, success, np.concatenate(episode.frames))

"""The state of a running episode."""

from __future__ import annotations

import numpy as np

from s2robot.rollout.ensemble import ChunkEnsemble
from s2robot.rollout.inference import EpisodeState


class RunningEpisode(EpisodeState):
    """Everything that an episode carries from step to step; nothing is kept elsewhere, so its slot does not matter.

    Args:
        seed: seed of the episode and of its noise generator.
        no_actions: past actions float32 [To, A] of an episode that begins.
        ensemble: averages overlapping chunks; None = no averaging.
        frames: first frame uint8 [1, H, W, 3] of a recording; None = not filmed.

    Attributes:
        unseen: number of steps since the policy's last call; as many observations are new to it.
        renderer: renderer of its images; None if the environment does not say.
        latencies: duration in seconds of each call of `Actor.act` that the episode took part in.
    """

    def __init__(
        self, seed: int, no_actions: np.ndarray, ensemble: ChunkEnsemble | None = None, frames: np.ndarray | None = None
    ) -> None:
        super().__init__(seed, no_actions)
        self.seed = seed
        self.ensemble = ensemble
        self.unseen = 1  # the observation of the reset
        self.steps = 0
        self.frames = None if frames is None else [frames]
        self.renderer: str | None = None
        self.latencies: list[float] = []

    def executed(self, actions: np.ndarray, frames: np.ndarray | None) -> None:
        """Count and append the executed actions [n, A], and the frames [n, H, W, 3] if the episode is filmed."""
        self.steps += len(actions)
        self.unseen += len(actions)
        self.remember_actions(actions)
        if self.frames is not None and frames is not None:
            self.frames.append(frames)

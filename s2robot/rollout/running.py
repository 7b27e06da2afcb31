"""The state of an episode that is running."""

from __future__ import annotations

import numpy as np

from s2robot.rollout.ensemble import ChunkEnsemble
from s2robot.rollout.inference import EpisodeState


class RunningEpisode(EpisodeState):
    """What one environment's episode carries from step to step; nothing else does, so its slot does not matter.

    Args:
        seed: of the episode; also seeds its source of noise.
        no_actions: float32 [To, A], the past actions of an episode that begins.
        ensemble: averages overlapping chunks, if that was asked for.
        frames: the first frames uint8 [1, H, W, 3] of a recording; None when nothing is filmed.

    Attributes:
        unseen: steps since the policy last looked; so many observations are new to it.
        renderer: what draws its images, where the environment says.
        latencies: seconds of each call of `Actor.act` that the episode took part in.
    """

    def __init__(
        self, seed: int, no_actions: np.ndarray, ensemble: ChunkEnsemble | None = None, frames: np.ndarray | None = None
    ) -> None:
        super().__init__(seed, no_actions)
        self.seed = seed
        self.ensemble = ensemble
        self.unseen = 1
        self.steps = 0
        self.frames = None if frames is None else [frames]
        self.renderer: str | None = None
        self.latencies: list[float] = []

    def executed(self, actions: np.ndarray, frames: np.ndarray | None) -> None:
        """Count and remember the actions [n, A] that were executed, and the frames [n, H, W, 3] if it is filmed."""
        self.steps += len(actions)
        self.unseen += len(actions)
        self.remember_actions(actions)
        if self.frames is not None and frames is not None:
            self.frames.append(frames)

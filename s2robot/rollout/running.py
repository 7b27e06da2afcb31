"""The state of an episode that is running."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from s2robot.rollout.ensemble import ChunkEnsemble


class RunningEpisode:
    """What one environment's episode carries from step to step; nothing else does, so its slot does not matter.

    Args:
        seed: of the episode; also seeds its source of noise.
        no_actions: float32 [To, A], the past actions of an episode that begins.
        ensemble: averages overlapping chunks, if that was asked for.
        frames: the first frames uint8 [1, H, W, 3] of a recording; None when nothing is filmed.

    Attributes:
        generator: the episode's own source of noise.
        past_actions: float32 [To, A], see `s2robot.interfaces.Observation`.
        features: camera -> packed features float16 [To, numel] of the last To steps; empty before the first.
        unseen: steps since the policy last looked; so many observations are new to it.
        latencies: seconds of each call of `Actor.act` that the episode took part in.
    """

    def __init__(
        self, seed: int, no_actions: np.ndarray, ensemble: ChunkEnsemble | None = None, frames: np.ndarray | None = None
    ) -> None:
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed)
        self.ensemble = ensemble
        self.past_actions = no_actions
        self.features: dict[str, Tensor] = {}
        self.unseen = 1
        self.steps = 0
        self.frames = None if frames is None else [frames]
        self.latencies: list[float] = []

    def executed(self, actions: np.ndarray, frames: np.ndarray | None) -> None:
        """Count and remember the actions [n, A] that were executed, and the frames [n, H, W, 3] if it is filmed."""
        self.steps += len(actions)
        self.unseen += len(actions)
        self.past_actions = np.concatenate([self.past_actions, actions])[-len(self.past_actions) :]
        if self.frames is not None and frames is not None:
            self.frames.append(frames)

    def remember(self, camera: str, rows: Tensor) -> None:
        """Add the features [n, numel] of the newest n steps of a camera; before the first, the oldest is repeated."""
        length = len(self.past_actions)
        earlier = self.features.get(camera, rows[:1].expand(length, -1))
        self.features[camera] = torch.cat([earlier, rows])[-length:]

"""Encoder and policy for several independent episodes; used by rollouts and the server."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2robot.encoder import S2Encoder
from s2robot.interfaces import Observation, PolicySpec
from s2robot.policies import Policy


class EpisodeState:
    """The part of an episode's past that a policy needs.

    Args:
        seed: seed of the episode's own noise generator.
        past_actions: last actions float32 [To, A] (see `s2robot.interfaces.Observation`); zeros at the start.

    Attributes:
        generator: the episode's noise generator. Each episode has its own, so that its noise does not depend on others.
        past_actions: as above.
        features: camera -> packed features float16 [To, numel] of the last To steps; empty before the first step.
    """

    def __init__(self, seed: int, past_actions: np.ndarray) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.past_actions = past_actions
        self.features: dict[str, Tensor] = {}

    def remember_actions(self, actions: np.ndarray) -> None:
        """Append actions [n, A] that were executed."""
        self.past_actions = np.concatenate([self.past_actions, actions])[-len(self.past_actions) :]

    def remember_features(self, steps: Sequence[Mapping[str, Tensor]]) -> None:
        """Append the features of the newest steps, oldest first, as `Inference.encode` returns them.

        The first step's features also stand for the steps before it, as in the training windows.
        """
        length = len(self.past_actions)
        for camera in steps[0] if steps else ():
            rows = torch.stack([step[camera] for step in steps])
            earlier = self.features.get(camera, rows[:1].expand(length, -1))
            self.features[camera] = torch.cat([earlier, rows])[-length:]


class Inference:
    """Computes features and action chunks of several episodes at once.

    On a GPU, all frames of one size go through the encoder in one call, and all episodes through the policy in one.

    On a CPU, one encoder call holds the cameras of one step of one episode, and the policy is called for one episode at
    a time. Larger batches are hardly faster there, but matrix kernels round differently for other batch sizes, and an
    episode must not depend on what runs beside it.

    Args:
        policy, encoder: policy and encoder, on `device`.
        spec: sizes of the policy.
        device: device that both run on.
        task: index of the task of all episodes, for a policy that is told it.
    """

    def __init__(
        self, policy: Policy, encoder: S2Encoder, spec: PolicySpec, device: torch.device, task: int | None = None
    ) -> None:
        self._task = task
        self._policy, self._encoder, self._shapes, self._device = policy, encoder, spec.features, device
        self._exact = device.type == "cpu"

    def encode(self, steps: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Tensor]]:
        """Return the packed features of single steps.

        Args:
            steps: for each step, camera -> image uint8 [H, W, 3]; the steps may belong to different episodes.

        Returns:
            For each step, camera -> features float16 [numel], rounded as in the feature cache.
        """
        groups: dict[Any, list[int]] = defaultdict(list)
        for index, step in enumerate(steps):
            # On a CPU, every step is a group of its own.
            groups[index if self._exact else tuple(step[camera].shape for camera in self._shapes)].append(index)
        encoded: list[dict[str, Tensor]] = [{} for _ in steps]
        for members in groups.values():
            images = {
                camera: torch.from_numpy(np.stack([steps[index][camera] for index in members]))
                for camera in self._shapes
            }
            for camera, features in self._encoder.encode_cameras(images).items():
                rows = self._shapes[camera].pack(features)
                for index, row in zip(members, rows, strict=True):
                    encoded[index][camera] = row
        return encoded

    def predict(self, episodes: Sequence[EpisodeState], proprioception: np.ndarray) -> np.ndarray:
        """Return action chunks float32 [n, Ta, A] for n episodes whose newest step has been encoded.

        Args:
            episodes: states of the episodes; drawing noise advances their generators.
            proprioception: proprioception float32 [n, To, d].
        """
        single = [slice(row, row + 1) for row in range(len(episodes))]
        groups = single if self._exact else [slice(None)]
        return np.concatenate([self._predict(episodes[rows], proprioception[rows]) for rows in groups])

    def _predict(self, episodes: Sequence[EpisodeState], proprioception: np.ndarray) -> np.ndarray:
        observation = Observation(
            {camera: torch.stack([episode.features[camera] for episode in episodes]) for camera in self._shapes},
            torch.from_numpy(proprioception),
            torch.from_numpy(np.stack([episode.past_actions for episode in episodes])),
            None if self._task is None else torch.full((len(episodes),), self._task),
        ).to(self._device)
        return self._policy.act(observation, [episode.generator for episode in episodes]).cpu().numpy()

"""Policy and encoder together: raw observations of several environments → action chunks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv

from s2robot.checkpoint import Checkpoint
from s2robot.encoder import S2Encoder
from s2robot.interfaces import RolloutError
from s2robot.policies import Policy
from s2robot.rollout.ensemble import ChunkEnsemble
from s2robot.rollout.inference import Inference
from s2robot.rollout.running import RunningEpisode
from s2robot.rollout.spaces import check_spaces
from s2robot.rollout.timing import Times


class Actor:
    """Acts for all running episodes at once (see `Inference`); every frame is encoded once, when it is new.

    Args:
        policy: as loaded.
        encoder: as loaded with it.
        checkpoint: what was loaded.
        device: where both run.
        execute_steps: actions executed of each predicted chunk; None for what the policy was trained with.
        temporal_ensemble: m of `ChunkEnsemble`; None executes each chunk as predicted.

    Attributes:
        execute_steps: as above, resolved.
        times: of the calls of `act`.

    Raises:
        RolloutError: `execute_steps` exceeds the chunk, or leaves no overlap to average.
    """

    def __init__(
        self,
        policy: Policy,
        encoder: S2Encoder,
        checkpoint: Checkpoint,
        device: torch.device,
        execute_steps: int | None = None,
        temporal_ensemble: float | None = None,
    ) -> None:
        self._inference = Inference(policy, encoder, checkpoint.spec, device)
        self._encoder = encoder
        self._checkpoint = checkpoint
        self._ensemble = temporal_ensemble
        settings = checkpoint.config.policy
        self.execute_steps = settings.execute_steps if execute_steps is None else execute_steps
        self._observation_steps = settings.observation_steps
        if not 1 <= self.execute_steps <= settings.action_steps:
            raise RolloutError(
                f"execute_steps={self.execute_steps} is not possible: the policy predicts {settings.action_steps} "
                f"actions; valid: 1 … {settings.action_steps}"
            )
        if temporal_ensemble is not None and self.execute_steps == settings.action_steps:
            raise RolloutError(
                f"temporal_ensemble={temporal_ensemble} has nothing to average, because "
                f"execute_steps={self.execute_steps} executes whole chunks; use a smaller value, such as "
                "execute_steps=1"
            )
        self.times = Times()

    def start(self, seed: int, frames: np.ndarray | None = None) -> RunningEpisode:
        """State of an episode that begins; `frames` [1, H, W, 3] when it is filmed."""
        no_actions = np.zeros((self._observation_steps, self._checkpoint.spec.action_width), np.float32)
        ensemble = None if self._ensemble is None else ChunkEnsemble(self._ensemble)
        return RunningEpisode(seed, no_actions, ensemble, frames)

    def prepare(self, envs: VectorEnv) -> None:
        """Check that the environments offer what the policy needs, and warm the encoder up.

        Raises:
            RolloutError: see `check_spaces`.
        """
        observations = envs.single_observation_space
        if not isinstance(observations, spaces.Dict):
            raise RolloutError(f"the environment's observation space is {observations}; a policy needs a Dict space")
        check_spaces(self._checkpoint, self._encoder, self.execute_steps, observations.spaces, envs.single_action_space)
        keys = [f"{camera}_image" for camera in self._checkpoint.spec.features]
        images = {key: np.zeros((1, *(observations[key].shape or ())), np.uint8) for key in keys}
        self._encode(images, [self.start(0)])  # engines compile in their first call

    def act(self, observation: dict[str, np.ndarray], episodes: Sequence[RunningEpisode]) -> np.ndarray:
        """Actions float32 [n, execute_steps, A] for n environments.

        Args:
            observation: `<camera>_image` uint8 [n, To, H, W, 3] and proprioception float32 [n, To, d].
            episodes: one per row; each keeps the features of its last To steps.
        """
        start = time.perf_counter()
        self._encode(observation, episodes)
        encoded = time.perf_counter()
        chunks = self._predict(observation, episodes)
        for row, episode in enumerate(episodes):
            if episode.ensemble is not None:
                averaged = episode.ensemble.combine(episode.steps, chunks[row], self.execute_steps)
                chunks[row, : self.execute_steps] = averaged
        end = time.perf_counter()
        self.times.encode.append(encoded - start)
        self.times.policy.append(end - encoded)
        for episode in episodes:
            episode.latencies.append(end - start)
        return chunks[:, : self.execute_steps]

    def _encode(self, observation: Mapping[str, np.ndarray], episodes: Sequence[RunningEpisode]) -> None:
        """Show the episodes what is new since their last call."""
        counts = [min(episode.unseen, self._observation_steps) for episode in episodes]
        cameras = self._checkpoint.spec.features
        steps = [
            {camera: observation[f"{camera}_image"][row, step] for camera in cameras}
            for row, count in enumerate(counts)
            for step in range(-count, 0)
        ]
        encoded = iter(self._inference.encode(steps))
        for episode, count in zip(episodes, counts, strict=True):
            episode.remember_features(list(islice(encoded, count)))
            episode.unseen = 0

    def _predict(self, observation: Mapping[str, np.ndarray], episodes: Sequence[RunningEpisode]) -> np.ndarray:
        """What the policy predicts, float32 [n, Ta, A]."""
        shape = len(episodes), self._observation_steps
        low_dim = [observation[key].reshape(*shape, -1) for key in self._checkpoint.proprioception]
        proprioception = np.concatenate([np.zeros((*shape, 0), np.float32), *low_dim], axis=-1)
        return self._inference.predict(episodes, proprioception.astype(np.float32, copy=False))

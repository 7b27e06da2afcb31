"""Policy and encoder combined: raw observations of several environments → action chunks."""

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
    """Acts for all running episodes at once (see `Inference`); every frame is encoded only once, when it is new.

    Args:
        policy: the policy, as returned by `load_policy`.
        encoder: the policy's encoder, from there too.
        checkpoint: the policy's checkpoint, from there too.
        device: device that both run on.
        execute_steps: number of actions executed of each predicted chunk; None = as in training.
        temporal_ensemble: m of `ChunkEnsemble`; None = execute each chunk as predicted.
        task: index of the task, for a policy that is told it.

    Attributes:
        execute_steps: number of actions executed of each chunk.
        times: durations of the calls of `act`.

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
        task: int | None = None,
    ) -> None:
        self._inference = Inference(policy, encoder, checkpoint.spec, device, task)
        self._encoder = encoder
        self._checkpoint = checkpoint
        self._ensemble, self._layout = temporal_ensemble, policy.actions.layout
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
        """Return the state of an episode that begins; `frames` [1, H, W, 3] is its first frame if it is filmed."""
        no_actions = np.zeros((self._observation_steps, self._checkpoint.spec.action_width), np.float32)
        ensemble = None if self._ensemble is None else ChunkEnsemble(self._ensemble, self._layout)
        return RunningEpisode(seed, no_actions, ensemble, frames)

    def prepare(self, envs: VectorEnv) -> None:
        """Check that the environments offer what the policy needs, and warm up the encoder.

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
        """Return actions float32 [n, execute_steps, A] for n environments.

        Args:
            observation: `<camera>_image` uint8 [n, To, H, W, 3] and proprioception float32 [n, To, d].
            episodes: the episode of each row; each keeps the features of its last To steps.
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
        """Encode the frames that are new since the last call, and pass their features to the episodes."""
        # Environments return the last To observations. After more than To steps, the earlier ones are never needed.
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
        """Return the policy's predicted chunks, float32 [n, Ta, A]."""
        shape = len(episodes), self._observation_steps
        low_dim = [observation[key].reshape(*shape, -1) for key in self._checkpoint.proprioception]
        proprioception = np.concatenate([np.zeros((*shape, 0), np.float32), *low_dim], axis=-1)
        return self._inference.predict(episodes, proprioception.astype(np.float32, copy=False))

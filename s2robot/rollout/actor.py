"""Policy and encoder together: raw observations of several environments → action chunks."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from torch import Tensor

from s2robot.checkpoint import Checkpoint
from s2robot.encoder import S2Encoder
from s2robot.interfaces import Observation, RolloutError
from s2robot.policies import Policy
from s2robot.rollout.checks import check_spaces
from s2robot.rollout.ensemble import ChunkEnsemble
from s2robot.rollout.running import RunningEpisode
from s2robot.rollout.timing import Times


class Actor:
    """Acts for all running episodes at once; every frame is encoded once, when it is new.

    On a GPU the new frames of all cameras and environments go through the encoder in one call, and all rows through
    the policy in one. On a CPU one call holds the cameras of one step of one environment, and the policy is asked row
    by row: there larger batches are hardly faster, but matrix kernels round differently for other batch sizes, and an
    episode's outcome must not depend on what runs beside it.

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
        self._policy = policy
        self._encoder = encoder
        self._checkpoint = checkpoint
        self._shapes = checkpoint.spec.features
        self._keys = checkpoint.proprioception
        self._device = device
        self._exact = device.type == "cpu"
        self._ensemble = temporal_ensemble
        settings = checkpoint.config.policy
        self.execute_steps = settings.execute_steps if execute_steps is None else execute_steps
        self._observation_steps = settings.observation_steps
        if not 1 <= self.execute_steps <= settings.action_steps:
            raise RolloutError(
                f"execute_steps is {self.execute_steps}; the policy predicts {settings.action_steps} actions; valid: "
                f"1 … {settings.action_steps}"
            )
        if temporal_ensemble is not None and self.execute_steps == settings.action_steps:
            raise RolloutError(
                f"temporal_ensemble={temporal_ensemble} has nothing to average: execute_steps={self.execute_steps} is "
                "the whole chunk; execute fewer, such as execute_steps=1"
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
            raise RolloutError(f"the environment's observations are {observations}; a policy needs a Dict of them")
        check_spaces(self._checkpoint, self._encoder, self.execute_steps, observations.spaces, envs.single_action_space)
        images = {key: np.zeros((1, *(observations[key].shape or ())), np.uint8) for key in self._image_keys()}
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
        chunks = self._chunks(observation, episodes)
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

    def _image_keys(self) -> list[str]:
        return [f"{camera}_image" for camera in self._shapes]

    def _encode(self, observation: dict[str, np.ndarray], episodes: Sequence[RunningEpisode]) -> None:
        """Encode the frames that are new since the episodes' last call, and hand the features to them."""
        counts = [min(episode.unseen, self._observation_steps) for episode in episodes]
        images = {
            camera: torch.from_numpy(
                np.concatenate([observation[f"{camera}_image"][row, -count:] for row, count in enumerate(counts)])
            )
            for camera in self._shapes
        }
        total = sum(counts)
        parts = [slice(frame, frame + 1) for frame in range(total)] if self._exact else [slice(0, total)]
        encoded = [self._encoder.encode_cameras({c: frames[part] for c, frames in images.items()}) for part in parts]
        for camera, shape in self._shapes.items():
            # rounded to float16 as the cache is
            rows = torch.cat([shape.flatten(features[camera]).half() for features in encoded])
            for episode, own in zip(episodes, rows.split(counts), strict=True):
                episode.remember(camera, own)
        for episode in episodes:
            episode.unseen = 0

    def _chunks(self, observation: dict[str, np.ndarray], episodes: Sequence[RunningEpisode]) -> np.ndarray:
        """What the policy predicts, float32 [n, Ta, A]."""
        features = {camera: torch.stack([episode.features[camera] for episode in episodes]) for camera in self._shapes}
        low_dim = [torch.from_numpy(observation[key]).flatten(2).float() for key in self._keys]
        nothing = torch.zeros(len(episodes), self._observation_steps, 0)
        seen = Observation(
            features,
            torch.cat([nothing, *low_dim], dim=-1),
            torch.from_numpy(np.stack([episode.past_actions for episode in episodes])),
        ).to(self._device)
        generators = [episode.generator for episode in episodes]
        if not self._exact:
            return self._policy.act(seen, generators).cpu().numpy()
        rows = [self._policy.act(_row(seen, i), [generator]) for i, generator in enumerate(generators)]
        return torch.cat(rows).numpy()


def _row(seen: Observation, index: int) -> Observation:
    def one(rows: Tensor) -> Tensor:
        return rows[index : index + 1]

    features = {camera: one(rows) for camera, rows in seen.features.items()}
    return Observation(features, one(seen.proprioception), one(seen.past_actions))

"""Training windows over cached features: (observations t-To+1 … t) → (actions t … t+Ta-1), split by episode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import Dataset

from s2robot.data import DemonstrationDataset
from s2robot.feature_cache import CachedFeatures
from s2robot.interfaces import Batch, DatasetError, Observation


@dataclass(frozen=True)
class Demonstrations:
    """Everything of a dataset but its images: one array per episode.

    Attributes:
        actions: float32 [T, A] each.
        proprioception: float32 [T, d] each, the chosen keys concatenated.
        starts: first frame of each episode in the cached features.
    """

    actions: list[np.ndarray]
    proprioception: list[np.ndarray]
    starts: list[int]


def load_demonstrations(
    dataset: DemonstrationDataset, proprioception: list[str], num_episodes: int | None = None
) -> Demonstrations:
    """Read actions and proprioception of the first `num_episodes` episodes (None: all).

    Raises:
        DatasetError: the file has fewer episodes, or two episodes differ in widths.
    """
    count = len(dataset) if num_episodes is None else num_episodes
    if count > len(dataset):
        raise DatasetError(f"dataset {str(dataset.path)!r} has {len(dataset)} demonstrations; {count} were asked for")
    actions, low_dim = [], []
    for index in range(count):
        episode = dataset.episode(index, cameras=[], proprioception=proprioception)
        if episode.actions.shape[1] != dataset.action_width:
            raise DatasetError(
                f"dataset {str(dataset.path)!r}, {dataset.demos[index]}: actions are {episode.actions.shape[1]} wide, "
                f"those of {dataset.demos[0]} {dataset.action_width}"
            )
        actions.append(episode.actions)
        parts = [episode.proprioception[key] for key in proprioception]
        low_dim.append(np.concatenate([np.zeros((len(episode), 0), np.float32), *parts], axis=1))
    starts = np.concatenate([[0], np.cumsum(dataset.lengths)])[:count]
    return Demonstrations(actions, low_dim, [int(start) for start in starts])


def split_episodes(count: int, validation_fraction: float) -> tuple[list[int], list[int]]:
    """Divide episode indices into training and validation.

    The split depends on the arguments alone, not on the training seed: arms of a comparison share it.
    """
    held_out = round(count * validation_fraction)
    order = np.random.default_rng(0).permutation(count)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


class WindowDataset(Dataset[Batch]):
    """One window per time step of the chosen episodes, fetched a batch at a time.

    Before the first step the first observation is repeated; after the last step the last action is.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        features: dict[str, CachedFeatures],
        episodes: Sequence[int],
        *,
        observation_steps: int,
        action_steps: int,
    ) -> None:
        lengths = [len(demonstrations.actions[index]) for index in episodes]
        self._features = features
        self._actions = np.concatenate([demonstrations.actions[index] for index in episodes])
        self._proprioception = np.concatenate([demonstrations.proprioception[index] for index in episodes])
        # Per window: the first and last row of its episode here, and the shift from here to the cached rows.
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._first = np.repeat(first, lengths)
        self._last = np.repeat(first + lengths - 1, lengths)
        self._shift = np.repeat([demonstrations.starts[index] for index in episodes] - first, lengths)
        self._observation_offsets = np.arange(1 - observation_steps, 1)
        self._action_offsets = np.arange(action_steps)
        self._copies = np.zeros(len(self), np.int64)

    def __len__(self) -> int:
        return len(self._actions)

    def draw_copies(self, generator: torch.Generator) -> None:
        """Choose, for the epoch that begins, which cached copy of the frames each window sees.

        All its steps and cameras see the same copy; until the first call, and without augmentation, it is the frames as
        recorded. Workers that outlive an epoch would not notice.
        """
        count = 1 + min(len(cached.shifted) for cached in self._features.values())
        if count > 1:
            self._copies = torch.randint(count, (len(self),), generator=generator).numpy()

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """Gather one batch of windows."""
        now = np.asarray(indices)
        seen = np.maximum(now[:, None] + self._observation_offsets, self._first[now, None])
        ahead = np.minimum(now[:, None] + self._action_offsets, self._last[now, None])
        rows = seen + self._shift[now, None]
        copies = self._copies[now]
        features = {camera: torch.from_numpy(cached.gather(rows, copies)) for camera, cached in self._features.items()}
        past = np.where(seen > self._first[now, None], seen - 1, -1)
        past_actions = np.where(past[..., None] >= 0, self._actions[past], np.float32(0))
        # Rows before the episode's first step repeat its first observation, and nothing was executed before it.
        observation = Observation(
            features, torch.from_numpy(self._proprioception[seen]), torch.from_numpy(past_actions)
        )
        return Batch(observation, torch.from_numpy(self._actions[ahead]))

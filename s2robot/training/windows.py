"""Training windows over cached features: (observations t-To+1 … t) → (actions t … t+Ta-1), split by episode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.utils.data import Dataset

from s2robot.data import DemonstrationDataset
from s2robot.feature_cache import CachedFeatures
from s2robot.feature_cache.joined import JoinedFeatures
from s2robot.interfaces import Batch, DatasetError, Episode, Observation


@dataclass(frozen=True)
class Demonstrations:
    """A dataset without its images: one entry per episode.

    Attributes:
        actions: actions float32 [T, A] of each episode.
        proprioception: proprioception float32 [T, d] of each episode, the chosen keys concatenated.
        starts: row of each episode's first frame in the cached features.
        names: name of each episode.
        texts: texts of its task that each episode records, as far as its format does.
        tasks: index of each episode's task; empty if the policy is not told it.
    """

    actions: list[np.ndarray]
    proprioception: list[np.ndarray]
    starts: list[int]
    names: list[str]
    texts: list[tuple[str, ...]] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)


def load_demonstrations(
    dataset: DemonstrationDataset, proprioception: list[str], episodes: Sequence[int] | None = None
) -> Demonstrations:
    """Read actions and proprioception of the episodes at these positions (None = all).

    Raises:
        DatasetError: two episodes differ in the width of actions or of a key.
    """
    chosen = list(range(len(dataset))) if episodes is None else list(episodes)
    actions, low_dim, texts = [], [], []
    widths: dict[str, int] = {}
    for index in chosen:
        episode = dataset.episode(index, cameras=[], proprioception=proprioception)
        if episode.actions.shape[1] != dataset.action_width:
            raise DatasetError(
                f"dataset {str(dataset.path)!r}, {dataset.demos[index]}: actions are {episode.actions.shape[1]} wide, "
                f"but those of {dataset.demos[0]} are {dataset.action_width} wide"
            )
        for key in proprioception:  # per key: equal total widths could hide values in the wrong columns
            width = episode.proprioception[key].shape[1]
            if width != widths.setdefault(key, width):
                message = (
                    f"observation {key!r} is {width} wide, but in {dataset.demos[chosen[0]]} it is {widths[key]} wide"
                )
                raise dataset.error(message, dataset.demos[index])
        actions.append(episode.actions)
        texts.append(_texts(episode))
        parts = [episode.proprioception[key] for key in proprioception]
        low_dim.append(np.concatenate([np.zeros((len(episode), 0), np.float32), *parts], axis=1))
    starts = np.concatenate([[0], np.cumsum(dataset.lengths)])[chosen]
    names = [dataset.demos[index] for index in chosen]
    return Demonstrations(actions, low_dim, [int(start) for start in starts], names, texts)


def _texts(episode: Episode) -> tuple[str, ...]:
    recorded = episode.attributes.get("tasks") or []
    return tuple(dict.fromkeys(str(text) for text in recorded if str(text).strip()))


def require_long_enough(dataset: DemonstrationDataset, episodes: Sequence[int], action_steps: int) -> None:
    """Check that at least one demonstration is as long as a chunk; otherwise no window would hold a whole chunk.

    A single short episode is fine: its last action is repeated.

    Raises:
        DatasetError: all are shorter; the message names their lengths and that of the chunk.
    """
    lengths = [dataset.lengths[index] for index in episodes]
    if max(lengths) < action_steps:
        raise DatasetError(
            f"dataset {str(dataset.path)!r}: policy.action_steps={action_steps} is longer than every demonstration "
            f"({min(lengths)} to {max(lengths)} steps); choose at most {max(lengths)}"
        )


def split_episodes(count: int, validation_fraction: float) -> tuple[list[int], list[int]]:
    """Split episode indices into training and validation.

    The split depends on the arguments alone and not on the training seed, so all arms of a comparison share it.

    Raises:
        DatasetError: no episode would be left to train on.
    """
    held_out = round(count * validation_fraction)
    if held_out >= count:
        raise DatasetError(
            f"training.validation_fraction={validation_fraction} holds out all {count} demonstrations and leaves none "
            "to train on; choose a smaller fraction"
        )
    order = np.random.default_rng(0).permutation(count)
    return sorted(order[held_out:].tolist()), sorted(order[:held_out].tolist())


class WindowDataset(Dataset[Batch]):
    """One window per time step of the chosen episodes, fetched one batch at a time.

    The first observation is repeated before an episode's first step, the last action after its last step.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        features: Mapping[str, CachedFeatures | JoinedFeatures],
        episodes: Sequence[int],
        *,
        observation_steps: int,
        action_steps: int,
    ) -> None:
        lengths = [len(demonstrations.actions[index]) for index in episodes]
        self._features = features
        self._names = [demonstrations.names[index] for index in episodes]
        self._actions = np.concatenate([demonstrations.actions[index] for index in episodes])
        self._proprioception = np.concatenate([demonstrations.proprioception[index] for index in episodes])
        # Per window: first and last row of its episode in the arrays above, and the offset from these to cached rows.
        first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
        self._first = np.repeat(first, lengths)
        self._last = np.repeat(first + lengths - 1, lengths)
        self._shift = np.repeat([demonstrations.starts[index] for index in episodes] - first, lengths)
        self._episode = np.repeat(np.arange(len(lengths)), lengths)
        self.demonstration = np.repeat(np.asarray(episodes, int), lengths)  # of each window, as in `demonstrations`
        tasks = np.asarray(demonstrations.tasks, np.int64)
        self._tasks = np.repeat(tasks[np.asarray(episodes, int)], lengths) if len(tasks) else None
        self._observation_offsets = np.arange(1 - observation_steps, 1)
        self._action_offsets = np.arange(action_steps)

    def __len__(self) -> int:
        return len(self._actions)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int] | np.ndarray, copies: np.ndarray | None = None) -> Batch:
        """Gather one batch of windows.

        Args:
            indices: indices of the windows.
            copies: for each window, the copy of the frames that it is taken from: 0 = as recorded, 1 … = shifted.
        """
        now = np.asarray(indices)
        seen = self._seen(now)
        ahead = np.minimum(now[:, None] + self._action_offsets, self._last[now, None])
        rows = self.rows(now)
        features = {camera: torch.from_numpy(cached.gather(rows, copies)) for camera, cached in self._features.items()}
        past = np.where(seen > self._first[now, None], seen - 1, -1)
        past_actions = np.where(past[..., None] >= 0, self._actions[past], np.float32(0))
        # Before an episode's first step its first observation is repeated; no action was executed there, hence zeros.
        observation = Observation(
            features,
            torch.from_numpy(self._proprioception[seen]),
            torch.from_numpy(past_actions),
            None if self._tasks is None else torch.from_numpy(self._tasks[now]),
        )
        return Batch(observation, torch.from_numpy(self._actions[ahead]))

    def _seen(self, now: np.ndarray) -> np.ndarray:
        """Return the steps [B, To] that windows see, as rows of the chosen episodes' arrays."""
        return np.maximum(now[:, None] + self._observation_offsets, self._first[now, None])

    def rows(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the frames [B, To] that windows see, as rows of the cached features of the whole dataset."""
        now = np.asarray(indices)
        return self._seen(now) + self._shift[now, None]

    def describe(self, indices: Sequence[int] | np.ndarray, at_most: int = 12) -> str:
        """Name at most `at_most` windows in words, such as `demo_3 steps 4, 17; demo_5 step 0`; count the rest."""
        steps: dict[str, list[int]] = {}
        for index in sorted(int(index) for index in indices[:at_most]):
            steps.setdefault(self._names[self._episode[index]], []).append(index - int(self._first[index]))
        parts = [
            f"{name} step{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}" for name, found in steps.items()
        ]
        more = [f"and {len(indices) - at_most} more"] if len(indices) > at_most else []
        return "; ".join(parts + more)

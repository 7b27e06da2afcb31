"""The data of a run: chosen cameras, keys and episodes, measured sizes, and the cached features of its frames."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch

from s2robot.config import PolicyConfig, TrainConfig, TrainingConfig
from s2robot.data import DemonstrationDataset
from s2robot.data.actions import (
    changed_controllers,
    controllers_for,
    recorded_environment_kept,
    refuse_absolute_in_disguise,
)
from s2robot.data.appearance import check_look, size_entry
from s2robot.data.fields import refuse_discrete_actions
from s2robot.data.horizon import with_horizon
from s2robot.data.libero import late_observations
from s2robot.feature_cache import CachedFeatures, cache_features
from s2robot.feature_cache.joined import JoinedFeatures
from s2robot.interfaces import Batch, ConfigError, Encoder, PolicySpec
from s2robot.training.episodes import choose_episodes
from s2robot.training.processes import Processes
from s2robot.training.units import action_parts
from s2robot.training.windows import (
    Demonstrations,
    WindowDataset,
    load_demonstrations,
    require_long_enough,
)

T = TypeVar("T")

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingPlan:
    """Everything that is known about a run before a frame is read.

    Attributes:
        demonstrations: actions and proprioception of the chosen episodes.
        episodes: positions of the chosen episodes in the dataset.
        training_episodes, validation_episodes: which of the chosen episodes are used for training and for validation.
        spec: sizes that the policy is built for.
        proprioception: observation keys, in the order they are concatenated.
        environment: keyword arguments that recreate the environment.
        env_args: the environment description that the dataset records, with controllers that take the chosen actions.
        fingerprint: fingerprint of the dataset.
        renderers: renderers that drew the dataset's images, if recorded.
        tasks: text, environment and number of demonstrations of each task that the policy is told; empty if it is not.
        task_vectors: a text encoder's vectors of the tasks, float32 [tasks, width]; None if there are none.
        parts: the plans of several datasets of which this one is made, in order; empty for one dataset.
    """

    demonstrations: Demonstrations
    episodes: list[int]
    training_episodes: list[int]
    validation_episodes: list[int]
    spec: PolicySpec
    proprioception: list[str]
    environment: dict[str, Any]
    env_args: dict[str, Any]
    fingerprint: str
    renderers: list[str]
    tasks: list[dict[str, Any]] = field(default_factory=list)
    task_vectors: np.ndarray | None = None
    parts: tuple[TrainingPlan, ...] = ()

    @property
    def sources(self) -> np.ndarray:
        """Which dataset each demonstration is from, int [number of demonstrations]."""
        counts = [len(part.episodes) for part in self.parts] or [len(self.episodes)]
        return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True)
class TrainingData:
    """A plan together with the cached features of its cameras."""

    plan: TrainingPlan
    features: Mapping[str, CachedFeatures | JoinedFeatures]

    @property
    def demonstrations(self) -> Demonstrations:
        """Actions and proprioception."""
        return self.plan.demonstrations

    def windows(self, episodes: list[int], policy: PolicyConfig) -> WindowDataset:
        """Return the windows of `episodes` in the sizes that `policy` needs."""
        return WindowDataset(
            self.plan.demonstrations,
            self.features,
            episodes,
            observation_steps=policy.observation_steps,
            action_steps=policy.action_steps,
        )


def plan_training(
    dataset: DemonstrationDataset, config: TrainConfig, encoder: Encoder, environment: Mapping[str, Any] | None = None
) -> TrainingPlan:
    """Choose cameras, keys and episodes, and split the episodes; reads no images.

    Args:
        dataset: the demonstrations.
        config: settings of the run.
        encoder: the encoder whose features the policy sees.
        environment: the environment that the policy is made for, as arguments of `make_env`; None = as recorded.

    Raises:
        DatasetError: the dataset lacks something that the settings ask for.
    """
    episodes, training, validation = choose_episodes(dataset, config)
    renderers = check_look(dataset, config.render_profile, episodes)
    cameras = dataset.select_cameras(None if config.cameras is None else list(config.cameras))
    for camera in cameras:
        if camera in dataset.conversions:
            _LOGGER.warning(
                "dataset %r: camera %s is converted: %s", str(dataset.path), camera, dataset.conversions[camera]
            )
    refuse_discrete_actions(dataset)
    # True object poses are used only on request: by default the policy must find the objects through the camera.
    if config.proprioception is None:
        for name, why in dataset.left_out().items():
            _LOGGER.warning("dataset %r: a policy does not see %s (%s)", str(dataset.path), name, why)
    keys = dataset.select_proprioception(
        dataset.seen_by_default() if config.proprioception is None else config.proprioception
    )
    demonstrations = load_demonstrations(dataset, keys, episodes)
    if config.task_conditioning == "none" and len(texts := set(demonstrations.texts)) > 1:
        _LOGGER.warning(
            "dataset %r: its demonstrations are of %d tasks, and the policy is not told which; to tell it: "
            "task_conditioning=embedding",
            str(dataset.path),
            len(texts),
        )
    require_long_enough(dataset, episodes, config.policy.action_steps)
    spec = PolicySpec(
        features={camera: encoder.feature_shape(*dataset.image_size(camera)) for camera in cameras},
        proprioception_width=demonstrations.proprioception[0].shape[1],
        action_width=dataset.action_width,
    )
    sizes = {camera: size_entry(*dataset.image_size(camera)) for camera in cameras}
    named = dataset.env_args.get("s2robot", {}) if environment is None else environment
    named, told = with_horizon(named, dataset.env_args, [len(actions) for actions in demonstrations.actions])
    for line in filter(None, (told, late_observations(dataset.env_args))):
        _LOGGER.warning("dataset %r: %s", str(dataset.path), line)
    env_args = dataset.env_args
    if recorded_environment_kept(dataset, config.task, config.controller):
        env_args, changed = controllers_for(dataset, config.controller_input)
        if changed:
            _LOGGER.warning("dataset %r: %s", str(dataset.path), changed_controllers(env_args))
            named = {**named, **changed}
        elif config.controller_input is None:
            refuse_absolute_in_disguise(dataset, demonstrations.actions)
    if not config.policy.action_rotations:
        _tell_jumps(dataset, env_args, demonstrations.actions)
    named = {**named, "cameras": cameras, "image_size": sizes}
    described = named, env_args, dataset.fingerprint()
    return TrainingPlan(demonstrations, episodes, training, validation, spec, keys, *described, renderers)


def _tell_jumps(dataset: DemonstrationDataset, env_args: Mapping[str, Any], actions: list[np.ndarray]) -> None:
    """Warn of rotations that jump by more than half a turn between two steps, which no policy learns as numbers."""
    for part in action_parts(env_args, dataset.action_width):
        columns = part.columns
        steps = [np.abs(np.diff(values[:, columns], axis=0)) for values in actions]
        count = sum(int((step.max(1) > np.pi).sum()) for step in steps if len(step))
        if part.is_rotation and count:
            _LOGGER.warning(
                "dataset %r: the rotation in actions[%d:%d] jumps by more than half a turn at %d steps; learn it with "
                "'policy.action_rotations=[{start:%d,form:axis_angle}]'",
                str(dataset.path), columns.start, columns.stop, count, columns.start,
            )  # fmt: skip


def cache_all(
    dataset: DemonstrationDataset, plan: TrainingPlan, config: TrainConfig, encoder: Encoder
) -> dict[str, CachedFeatures]:
    """Encode the frames that are not cached yet, for every camera of the plan."""
    return {
        camera: cache_features(
            dataset,
            encoder,
            camera,
            config.cache_dir,
            episodes=plan.episodes,
            num_shifts=config.training.num_shifts,
            shift_pixels=config.training.shift_pixels,
        )
        for camera in plan.spec.features
    }


def shares_of(sources: np.ndarray, weights: Sequence[float] | None) -> list[tuple[np.ndarray, int]] | None:
    """Return the windows of each dataset, and how many of them an epoch draws; None without weights.

    The counts are proportional to the weights, at least 1, and add up to the number of windows.

    Args:
        sources: the dataset of each window.
        weights: one positive number per dataset.

    Raises:
        ConfigError: a dataset would get no window.

    >>> [count for _, count in shares_of(np.array([0, 0, 0, 0, 1, 1]), [1, 2])]
    [2, 4]
    """
    if weights is None:
        return None
    ends = np.round(np.cumsum(weights) / np.sum(weights) * len(sources)).astype(int)
    counts = np.diff(ends, prepend=0)
    if not counts.all():
        raise ConfigError(
            f"dataset_weights={list(weights)} gives a dataset no windows: an epoch has {len(sources)}, of which the "
            f"datasets would get {counts.tolist()}; valid: weights that give each at least one"
        )
    return [(np.flatnonzero(sources == index), int(count)) for index, count in enumerate(counts)]


class Batches:
    """The batches of every epoch; their order follows from (seed, epoch), and each process takes a share of each batch.

    Args:
        windows: the windows to draw from; each is drawn once per epoch, unless there are `shares`.
        settings: settings with the batch size and the number of shifted copies.
        seed: seed of the run.
        processes: the processes that train together.
        shares: the windows of several datasets and how much of an epoch each gets, see `shares_of`. An epoch has as
            many windows as there are; those of one dataset are drawn equally often, or one of them once more.
    """

    def __init__(
        self,
        windows: WindowDataset,
        settings: TrainingConfig,
        seed: int,
        processes: Processes,
        shares: Sequence[tuple[np.ndarray, int]] | None = None,
    ) -> None:
        self._shares = shares
        self._windows = windows
        self._size = settings.batch_size
        self._shifts = settings.num_shifts
        self._seed = seed
        self._processes = processes

    def __len__(self) -> int:
        return -(-len(self._windows) // self._size)

    def of_epoch(self, epoch: int, position: int = 0) -> Iterator[tuple[np.ndarray, Batch]]:
        """Yield from batch `position` on: the indices of all windows of a batch, and this process's share of them."""
        rng = np.random.default_rng([self._seed, epoch])
        order = self._order(rng)
        copies = rng.integers(self._shifts + 1, size=len(order)) if self._shifts else None

        def load(indices: np.ndarray) -> Batch:
            # If a batch has fewer windows than processes, a process without one loads a window of weight 0, because
            # data-parallel training needs a backward pass from every process.
            mine = self._mine(indices) if len(self._mine(indices)) else indices[:1]
            return self._windows.__getitems__(mine, None if copies is None else copies[mine])

        parts = [order[start : start + self._size] for start in range(position * self._size, len(order), self._size)]
        return loaded_ahead(parts, load, self._processes.device)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        if self._shares is None:
            return rng.permutation(len(self._windows))
        drawn = [
            np.concatenate([rng.permutation(windows) for _ in range(-(-count // len(windows)))])[:count]
            for windows, count in self._shares
            if count
        ]
        return rng.permutation(np.concatenate(drawn))

    def weight(self, indices: np.ndarray) -> float:
        """Return the fraction of a batch that this process computes."""
        return len(self._mine(indices)) / len(indices)

    def _mine(self, indices: np.ndarray) -> np.ndarray:
        return indices[self._processes.rank :: self._processes.count]


def loaded_ahead(items: Iterable[T], load: Callable[[T], Batch], device: torch.device) -> Iterator[tuple[T, Batch]]:
    """Yield each item with its batch, while a thread gathers the next batch."""

    def ready(item: T) -> Batch:
        batch = load(item)
        return pinned(batch) if device.type == "cuda" else batch

    with ThreadPoolExecutor(1, "gather batches") as thread:
        previous = None
        for item in items:
            current = item, thread.submit(ready, item)
            if previous is not None:
                yield previous[0], previous[1].result()
            previous = current
        if previous is not None:
            yield previous[0], previous[1].result()


def pinned(batch: Batch) -> Batch:
    """Copy the batch to page-locked memory, from which a GPU copies while the CPU goes on."""
    seen = batch.observation
    features = {camera: rows.pin_memory() for camera, rows in seen.features.items()}
    observation = type(seen)(features, seen.proprioception.pin_memory(), seen.past_actions.pin_memory())
    return Batch(observation, batch.actions.pin_memory())

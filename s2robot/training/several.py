"""Several datasets in one run: opened, planned one by one, compared, and joined."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from s2robot.config import TrainConfig
from s2robot.data import DemonstrationDataset, open_dataset
from s2robot.feature_cache.joined import JoinedFeatures
from s2robot.interfaces import DatasetError, Encoder, differences
from s2robot.training.data import TrainingData, TrainingPlan, cache_all, plan_training, shares_of
from s2robot.training.tasks import OF_THE_CAMERAS, conditioned
from s2robot.training.windows import Demonstrations

_LOGGER = logging.getLogger(__name__)

# What may differ between files of one environment: how they came about, and how long an episode may take.
_OF_THE_FILE = ("collection", "rendered_from", "packages", "env_version", "s2robot")

# What an action does, in the words of robosuite and of ManiSkill.
_OF_THE_ROBOT = ("robots", "controller_configs", "control_freq", "gripper_types", "robot_uids", "control_mode")

Environments = Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
"""The environment of a run, as arguments of `make_env`; for several datasets a list with one for each."""


@contextmanager
def opened(config: TrainConfig) -> Iterator[list[DemonstrationDataset]]:
    """Open all datasets of a run; they are closed at the end of the block."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                open_dataset(path, cameras=config.cameras, flip=config.flip, action_key=config.action_keys)
            )
            for path in config.datasets
        ]


def plan_all(
    datasets: Sequence[DemonstrationDataset], config: TrainConfig, encoder: Encoder, environments: Environments = None
) -> TrainingPlan:
    """Plan a run over one or several datasets; see `plan_training`. Each dataset is split for validation by itself.

    Raises:
        DatasetError: a dataset lacks something, or the datasets differ in cameras, sizes, proprioception, actions or
            environment; the message names every difference.
    """
    if environments is None or isinstance(environments, Mapping):
        environments = [environments] * len(datasets)
    plans = [
        plan_training(dataset, config, encoder, environment)
        for dataset, environment in zip(datasets, environments, strict=True)
    ]
    if len(plans) == 1:
        return conditioned(datasets, plans[0], config)
    _require_alike(datasets, plans, config.task_conditioning != "none")
    texts = [set(plan.demonstrations.texts) for plan in plans]
    if config.task_conditioning == "none" and max(map(len, texts)) == 1 < len(set.union(*texts)):
        _LOGGER.warning(
            "the datasets are of %d tasks, and the policy is not told which; to tell it: task_conditioning=embedding",
            len(set.union(*texts)),
        )
    joined = _join(datasets, plans)
    lengths = [len(joined.demonstrations.actions[index]) for index in joined.training_episodes]
    shares_of(np.repeat(joined.sources[joined.training_episodes], lengths), config.dataset_weights)  # before encoding
    return conditioned(datasets, joined, config)


def cached(
    datasets: Sequence[DemonstrationDataset], plan: TrainingPlan, config: TrainConfig, encoder: Encoder
) -> TrainingData:
    """Encode what is not cached yet; each dataset has its own entries, the same as in a run of its own."""
    if not plan.parts:
        return TrainingData(plan, cache_all(datasets[0], plan, config, encoder))
    features = [cache_all(dataset, part, config, encoder) for dataset, part in zip(datasets, plan.parts, strict=True)]
    return TrainingData(plan, {name: JoinedFeatures(tuple(part[name] for part in features)) for name in features[0]})


def prepare(config: TrainConfig, encoder: Encoder) -> TrainingData:
    """Plan a run, and encode the frames that are not cached yet."""
    with opened(config) as datasets:
        return cached(datasets, plan_all(datasets, config, encoder), config, encoder)


def _describe(dataset: DemonstrationDataset, plan: TrainingPlan, several_tasks: bool) -> dict[str, Any]:
    first = dataset.episode(plan.episodes[0], cameras=[], proprioception=plan.proprioception)
    environment = {name: value for name, value in plan.environment.items() if name not in OF_THE_CAMERAS}
    env_args = {name: value for name, value in plan.env_args.items() if name not in _OF_THE_FILE}
    if isinstance(kwargs := env_args.get("env_kwargs"), dict):  # the longest horizon counts, see `_join`
        env_args["env_kwargs"] = {name: value for name, value in kwargs.items() if name != "horizon"}
    if several_tasks:  # scene and task may differ, but not what an action does
        kwargs = env_args.get("env_kwargs") or {}
        environment = {}
        env_args = {"env_kwargs": {name: value for name, value in kwargs.items() if name in _OF_THE_ROBOT}}
    return {
        "cameras (height, width)": {camera: dataset.image_size(camera) for camera in plan.spec.features},
        "proprioception (width)": {key: first.proprioception[key].shape[1] for key in plan.proprioception},
        "order of proprioception": plan.proprioception,
        "action width": dataset.action_width,
        "steps per second": dataset.fps,
        "environment": environment,
        "env_args": env_args,
    }


def _require_alike(
    datasets: Sequence[DemonstrationDataset], plans: Sequence[TrainingPlan], several_tasks: bool
) -> None:
    first = _describe(datasets[0], plans[0], several_tasks)
    for dataset, plan in zip(datasets[1:], plans[1:], strict=True):
        found = [
            f"{name}: {ours!r} there, {theirs!r} here"
            for name, ours, theirs in differences(first, _describe(dataset, plan, several_tasks))
        ]
        if found:
            raise DatasetError(
                f"datasets {str(datasets[0].path)!r} (there) and {str(dataset.path)!r} (here) cannot be trained on "
                f"together, because they differ. {'; '.join(found)}"
            )


def _join(datasets: Sequence[DemonstrationDataset], plans: Sequence[TrainingPlan]) -> TrainingPlan:
    frames = np.cumsum([0, *(sum(dataset.lengths) for dataset in datasets)])
    counts = np.cumsum([0, *(len(plan.episodes) for plan in plans)])
    every = [plan.demonstrations for plan in plans]
    joined = Demonstrations(
        actions=[actions for part in every for actions in part.actions],
        proprioception=[values for part in every for values in part.proprioception],
        starts=[int(first) + start for first, part in zip(frames, every, strict=False) for start in part.starts],
        names=[
            f"{dataset.path.name} {name}" for dataset, part in zip(datasets, every, strict=True) for name in part.names
        ],
    )
    horizons = [plan.environment["horizon"] for plan in plans if plan.environment.get("horizon") is not None]
    longest = {"horizon": max(horizons)} if horizons else {}
    return replace(
        plans[0],
        demonstrations=joined,
        training_episodes=[int(n) + i for n, plan in zip(counts, plans, strict=False) for i in plan.training_episodes],
        validation_episodes=[
            int(n) + i for n, plan in zip(counts, plans, strict=False) for i in plan.validation_episodes
        ],
        environment={**plans[0].environment, **longest},
        fingerprint=hashlib.sha256(" ".join(plan.fingerprint for plan in plans).encode()).hexdigest(),
        renderers=sorted({renderer for plan in plans for renderer in plan.renderers}),
        parts=tuple(plans),
    )

"""Types that the layers exchange: shapes, data objects, protocols and errors.

Shape legend, used in every docstring of the package:

| symbol | meaning                                             |
|--------|-----------------------------------------------------|
| B      | batch                                               |
| T      | time steps of an episode                            |
| To     | observation steps fed to the policy                 |
| Ta     | action steps predicted by the policy                |
| C      | feature channels of one scale; S scales give S·C    |
| H, W   | image height and width [pixels]                     |
| h, w   | feature-map height and width                        |
| N, P   | patch tokens and prefix tokens (CLS, registers)     |
| D      | width of a feature vector                           |
| A      | action width                                        |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:  # importing torch takes seconds and 500 MB, which errors, statistics and reports do not need
    import numpy as np
    import torch
    from torch import Tensor


class Features(NamedTuple):
    """Features of a batch of images, as an encoder returns them.

    Attributes:
        map: feature map of shape [B, S·C, h, w], floating point.
        prefix: prefix tokens (CLS, registers) of shape [B, P, S·C]; P may be 0.
    """

    map: Tensor
    prefix: Tensor


@dataclass(frozen=True)
class FeatureShape:
    """Shape of one frame's features: map `[channels, height, width]` and prefix tokens `[num_prefix, channels]`."""

    channels: int
    height: int
    width: int
    num_prefix: int = 0

    @property
    def numel(self) -> int:
        """Number of values per frame, map and prefix tokens together."""
        return self.channels * (self.height * self.width + self.num_prefix)

    def flatten(self, features: Features) -> Tensor:
        """Return one row of values per frame, [B, numel]: the map first, then the prefix tokens."""
        import torch

        return torch.cat([features.map.flatten(1), features.prefix.flatten(1)], dim=1)

    def pack(self, features: Features) -> Tensor:
        """Return the rows of `flatten` as float16, [B, numel]: what policies see, in training as well as in rollouts.

        The cache stores float16, so rollouts must round in the same way.
        """
        return self.flatten(features).half()

    def unflatten(self, rows: Tensor) -> Features:
        """Undo `flatten`: [B, numel] -> features."""
        split = self.channels * self.height * self.width
        return Features(
            rows[:, :split].unflatten(1, (self.channels, self.height, self.width)),
            rows[:, split:].unflatten(1, (self.num_prefix, self.channels)),
        )


@dataclass
class Observation:
    """Input of a policy: the last To steps of B episodes.

    Attributes:
        features: camera -> packed features, float16 [B, To, numel] (see `FeatureShape.pack`).
        proprioception: float32 [B, To, d] in simulator units, the keys concatenated; d may be 0.
        past_actions: the action executed just before each step, float32 [B, To, A] in environment units; zeros at and
            before an episode's first step (for relative actions, zero means no motion).
        task: index of each episode's task in `PolicySpec.tasks`, int64 [B]; None if the policy knows no tasks.
    """

    features: dict[str, Tensor]
    proprioception: Tensor
    past_actions: Tensor
    task: Tensor | None = None

    def to(self, device: torch.device) -> Observation:
        """Move to `device`."""
        features = {camera: rows.to(device, non_blocking=True) for camera, rows in self.features.items()}
        return Observation(
            features,
            self.proprioception.to(device, non_blocking=True),
            self.past_actions.to(device, non_blocking=True),
            None if self.task is None else self.task.to(device, non_blocking=True),
        )


@dataclass
class Batch:
    """Training windows: observations and the action chunks that followed, float32 [B, Ta, A], environment units."""

    observation: Observation
    actions: Tensor

    def __len__(self) -> int:
        return len(self.actions)

    def to(self, device: torch.device) -> Batch:
        """Move to `device`."""
        return Batch(self.observation.to(device), self.actions.to(device, non_blocking=True))


@dataclass(frozen=True)
class PolicySpec:
    """Sizes that a policy is built for; they are measured on the dataset, so they are not part of its settings.

    Attributes:
        features: camera -> shape of its features.
        proprioception_width: d, the width of the concatenated proprioception.
        action_width: A, the width of an action.
        tasks: the texts of the tasks that the policy is told apart; empty = it is not told its task.
        task_width: width of the vector of the task that joins what the policy sees.
        task_vector_width: width of a text encoder's vectors, which are projected to it; 0 = the vector is learned.
    """

    features: dict[str, FeatureShape]
    proprioception_width: int
    action_width: int
    tasks: tuple[str, ...] = ()
    task_width: int = 0
    task_vector_width: int = 0


@dataclass
class Episode:
    """One recorded demonstration.

    Attributes:
        actions: float32 [T, A], in the environment's action units.
        images: camera name -> uint8 [T, H, W, 3], upright.
        proprioception: key -> float32 [T, d] (units of the simulator: metres, radians).
        success: whether the task was solved by the end of the recording.
        rewards: optional reward after each action, float32 [T].
        states: optional simulator states, float64 [T, S].
        other_actions: further recorded arrays of actions by name, such as `actions_abs`, [T] or [T, d] each.
        model_file: optional MJCF model of the recorded scene.
        attributes: anything else that the format records (seed, expert, …), as plain JSON values.
    """

    actions: np.ndarray
    images: Mapping[str, np.ndarray]
    proprioception: Mapping[str, np.ndarray]
    success: bool = True
    rewards: np.ndarray | None = None
    states: np.ndarray | None = None
    model_file: str | None = None
    other_actions: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


@runtime_checkable
class Backbone(Protocol):
    """A frozen, single-scale vision model: the contract `S2Encoder` relies on.

    Attributes:
        name: name by which the user chose it.
        size: native image size, which is the tile size: height = width in pixels.
        mean, std: per-channel normalisation of images with values in [0, 1].
        num_prefix_tokens: P; 0 for models without CLS and register tokens.
    """

    name: str
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    num_prefix_tokens: int

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images [B, 3, H, W] to (map [B, C, h, w], prefix [B, P, C])."""
        ...

    def weights_hash(self) -> str:
        """Return the SHA-256 over the names, shapes, dtypes and bytes of all tensors and buffers."""
        ...


class Encoder(Protocol):
    """The part of an encoder that the feature cache and rollouts use."""

    def __call__(self, images: Tensor) -> Features:
        """Encode uint8 [B, H, W, 3] images."""
        ...

    def feature_shape(self, height: int, width: int) -> FeatureShape:
        """Return the shape of one frame's features for images of `height` x `width` pixels."""
        ...

    def fingerprint(self) -> str:
        """Return a hash of everything that determines the features up to rounding; equal in all processes and machines.

        Rounding is left out so that a cache can be shared by machines whose kernels add in another order.
        """
        ...

    def describe(self) -> str:
        """Return a readable name, such as backbone and scale set."""
        ...


class S2RobotError(Exception):
    """Base class of all errors that a user can cause; messages name the thing, the value and the valid choices."""


class ConfigError(S2RobotError, ValueError):
    """A setting has an impossible value."""


class DatasetError(S2RobotError):
    """A demonstration file is missing, damaged, or lacks what was requested."""


class EncoderError(S2RobotError):
    """The encoder cannot process these images or this scale set, or the backbone is unknown."""


class WeightsError(EncoderError):
    """Backbone weights are missing, damaged, or belong to another architecture."""


class CacheError(S2RobotError):
    """A feature cache is damaged or cannot be written."""


class CheckpointError(S2RobotError):
    """A checkpoint is missing, damaged, or belongs to another task, encoder or policy."""


class TrainingError(S2RobotError):
    """Training cannot continue, for example because the loss is NaN."""


class RolloutError(S2RobotError):
    """The simulator failed or does not offer what the policy needs."""


class StatisticsError(S2RobotError, ValueError):
    """The statistic cannot be computed from these outcomes or settings."""


class ReportError(S2RobotError):
    """A result file is missing, damaged, or was not written by this package."""


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> str:
    """Return the error text for a name that is not among `choices`, with the closest match.

    >>> unknown_name("policy", "bcc", ["bc", "diffusion_unet"])
    "unknown policy 'bcc'; did you mean 'bc'? Choices: bc, diffusion_unet"
    """
    valid = sorted(choices)
    close = difflib.get_close_matches(str(name), valid, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Choices: {', '.join(valid) or 'none'}"


def differences(saved: Any, wanted: Any, prefix: str = "") -> list[tuple[str, Any, Any]]:
    """List the entries that differ between nested dictionaries: dotted name, saved value, wanted value.

    >>> differences({"policy": {"hidden": 8}, "seed": 0}, {"policy": {"hidden": 16}, "seed": 0})
    [('policy.hidden', 8, 16)]
    """
    if not isinstance(saved, dict) or not isinstance(wanted, dict):
        return [] if saved == wanted else [(prefix, saved, wanted)]
    keys = sorted(saved.keys() | wanted.keys())
    dotted = {key: f"{prefix}.{key}" if prefix else key for key in keys}
    return [found for key in keys for found in differences(saved.get(key), wanted.get(key), dotted[key])]


def resolve_device(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda`, `cuda:1` or `mps` into a device of this machine.

    Raises:
        ConfigError: the device is unknown or not available on this machine.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(unknown_name("device", name, ["auto", "cpu", "cuda", "mps"])) from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {name!r} was requested, but this machine has no usable CUDA device; use device=cpu")
    return device

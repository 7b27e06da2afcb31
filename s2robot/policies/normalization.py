"""Normalisation by statistics of the training episodes: applied to a policy's inputs, undone on its actions.

Each number of an action or of proprioception has a mode of its own:

| mode | mapped to -1 and 1 | outside |
|---|---|---|
| `min_max` | its smallest and its largest value in training | actions given by the policy are clipped |
| `quantile` | two of its quantiles in training | clipped, both what is learned and what the policy gives |
| `mean_std` | its mean minus and plus its standard deviation | not clipped |
| `none` | -1 and 1: learned as recorded | not clipped |
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from s2robot.interfaces import ConfigError
from s2robot.policies.action_layout import ActionLayout

# A number that varies less than this over the whole training set counts as constant: scaling would amplify noise.
_MIN_RANGE = 1e-4


def mapped_to_one(values: np.ndarray, mode: str, quantiles: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Return what becomes -1 and what becomes 1 in one mode, float64 [d] each.

    Args:
        values: all values in training, [N, d].
        mode: see the table above.
        quantiles: the two quantiles of the mode `quantile`, in [0, 1].
    """
    if mode == "min_max":
        return values.min(0), values.max(0)
    if mode == "mean_std":
        mean, std = values.mean(0), values.std(0)
        return mean - std, mean + std
    if mode == "quantile":
        low, high = np.quantile(values, quantiles, axis=0)
        return low, high
    return np.full(values.shape[1], -1.0), np.ones(values.shape[1])


class ActionNormalizer(nn.Module):
    """Maps actions to the numbers that a network learns, and back; by default `min_max` to [-1, 1] in every number.

    A constant number maps to 0, and back to its constant value, in every mode but `none`. Rotations, if there are any,
    are learned in their 6-D form; the policy's numbers become rotations by Gram-Schmidt (see `rotations`).

    Args:
        width: A, how many numbers an action has.
        layout: rotations and modes; None = no rotations, and `min_max` for all.

    Attributes:
        minimum, maximum: what becomes -1 and 1, [learned width].
        layout: as above.
    """

    minimum: Tensor
    maximum: Tensor
    _clips_learned: Tensor
    _clips_given: Tensor

    def __init__(self, width: int, layout: ActionLayout | None = None) -> None:
        super().__init__()
        self.layout = layout or ActionLayout(width, (), ("min_max",) * width, (0.0, 1.0), False)
        self.register_buffer("minimum", -torch.ones(self.layout.learned_width))
        self.register_buffer("maximum", torch.ones(self.layout.learned_width))
        # Not in the checkpoint: they follow from the settings.
        self.register_buffer("_clips_learned", self._are("quantile"), persistent=False)
        self.register_buffer("_clips_given", self._are("min_max", "quantile"), persistent=False)

    def _are(self, *modes: str) -> Tensor:
        return torch.tensor([mode in modes for mode in self.layout.modes], dtype=torch.bool)

    def fit(self, actions: Iterable[np.ndarray]) -> None:
        """Set the statistics from the training episodes' actions, one array [T, A] per episode.

        Raises:
            ConfigError: the mode of a number does not suit its values; the message names the number.
        """
        arrays = [self.layout.encode(torch.from_numpy(array)).numpy() for array in actions]
        smallest, largest = np.min([a.min(0) for a in arrays], axis=0), np.max([a.max(0) for a in arrays], axis=0)
        low, high = smallest.copy(), largest.copy()
        for mode in set(self.layout.modes) - {"min_max"}:
            chosen = self._are(mode).numpy()
            values = np.concatenate([array[:, chosen] for array in arrays]).astype(np.float64)
            low[chosen], high[chosen] = mapped_to_one(values, mode, self.layout.quantiles)
        self._refuse_unsuitable(smallest, largest, high - low)
        self.minimum.copy_(torch.from_numpy(low))
        self.maximum.copy_(torch.from_numpy(high))

    def _refuse_unsuitable(self, smallest: np.ndarray, largest: np.ndarray, spread: np.ndarray) -> None:
        for number, mode in enumerate(self.layout.modes):
            seen = f"number {self.layout.columns[number]} spans {smallest[number]:g} to {largest[number]:g}"
            inside = max(-smallest[number], largest[number]) <= 1 + _MIN_RANGE
            if mode == "none" and self.layout.bounded and not inside:
                raise ConfigError(
                    f"policy.action_normalization=none is not possible: {seen}, but the policy only gives numbers in "
                    "[-1, 1]; valid: min_max, quantile"
                )
            if mode == "quantile" and spread[number] < _MIN_RANGE <= largest[number] - smallest[number]:
                raise ConfigError(
                    f"policy.action_normalization=quantile is not possible: {seen}, but its quantiles "
                    f"{self.layout.quantiles} are equal, so it would never move; valid: min_max, mean_std, none"
                )

    def _center_and_scale(self) -> tuple[Tensor, Tensor]:
        scale = (self.maximum - self.minimum) / 2
        return (self.maximum + self.minimum) / 2, torch.where(self._constant(), torch.ones_like(scale), scale)

    def _constant(self) -> Tensor:
        return self.maximum - self.minimum < _MIN_RANGE

    def forward(self, actions: Tensor) -> Tensor:
        """Map actions […, A] from environment units to what is learned, […, learned width]."""
        center, scale = self._center_and_scale()
        learned = self.layout.encode(actions)
        if "quantile" in self.layout.modes:
            learned = torch.where(self._clips_learned, self._inside(learned), learned)
        return (learned - center) / scale

    def inverse(self, actions: Tensor) -> Tensor:
        """Map what a network gives, […, learned width], to actions […, A] in environment units, clipped as above."""
        center, scale = self._center_and_scale()
        learned = actions * scale + center
        if {"mean_std", "none"} & set(self.layout.modes):
            clips = self._clips_given | self._constant()
            return self.layout.decode(torch.where(clips, self._inside(learned), learned))
        return self._inside(learned)

    def _inside(self, learned: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(learned, self.minimum), self.maximum)


class ProprioceptionNormalizer(nn.Module):
    """Standardises each number of proprioception to zero mean and unit variance, clipped to ±10, or as its mode says.

    Args:
        width: d, how many numbers there are.
        modes: one per number; None = `mean_std` for all. All modes but `none` clip normalised numbers to ±10.
        quantiles: the two quantiles of the mode `quantile`, in [0, 1].
    """

    mean: Tensor
    std: Tensor
    _clips: Tensor

    def __init__(
        self, width: int, modes: Sequence[str] | None = None, quantiles: tuple[float, float] = (0.0, 1.0)
    ) -> None:
        super().__init__()
        self._modes, self._quantiles = tuple(modes or ["mean_std"] * width), quantiles
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        clips = torch.tensor([mode != "none" for mode in self._modes], dtype=torch.bool)
        self.register_buffer("_clips", clips, persistent=False)

    def fit(self, values: Iterable[np.ndarray]) -> None:
        """Set the statistics from the training episodes, one array [T, d] per episode."""
        stacked = np.concatenate(list(values)).astype(np.float64)
        mean, std = stacked.mean(0), stacked.std(0)
        for mode in set(self._modes) - {"mean_std"}:
            chosen = np.array([other == mode for other in self._modes])
            low, high = mapped_to_one(stacked[:, chosen], mode, self._quantiles)
            mean[chosen], std[chosen] = (low + high) / 2, (high - low) / 2
        self.mean.copy_(torch.from_numpy(mean))
        self.std.copy_(torch.from_numpy(np.where(std < _MIN_RANGE, 1.0, std)))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise values […, d] given in simulator units."""
        normal = (values - self.mean) / self.std
        if "none" in self._modes:
            return torch.where(self._clips, normal.clamp(-10, 10), normal)
        return normal.clamp(-10, 10)

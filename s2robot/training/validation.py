"""Validation on held-out episodes: the policy's loss, and the error of its actions against the demonstrated ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from s2robot.config import TrainConfig
from s2robot.interfaces import Batch
from s2robot.policies import Policy
from s2robot.training.data import TrainingData, loaded_ahead
from s2robot.training.optimization import seed_noise
from s2robot.training.units import ActionPart, action_parts
from s2robot.training.windows import WindowDataset

_ACTING_WINDOWS = 256  # acting is slow for diffusion; this many held-out windows give a steady estimate


class Validation:
    """Loss and action error over held-out windows.

    Args:
        windows: the held-out windows.
        parts: parts of an action with physical units; may be empty.
        batch_size: windows per batch.
    """

    def __init__(self, windows: WindowDataset, parts: list[ActionPart], batch_size: int) -> None:
        self._windows = windows
        self._parts = parts
        self._batch_size = batch_size
        chosen = np.random.default_rng(0).permutation(len(windows))[:_ACTING_WINDOWS]
        self._acting = np.sort(chosen)

    @torch.inference_mode()
    def __call__(self, policy: Policy, device: torch.device) -> dict[str, float]:
        """Return columns of the log: loss, mean absolute action error in environment units, and error of each part.

        The action error counts a rotation that is learned in its 6-D form by these six numbers.
        Errors are means over all Ta steps of the predicted chunks.
        """
        policy.eval()
        seed_noise([0], device)  # the same noise at every validation, so that the curve shows only the weights' change
        everything = np.arange(len(self._windows))
        total = 0.0
        for indices, batch in self._batches(everything, device):
            total += float(policy.loss(batch.to(device))) * len(indices)
        predicted, demonstrated = [], []
        for indices, batch in self._batches(self._acting, device):
            generators = [torch.Generator().manual_seed(int(index)) for index in indices]
            predicted.append(policy.act(batch.to(device).observation, generators).float().cpu().numpy())
            demonstrated.append(batch.actions.numpy())
        mine, theirs = np.concatenate(predicted), np.concatenate(demonstrated)
        # Near a half turn, equal rotations can have opposite numbers; in their 6-D form they cannot.
        encode = policy.actions.layout.encode
        difference = encode(torch.from_numpy(mine)) - encode(torch.from_numpy(theirs))
        return {
            "validation_loss": total / len(everything),
            "validation_action_error": float(difference.abs().numpy().mean()),
            **{f"validation_{part.name}": part.error(mine, theirs) for part in self._parts},
        }

    def _batches(self, indices: np.ndarray, device: torch.device) -> Iterator[tuple[np.ndarray, Batch]]:
        parts = np.split(indices, range(self._batch_size, len(indices), self._batch_size))
        return loaded_ahead(parts, self._windows.__getitems__, device)


def make_validation(data: TrainingData, config: TrainConfig) -> Validation | None:
    """Make the validation over the held-out episodes of a run; None if there are none."""
    if not data.plan.validation_episodes:
        return None
    held_out = data.windows(data.plan.validation_episodes, config.policy)
    parts = action_parts(data.plan.env_args, data.plan.spec.action_width)
    return Validation(held_out, parts, config.training.batch_size)

"""The base class of all policies: the contract that training and rollouts rely on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from s2robot.config import PolicyConfig, ReadoutConfig
from s2robot.interfaces import Batch, Observation, PolicySpec
from s2robot.policies.networks import ObservationNetwork
from s2robot.policies.normalization import ActionNormalizer


class Policy(nn.Module):
    """Base class of policies; a subclass adds its head, its loss and `act` in one file.

    Args:
        readout: settings of each camera's readout; None if the policy reads the features itself.
        spec: measured sizes of features, proprioception and actions.

    Attributes:
        settings: dataclass of the policy's settings and their defaults; every subclass names its own.
        fitted_only: whether it never has parameters to optimize, which a benchmark must know before it builds any.
        observation: network of readouts and proprioception, `Observation` -> [B, To, width].
        actions: normalizer between environment units and [-1, 1].
    """

    settings: ClassVar[type[PolicyConfig]] = PolicyConfig
    fitted_only: ClassVar[bool] = False

    def __init__(self, readout: ReadoutConfig | None, spec: PolicySpec) -> None:
        super().__init__()
        self.observation = ObservationNetwork(spec, readout)
        self.actions = ActionNormalizer(spec.action_width)

    def fit_normalization(self, actions: Iterable[np.ndarray], proprioception: Iterable[np.ndarray]) -> None:
        """Fit the normalizers to the training episodes: float32 arrays [T, A] and [T, d] per episode."""
        self.actions.fit(actions)
        self.observation.proprioception.fit(proprioception)

    @property
    def trainable(self) -> bool:
        """Whether the policy has parameters to optimize; if not, `fit` is its whole training."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def has_fit(self) -> bool:
        """Whether `fit` takes something, so that a training which never calls it is refused."""
        return type(self).fit is not Policy.fit

    def fit(self, batches: Iterable[Batch]) -> None:
        """Fit the policy to the training windows before the first optimizer step; by default do nothing.

        Store the result in buffers, which checkpoints hold. With several processes, each process calls this.

        Args:
            batches: all training windows, each once, in the order of the dataset, on the policy's device.
        """

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the optimizer's parameter groups, each with its weight decay; `weight_decay` is the training's."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    def loss(self, batch: Batch) -> Tensor:
        """Return the training loss, a scalar."""
        raise NotImplementedError

    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Predict action chunks float32 [B, Ta, A] in environment units.

        Args:
            observation: B observations.
            generators: one random generator per row, so that an action does not depend on the other rows of the batch.
        """
        raise NotImplementedError

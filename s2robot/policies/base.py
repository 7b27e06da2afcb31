"""What every policy is: the contract that training and rollouts rely on."""

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
    """A policy; a subclass adds its head, its loss and its way to act, in one file.

    Args:
        readout: settings of the readout that each camera gets; None where the policy reads the features itself.
        spec: measured sizes.

    Attributes:
        settings: the dataclass of its settings, of a subclass; its defaults are the policy's.
        observation: readouts and proprioception, `Observation` -> [B, To, width].
        actions: environment units <-> [-1, 1].
    """

    settings: ClassVar[type[PolicyConfig]] = PolicyConfig

    def __init__(self, readout: ReadoutConfig | None, spec: PolicySpec) -> None:
        super().__init__()
        self.observation = ObservationNetwork(spec, readout)
        self.actions = ActionNormalizer(spec.action_width)

    def fit_normalization(self, actions: Iterable[np.ndarray], proprioception: Iterable[np.ndarray]) -> None:
        """Take the statistics of the training episodes, float32 [T, A] and [T, d] each."""
        self.actions.fit(actions)
        self.observation.proprioception.fit(proprioception)

    @property
    def trainable(self) -> bool:
        """Whether there is anything for an optimizer to do; else `fit` is all of its training."""
        return any(parameter.requires_grad for parameter in self.parameters())

    @property
    def has_fit(self) -> bool:
        """Whether `fit` takes something, so that a training which never calls it is refused."""
        return type(self).fit is not Policy.fit

    def fit(self, batches: Iterable[Batch]) -> None:
        """Take what the policy needs of the training windows before any step of an optimizer; by default nothing.

        What is taken belongs into buffers, which checkpoints hold. In several processes each of them does this.

        Args:
            batches: every training window once, in the order of the dataset, on the policy's device.
        """

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameters for the optimizer, each group with its weight decay; `weight_decay` is the training's own."""
        return [{"params": list(self.parameters()), "weight_decay": weight_decay}]

    def loss(self, batch: Batch) -> Tensor:
        """Training loss, a scalar."""
        raise NotImplementedError

    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Predict action chunks float32 [B, Ta, A] in environment units.

        Args:
            observation: B observations.
            generators: one source of noise per row, so that a row's action does not depend on its neighbours.
        """
        raise NotImplementedError

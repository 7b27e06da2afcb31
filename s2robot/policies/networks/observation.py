"""The input of every policy: one trainable readout per camera, and normalised proprioception."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from s2robot.interfaces import Observation, PolicySpec
from s2robot.policies.networks.tasks import TaskNetwork
from s2robot.policies.normalization import ProprioceptionNormalizer
from s2robot.policies.readouts import make_readout, module_key

if TYPE_CHECKING:
    from s2robot.config import ReadoutConfig


class ObservationNetwork(nn.Module):
    """Concatenates normalised proprioception with the vector of one trainable readout per camera.

    Maps an `Observation` to [B, To, width], where width = cameras · readout width + d; without a readout it is d. If
    the policy is told its task, the vector of the task joins at every step.

    Attributes:
        task: network of the task; None if the policy is not told it.
        widths: width of each part: proprioception first (absent if d = 0), then the cameras, then the task.
        width: sum of `widths`.
    """

    def __init__(self, spec: PolicySpec, readout: ReadoutConfig | None) -> None:
        super().__init__()
        self._shapes = spec.features if readout else {}
        self.readouts = nn.ModuleDict()
        self.proprioception = ProprioceptionNormalizer(spec.proprioception_width)
        self.widths = [spec.proprioception_width] if spec.proprioception_width else []
        if readout:
            for camera, shape in spec.features.items():
                self.readouts[module_key(camera)] = make_readout(readout, shape)
                self.widths.append(readout.width)
        self.task = TaskNetwork(spec) if spec.tasks else None
        if self.task is not None:
            self.widths.append(spec.task_width)
        self.width = sum(self.widths)

    def parts(self, observation: Observation) -> list[Tensor]:
        """Return one tensor [B, To, width] per entry of `widths`."""
        parts = [self.proprioception(observation.proprioception)] if observation.proprioception.shape[-1] else []
        for camera, shape in self._shapes.items():
            rows = observation.features[camera]
            vectors = self.readouts[module_key(camera)](shape.unflatten(rows.flatten(0, 1).float()))
            parts.append(vectors.unflatten(0, rows.shape[:2]))
        if self.task is not None:
            steps = observation.proprioception.shape[1]
            parts.append(self.task(observation.task, observation.proprioception)[:, None].expand(-1, steps, -1))
        return parts

    def forward(self, observation: Observation) -> Tensor:
        """Map B observations of To steps to [B, To, width]."""
        return torch.cat(self.parts(observation), dim=-1)

"""The task as an input of a policy: one learned vector per text, or a text encoder's vectors, projected."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from s2robot.interfaces import PolicySpec


class TaskNetwork(nn.Module):
    """Maps indices of tasks [B] to vectors [B, `spec.task_width`].

    Attributes:
        vectors: a text encoder's vectors, float32 [tasks, `spec.task_vector_width`]; the checkpoint holds them. With
            width 0, an embedding is learned instead.
        chosen: index of the task of all observations that do not name theirs; None = every observation names it.
    """

    vectors: Tensor
    chosen: int | None = None

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(len(spec.tasks), spec.task_vector_width))
        self.project: nn.Module = (
            nn.Linear(spec.task_vector_width, spec.task_width)
            if spec.task_vector_width
            else nn.Embedding(len(spec.tasks), spec.task_width)
        )

    def set_vectors(self, vectors: np.ndarray) -> None:
        """Set the text encoder's vectors, float32 [tasks, width], in the order of `spec.tasks`."""
        self.vectors.copy_(torch.from_numpy(vectors))

    def forward(self, tasks: Tensor | None, like: Tensor) -> Tensor:
        """Map indices int64 [B] to [B, task_width]; None stands for `chosen`, on the device and for the B of `like`."""
        if tasks is None:
            assert self.chosen is not None  # windows, rollouts and `load_policy` see to it
            tasks = torch.full((len(like),), self.chosen, device=like.device)
        return self.project(self.vectors[tasks] if self.vectors.shape[1] else tasks)

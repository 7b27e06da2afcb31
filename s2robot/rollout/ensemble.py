"""Temporal ensembling: each action is the average of what all overlapping chunks predict for its step."""

from __future__ import annotations

import numpy as np
import torch

from s2robot.policies.action_layout import ActionLayout


class ChunkEnsemble:
    """Averages the chunks of one episode with weights exp(-m·i), i = 0 the oldest chunk (ACT, arXiv 2304.13705, §IV-A).

    Args:
        m: decay of the weights: 0 weighs all chunks equally, larger values favour older chunks. ACT uses 0.01.
        layout: layout of the actions; rotations are averaged in their 6-D form, because the average of other forms can
            be far from all of them. None = there are none.
    """

    def __init__(self, m: float, layout: ActionLayout | None = None) -> None:
        self._m = m
        self._layout = layout if layout is not None and layout.rotations else None
        self._chunks: list[tuple[int, np.ndarray]] = []  # (step at which a chunk begins, its actions [Ta, A])

    def combine(self, step: int, chunk: np.ndarray, count: int) -> np.ndarray:
        """Add a chunk [Ta, A] that begins at `step`, and return the actions [count, A] of the steps from `step` on."""
        self._chunks = [(start, earlier) for start, earlier in self._chunks if start + len(earlier) > step]
        self._chunks.append((step, chunk.copy()))
        return np.stack([self._action(moment) for moment in range(step, step + count)])

    def _action(self, step: int) -> np.ndarray:
        actions = [chunk[step - start] for start, chunk in self._chunks if step < start + len(chunk)]
        weights = np.exp(-self._m * np.arange(len(actions)))
        if self._layout is None:
            return np.average(actions, axis=0, weights=weights).astype(np.float32)
        learned = self._layout.encode(torch.from_numpy(np.stack(actions))).numpy()
        average = np.average(learned, axis=0, weights=weights).astype(np.float32)
        return self._layout.decode(torch.from_numpy(average)).numpy()

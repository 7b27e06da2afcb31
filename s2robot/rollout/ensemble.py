"""Temporal ensembling: an action is the average of what all overlapping chunks say about its step."""

from __future__ import annotations

import numpy as np


class ChunkEnsemble:
    """The chunks of one episode, averaged with weights exp(-m·i), where i = 0 is the oldest (arXiv 2304.13705, §IV-A).

    Args:
        m: 0 weighs all chunks alike; the larger, the more the older ones count. ACT's own is 0.01.
    """

    def __init__(self, m: float) -> None:
        self._m = m
        self._chunks: list[tuple[int, np.ndarray]] = []  # step at which a chunk begins, and its actions [Ta, A]

    def combine(self, step: int, chunk: np.ndarray, count: int) -> np.ndarray:
        """Actions [count, A] of the steps `step` … `step + count - 1`, after a chunk [Ta, A] that begins at `step`."""
        self._chunks = [(start, earlier) for start, earlier in self._chunks if start + len(earlier) > step]
        self._chunks.append((step, chunk.copy()))
        return np.stack([self._action(moment) for moment in range(step, step + count)])

    def _action(self, step: int) -> np.ndarray:
        actions = [chunk[step - start] for start, chunk in self._chunks if step < start + len(chunk)]
        weights = np.exp(-self._m * np.arange(len(actions)))
        return np.average(actions, axis=0, weights=weights).astype(np.float32)

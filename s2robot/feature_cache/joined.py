"""The cached features of several datasets as if they were one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from s2robot.feature_cache.build import CachedFeatures
from s2robot.interfaces import FeatureShape


@dataclass(frozen=True)
class JoinedFeatures:
    """Cached features of one camera in several datasets; a row's number counts the frames of the datasets before it.

    Attributes:
        parts: features of each dataset, of one shape.
    """

    parts: tuple[CachedFeatures, ...]

    @property
    def shape(self) -> FeatureShape:
        """Shape of one frame's features."""
        return self.parts[0].shape

    def gather(self, rows: np.ndarray, copies: np.ndarray | None = None) -> np.ndarray:
        """Return features float16 [B, To, numel] as `CachedFeatures.gather`; a window lies in one dataset."""
        ends = np.cumsum([len(part.rows) for part in self.parts])
        owner = np.searchsorted(ends, rows[:, 0], "right")
        result = np.empty((*rows.shape, self.shape.numel), np.float16)
        for index, part in enumerate(self.parts):
            mine = owner == index
            local = rows[mine] - (ends[index] - len(part.rows))
            result[mine] = part.gather(local, None if copies is None else copies[mine])
        return result

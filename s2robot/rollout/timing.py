"""Measure where rollouts spend their time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Times:
    """Seconds spent on encoding and in the policy (one entry per call of `Actor.act`), and on simulation (the total).

    Simulation is the time spent waiting for the environments, including rendering and resets.
    """

    encode: list[float] = field(default_factory=list)
    policy: list[float] = field(default_factory=list)
    simulate: float = 0.0

    def add(self, other: Times) -> None:
        """Add the entries of `other`."""
        self.encode += other.encode
        self.policy += other.policy
        self.simulate += other.simulate

    def drain(self) -> Times:
        """Return what was recorded, and reset."""
        taken = Times(self.encode, self.policy, self.simulate)
        self.encode, self.policy, self.simulate = [], [], 0.0
        return taken

    def summary(self) -> dict[str, Any] | None:
        """Return the median and 95th percentile of a call of `act` [ms], and the three shares; None if nothing ran."""
        if not self.encode:
            return None
        calls = 1000 * (np.array(self.encode) + np.array(self.policy))
        total = sum(self.encode) + sum(self.policy) + self.simulate
        return {
            "calls": len(calls),
            "median_ms": median_ms(calls / 1000),
            "p95_ms": round(float(np.percentile(calls, 95)), 2),
            "encode_share": round(sum(self.encode) / total, 3),
            "policy_share": round(sum(self.policy) / total, 3),
            "simulate_share": round(self.simulate / total, 3),
        }


def median_ms(seconds: Sequence[float] | np.ndarray) -> float | None:
    """Return the median in milliseconds; None if there are no values."""
    return round(1000 * float(np.median(seconds)), 2) if len(seconds) else None

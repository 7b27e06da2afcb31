"""Whether recorded actions lie in the range that their environment takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

_ROBOSUITE = 1  # robomimic's EnvType of robosuite
TOLERANCE = 1e-3


def takes_unit_actions(env_args: Mapping[str, Any]) -> bool:
    """Return whether the recorded environment takes every action in [-1, 1], as far as its description says.

    robosuite's controllers do, unless they take absolute positions; environments of this package do, unless
    `gym.actions` says otherwise.
    """
    own = env_args.get("s2robot") or {}
    if (own.get("gym") or {}).get("actions") not in (None, "unit"):
        return False
    controllers = json.dumps([(env_args.get("env_kwargs") or {}).get("controller_configs"), own.get("controller")])
    absolute = '"absolute"' in controllers or '"control_delta": false' in controllers
    return not absolute and (env_args.get("type") == _ROBOSUITE or bool(own))


def outside(
    episodes: Iterable[np.ndarray], low: np.ndarray | float = -1.0, high: np.ndarray | float = 1.0
) -> list[str]:
    """Return one text per column of actions that leaves [low, high].

    Args:
        episodes: actions [T, A] of each demonstration.
        low: the smallest action, one number or [A].
        high: the largest action.
    """
    ranges = [(actions.min(0), actions.max(0)) for actions in episodes if len(actions)]
    if not ranges:
        return []
    least, most = np.min([low for low, _ in ranges], 0), np.max([high for _, high in ranges], 0)
    low, high = np.broadcast_to(low, least.shape), np.broadcast_to(high, least.shape)
    columns = np.flatnonzero((least < low - TOLERANCE) | (most > high + TOLERANCE))
    return [f"actions[{i}] from {least[i]:.4g} to {most[i]:.4g}, taken {low[i]:.4g} to {high[i]:.4g}" for i in columns]

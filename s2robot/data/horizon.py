"""How long an episode of a policy may take, from how long the demonstrations took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

STEPS = 100  # the horizon is a multiple of this


def horizon_of(lengths: Iterable[int]) -> int:
    """Return the longest demonstration's number of steps, rounded up to the next hundred.

    >>> horizon_of([226, 1143]), horizon_of([100])
    (1200, 100)
    """
    return -(-max(lengths) // STEPS) * STEPS


def with_horizon(
    environment: Mapping[str, Any], env_args: Mapping[str, Any], lengths: list[int]
) -> tuple[dict[str, Any], str]:
    """Return the environment of a policy with a horizon that its demonstrations fit into, and a text that says so.

    The horizon that this package recorded together with its own demonstrations stays.

    Args:
        environment: arguments of `make_env`; without a task it is returned unchanged.
        env_args: the description that the dataset records.
        lengths: steps of each demonstration.
    """
    recorded, longest = environment.get("horizon"), max(lengths)
    rendered = "rendered_from" in env_args and "collection" not in env_args
    foreign = "s2robot" not in env_args or (rendered and recorded is not None and longest > recorded)
    if "task" not in environment or not foreign:
        return dict(environment), ""
    horizon = horizon_of(lengths)
    told = (
        f"an episode of evaluation ends after {horizon} steps at the latest, because the longest demonstration takes "
        f"{longest}; evaluate with horizon=… to change it"
    )
    return {**environment, "horizon": horizon}, told

"""What a reader finds out about a dataset before it reads any episode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class ActionArray(NamedTuple):
    """A recorded array of actions: its width, and whether it is stored as integers or booleans."""

    width: int
    integer: bool


@dataclass(frozen=True)
class Index:
    """What a reader knows about a dataset before it reads any episode.

    Attributes:
        demos: name of each demonstration.
        lengths: number of steps T of each demonstration.
        action_width: width A of an action.
        image_sizes: camera -> (height, width) in pixels.
        proprioception: keys of the low-dimensional observations.
        env_args: the recorded environment description in robomimic's form; empty if the format has none.
        fps: steps per second, if the format itself records them, else None.
        skipped: observations that are neither images nor [T] or [T, d] -> why they are not read.
        conversions: camera -> what is done to its stored numbers, in words; empty or missing for RGB bytes.
        doubts: cameras that are offered only to those who name them -> why.
        integer_actions: whether actions are stored as integers or booleans.
        action_space: gymnasium's type of the recorded action space, such as `Discrete`; empty if none is recorded.
        action_arrays: every recorded array of actions by name, the format's own first.
    """

    demos: list[str]
    lengths: list[int]
    action_width: int
    image_sizes: dict[str, tuple[int, int]]
    proprioception: list[str]
    env_args: dict[str, Any] = field(default_factory=dict)
    fps: Any = None
    skipped: dict[str, str] = field(default_factory=dict)
    conversions: dict[str, str] = field(default_factory=dict)
    doubts: dict[str, str] = field(default_factory=dict)
    integer_actions: bool = False
    action_space: str = ""
    action_arrays: dict[str, ActionArray] = field(default_factory=dict)


def dotted(paths: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Name what is stored in groups: `images/front` is named `images.front`.

    Returns:
        Name -> path, sorted by name, and path -> why it is not read, if another path has the same name. The path with
        fewer slashes has it.

    >>> dotted(["a/b", "c", "a.b"])
    ({'a.b': 'a.b', 'c': 'c'}, {'a/b': "'a.b' has the same name"})
    """
    found: dict[str, str] = {}
    hidden = {}
    for path in sorted(paths, key=lambda path: (path.count("/"), path)):
        name = path.replace("/", ".")
        if name in found:
            hidden[path] = f"{found[name]!r} has the same name"
        else:
            found[name] = path
    return dict(sorted(found.items())), hidden


def steps_per_second(env_args: Mapping[str, Any], recorded: Any = None) -> float | None:
    """Return `recorded`, else the environment's `control_freq`; None if neither is a positive number.

    >>> steps_per_second({"env_kwargs": {"control_freq": 20}}), steps_per_second({}, 50)
    (20, 50)
    """
    kwargs = env_args.get("env_kwargs")
    rates = [recorded, kwargs.get("control_freq") if isinstance(kwargs, Mapping) else None]
    return next((rate for rate in rates if isinstance(rate, int | float) and 0 < rate < float("inf")), None)

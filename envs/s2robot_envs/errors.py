"""Errors that users of the environments can cause; each message names the thing, the value and the valid choices."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class S2RobotEnvError(Exception):
    """Base class of all errors of this package."""


class EnvConfigError(S2RobotEnvError, ValueError):
    """An environment setting is not valid: an unknown task, camera, profile, size or option."""


class ActionError(S2RobotEnvError, ValueError):
    """An action has the wrong shape or holds NaN or infinity."""


class EpisodeOverError(S2RobotEnvError, RuntimeError):
    """The environment was stepped before its first reset or after its episode was truncated."""


class RenderingError(S2RobotEnvError, RuntimeError):
    """This machine has no usable OpenGL, or a frame could not be rendered."""


class WorkerError(S2RobotEnvError, RuntimeError):
    """A worker process died or raised; the message names the environment and its seed."""


def unknown_name(kind: str, name: object, choices: Iterable[str]) -> str:
    """Make the error text for a name that is not among `choices`, with the closest match.

    >>> unknown_name("task", "lift", ["Lift", "Door"])
    "unknown task 'lift'; did you mean 'Lift'? Choices: Door, Lift"
    """
    valid = sorted(choices)
    by_lower_case = {choice.lower(): choice for choice in valid}
    close = difflib.get_close_matches(str(name).lower(), by_lower_case, n=1)
    hint = f"; did you mean {by_lower_case[close[0]]!r}?" if close else "."
    return f"unknown {kind} {name!r}{hint} Choices: {', '.join(valid) or 'none'}"

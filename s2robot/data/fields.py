"""The meaning of recorded fields, the same for all formats: successes, tasks and actions."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from s2robot.data.base import DemonstrationDataset


def recorded_success(dataset: DemonstrationDataset, demo: str, key: str, value: Any) -> bool:
    """Return a recorded success as a boolean.

    Args:
        dataset: the dataset, for the error's text.
        demo: name of the demonstration.
        key: name of the field.
        value: a boolean, or a number 0 or 1; alone or as the only element of an array.

    Raises:
        DatasetError: anything else, such as text or a list: any text that is not empty would count as true.
    """
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" or array.item() not in (0, 1):
        raise dataset.error(
            f"{key!r} is {value!r}; valid: one boolean, or one number 0 or 1. Correct it, or delete it if success is "
            "not known",
            demo,
        )
    return bool(array.item())


def task_texts(recorded: Any) -> list[str]:
    """Return the task's texts; the writer stores lists as JSON, other files may hold one plain text."""
    try:
        words = json.loads(recorded)
    except (TypeError, ValueError):
        words = recorded
    return words if isinstance(words, list) else [str(recorded)]


def spoken_task(ep_meta: Any) -> str | None:
    """Return the task in words from a demonstration's `ep_meta`, JSON in which robosuite's environments tell `lang`.

    >>> spoken_task('{"lang": "open the door"}'), spoken_task("{}"), spoken_task(None)
    ('open the door', None, None)
    """
    try:
        text = json.loads(ep_meta)["lang"]
    except (TypeError, ValueError, KeyError):
        return None
    return text if isinstance(text, str) and text.strip() else None


# Integers whose values span fewer than this are taken for categories. Servo ticks and pixels span more.
_CATEGORIES = 64


def why_discrete(dataset: DemonstrationDataset) -> str | None:
    """Return why the actions are choices between categories, not quantities; None if they are quantities.

    A recorded action space decides. Where none is recorded, actions stored as integers are categories unless their
    values span at least 64. Choices that are stored as floating-point numbers cannot be told from quantities.

    Raises:
        DatasetError: the actions have to be read, but cannot be.
    """
    if dataset.action_space:
        return None if dataset.action_space == "Box" else f"the recorded action space is {dataset.action_space}"
    if not dataset.integer_actions:
        return None
    values = [dataset.episode(index, cameras=[], proprioception=[]).actions for index in range(len(dataset))]
    low, high = min(float(part.min()) for part in values), max(float(part.max()) for part in values)
    return None if high - low >= _CATEGORIES else f"they are stored as integers from {low:g} to {high:g}"


def refuse_discrete_actions(dataset: DemonstrationDataset) -> None:
    """Check that actions are recorded, and are quantities, which a policy can regress.

    Raises:
        DatasetError: there are none, or they are choices between categories.
    """
    if not dataset.action_width:
        arrays = ", ".join(list(dataset.action_arrays)[1:]) or "none"
        raise dataset.error(
            f"records no actions; action_key=[…] chooses the arrays that training predicts, of: {arrays}"
        )
    why = why_discrete(dataset)
    if why:
        raise dataset.error(
            f"the actions are discrete ({why}); supported: continuous actions, which are stored as floating-point "
            "numbers or recorded as a Box"
        )

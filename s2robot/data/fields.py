"""The meaning of recorded fields, the same for all formats: which values are a success."""

from __future__ import annotations

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

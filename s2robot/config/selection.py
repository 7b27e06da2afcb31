"""Settings that choose demonstrations of a dataset."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, ClassVar

from s2robot.config.checks import require

_RANGE = re.compile(r"(\d+)-(\d+)")


class Selecting:
    """Settings with the fields of `Selection`; a dataclass that has them among its own is a subclass."""

    former: ClassVar[dict[str, Any]] = {"episodes": None, "filter_key": None, "successes_only": False}

    episodes: list[Any] | None
    filter_key: str | None
    successes_only: bool

    def __post_init__(self) -> None:
        valid = 'positions from 0, ranges such as "10-19", or names such as demo_7; each once'
        for entry in self.episodes or []:
            position = isinstance(entry, int) and not isinstance(entry, bool) and entry >= 0
            require(position or (isinstance(entry, str) and bool(entry)), "episodes", entry, valid)
            if (span := range_of(entry)) is not None:
                require(len(span) > 0, "episodes", entry, "a range whose first position is not above its last")
        require(self.episodes is None or len(self.episodes) > 0, "episodes", self.episodes, f"{valid}; or null for all")

    @property
    def chooses(self) -> bool:
        """Whether any setting leaves demonstrations out."""
        return any(getattr(self, name) != value for name, value in Selecting.former.items())

    @property
    def selection(self) -> Selection:
        """These settings alone."""
        return Selection(self.episodes, self.filter_key, self.successes_only)


@dataclass
class Selection(Selecting):
    """Which demonstrations are used: those that every given setting chooses, in recorded order.

    Attributes:
        episodes: positions in recorded order from 0, ranges such as "10-19" (both ends count), or names such as demo_7;
            null = all.
        filter_key: name of a list in the file: a filter key of robomimic (mask/better), a split of LeRobot; null = all.
        successes_only: only demonstrations that are recorded as successful.
    """

    episodes: list[Any] | None = None
    filter_key: str | None = None
    successes_only: bool = False


def range_of(entry: Any) -> range | None:
    """Return the positions of a range such as "10-19"; None for anything else.

    >>> range_of("3-5"), range_of("demo_3")
    (range(3, 6), None)
    """
    found = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
    return range(int(found[1]), int(found[2]) + 1) if found else None

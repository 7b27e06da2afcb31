"""Results of verbs: something to show, possibly together with an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2robot.interfaces import S2RobotError


@dataclass(frozen=True)
class Output:
    """Result of a verb: `text` for people, and `data` (plain JSON values) for programs, printed with `--json`."""

    text: str
    data: dict[str, Any]


class NotReadyError(S2RobotError):
    """The verb failed, but has a result to show."""

    def __init__(self, output: Output, message: str) -> None:
        super().__init__(message)
        self.output = output

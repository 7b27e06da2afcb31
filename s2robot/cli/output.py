"""How a verb ends: with something to show, or with that and an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from s2robot.interfaces import S2RobotError


@dataclass(frozen=True)
class Output:
    """What a verb found: `text` for people, `data` (plain JSON values) for programs, asked for with `--json`."""

    text: str
    data: dict[str, Any]


class NotReadyError(S2RobotError):
    """A verb that has something to show and failed all the same."""

    def __init__(self, output: Output, message: str) -> None:
        super().__init__(message)
        self.output = output

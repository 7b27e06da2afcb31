"""What the settings of every policy share; each policy's own stand beside its class, in `s2robot/policies/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from s2robot.config.checks import require, without_former


@dataclass
class PolicyConfig:
    """What all policies share: how much they see, predict and execute.

    At time t a policy sees the observations t-To+1 … t, predicts the actions t … t+Ta-1 (`action_steps`) and
    executes the first `execute_steps` of them before it looks again.
    """

    former: ClassVar[dict[str, Any]] = {}
    """Settings that came later -> what the code did before they came: files without them mean that."""

    name: str = MISSING
    observation_steps: int = 1
    action_steps: int = 8
    execute_steps: int = 4

    def __post_init__(self) -> None:
        require(self.observation_steps >= 1, "policy.observation_steps", self.observation_steps, "1 or more")
        require(
            1 <= self.execute_steps <= self.action_steps,
            "policy.execute_steps",
            self.execute_steps,
            f"1 … action_steps={self.action_steps}",
        )

    def identity(self) -> dict[str, Any]:
        """The settings that a result depends on, in the words of the files that were written first.

        A setting that came later is left out where it does nothing, or says what the code did before it came: those
        files still belong to the same run.
        """
        return without_former(self)


def require_positive(config: object, *names: str) -> None:
    """Refuse these settings of a policy below 1."""
    for name in names:
        require(getattr(config, name) >= 1, f"policy.{name}", getattr(config, name), "an integer of 1 or more")


def require_dropout(config: object, *names: str) -> None:
    """Refuse shares of dropout outside of [0, 1)."""
    for name in names:
        require(0 <= getattr(config, name) < 1, f"policy.{name}", getattr(config, name), "[0, 1)")


def require_heads(width: int, heads: int) -> None:
    """Refuse a width that the heads of an attention do not divide."""
    require(width % heads == 0, "policy.width", width, f"a multiple of heads={heads}")

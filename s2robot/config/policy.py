"""Settings that all policies share; each policy's own settings are beside its class, in `s2robot/policies/`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from omegaconf import MISSING

from s2robot.config.checks import require, without_former


@dataclass
class PolicyConfig:
    """Settings of every policy: the steps that it sees, predicts and executes.

    At time t, a policy sees the observations t-To+1 … t (`observation_steps`), predicts the actions t … t+Ta-1
    (`action_steps`), and executes the first `execute_steps` of them before its next observation.
    """

    former: ClassVar[dict[str, Any]] = {}
    """Settings added later -> value that means what the code did before; files without the setting mean that value."""

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
        """Return the settings that a result depends on, in the form in which the first versions wrote them.

        A setting that was added later is left out if it has no effect, or if its value means what the code did before.
        So files from before the setting still belong to the same run.
        """
        return without_former(self)


def require_positive(config: object, *names: str) -> None:
    """Check that the named settings of a policy are at least 1."""
    for name in names:
        require(getattr(config, name) >= 1, f"policy.{name}", getattr(config, name), "an integer of 1 or more")


def require_dropout(config: object, *names: str) -> None:
    """Check that the named dropout probabilities are in [0, 1)."""
    for name in names:
        require(0 <= getattr(config, name) < 1, f"policy.{name}", getattr(config, name), "a number in [0, 1)")


def require_heads(width: int, heads: int) -> None:
    """Check that the number of attention heads divides the width."""
    require(width % heads == 0, "policy.width", width, f"a multiple of heads={heads}")

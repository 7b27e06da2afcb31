"""The environment of data that records none."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2robot.config.checks import require

ROBOT_OPTIONS = ("robots", "controller", "control_freq", "robosuite")
_OTHER_FAMILIES = ("gym", "metaworld", "libero")  # of `s2robot_envs.families`; all other tasks are robosuite's
NO_TASK = "none"


@dataclass(kw_only=True)
class EnvironmentSettings:
    """The environment in which a policy is evaluated whose demonstrations record none.

    Attributes:
        task: a task of `s2robot_envs.make_env`; null = as recorded; none = none, even if one is recorded.
        gym: options of tasks gym:…, such as {success: terminated, actions: own}; see `s2robot_envs.foreign.GymOptions`.
        robots, controller, control_freq, robosuite: options of robosuite's tasks; see `s2robot_envs.EnvSettings`.
    """

    task: str | None = None
    gym: dict[str, Any] = field(default_factory=dict)
    robots: Any = None
    controller: Any = None
    control_freq: float | None = None
    robosuite: dict[str, Any] | None = None

    def require_task(self) -> None:
        """Check that options of an environment come with a task.

        Raises:
            ConfigError: an option is given without a task.
        """
        for name in ("gym", *ROBOT_OPTIONS):
            value = getattr(self, name)
            require(not value or self.task not in (None, NO_TASK), name, value, "only together with task=")

    def environment(self, proprioception: list[str]) -> dict[str, Any]:
        """Return the arguments of `make_env` that name the environment, without cameras, their sizes and the horizon.

        Args:
            proprioception: the keys that the policy observes.
        """
        named = {name: value for name in ROBOT_OPTIONS if (value := getattr(self, name)) is not None}
        named |= {"gym": dict(self.gym)} if self.gym else {}
        family = (self.task or "").partition(":")[0]
        # The pictures are somebody else's, so that the simulator's own look is nearest to them.
        look = {"render_profile": "full", "variant": {}}
        observed = {} if family in _OTHER_FAMILIES else {"proprioception": list(proprioception)}
        return {"task": self.task, **look, **named, **observed}

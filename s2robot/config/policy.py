"""Settings that all policies share; each policy's own settings are beside its class, in `s2robot/policies/`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from omegaconf import MISSING

from s2robot.config.checks import require, without_former

MODES = ("min_max", "mean_std", "quantile", "none")
"""Ways to normalise a number; see `s2robot.policies.normalization`."""

FORMER_ACTIONS, FORMER_PROPRIOCEPTION = "min_max", "mean_std"
"""The default modes, which were the only ones at first."""

ROTATION_WIDTHS = {
    "axis_angle": 3,
    "euler_xyz": 3,
    "euler_xyz_intrinsic": 3,
    "quaternion_xyzw": 4,
    "quaternion_wxyz": 4,
    "matrix": 9,
    "rot_6d": 6,
}
"""Forms in which rotations are recorded -> how many numbers they have; see `s2robot.policies.rotations`."""


@dataclass
class PolicyConfig:
    """Settings of every policy: the steps that it sees, predicts and executes, and how it learns actions.

    At time t, a policy sees the observations t-To+1 … t (`observation_steps`), predicts the actions t … t+Ta-1
    (`action_steps`), and executes the first `execute_steps` of them before its next observation.

    Attributes:
        action_normalization: how actions are normalised (`MODES`): one mode; a list, one per number of an action; or a
            mapping of numbers to modes, such as {0-2: mean_std, -1: none}, with `min_max` for the others.
        action_rotations: rotations in an action, which are learned in their 6-D form (arXiv 1812.07035): the first
            number and the form (`ROTATION_WIDTHS`) of each, such as [{start: 3, form: axis_angle}].
        action_quantiles: quantiles that the mode `quantile` maps to -1 and 1.
        proprioception_normalization: the same as `action_normalization` for the concatenated proprioception, with
            `mean_std` for the others.
    """

    former: ClassVar[dict[str, Any]] = {
        "action_normalization": FORMER_ACTIONS,
        "action_rotations": [],
        "action_quantiles": [0.01, 0.99],
        "proprioception_normalization": FORMER_PROPRIOCEPTION,
    }
    """Settings added later -> value that means what the code did before; files without the setting mean that value."""

    name: str = MISSING
    observation_steps: int = 1
    action_steps: int = 8
    execute_steps: int = 4
    action_normalization: Any = FORMER_ACTIONS
    action_rotations: list[Any] = field(default_factory=list)
    action_quantiles: list[float] = field(default_factory=lambda: [0.01, 0.99])
    proprioception_normalization: Any = FORMER_PROPRIOCEPTION

    def __post_init__(self) -> None:
        for name in ("action_normalization", "proprioception_normalization"):
            setattr(self, name, _checked_modes(name, getattr(self, name)))
        for entry in self.action_rotations:
            _require_rotation(entry)
        low, high = self.action_quantiles if len(self.action_quantiles) == 2 else (1.0, 0.0)
        require(0 <= low < high <= 1, "policy.action_quantiles", self.action_quantiles, "two numbers in [0, 1], rising")
        require(
            not (self.bounded and "mean_std" in _used(self.action_normalization)),
            "policy.action_normalization",
            self.action_normalization,
            f"min_max, quantile, none: as it is set, policy {self.name} only gives normalised numbers in [-1, 1]",
        )
        require(self.observation_steps >= 1, "policy.observation_steps", self.observation_steps, "1 or more")
        require(
            1 <= self.execute_steps <= self.action_steps,
            "policy.execute_steps",
            self.execute_steps,
            f"1 … action_steps={self.action_steps}",
        )

    @property
    def bounded(self) -> bool:
        """Whether the policy can only give normalised numbers in [-1, 1]."""
        return False

    def identity(self) -> dict[str, Any]:
        """Return the settings that a result depends on, in the form in which the first versions wrote them.

        A setting that was added later is left out if it has no effect, or if its value means what the code did before.
        So files from before the setting still belong to the same run.
        """
        found = without_former(self)
        if "quantile" not in _used(self.action_normalization) | _used(self.proprioception_normalization):
            found.pop("action_quantiles", None)
        return found


def _used(modes: Any) -> set[str]:
    given = [modes] if isinstance(modes, str) else modes.values() if isinstance(modes, dict) else modes
    return {mode if isinstance(mode, str) else "" for mode in given}


def _checked_modes(name: str, value: Any) -> Any:
    """Return the modes of a setting with text as keys: YAML reads `6` as a number, and JSON writes it as text.

    Raises:
        ConfigError: it is neither a mode, nor a list of modes, nor a mapping of numbers to modes.
    """
    if isinstance(value, dict):
        value = {str(key): mode for key, mode in value.items()}
    known = isinstance(value, str | list | tuple | dict) and all(mode in MODES for mode in _used(value))
    numbers = all(re.fullmatch(r"-?\d+|\d+-\d+", key) for key in value) if isinstance(value, dict) else True
    require(
        known and numbers and bool(value),
        f"policy.{name}",
        value,
        f"{', '.join(MODES)}; a list of these, one per number; or a mapping such as {{0-2: mean_std, -1: none}}",
    )
    return list(value) if isinstance(value, tuple) else value


def _require_rotation(entry: Any) -> None:
    valid = isinstance(entry, dict) and set(entry) == {"start", "form"} and entry["form"] in list(ROTATION_WIDTHS)
    start = entry["start"] if valid else None
    require(
        valid and isinstance(start, int) and not isinstance(start, bool) and start >= 0,
        "policy.action_rotations",
        entry,
        f"mappings such as {{start: 3, form: axis_angle}}, with a form of {', '.join(ROTATION_WIDTHS)}",
    )


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

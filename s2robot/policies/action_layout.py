"""How the numbers of an action are learned: which are rotations, and how each of the others is normalised."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s2robot.config import PolicyConfig, require
from s2robot.config.policy import FORMER_ACTIONS
from s2robot.config.policy import ROTATION_WIDTHS as WIDTHS
from s2robot.interfaces import ConfigError
from s2robot.policies.rotations import LEARNED_WIDTH, from_6d, to_6d


@dataclass(frozen=True)
class ActionLayout:
    """The numbers of an action as recorded, and as a network learns them.

    Attributes:
        width: A, how many numbers a recorded action has.
        rotations: (first column, form) of each rotation, in the order of the columns; see `rotations`.
        modes: how each learned number is normalised; `none` for those of rotations.
        quantiles: the two quantiles that the mode `quantile` maps to -1 and 1.
        bounded: whether the policy can only give normalised numbers in [-1, 1].
    """

    width: int
    rotations: tuple[tuple[int, str], ...]
    modes: tuple[str, ...]
    quantiles: tuple[float, float]
    bounded: bool

    @property
    def learned_width(self) -> int:
        """How many numbers a network learns per action."""
        return len(self.modes)

    @property
    def columns(self) -> list[int]:
        """The recorded number that each learned one comes from; the first one, for those of a rotation."""
        starts, found, column = dict(self.rotations), list[int](), 0
        while column < self.width:
            found += [column] * (LEARNED_WIDTH if column in starts else 1)
            column += WIDTHS[starts[column]] if column in starts else 1
        return found

    def encode(self, actions: Tensor) -> Tensor:
        """Map recorded actions […, A] to […, learned_width]: rotations in their 6-D form, the rest as recorded."""
        parts, column = [], 0
        for start, form in self.rotations:
            end = start + WIDTHS[form]
            parts += [actions[..., column:start], to_6d(actions[..., start:end], form)]
            column = end
        return torch.cat([*parts, actions[..., column:]], dim=-1) if parts else actions

    def decode(self, learned: Tensor) -> Tensor:
        """Undo `encode`, for any numbers […, learned_width]."""
        parts, column, shift = [], 0, 0
        for start, form in self.rotations:
            first = start + shift
            end = first + LEARNED_WIDTH
            parts += [learned[..., column:first], from_6d(learned[..., first:end], form)]
            column, shift = end, shift + LEARNED_WIDTH - WIDTHS[form]
        return torch.cat([*parts, learned[..., column:]], dim=-1) if parts else learned


def make_layout(config: PolicyConfig, width: int) -> ActionLayout | None:
    """Make the layout that a policy's settings ask for; None if actions are learned as recorded, scaled by their range.

    Args:
        config: settings of the policy.
        width: A, how many numbers a recorded action has.

    Raises:
        ConfigError: a rotation or a normalised number lies beyond the action's width, or a rotation is normalised.
    """
    if not config.action_rotations and config.action_normalization == FORMER_ACTIONS:
        return None
    rotations = _rotations(config.action_rotations, width)
    inside = {column for start, form in rotations for column in range(start, start + WIDTHS[form])}
    modes = resolve_modes("action_normalization", config.action_normalization, FORMER_ACTIONS, width, inside)
    starts, learned = dict(rotations), list[str]()
    for column, mode in enumerate(modes):
        if column in starts:
            learned += ["none"] * LEARNED_WIDTH
        elif column not in inside:
            learned.append(mode)
    low, high = config.action_quantiles
    return ActionLayout(width, rotations, tuple(learned), (low, high), config.bounded)


def resolve_modes(
    name: str, value: Any, default: str, width: int, rotated: Collection[int] = frozenset()
) -> tuple[str, ...]:
    """Return one mode per number, from a setting that `PolicyConfig` has checked.

    Args:
        name: name of the setting, for errors.
        value: one mode, one per number, or a mapping of numbers to modes.
        default: mode of the numbers that a mapping does not name.
        width: how many numbers there are.
        rotated: numbers that are part of a rotation.

    Raises:
        ConfigError: there are not as many modes as numbers, a number does not exist, or a rotation is normalised.
    """
    if isinstance(value, str):
        return tuple("none" if column in rotated else value for column in range(width))
    if isinstance(value, Mapping):
        modes = ["none" if column in rotated else default for column in range(width)]
        for key, mode in value.items():
            for column in _columns(name, key, width):
                modes[column] = mode
    else:
        modes = list(value)
        require(len(modes) == width, f"policy.{name}", value, f"{width} modes, one per number, or a mapping")
    for column in sorted(rotated):
        if modes[column] != "none":
            raise ConfigError(
                f"policy.{name} gives number {column} the mode {modes[column]!r}, but it is part of a rotation, which "
                "is learned in its 6-D form without normalisation; valid: none"
            )
    return tuple(modes)


def _columns(name: str, key: str, width: int) -> range:
    first, _, last = key.partition("-") if not key.startswith("-") else (key, "", "")
    start, end = int(first), int(last or first)
    start, end = (start + width, end + width) if start < 0 else (start, end)
    require(0 <= start <= end < width, f"policy.{name}", key, f"numbers from 0 to {width - 1}, or -1 for the last")
    return range(start, end + 1)


def _rotations(settings: Sequence[Mapping[str, Any]], width: int) -> tuple[tuple[int, str], ...]:
    rotations = sorted((entry["start"], entry["form"]) for entry in settings)
    free = 0
    for start, form in rotations:
        end = start + WIDTHS[form]
        require(
            free <= start and end <= width,
            "policy.action_rotations",
            list(settings),
            f"rotations that do not overlap, within the {width} numbers of an action ({form} takes {WIDTHS[form]})",
        )
        free = end
    return tuple(rotations)

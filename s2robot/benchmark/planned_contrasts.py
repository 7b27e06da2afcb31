"""The comparisons a benchmark is for: those that its settings state, else those that follow from the grid."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from s2robot.benchmark.arms import make_arms, product_encoders
from s2robot.benchmark.cells import Arm, Cell
from s2robot.benchmark.controls import PIXELS
from s2robot.benchmark.selection import cells_matching, compared_pairs
from s2robot.config import BenchmarkConfig, EncoderConfig, require
from s2robot.interfaces import ConfigError, unknown_name
from s2robot.report.arm_results import SELECTORS, Setting, setting_label
from s2robot.report.plan_document import SIDES, PlannedContrast, differing, make_selector, selector_json

_SHOWN = 4  # arms in an error


def planned_contrasts(config: BenchmarkConfig, arms: Sequence[Arm], cells: Sequence[Cell]) -> list[PlannedContrast]:
    """The comparisons the grid is for: those of the settings, else those that follow from it.

    For every task, policy and readout: more scales on each backbone (against the first scale set), a larger backbone at
    the first scale set (against the first backbone), each multi-scale encoder against each of its controls, and each
    arm of the list against the base arm.

    Raises:
        ConfigError: a stated contrast is malformed, compares no arms of the grid, or bears the name of another.
    """
    if config.contrasts:
        return _all_stated(config, arms, cells)
    derived = list(_derived(config, arms))
    return [
        PlannedContrast(
            f"{task.label}: {name}",
            *(make_selector({"task": task.label, **arm.selector}) for arm in (pair.baseline, pair.treatment)),
        )
        for task in config.task_list
        for name, pair in derived
    ]


class _ArmPair(NamedTuple):
    baseline: Arm
    treatment: Arm


def _derived(config: BenchmarkConfig, arms: Sequence[Arm]) -> Iterator[tuple[str, _ArmPair]]:
    """Each comparison that follows from the grid, with its name."""
    encoders = product_encoders(config)
    pairs = [
        _ArmPair(baseline, treatment)
        for treatment, baseline in itertools.product(arms, arms)
        if baseline is not treatment and _are_compared(config, arms, encoders, baseline, treatment)
    ]
    names = [_name(arms, *pair) for pair in pairs]
    for pair, name in zip(pairs, names, strict=True):
        # Their labels alone do not tell arms apart that differ in their readouts.
        yield name if names.count(name) == 1 else _name(arms, *pair, both_readouts=True), pair


def _name(arms: Sequence[Arm], baseline: Arm, treatment: Arm, *, both_readouts: bool = False) -> str:
    said = []
    if len({arm.policy.label for arm in arms}) > 1:
        said.append(_against(treatment.policy.label, baseline.policy.label))
    if both_readouts or (len({arm.readout.label for arm in arms}) > 1 and baseline.readout == treatment.readout):
        said.append(_against(treatment.readout.label, baseline.readout.label))
    suffix = f" ({', '.join(said)})" if said else ""
    return f"{treatment.label} against {baseline.label}{suffix}"


def _against(treatment: str, baseline: str) -> str:
    return treatment if treatment == baseline else f"{treatment} against {baseline}"


def _are_compared(
    config: BenchmarkConfig, arms: Sequence[Arm], encoders: Sequence[EncoderConfig], baseline: Arm, treatment: Arm
) -> bool:
    same_policy = baseline.policy == treatment.policy
    if same_policy and treatment.encoder_key in baseline.control_of:
        return baseline.readout == treatment.readout or baseline.encoder.backbone == PIXELS
    if treatment.variant and not treatment.control_of:  # an arm of the list
        return baseline is _base_arm(arms, treatment)
    if not same_policy:
        return False
    if baseline.encoder not in encoders or treatment.encoder not in encoders or baseline.readout != treatment.readout:
        return False
    base, treated, first = baseline.encoder, treatment.encoder, list(config.scale_sets[0])
    if base.backbone == treated.backbone:
        return base.scales == first != treated.scales
    return base.backbone == config.backbones[0] and base.scales == treated.scales == first


def _base_arm(arms: Sequence[Arm], treatment: Arm) -> Arm:
    """The base arm with the policy of `treatment`, else with one of the same kind, else the first."""
    first, policy = arms[0], treatment.policy
    bases = [
        arm for arm in arms if (arm.encoder, arm.readout, arm.variant) == (first.encoder, first.readout, first.variant)
    ]
    same = [arm for arm in bases if arm.policy == policy]
    kind = [arm for arm in bases if arm.policy.config.name == policy.config.name]
    return [*same, *kind, first][0]


def _all_stated(config: BenchmarkConfig, arms: Sequence[Arm], cells: Sequence[Cell]) -> list[PlannedContrast]:
    contrasts = [_stated(entry) for entry in config.contrasts]
    names = [contrast.name for contrast in contrasts]
    require(len(set(names)) == len(names), "contrasts", names, "contrasts that each have their own name")
    first = [cell for cell in cells if cell.training_seed == config.training_seeds[0]]
    for contrast in contrasts:
        _require_pair(config, contrast, arms, first)
    return contrasts


def _stated(entry: Any) -> PlannedContrast:
    valid = "mappings with name, baseline and treatment"
    require(isinstance(entry, dict) and set(entry) == {"name", *SIDES}, "contrasts", entry, valid)
    for side in SIDES:
        for key in entry[side]:
            if key not in SELECTORS:
                raise ConfigError(unknown_name(f"setting in a contrast's {side}", key, SELECTORS))
    return PlannedContrast(entry["name"], *(make_selector(entry[side]) for side in SIDES))


def _require_pair(
    config: BenchmarkConfig, contrast: PlannedContrast, arms: Sequence[Arm], cells: Sequence[Cell]
) -> None:
    """Reject a contrast that no result can ever decide: Holm's correction would count it at the cost of the others."""
    if compared_pairs(contrast, cells):
        return
    selectors = {"baseline": contrast.baseline, "treatment": contrast.treatment}
    settings = {
        side: [cell.setting for cell in cells_matching(selector, cells)] for side, selector in selectors.items()
    }
    found = ", ".join(f"its {side} selects {_selection(selectors[side], settings[side], cells)}" for side in SIDES)
    pairs = [pair for pair in itertools.product(*settings.values()) if pair[0] != pair[1]]
    unlike = min((differing(contrast.held, *pair) for pair in pairs), key=len, default=[])
    advice = f". They differ in {', '.join(unlike)}, which the contrast does not name" if unlike else ""
    renamed = "".join(f". {sentence}" for sentence in _renamed(config, arms, contrast))
    raise ConfigError(f"contrast {contrast.name!r} compares nothing: {found}{advice}{renamed}")


def _selection(selector: dict[str, Any], selected: Sequence[Setting], cells: Sequence[Cell]) -> str:
    """What one side of a contrast selects, or why it selects nothing."""
    if selected:
        rest = f" and {len(selected) - _SHOWN} more" if len(selected) > _SHOWN else ""
        return "; ".join(setting_label(setting) for setting in selected[:_SHOWN]) + rest
    written = selector_json(selector)
    for key, value in written.items():
        choices = [selector_json({key: getattr(cell.setting, key)})[key] for cell in cells]
        if value not in choices:
            return f"nothing: {unknown_name(key, value, {str(choice) for choice in choices})}"
    return f"nothing: no arm has all of {written}"


def _renamed(config: BenchmarkConfig, arms: Sequence[Arm], contrast: PlannedContrast) -> Iterator[str]:
    """One sentence for each entry of `arms` that a contrast names and that is run under the name of an earlier arm."""
    names = {arm.variant for arm in arms}
    named = [side.get("variant") for side in (contrast.baseline, contrast.treatment)]
    for entry in config.arms:
        if entry["name"] not in names and entry["name"] in named:
            alone = make_arms(replace(config, backbones=[], arms=[entry]))[0]
            same = next(arm for arm in arms if arm.key == alone.key)
            yield f"The arm {entry['name']!r} of the list is run as {same.label}, which computes the same results"

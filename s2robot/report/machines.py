"""Machines and library versions of the arms, and what to say where they differ; of unknown ones, nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from s2robot.report.arm_results import ArmResult
from s2robot.system.machine import Machine, count_machines, machine_label

_SOFTWARE = re.compile("llvmpipe|softpipe|swrast|osmesa", re.IGNORECASE)


def drawn_by(machine: Mapping[str, Any]) -> str | None:
    """What pixels depend on: OpenGL's renderer, and the processor where that draws; None where it is unknown."""
    renderer = machine.get("renderer")
    if renderer is None or not _SOFTWARE.search(renderer):
        return renderer
    return f"{renderer} on {machine.get('processor', 'an unknown processor')}"


def renderers(arms: Iterable[ArmResult]) -> list[str]:
    """All that is known to have drawn the episodes of these arms."""
    drawn = (drawn_by(machine) for arm in arms for cell in arm.cells for machine in cell.machines)
    return sorted({name for name in drawn if name is not None})


def machines_of(arms: Iterable[ArmResult]) -> list[Machine]:
    """Every kind of machine that took part, with its number of episodes."""
    return count_machines(machine for arm in arms for cell in arm.cells for machine in cell.machines)


def machine_lines(arms: Iterable[ArmResult]) -> list[str]:
    """One line for each kind of machine."""
    return [f"{machine_label(machine)}: {machine['episodes']} episodes" for machine in machines_of(arms)]


def versions_of(arms: Iterable[ArmResult]) -> dict[str, set[str]]:
    """Package -> all versions that took part."""
    versions: dict[str, set[str]] = {}
    for arm in arms:
        for cell in arm.cells:
            for name, found in cell.versions.items():
                versions.setdefault(name, set()).update(found)
    return dict(sorted(versions.items()))


def machine_caveats(baseline: ArmResult, treatment: ArmResult) -> Iterable[str]:
    """Why a difference between two arms may be one of their renderers, libraries or repeated trainings."""
    arms = {"baseline": baseline, "treatment": treatment}
    drawn = {side: renderers([arm]) for side, arm in arms.items()}
    effect = "pixels may differ, mostly by up to 2 of 255 and episodes may end differently"
    mixed = [side for side, found in drawn.items() if len(found) > 1]
    if all(drawn.values()) and not set(drawn["baseline"]) & set(drawn["treatment"]):
        who = ", ".join(f"the {side} by {_and(found)}" for side, found in drawn.items())
        yield f"The arms were rendered by different machines, {who}: {effect}, so the difference may be the machines'."
    elif mixed:
        who = _and(renderers(arms[side] for side in mixed))
        yield f"The episodes of the {' and of the '.join(mixed)} were rendered by several machines, {who}: {effect}."
    yield from _version_caveats(arms)
    for side, arm in arms.items():
        if seeds := [str(cell.training_seed) for cell in arm.cells if len(cell.policies) > 1]:
            yield (
                f"The {side}'s checkpoint of training seed {_and(seeds)} was made anew between episodes, which are "
                "counted together: they are those of several policies."
            )


def _version_caveats(arms: Mapping[str, ArmResult]) -> Iterable[str]:
    first, second = (versions_of([arm]) for arm in arms.values())
    apart, mixed = [], []
    for name in sorted(first.keys() & second.keys()):
        shown = [", ".join(sorted(versions[name])) for versions in (first, second)]
        if not first[name] & second[name]:
            apart.append(f"{name} {shown[0]} against {shown[1]}")
        elif len(first[name] | second[name]) > 1:
            mixed.append(f"{name} {', '.join(sorted(first[name] | second[name]))}")
    if apart:
        yield (
            "The arms were evaluated with different versions of libraries (baseline against treatment: "
            f"{'; '.join(apart)}): the difference may be the libraries'."
        )
    if mixed:
        yield f"Episodes of one arm were evaluated with several versions of libraries ({'; '.join(mixed)})."


def _and(names: Sequence[str]) -> str:
    return " and ".join(names)

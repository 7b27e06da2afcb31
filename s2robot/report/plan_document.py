"""The document of `benchmark.json`: what was planned before results were seen, and how it went.

A benchmark writes it and a report reads it, both through `PlanDocument`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2robot.interfaces import ReportError, unknown_name
from s2robot.report.arm_results import SELECTORS, Setting
from s2robot.report.reading import Reader, read_json, read_scales

PLAN_FILE = "benchmark.json"
SIDES = ("baseline", "treatment")
_SCHEMA = 1
_ARM_FIELDS = ("task", "demonstrations", "policy", "backbone", "scales", "readout", "variant")  # their order in files


@dataclass(frozen=True)
class PlannedContrast:
    """A comparison named before the results were seen.

    Attributes:
        name: unique name of the comparison.
        baseline, treatment: settings that an arm must have, such as {"scales": (224,)}.
    """

    name: str
    baseline: dict[str, Any]
    treatment: dict[str, Any]

    @property
    def held(self) -> list[str]:
        """Settings that neither side names; the two arms of a pair agree in them."""
        return [key for key in SELECTORS if key not in self.baseline and key not in self.treatment]

    def pairs(self, settings: Iterable[Setting]) -> list[tuple[Setting, Setting]]:
        """Baseline and treatment of each pair that it compares."""
        everything = list(settings)
        baselines = [setting for setting in everything if matches(setting, self.baseline)]
        treatments = [setting for setting in everything if matches(setting, self.treatment)]
        return [
            (baseline, treatment)
            for baseline, treatment in itertools.product(baselines, treatments)
            if baseline != treatment and not differing(self.held, baseline, treatment)
        ]

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return {"name": self.name, "baseline": selector_json(self.baseline), "treatment": selector_json(self.treatment)}

    @classmethod
    def from_json(cls, entry: Reader) -> PlannedContrast:
        """Read it; a setting that no arm has is a `ReportError`."""
        return cls(
            entry.get("name", str), *(_selector(Reader(entry.path, entry.get(side, dict)), side) for side in SIDES)
        )


@dataclass(frozen=True)
class Preregistration:
    """What must not change once results may have been seen.

    Attributes:
        contrasts: comparisons that the report judges.
        tasks: all settings of each task.
        episodes: episodes per cell.
        first_seed: evaluation seed of the first episode.
        training_seeds: training seeds of each arm.
        sequential: settings of sequential stopping; None where all episodes are run.
    """

    contrasts: tuple[PlannedContrast, ...] = ()
    tasks: tuple[dict[str, Any], ...] = ()
    episodes: int = 0
    first_seed: int = 0
    training_seeds: tuple[int, ...] = ()
    sequential: dict[str, Any] | None = None

    def changed(self, other: Preregistration) -> list[str]:
        """Names of the fields in which the other one differs."""
        mine, theirs = self.to_json(), other.to_json()
        return [name for name in mine if mine[name] != theirs[name]]

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return {
            "contrasts": [contrast.to_json() for contrast in self.contrasts],
            "tasks": list(self.tasks),
            "episodes": self.episodes,
            "first_seed": self.first_seed,
            "training_seeds": list(self.training_seeds),
            "sequential": self.sequential,
        }

    @classmethod
    def from_json(cls, reader: Reader) -> Preregistration:
        """Read it; what an older file does not say is empty."""
        return cls(
            tuple(map(PlannedContrast.from_json, reader.objects("contrasts"))),
            tuple(task.document for task in reader.objects("tasks")),
            reader.get("episodes", int, 0),
            reader.get("first_seed", int, 0),
            tuple(reader.get("training_seeds", list, [])),
            reader.get("sequential", dict, None),
        )


@dataclass(frozen=True)
class Amendment:
    """A change of the plan after results may have been seen: when, why, which fields, and what they were."""

    date: str
    reason: str
    changed: tuple[str, ...]
    before: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return asdict(self) | {"changed": list(self.changed)}

    @classmethod
    def from_json(cls, entry: Reader) -> Amendment:
        """Read it."""
        changed = tuple(map(str, entry.get("changed", list, [])))
        return cls(entry.get("date", str, "?"), entry.get("reason", str), changed, entry.get("before", dict, {}))


@dataclass(frozen=True)
class CellError:
    """Why the last run of a cell failed."""

    cell: str
    error: str

    @classmethod
    def from_json(cls, entry: Reader) -> CellError:
        """Read it."""
        return cls(*(str(entry.document.get(key, "?")) for key in ("cell", "error")))


@dataclass(frozen=True)
class StoppingRecord:
    """How sequential stopping went.

    Attributes:
        contrasts: names of those that decide.
        decided: names of those that are decided.
        batch: episodes added at a time.
        alpha: at which they are decided, all together.
        budget: episodes of each cell at most.
    """

    contrasts: tuple[str, ...]
    decided: tuple[str, ...]
    batch: int
    alpha: float
    budget: int

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        return asdict(self) | {"contrasts": list(self.contrasts), "decided": list(self.decided)}

    @classmethod
    def from_json(cls, reader: Reader) -> StoppingRecord:
        """Read it."""
        names, decided = (tuple(map(str, reader.get(key, list))) for key in ("contrasts", "decided"))
        return cls(names, decided, reader.get("batch", int), reader.get("alpha", float), reader.get("budget", int))


@dataclass(frozen=True)
class PlanDocument:
    """All of `benchmark.json`.

    Attributes:
        planned: when (ISO 8601); None in files that do not say.
        plan: what must not change.
        amendments: how it was changed all the same.
        failed: cells whose last run failed.
        contrasts: those of the plan.
        cells: names of all cells.
        arms: settings of all arms.
        calibration: sentences on how the tasks' difficulty was chosen.
        notes: a sentence for the report, written by hand.
        sequential: how sequential stopping went; None without it.
        others: further fields of the file, kept as they are.
        order: field order of the file, kept so that writing changes nothing else.
    """

    planned: str | None = None
    plan: Preregistration = Preregistration()
    amendments: tuple[Amendment, ...] = ()
    failed: tuple[CellError, ...] = ()
    contrasts: tuple[PlannedContrast, ...] = ()
    cells: tuple[str, ...] = ()
    arms: tuple[Setting, ...] = ()
    calibration: tuple[str, ...] = ()
    notes: str | None = None
    sequential: StoppingRecord | None = None
    others: dict[str, Any] = field(default_factory=lambda: {"schema": _SCHEMA})
    order: tuple[str, ...] = ("schema",)

    def to_json(self) -> dict[str, Any]:
        """As in the file."""
        document = {
            "planned": self.planned,
            "plan": self.plan.to_json(),
            "amendments": [amendment.to_json() for amendment in self.amendments],
            "failed": [asdict(failure) for failure in self.failed],
            "contrasts": [contrast.to_json() for contrast in self.contrasts],
            "cells": list(self.cells),
            "arms": [selector_json({key: getattr(arm, key) for key in _ARM_FIELDS}) for arm in self.arms],
            "calibration": list(self.calibration),
            "notes": self.notes,
            "sequential": self.sequential and self.sequential.to_json(),
        }
        document = {**{key: value for key, value in document.items() if value is not None}, **self.others}
        return {key: document[key] for key in dict.fromkeys([*self.order, *document]) if key in document}

    @classmethod
    def from_json(cls, document: Any, path: Path) -> PlanDocument:
        """Read it; what an older file does not say is empty.

        Args:
            document: the parsed file.
            path: file name for error messages.

        Raises:
            ReportError: it is damaged; the message names the file, the field and its value.
        """
        reader = Reader(path, document)
        stopping = reader.get("sequential", dict, {})
        known = cls.__dataclass_fields__
        return cls(
            planned=reader.get("planned", str, None),
            plan=Preregistration.from_json(Reader(path, reader.get("plan", dict, {}))),
            amendments=tuple(map(Amendment.from_json, reader.objects("amendments"))),
            failed=tuple(map(CellError.from_json, reader.objects("failed"))),
            contrasts=tuple(map(PlannedContrast.from_json, reader.objects("contrasts"))),
            cells=tuple(reader.get("cells", list, [])),
            arms=tuple(map(_setting, reader.objects("arms"))),
            calibration=tuple(map(str, reader.get("calibration", list, []))),
            notes=reader.get("notes", str, None),
            sequential=StoppingRecord.from_json(Reader(path, stopping)) if stopping else None,
            others={key: value for key, value in document.items() if key not in known},
            order=tuple(document),
        )


def read_plan(path: Path) -> PlanDocument:
    """Read a `benchmark.json`.

    Raises:
        ReportError: it is damaged.
    """
    return PlanDocument.from_json(read_json(path), path)


def matches(setting: Setting, selector: dict[str, Any]) -> bool:
    """Whether an arm has all the settings of one side of a contrast."""
    return all(getattr(setting, key) == value for key, value in selector.items())


def differing(names: Iterable[str], first: Setting, second: Setting) -> list[str]:
    """Those of the settings in which two arms differ."""
    return [name for name in names if getattr(first, name) != getattr(second, name)]


def make_selector(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as an arm has them: scales as tuples."""
    return {key: _deep(value, tuple) if key == "scales" else value for key, value in values.items()}


def selector_json(selector: dict[str, Any]) -> dict[str, Any]:
    """Settings as a file has them: scales as lists."""
    return {key: _deep(value, list) if key == "scales" else value for key, value in selector.items()}


def _deep(scales: Any, kind: type) -> Any:
    return kind(_deep(scale, kind) for scale in scales) if isinstance(scales, list | tuple) else scales


def _selector(reader: Reader, side: str) -> dict[str, Any]:
    for key in reader.document:
        if key not in SELECTORS:
            raise ReportError(f"{reader.path}: {unknown_name(f'field in a contrast {side}', key, SELECTORS)}")
    scales = {"scales": read_scales(reader)} if "scales" in reader.document else {}
    return reader.document | scales


def _setting(entry: Reader) -> Setting:
    _selector(entry, "arm")
    names = [key for key in _ARM_FIELDS if key not in ("demonstrations", "scales", "variant")]
    return Setting(
        **{key: entry.get(key, str) for key in names},
        demonstrations=entry.get("demonstrations", int),
        scales=read_scales(entry),
        variant=entry.get("variant", str, ""),
    )

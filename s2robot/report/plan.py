"""What one or several benchmarks planned before results were seen, and how it went: all their `benchmark.json`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from s2robot.report.arm_results import ArmResult, Setting
from s2robot.report.plan_document import PLAN_FILE, PlanDocument, PlannedContrast, StoppingRecord, read_plan
from s2robot.report.reading import Reader, find_files, read_json


class PlannedArm(NamedTuple):
    """An arm of one benchmark: its setting, the training seeds it is to have, and the benchmark's folder."""

    setting: Setting
    training_seeds: frozenset[int] = frozenset()
    folder: Path = Path()


class FailedCell(NamedTuple):
    """A cell whose last run failed: how many of the planned episodes it has all the same."""

    name: str
    error: str
    episodes: int = 0
    planned: int = 0


@dataclass(frozen=True)
class StoppingRule:
    """How one benchmark ended its rollouts: when these contrasts were decided.

    Attributes:
        contrasts: the deciding ones.
        alpha: at which they were decided, all together.
        comparisons: so many pairs of arms decided.
        arms: settings of that benchmark's arms; empty for any arm.
        folder: output folder of that benchmark.
    """

    contrasts: tuple[PlannedContrast, ...]
    alpha: float
    comparisons: int
    arms: frozenset[Setting] = frozenset()
    folder: Path = Path()

    def decides(self, planned: PlannedContrast, *pair: Setting) -> bool:
        """Whether this comparison of two arms decided."""
        return planned in self.contrasts and (not self.arms or all(setting.plain in self.arms for setting in pair))


@dataclass(frozen=True)
class Plan:
    """What the `benchmark.json` files below the folders say.

    Attributes:
        contrasts: named before the results were seen; one that several benchmarks name alike is there once.
        arms: arms of all benchmarks, including those without results.
        failed: cells that failed and lack planned episodes.
        notes: what the report says as it stands: how difficulty was chosen, how the plan was changed.
        rules: one per benchmark with sequential stopping.
        budgets: per benchmark with sequential stopping, one sentence on it.
    """

    contrasts: tuple[PlannedContrast, ...] = ()
    arms: tuple[PlannedArm, ...] = ()
    failed: tuple[FailedCell, ...] = ()
    notes: tuple[str, ...] = ()
    rules: tuple[StoppingRule, ...] = ()
    budgets: tuple[str, ...] = ()

    @property
    def settings(self) -> list[Setting]:
        """The settings of all arms, each once."""
        return list(dict.fromkeys(arm.setting for arm in self.arms))

    def training_seeds(self, arm: ArmResult) -> frozenset[int]:
        """The training seeds an arm is to have; a marked one by the plan of its own benchmark."""
        planned = [entry for entry in self.arms if entry.setting == arm.setting.plain and _is_of(arm, entry.folder)]
        return frozenset().union(*(entry.training_seeds for entry in planned))

    def stopping_rule(self, planned: PlannedContrast, baseline: ArmResult, treatment: ArmResult) -> StoppingRule | None:
        """The rule by which this comparison decided; of several the strictest."""
        rules = [
            rule
            for rule in self.rules
            if rule.decides(planned, baseline.setting, treatment.setting)
            and _is_of(baseline, rule.folder)
            and _is_of(treatment, rule.folder)
        ]
        return min(rules, key=lambda rule: rule.alpha / rule.comparisons, default=None)


def load_plan(folders: Sequence[Path]) -> Plan:
    """Read the planned contrasts, arms, failed cells and notes of every `benchmark.json` in and below the folders.

    Raises:
        ReportError: a file is damaged or selects by an unknown field.
    """
    contrasts: list[PlannedContrast] = []
    arms: list[PlannedArm] = []
    failed: list[FailedCell] = []
    notes: list[str] = []
    rules: list[StoppingRule] = []
    budgets: list[str] = []
    for path in find_files(folders, PLAN_FILE):
        document = read_plan(path)
        contrasts += [contrast for contrast in document.contrasts if contrast not in contrasts]
        seeds = frozenset(document.plan.training_seeds)
        arms += [PlannedArm(setting, seeds, path.parent) for setting in document.arms]
        failed += _failed(document, path.parent)
        notes += _notes(document, path.parent)
        if document.sequential:
            rules.append(_stopping_rule(document, document.sequential, path.parent))
            budgets.append(_budget(document.sequential))
    return Plan(tuple(contrasts), tuple(arms), tuple(failed), tuple(notes), tuple(rules), tuple(budgets))


def former_cells(document: PlanDocument, folder: Path) -> list[Path]:
    """Folders below that of a `benchmark.json` of cells that it does not list: from before its plan was changed."""
    folders = sorted(found.parent for found in folder.glob("cells/*/results.json"))
    return [found for found in folders if document.cells and found.name not in document.cells]


def _is_of(arm: ArmResult, folder: Path) -> bool:
    """Whether that benchmark's plan covers this arm; a marked arm belongs only to the benchmarks in its folders."""
    return not arm.setting.mark or folder in arm.folders


def _failed(document: PlanDocument, folder: Path) -> Iterator[FailedCell]:
    """The recorded failures less those of cells that have all planned episodes by now."""
    first, episodes = document.plan.first_seed, document.plan.episodes
    for failure in document.failed:
        path = folder / "cells" / failure.cell / "results.json"
        rows = Reader(path, read_json(path)).objects("episode_results") if path.is_file() else []
        done = sum(first <= row.get("seed", int) < first + episodes for row in rows) if episodes else len(rows)
        if not done or done < episodes:
            yield FailedCell(failure.cell, failure.error, done, episodes)


def _notes(document: PlanDocument, folder: Path) -> Iterator[str]:
    if former := former_cells(document, folder):
        yield f"Left out, because the plan has them no more: {len(former)} of the cells in {folder}."
    if document.notes:
        yield document.notes
    yield from document.calibration
    for amendment in document.amendments:
        yield f"The plan was changed on {amendment.date} ({', '.join(amendment.changed)}): {amendment.reason}"


def _stopping_rule(document: PlanDocument, stopping: StoppingRecord, folder: Path) -> StoppingRule:
    deciding = tuple(contrast for contrast in document.contrasts if contrast.name in stopping.contrasts)
    settings = frozenset(document.arms)
    pairs = sum(len(contrast.pairs(settings)) for contrast in deciding)
    return StoppingRule(deciding, stopping.alpha, max(len(stopping.contrasts), pairs), settings, folder)


def _budget(stopping: StoppingRecord) -> str:
    return (
        f"Sequential stopping: rollouts were added {stopping.batch} at a time until each of "
        f"{len(stopping.contrasts)} planned contrasts was decided at {stopping.alpha:g} in all, or "
        f"{stopping.budget} were spent; decided: {'; '.join(stopping.decided) or 'none'}."
    )

"""The HTML page: one file, nothing loaded from anywhere else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from s2robot import __version__
from s2robot.report import wording
from s2robot.report.aggregates import aggregate, aggregate_label
from s2robot.report.arm_results import ArmResult, scales_label, setting_label, varying
from s2robot.report.contrasts import Comparisons
from s2robot.report.figures import COST_LABELS, curve_figure, difference_figure, facets, success_figure
from s2robot.report.machines import machine_lines, versions_of
from s2robot.report.plan import Plan
from s2robot.report.plots import MarkerStyle, to_svg
from s2robot.report.tables import ARM_COLUMNS, arm_row
from s2robot.report.videos import choose_videos


@dataclass(frozen=True)
class Figure:
    """An inline chart with its caption."""

    svg: Markup
    caption: str


def write_page(
    arms: Sequence[ArmResult], comparisons: Comparisons, plan: Plan, styles: dict[str, MarkerStyle], path: Path
) -> None:
    """Render the report of these arms to `path`."""
    loader = jinja2.PackageLoader("s2robot.report", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals.update(
        words=wording, scales_label=scales_label, setting_label=setting_label, aggregate_label=aggregate_label
    )
    video_rows, videos_left_out = choose_videos(arms, comparisons)
    stream = environment.get_template("page.html").stream(
        title="s2robot report",
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        arms=arms,
        comparisons=comparisons,
        plan=plan,
        limits=wording.limits(comparisons, arms),
        success_figures=_success_figures(arms, styles),
        difference=_difference(comparisons),
        curves=_curves(arms, styles),
        tables=list(_task_tables(arms)),
        aggregates=aggregate(arms),
        failed_episodes=wording.failed_episodes(arms),
        cells=[cell for arm in arms for cell in arm.cells],
        video_rows=video_rows,
        videos_left_out=videos_left_out,
        versions=[(name, ", ".join(sorted(found))) for name, found in versions_of(arms).items()],
        machines=machine_lines(arms),
    )
    stream.dump(str(path), encoding="utf-8")


def _success_figures(arms: Sequence[ArmResult], styles: dict[str, MarkerStyle]) -> list[Figure]:
    figures = []
    for title, panel in facets(arms).items():
        for cost, label in COST_LABELS.items():
            if figure := success_figure({title: panel}, cost, styles):
                caption = f"{title}: success against {label}, with 95% intervals and the Pareto front"
                figures.append(Figure(Markup(to_svg(figure, caption)), caption))
    return figures


def _difference(comparisons: Comparisons) -> Figure | None:
    if not comparisons.contrasts:
        return None
    caption = "Differences in success on shared initial states, with 95% intervals"
    return Figure(Markup(to_svg(difference_figure(comparisons.contrasts), caption)), caption)


def _curves(arms: Sequence[ArmResult], styles: dict[str, MarkerStyle]) -> list[Figure]:
    figures = []
    for title, panel in facets(arms).items():
        if figure := curve_figure({title: panel}, styles):
            caption = f"{title}: loss of every training run"
            figures.append(Figure(Markup(to_svg(figure, caption)), caption))
    return figures


def _task_tables(arms: Sequence[ArmResult]) -> Iterable[dict[str, Any]]:
    """Per task: what all its arms share, the columns in which they differ or that are measured, and their texts."""
    measured = ARM_COLUMNS.index("success")
    for task in dict.fromkeys(arm.setting.task for arm in arms):
        here = [arm for arm in arms if arm.setting.task == task]
        rows = [arm_row(arm) for arm in here]
        differing = varying([arm.setting for arm in here], ARM_COLUMNS[:measured])
        names = [name for name in ARM_COLUMNS if name in {"backbone", "scales", *differing, *ARM_COLUMNS[measured:]}]
        kept = [
            ARM_COLUMNS.index(name) for name in names if any(arm.latency_ms for arm in here) or "latency" not in name
        ]
        yield {
            "task": task,
            "shared": setting_label(here[0].setting, set(ARM_COLUMNS[1:measured]) - set(names)),
            "columns": [ARM_COLUMNS[i] for i in kept],
            "rows": [[row[i] for i in kept] for row in rows],
            "numeric": [i >= measured or ARM_COLUMNS[i] == "demonstrations" for i in kept],
        }

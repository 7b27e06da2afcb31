"""The table of arms as Markdown and CSV, and the Markdown report around it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from s2robot.report.aggregates import Aggregate, aggregate, aggregate_label
from s2robot.report.arm_results import ArmResult, scales_label, setting_label
from s2robot.report.contrasts import Comparisons, Contrast
from s2robot.report.plan import Plan
from s2robot.report.wording import (
    METHOD,
    count,
    evidence,
    failed_episodes,
    finding,
    headline,
    lacking,
    limits,
    percent,
    percent_interval,
)

ARM_COLUMNS = (
    "task",
    "policy",
    "backbone",
    "scales",
    "readout",
    "demonstrations",
    "variant",
    "success",
    "95% interval",
    "episodes",
    "training seeds",
    "GMACs",
    "parameters",
    "latency [ms]",
)


def arm_row(arm: ArmResult) -> list[str]:
    """One arm's entries, in the order of `ARM_COLUMNS`."""
    setting = arm.setting
    return [
        setting.task,
        setting.policy,
        setting.backbone,
        scales_label(setting.scales),
        setting.readout,
        str(setting.demonstrations),
        setting.shown_variant,
        percent(arm.rate),
        percent_interval(arm.interval),
        str(arm.episodes),
        str(len(arm.cells)),
        f"{arm.gmacs:.3g}",
        count(arm.parameters),
        "–" if arm.latency_ms is None else f"{arm.latency_ms:.3g}",
    ]


def write_contrasts_csv(contrasts: Sequence[Contrast], path: Path) -> None:
    """One row per contrast, numbers in full: rates and differences in [−1, 1]."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        labels = ["contrast", "baseline", "treatment", "verdict", "sequential_stopping"]
        rates = ["baseline_rate", "treatment_rate", "difference", "interval_low", "interval_high"]
        writer.writerow([*labels, *rates, "p_value", "p_adjusted", "shared_states", "training_seeds"])
        for contrast in contrasts:
            arms = (contrast.baseline, contrast.treatment)
            sides = [setting_label(arm.setting) for arm in arms]
            difference = contrast.difference
            numbers = [*contrast.rates, difference.value, *difference.interval, contrast.pvalue, contrast.adjusted]
            seeds = "/".join(str(len(arm.cells)) for arm in arms)
            writer.writerow(
                [contrast.name, *sides, contrast.verdict, contrast.stopping, *numbers, contrast.states, seeds]
            )


def write_csv(arms: Sequence[ArmResult], path: Path) -> None:
    """One row per arm, numbers in full: rates in [0, 1], latency in ms."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        settings = ["task", "policy", "backbone", "scales", "readout", "demonstrations", "variant"]
        numbers = ["success_rate", "interval_low", "interval_high", "successes", "episodes", "training_seeds"]
        writer.writerow([*settings, *numbers, "gmacs", "parameters", "latency_ms"])
        for arm in arms:
            labels = arm_row(arm)[: len(settings)]
            labels[3] = "+".join(map(str, arm.setting.scales))
            outcome = [arm.rate, *arm.interval, arm.successes, arm.episodes, len(arm.cells)]
            latency = "" if arm.latency_ms is None else arm.latency_ms
            writer.writerow([*labels, *outcome, arm.gmacs, arm.parameters, latency])


def write_markdown(arms: Sequence[ArmResult], comparisons: Comparisons, plan: Plan, path: Path) -> None:
    """The answer, the table of arms, what failed and how it was computed."""
    lines = ["# Report", "", headline(comparisons, arms), ""]
    for contrast in comparisons.contrasts:
        lines.append(f"- **{_escape(contrast.name)}.** {finding(contrast)} ({evidence(contrast)}.)")
        lines.extend(f"  - {_escape(caveat)}" for caveat in contrast.caveats)
    lines += ["", *(f"{_escape(text)}\n" for text in (*plan.budgets, *plan.notes))]
    lines += ["## What this cannot conclude", ""]
    lines += [f"- {_escape(limit)}" for limit in limits(comparisons, arms)] or ["- Nothing particular was found."]
    lines += ["", "## Arms", "", *_table(arms), "", "![Success against GMACs](success_vs_gmacs.png)", ""]
    if aggregates := aggregate(arms):
        lines += ["## Over all tasks and training runs", "", *_aggregate_table(aggregates), ""]
    if failures := failed_episodes(arms):
        lines += ["## Episodes that ended in an error", ""]
        lines += [f"- {_escape(where)}: {_escape(error.strip().splitlines()[-1])}" for where, error in failures]
        lines.append("")
    if plan.failed:
        lines += ["## Failed cells", ""]
        lines += [
            f"- {_escape(cell.name)} ({lacking(cell)}): {_escape(cell.error.strip().splitlines()[-1])}"
            for cell in plan.failed
        ]
        lines.append("")
    lines += ["## Method", "", *[f"{text}\n" for text in METHOD]]
    path.write_text("\n".join(lines), encoding="utf-8")


def _table(arms: Sequence[ArmResult]) -> list[str]:
    """Markdown table of the arms without the columns that are empty throughout."""
    rows = [arm_row(arm) for arm in arms]
    kept = [index for index in range(len(ARM_COLUMNS)) if any(row[index] not in ("", "–") for row in rows)]
    numeric = ARM_COLUMNS.index("success")
    lines = [
        "| " + " | ".join(ARM_COLUMNS[index] for index in kept) + " |",
        "|" + "|".join("---:" if index >= numeric else "---" for index in kept) + "|",
    ]
    return lines + ["| " + " | ".join(_escape(row[index]) for index in kept) + " |" for row in rows]


def _aggregate_table(aggregates: Sequence[Aggregate]) -> list[str]:
    lines = ["| setting | interquartile mean | 95% interval | mean | tasks | runs |", "|---|---:|---:|---:|---:|---:|"]
    for found in aggregates:
        label = _escape(aggregate_label(found))
        numbers = [percent(found.iqm), percent_interval(found.interval), percent(found.mean), found.tasks, found.runs]
        lines.append("| " + " | ".join([label, *map(str, numbers)]) + " |")
    return lines


def _escape(text: str) -> str:
    """Keep text from a file from becoming Markdown or HTML."""
    for character in "\\`*_[]<>|#":
        text = text.replace(character, "\\" + character)
    return " ".join(text.split())

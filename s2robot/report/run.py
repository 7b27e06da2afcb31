"""One run at a glance: its loss curve and its success rate."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from s2robot.interfaces import ReportError
from s2robot.report.arm_results import scales_label
from s2robot.report.figures import loss_series, loss_unit
from s2robot.report.plots import COLORS, MUTED, PAPER, log_axis, make_panels, shorten, style
from s2robot.report.wording import percent, percent_interval
from s2robot.statistics import Interval, wilson_interval


def plot_run(results: dict[str, Any], path: Path | str) -> Path:
    """Picture of one run: the loss curve, and the share of episodes solved within t steps with its final interval.

    Args:
        results: the document of a `results.json`.
        path: where to write; the suffix (.png, .pdf, .svg) chooses the format.

    Raises:
        ReportError: a field the picture needs is missing.
    """
    with style():
        figure = _draw_run(results)
        figure.savefig(path, dpi=150)
    return Path(path)


def _draw_run(results: dict[str, Any]) -> Figure:
    try:
        figure, (left, right) = make_panels(2)
        title = f"{results['task']} · {results['policy']} · {results['backbone']} {scales_label(results['scales'])}"
        figure.suptitle(shorten(title, 100), x=0.01, ha="left", fontsize=12)
        _draw_losses(left, results.get("loss_curve") or [])
        _draw_solved(right, [row for row in results["episode_results"] if row.get("error") is None])
    except (KeyError, TypeError) as error:
        raise ReportError(
            f"these results cannot be drawn, because a field is missing or malformed: {error!r}"
        ) from error
    return figure


def _draw_losses(ax: Axes, rows: list[dict[str, Any]]) -> None:
    lowest = math.inf
    for key, label, color in (("train_loss", "training", COLORS[0]), ("validation_loss", "validation", COLORS[1])):
        xs, ys = loss_series(rows, key)
        if ys:
            lowest = min([lowest, *ys])
            ax.plot(xs, ys, color=color, lw=1.6, label=label)
    if lowest < math.inf:
        ax.legend()
    if 0 < lowest < math.inf:
        ax.set_yscale("log")
        log_axis(ax.yaxis)
    ax.set(title="Loss" if rows else "Loss: not recorded", xlabel=loss_unit(rows), ylabel="loss")


def _draw_solved(ax: Axes, episodes: list[dict[str, Any]]) -> None:
    """Share of episodes solved within t steps; its last value is the success rate."""
    longest = max(int(episode["steps"]) for episode in episodes)
    solved = sorted(int(episode["steps"]) for episode in episodes if episode["success"])
    interval: Interval = wilson_interval(len(solved), len(episodes))
    rate = len(solved) / len(episodes)
    steps = np.concatenate([[0], solved, [longest]])
    ax.step(
        steps, np.append(np.arange(len(solved) + 1), len(solved)) / len(episodes), where="post", color=COLORS[0], lw=1.8
    )
    end = 1.06 * longest
    ax.plot([end, end], interval, color=COLORS[0], lw=2)
    ax.plot(end, rate, "o", color=COLORS[0], mec=PAPER, ms=8)
    ax.axhline(rate, color=MUTED, lw=0.8, ls=":", zorder=0)
    ax.set_xlim(0, 1.12 * longest)
    ax.set_ylim(-0.03, 1.05)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set(
        title=f"Success {len(solved)} of {len(episodes)}: {percent(rate)} [{percent_interval(interval)}]",
        xlabel="environment steps",
        ylabel="episodes solved within",
    )

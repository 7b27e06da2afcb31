"""The plots of a report: success against cost, paired differences, learning curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from matplotlib.transforms import ScaledTranslation

from s2robot.report.arm_results import ArmResult, Setting, scales_label, setting_label, varying
from s2robot.report.contrasts import Contrast
from s2robot.report.plots import (
    COLORS,
    INK,
    MUTED,
    PANEL_SIZE,
    PAPER,
    Label,
    MarkerStyle,
    freeze_layout,
    log_axis,
    make_panels,
    place_labels,
    shorten,
    style,
)
from s2robot.report.wording import adjusted_pvalue, points, points_interval

Cost = Literal["gmacs", "latency_ms"]
COST_LABELS: dict[Cost, str] = {"gmacs": "encoder GMACs per frame", "latency_ms": "median time of one action call [ms]"}
MAX_CURVE_POINTS = 300
DASHES = ("-", "--", ":", "-.")
_VERDICT_COLORS = {"higher": COLORS[0], "lower": COLORS[1], "no difference shown": MUTED, "awaiting results": MUTED}


def facets(arms: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    """Arms that belong in one panel: those of one task and policy."""
    panels: dict[str, list[ArmResult]] = {}
    for arm in arms:
        panels.setdefault(setting_label(arm.setting, ("task", "policy")), []).append(arm)
    return panels


def success_figure(panels: dict[str, list[ArmResult]], cost: Cost, styles: dict[str, MarkerStyle]) -> Figure | None:
    """Success with intervals against cost (log), a panel per entry; None where no arm has that cost."""
    known = {title: [arm for arm in arms if (getattr(arm, cost) or 0) > 0] for title, arms in panels.items()}
    known = {title: arms for title, arms in known.items() if arms}
    if not known:
        return None
    with style():
        figure, axes = make_panels(len(known), size=_panel_size(known))
        drawn = [
            _draw_success(ax, title, arms, cost, styles) for ax, (title, arms) in zip(axes, known.items(), strict=True)
        ]
        freeze_layout(figure)
        for ax, labels in zip(axes, drawn, strict=True):
            place_labels(ax, labels)
    return figure


def pareto_front(arms: Sequence[ArmResult], cost: Cost) -> list[ArmResult]:
    """Arms that no other arm beats in both success and cost, by ascending cost."""
    front: list[ArmResult] = []
    for arm in sorted(arms, key=lambda arm: (getattr(arm, cost), -arm.rate)):
        if not front or arm.rate > front[-1].rate:
            front.append(arm)
    return front


def _draw_success(
    ax: Axes, title: str, arms: list[ArmResult], cost: Cost, styles: dict[str, MarkerStyle]
) -> list[Label]:
    """Draw one panel and return the labels to place once the layout is final."""
    xs = _dodge([float(getattr(arm, cost)) for arm in arms])
    front = pareto_front(arms, cost)
    ax.set_xscale("log")
    position = {id(arm): x for arm, x in zip(arms, xs, strict=True)}
    ax.step(
        [position[id(arm)] for arm in front], [arm.rate for arm in front], where="post", color=MUTED, ls=":", lw=1.2
    )
    for chain in _scale_chains(arms):
        path = [(position[id(arm)], arm.rate) for arm in chain]
        ax.plot(*zip(*path, strict=True), color=styles[chain[0].setting.backbone].color, lw=1, alpha=0.35)
    for arm, x in zip(arms, xs, strict=True):
        marker = styles[arm.setting.backbone]
        ax.plot([x, x], arm.interval, color=marker.color, lw=1.4, alpha=0.75, solid_capstyle="butt")
        ax.plot(x, arm.rate, marker.marker, color=marker.color, ms=7, mec=PAPER, mew=0.8, zorder=3)
    margin = max(1.6, (max(xs) / min(xs)) ** 0.15)  # room for labels beside the outermost points
    ax.set_xlim(min(xs) / margin, max(xs) * margin)
    ax.set_ylim(-0.03, 1.12)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    log_axis(ax.xaxis)
    ax.set(title=shorten(title), xlabel=COST_LABELS[cost], ylabel="success")
    _legend(
        ax,
        [arm.setting.backbone for arm in arms],
        styles,
        extra=[Line2D([], [], color=MUTED, ls=":", label="Pareto front")],
    )
    names = ["scales", *varying([arm.setting for arm in arms], ("readout", "demonstrations", "variant"))]
    texts = [shorten(setting_label(arm.setting, names)) for arm in arms]
    colors = [styles[arm.setting.backbone].color for arm in arms]
    return [
        Label(x, arm.rate, *arm.interval, text, color, any(arm is other for other in front))
        for arm, x, text, color in zip(arms, xs, texts, colors, strict=True)
    ]


def _scale_chains(arms: Sequence[ArmResult]) -> list[list[ArmResult]]:
    """Arms that differ in their scale set only, by ascending cost: what more scales do to one backbone."""
    chains: dict[Setting, list[ArmResult]] = {}
    for arm in sorted(arms, key=lambda arm: arm.gmacs):
        chains.setdefault(replace(arm.setting, scales=(), encoder=""), []).append(arm)
    return list(chains.values())


def _dodge(xs: list[float]) -> list[float]:
    """Move points of equal cost 4% apart, so that none hides another."""
    seen: dict[float, int] = {}
    dodged = []
    for x in xs:
        index = seen.get(x, 0)
        seen[x] = index + 1
        dodged.append(x * 1.04 ** (((index + 1) // 2) * (-1) ** index))
    return dodged


def _panel_size(panels: dict[str, list[ArmResult]]) -> tuple[float, float]:
    """Width and height [inches] that leave the axes their height, however many rows the legend has."""
    entries = max(len({arm.setting.backbone for arm in arms}) for arms in panels.values())
    width, height = PANEL_SIZE
    return width, height + 0.09 * max(0, entries - 3)


def _legend(ax: Axes, backbones: Sequence[str], styles: dict[str, MarkerStyle], extra: Sequence[Line2D] = ()) -> None:
    handles = [
        Line2D([], [], color=styles[name].color, marker=styles[name].marker, ls="", mec=PAPER, label=shorten(name, 24))
        for name in dict.fromkeys(backbones)
    ]
    below = ax.transAxes + ScaledTranslation(0, -0.42, ax.figure.dpi_scale_trans)  # inches: ticks and axis label
    ax.legend(handles=[*handles, *extra], loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, ncols=2)


def difference_figure(contrasts: Sequence[Contrast]) -> Figure:
    """Every contrast's difference with its interval, the name above its line; zero means no difference."""
    with style():
        names = [textwrap.wrap(contrast.name, 52) for contrast in contrasts]
        heights = [1.5 + 0.55 * len(lines) for lines in names]
        figure, (ax,) = make_panels(1, size=(PANEL_SIZE[0], 0.9 + 0.26 * sum(heights)))
        bottom = 0.0
        for contrast, lines, height in zip(contrasts, names, heights, strict=True):
            bottom -= height
            color, low_high = _VERDICT_COLORS[contrast.verdict], contrast.difference.interval
            ax.plot([100 * end for end in low_high], [bottom, bottom], color=color, lw=2.2, solid_capstyle="butt")
            filled = color if contrast.is_shown else PAPER
            ax.plot(100 * contrast.difference.value, bottom, "o", ms=7, color=filled, mec=color, mew=1.6)
            decision = "awaiting results" if contrast.awaited else adjusted_pvalue(contrast)
            numbers = f"{points(contrast.difference.value)} [{points_interval(low_high)}], {decision}"
            ax.annotate(
                "\n".join([*lines, numbers]),
                (0, bottom),
                (0, 7),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                fontsize=9,
                va="bottom",
                bbox={"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.5},
            ).set_in_layout(False)
        ax.axvline(0, color=INK, lw=1, zorder=1)
        ax.set_ylim(bottom - 0.7, 0)
        reach = max(5.0, *(100 * abs(end) for contrast in contrasts for end in contrast.difference.interval))
        ax.set_xlim(-1.08 * reach, 1.08 * reach)
        ax.yaxis.set_visible(False)
        ax.spines["left"].set_visible(False)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("← baseline better   |   points of success   |   treatment better →")
        freeze_layout(figure)
    return figure


def loss_series(rows: Sequence[dict[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Epochs (steps where there are none) and values of one column of a training log, thinned to 300 points."""
    unit = loss_unit(rows)
    pairs = [(row[unit], row[key]) for row in rows if _is_finite(row.get(unit)) and _is_finite(row.get(key))]
    kept = pairs[:: -(-len(pairs) // MAX_CURVE_POINTS) or 1]
    if pairs and kept[-1] != pairs[-1]:
        kept.append(pairs[-1])
    return [x for x, _ in kept], [y for _, y in kept]


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def loss_unit(rows: Sequence[dict[str, Any]]) -> str:
    """What the rows of a training log count: epochs, or steps where they have no epochs."""
    return "epoch" if any(row.get("epoch") is not None for row in rows) else "step"


def curve_figure(panels: dict[str, list[ArmResult]], styles: dict[str, MarkerStyle]) -> Figure | None:
    """Loss of every training run, a panel per entry; None where no run has a log."""
    known = {
        title: [arm for arm in arms if any(cell.loss_curve for cell in arm.cells)] for title, arms in panels.items()
    }
    known = {title: arms for title, arms in known.items() if arms}
    if not known:
        return None
    with style():
        figure, axes = make_panels(len(known), size=_panel_size(known))
        for ax, (title, arms) in zip(axes, known.items(), strict=True):
            _draw_curves(ax, title, arms, styles)
        freeze_layout(figure)
    return figure


def _draw_curves(ax: Axes, title: str, arms: list[ArmResult], styles: dict[str, MarkerStyle]) -> None:
    settings = sorted((arm.setting for arm in arms), key=lambda setting: setting.sides)
    scale_sets = dict.fromkeys(setting.scales for setting in settings)
    dashes = {scales: DASHES[index % len(DASHES)] for index, scales in enumerate(scale_sets)}
    curves = [(arm, cell.loss_curve) for arm in arms for cell in arm.cells if cell.loss_curve]
    validated = all(loss_series(rows, "validation_loss")[1] for _, rows in curves)
    key = "validation_loss" if validated else "train_loss"
    lowest = math.inf
    for arm, rows in curves:
        xs, ys = loss_series(rows, key)
        lowest = min([lowest, *ys])
        ax.plot(xs, ys, ls=dashes[arm.setting.scales], color=styles[arm.setting.backbone].color, lw=1, alpha=0.8)
    if 0 < lowest < math.inf:
        ax.set_yscale("log")
        log_axis(ax.yaxis)
    ax.set(
        title=shorten(title), xlabel=loss_unit(curves[0][1]), ylabel="validation loss" if validated else "training loss"
    )
    lines = [Line2D([], [], color=INK, ls=dash, lw=1, label=scales_label(scales)) for scales, dash in dashes.items()]
    _legend(ax, [arm.setting.backbone for arm in arms], styles, extra=lines)

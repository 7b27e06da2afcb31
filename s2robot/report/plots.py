"""The look of every plot: type, colours, markers, and saving as PNG, PDF or theme-aware SVG.

Figures are made without pyplot, so that nothing depends on a display or on global state.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

INK, MUTED, GRID, PAPER = "#1b1f24", "#68717a", "#d8dde2", "#fefefe"
# Okabe & Ito's palette, which the colour-blind can tell apart, less its yellow (unreadable on white).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#3d3d3d")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
PANEL_SIZE = (4.8, 3.5)  # inches: a phone's width at 72 units an inch, so text keeps its size there

# In an SVG every colour becomes a CSS variable, which the page defines for light, dark and print.
_CSS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "card"} | {c: f"series-{i}" for i, c in enumerate(COLORS)}

STYLE: dict[Any, Any] = {
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "font.size": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # embed TrueType: editable, and accepted by publishers
    "svg.fonttype": "none",
    "svg.hashsalt": "s2robot",
    "text.color": INK,
    "text.parse_math": False,  # labels come from users' files; a dollar sign is a dollar sign
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
}


class MarkerStyle(NamedTuple):
    """Colour and marker of one backbone, the same in every plot of a report."""

    color: str
    marker: str


def make_marker_styles(names: Iterable[str]) -> dict[str, MarkerStyle]:
    """Give each name its look, in order; colours repeat after 7, markers after 8, pairs after 56."""
    return {
        name: MarkerStyle(COLORS[index % len(COLORS)], MARKERS[index % len(MARKERS)])
        for index, name in enumerate(dict.fromkeys(names))
    }


@contextmanager
def style() -> Iterator[None]:
    """Apply the fixed style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def make_panels(number: int, columns: int = 2, size: tuple[float, float] = PANEL_SIZE) -> tuple[Figure, list[Axes]]:
    """A figure with `number` panels of `size` [inches], at most `columns` in a row."""
    columns = min(columns, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(columns * size[0], rows * size[1]), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[number:]:
        unused.remove()
    return figure, axes[:number]


def save_publication(figure: Figure, stem: Path) -> None:
    """Write `<stem>.png` (200 dpi) and `<stem>.pdf`."""
    with style():
        figure.savefig(stem.with_suffix(".png"), dpi=200)
        figure.savefig(stem.with_suffix(".pdf"), metadata={"CreationDate": None})


def to_svg(figure: Figure, description: str) -> str:
    """Inline SVG that takes its colours and font from the page's CSS and says what it shows."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # ids repeat between the figures of one page and nothing refers to them
    svg = re.sub(r"font: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r"font: \1var(--font)", svg)
    svg = re.sub(r"#[0-9a-f]{6}", lambda match: f"var(--{_CSS[match[0]]})" if match[0] in _CSS else match[0], svg)
    # Its own width and height would overflow a phone; the viewBox keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) (?:width|height)="[^"]*"', r"\1", svg, count=1)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def shorten(text: str, length: int = 48) -> str:
    """Cut a text that would squeeze the plot out of its figure."""
    return text if len(text) <= length else text[: length - 1] + "…"


def log_axis(axis: Axis) -> None:
    """Plain numbers as ticks, more of them the fewer decades there are; set the limits before."""
    low, high = axis.get_view_interval()
    steps = (1, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5) if high / low < 500 else (1, 3)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


class Label(NamedTuple):
    """A text to place beside a data point; `important` ones are placed first.

    `low` and `high` are the ends of the point's vertical error bar, which no text may cover.
    """

    x: float
    y: float
    low: float
    high: float
    text: str
    color: str
    important: bool


# Offsets [points] from the marker and alignments, most wanted first. Error bars are vertical: none is straight above.
_SPOTS = (
    (7, 5, "left", "bottom"),
    (-7, 5, "right", "bottom"),
    (7, -5, "left", "top"),
    (-7, -5, "right", "top"),
    (7, 17, "left", "bottom"),
    (-7, 17, "right", "bottom"),
    (7, -17, "left", "top"),
    (-7, -17, "right", "top"),
    (12, 0, "left", "center"),
    (-12, 0, "right", "center"),
)


def freeze_layout(figure: Figure) -> None:
    """Lay the figure out once and for all: repeating it for every file took half of a report's time."""
    figure.draw_without_rendering()
    figure.set_layout_engine(None)


def place_labels(axes: Axes, labels: Sequence[Label]) -> None:
    """Write labels beside their points where they overlap neither each other nor the data; drop what does not fit.

    Call it when everything else is drawn and the layout is frozen.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    assert isinstance(figure.canvas, FigureCanvasAgg)  # for the type checker: make_panels set it
    renderer = figure.canvas.get_renderer()
    inside = axes.get_window_extent(renderer)
    taken = []
    for label in labels:
        x, y = axes.transData.transform((label.x, label.y))
        bottom, top = (axes.transData.transform((label.x, end))[1] for end in (label.low, label.high))
        taken += [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5), Bbox.from_extents(x - 1, bottom, x + 1, top)]
    for label in sorted(labels, key=lambda label: not label.important):
        text = axes.annotate(label.text, (label.x, label.y), (0, 0), textcoords="offset points", color=label.color)
        text.set(fontsize=9, zorder=4, in_layout=False)
        text.set_bbox({"facecolor": PAPER, "edgecolor": "none", "alpha": 0.7, "pad": 0.3})
        width, height = text.get_window_extent(renderer).size
        anchor = axes.transData.transform((label.x, label.y))
        boxes = [_box_beside(anchor, width, height, spot, figure.dpi / 72) for spot in _SPOTS]
        free = [
            inside.contains(*box.min) and inside.contains(*box.max) and not any(box.overlaps(other) for other in taken)
            for box in boxes
        ]
        if not any(free):
            text.remove()
            continue
        chosen = free.index(True)
        dx, dy, horizontal, vertical = _SPOTS[chosen]
        text.set(position=(dx, dy), horizontalalignment=horizontal, verticalalignment=vertical)
        taken.append(boxes[chosen])


def _box_beside(
    anchor: NDArray[np.float64], width: float, height: float, spot: tuple[int, int, str, str], scale: float
) -> Bbox:
    """Extent [pixels] of a text of that size at a spot beside the anchor."""
    dx, dy, horizontal, vertical = spot
    x = anchor[0] + dx * scale - (width if horizontal == "right" else 0)
    y = anchor[1] + dy * scale - {"bottom": 0.0, "center": height / 2, "top": height}[vertical]
    return Bbox.from_bounds(x, y, width, height)

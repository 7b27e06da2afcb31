"""A picture of what S² does to a frame: the image at every scale, its numbered tiles, and the final grid."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from s2robot.s2 import ScaleSet
from s2robot.s2.tiling import Tiling

_LINE, _CELL = "#d62728", "#1f77b4"


def tiling_figure(image: np.ndarray, scale_set: ScaleSet, cells: tuple[int, int] = (7, 7)) -> Figure:
    """Draw how a scale set resizes and tiles one frame.

    Args:
        image: uint8 [H, W, 3].
        scale_set: the scale set to draw.
        cells: height and width of one tile's feature map.

    Returns:
        The figure, to be written by its `savefig`.
    """
    tilings = scale_set.tilings(*image.shape[:2])
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    pyramid = [scale.clamp(0, 255).byte()[0].permute(1, 2, 0).numpy() for scale in scale_set.pyramid(pixels)]
    # The panels' widths are in proportion to the scales' sizes, so that all tiles have the same size on paper.
    widths = [tiling.lefts[-1] + tiling.tile[1] for tiling in tilings]
    heights = [tiling.tops[-1] + tiling.tile[0] for tiling in tilings]
    unit = 1.6 / scale_set.tile
    figure = Figure(figsize=(unit * sum(widths) + 0.5 * len(widths) + 2.2, unit * max(heights) + 1.0))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(tilings) + 1, width_ratios=[*widths, 1.2 * scale_set.tile])
    for axis, tiling, picture in zip(axes, tilings, pyramid, strict=False):
        _draw_scale(axis, tiling, picture)
    merged = [tiling.map_size(*cells) for tiling in tilings]
    _draw_grid(axes[-1], scale_set.grid(merged), len(tilings))
    figure.tight_layout()
    return figure


def _draw_scale(axis: Axes, tiling: Tiling, picture: np.ndarray) -> None:
    axis.imshow(picture)
    edges = [(top, left) for top in tiling.tops for left in tiling.lefts]
    for number, (top, left) in enumerate(edges):
        height, width = tiling.tile
        corners_x = [left, left + width, left + width, left, left]
        corners_y = [top, top, top + height, top + height, top]
        axis.plot(corners_x, corners_y, color=_LINE, linewidth=1.5)
        axis.text(left + 10, top + 10, str(number), color="white", va="top", fontsize=7, backgroundcolor=_LINE)
    axis.set_xlim(-2, tiling.lefts[-1] + tiling.tile[1] + 2)
    axis.set_ylim(tiling.tops[-1] + tiling.tile[0] + 2, -2)
    noun = "tile" if tiling.count == 1 else "tiles"
    axis.set_title(f"{tiling.height} × {tiling.width}: {tiling.count} {noun}", fontsize=9)
    axis.set_axis_off()


def _draw_grid(axis: Axes, grid: tuple[int, int], scales: int) -> None:
    height, width = grid
    for layer in reversed(range(scales)):
        shift, order = 0.6 * layer, 2 * (scales - layer)
        left, right, top, bottom = shift, width + shift, -shift, height - shift
        axis.fill([left, right, right, left], [top, top, bottom, bottom], color="white", zorder=order)
        axis.hlines([row + top for row in range(height + 1)], left, right, color=_CELL, linewidth=0.8, zorder=order + 1)
        axis.vlines([left + column for column in range(width + 1)], top, bottom, color=_CELL, lw=0.8, zorder=order + 1)
    axis.set_xlim(-0.3, width + 0.6 * scales)
    axis.set_ylim(height + 0.3, -0.6 * scales)
    axis.set_aspect("equal")
    axis.set_title(f"one map: {scales}·C × {height} × {width}", fontsize=9)
    axis.set_axis_off()

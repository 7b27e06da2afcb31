"""Draw docs/images/rooms.png: the packages of s2robot in their layers, as `pyproject.toml` lists them.

.venv/bin/python scripts/draw_rooms.py
"""

from __future__ import annotations

import textwrap
import tomllib
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).parents[1]
ROLES = {
    "cli": "the command `s2robot`; alone knows the simulator",
    "integrations": "the encoder inside robomimic, LeRobot, SB3, …",
    "deployment": "export to ONNX, inference server",
    "benchmark": "the grid: plan, cells, controls, stopping",
    "evaluation": "success rate of a checkpoint: results.json, videos",
    "training": "windows, the loop, resume",
    "rollout": "episodes of a policy, one per seed",
    "report": "results → tables, plots, one page",
    "checkpoint": "a trained policy on disk",
    "policies": "readouts, losses, action heads, normalization",
    "feature_cache": "every frame encoded once",
    "encoder": "the frozen S² encoder: engines, preprocessing, cost",
    "data": "one reader per dataset format → Episode",
    "statistics": "intervals, paired tests, power",
    "backbones": "named single-scale models and their weights",
    "s2": "tiles, scale sets, the multi-scale forward pass",
    "config": "settings: dataclasses, Hydra",
    "system": "durable files, locks, optional libraries, plug-ins",
    "interfaces": "shapes, typed objects, protocols, errors",
}
WIDTH, ROW, GAP = 12.0, 0.78, 0.12  # inches


def layers() -> list[list[str]]:
    """Return the layers from top to bottom, each as a list of packages."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip().removeprefix("s2robot.") for name in row.split("|")] for row in contract["layers"]]


def draw() -> Figure:
    """Draw one row of boxes per layer."""
    rows = layers()
    height = len(rows) * (ROW + GAP) + GAP
    figure = Figure(figsize=(WIDTH, height))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(height, 0))
    axis.axis("off")
    for index, names in enumerate(rows):
        width = (WIDTH - GAP) / len(names) - GAP
        for place, name in enumerate(names):
            left, top = GAP + place * (width + GAP), GAP + index * (ROW + GAP)
            box = FancyBboxPatch((left, top), width, ROW, boxstyle="round,pad=0,rounding_size=0.08")
            box.set(facecolor="#eef3fb", edgecolor="#3465a4", linewidth=1.2)
            axis.add_patch(box)
            centre = left + width / 2
            middle = {"ha": "center", "va": "center"}
            axis.text(centre, top + 0.26, name, family="monospace", weight="bold", fontsize=13, **middle)
            role = textwrap.fill(ROLES[name], int(width * 11))
            axis.text(centre, top + 0.55, role, fontsize=10, color="#333333", **middle)
    return figure


if __name__ == "__main__":
    draw().savefig(ROOT / "docs/images/rooms.png", dpi=90)

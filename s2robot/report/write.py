"""`write_report`: folders in, a folder of readable files out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from s2robot.report.contrasts import compare_all
from s2robot.report.figures import Cost, curve_figure, difference_figure, facets, success_figure
from s2robot.report.load import load_arms
from s2robot.report.page import write_page
from s2robot.report.plan import load_plan
from s2robot.report.plots import make_marker_styles, save_publication
from s2robot.report.tables import write_contrasts_csv, write_csv, write_markdown


def write_report(folders: Sequence[Path | str], out: Path | str) -> Path:
    """Turn result folders into `report.md`, `report.csv`, `contrasts.csv`, plots (PNG and PDF) and `report.html`.

    Args:
        folders: every `results.json` in and below them is one evaluated cell; every `benchmark.json` adds planned
            contrasts, failed cells and notes.
        out: folder to write to; made where missing, files of an earlier report are replaced.

    Returns:
        The path of `report.html`, which needs no other file.

    Raises:
        ReportError: a folder is missing, holds no results, or a file is damaged.
    """
    sources = [Path(folder) for folder in folders]
    arms = load_arms(sources)
    plan = load_plan(sources)
    comparisons = compare_all(arms, plan)
    styles = make_marker_styles(arm.setting.backbone for arm in sorted(arms, key=lambda arm: arm.parameters))

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    write_csv(arms, out / "report.csv")
    write_contrasts_csv(comparisons.contrasts, out / "contrasts.csv")
    write_markdown(arms, comparisons, plan, out / "report.md")
    panels = facets(arms)
    costs: tuple[Cost, ...] = ("gmacs", "latency_ms")
    names = ("success_vs_gmacs", "success_vs_latency")
    plots = {name: success_figure(panels, cost, styles) for name, cost in zip(names, costs, strict=True)}
    plots["learning_curves"] = curve_figure(panels, styles)
    plots["differences"] = difference_figure(comparisons.contrasts) if comparisons.contrasts else None
    for name, figure in plots.items():
        if figure is not None:
            save_publication(figure, out / name)
    page = out / "report.html"
    write_page(arms, comparisons, plan, styles, page)
    return page

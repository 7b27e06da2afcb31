"""The files of a report: Markdown, CSV, plots, and the picture of one run."""

import csv
import math
import subprocess
import sys
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image
from report_results import make_results, shared_report, write_benchmark, write_results

from s2robot.interfaces import ReportError
from s2robot.report import plot_run, write_report
from s2robot.report.contrasts import compare_all
from s2robot.report.figures import curve_figure, difference_figure, loss_series, pareto_front, success_figure
from s2robot.report.load import load_arms
from s2robot.report.plan import load_plan
from s2robot.report.plots import COLORS, make_marker_styles, style, to_svg
from s2robot.report.run import _draw_run
from s2robot.statistics import bootstrap, paired_bootstrap, wilson_interval


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return shared_report(tmp_path_factory.getbasetemp()).parent


def test_every_promised_file_is_written(report):
    plots = ("success_vs_gmacs", "success_vs_latency", "differences", "learning_curves")
    expected = {"report.md", "report.csv", "contrasts.csv", "report.html"} | {
        f"{plot}.{kind}" for plot in plots for kind in ("png", "pdf")
    }
    assert {path.name for path in report.iterdir()} == expected
    for path in report.glob("*.png"):
        assert np.asarray(Image.open(path).convert("L")).std() > 5
    assert all(path.read_bytes().startswith(b"%PDF") for path in report.glob("*.pdf"))


def test_markdown_has_one_row_per_arm_with_its_pooled_success(report):
    text = (report / "report.md").read_text(encoding="utf-8")
    arms = load_arms([report.parent])
    rows = [line for line in text.splitlines() if line.startswith("| Lift")]
    assert len(rows) == len(arms) == 4
    for row, arm in zip(rows, arms, strict=True):
        cells = [cell.strip() for cell in row.replace("\\|", "/").strip("|").split("|")]
        assert cells[6] == f"{100 * arm.rate:.1f}%"
        assert cells[8:10] == ["120", "3"]
    assert "vit\\|small" in text


def test_markdown_answers_first(report):
    lines = (report / "report.md").read_text(encoding="utf-8").splitlines()
    assert "planned contrast" in lines[2]
    assert any(line.startswith("- **Lift: scales") and "[95% interval" in line and "p " in line for line in lines)
    assert any("RuntimeError: \\<no GPU\\>" in line for line in lines)


def test_csv_holds_the_numbers_in_full(report):
    with (report / "report.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row, arm in zip(rows, load_arms([report.parent]), strict=True):
        assert float(row["success_rate"]) == arm.rate
        assert (float(row["interval_low"]), float(row["interval_high"])) == pytest.approx(arm.interval, abs=1e-6)
        assert row["scales"] == "+".join(map(str, arm.setting.scales))


def test_csv_of_the_contrasts_holds_the_numbers_in_full(report):
    with (report / "contrasts.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    comparisons = compare_all(load_arms([report.parent]), load_plan([report.parent]))
    assert len(rows) == len(comparisons.contrasts) > 1
    for row, contrast in zip(rows, comparisons.contrasts, strict=True):
        assert (row["contrast"], row["verdict"]) == (contrast.name, contrast.verdict)
        numbers = [
            float(row[name]) for name in ("difference", "interval_low", "interval_high", "p_value", "p_adjusted")
        ]
        expected = [contrast.difference.value, *contrast.difference.interval, contrast.pvalue, contrast.adjusted]
        assert numbers == pytest.approx(expected, rel=1e-9, abs=1e-6)


def test_a_single_cell_makes_a_report(tmp_path):
    write_results(tmp_path / "run", make_results([True] * 9 + [False], latency_ms=None, loss_curve=[]))
    for _ in range(2):  # a report must not read the one before it
        page = write_report([tmp_path], tmp_path / "out")
    assert "1 arm evaluated, nothing compared. Highest success: 90.0%" in page.read_text(encoding="utf-8")
    assert not (tmp_path / "out" / "success_vs_latency.png").exists()
    assert not (tmp_path / "out" / "learning_curves.png").exists()


def test_the_pareto_front_keeps_what_nothing_cheaper_beats(tmp_path):
    for name, (gmacs, successes) in {"a": (1, 5), "b": (2, 4), "c": (3, 7), "d": (3, 6), "e": (9, 7)}.items():
        write_results(tmp_path / name, make_results([True] * successes + [False] * 5, backbone=name, gmacs=gmacs))
    front = pareto_front(load_arms([tmp_path]), "gmacs")
    assert [arm.setting.backbone for arm in front] == ["a", "c"]


def drawn(lines):
    """The points of lines, whatever their order."""
    return {tuple((round(float(x), 6), round(float(y), 6)) for x, y in line) for line in lines}


def test_success_figure_draws_each_arms_rate_and_interval_at_its_cost(report):
    arms = load_arms([report.parent])
    (axes,) = success_figure({"Lift": arms}, "gmacs", make_marker_styles(arm.setting.backbone for arm in arms)).axes
    bars = [[(arm.gmacs, end) for end in arm.interval] for arm in arms]
    markers = [[(arm.gmacs, arm.rate)] for arm in arms]
    front = [(arm.gmacs, arm.rate) for arm in pareto_front(arms, "gmacs")]
    assert drawn([*bars, *markers, front]) <= drawn(line.get_xydata() for line in axes.lines)


def test_difference_figure_draws_each_contrasts_difference_and_interval_in_points(report):
    contrasts = compare_all(load_arms([report.parent]), load_plan([report.parent])).contrasts
    (axes,) = difference_figure(contrasts).axes
    points = sorted((line.get_xydata() for line in axes.lines), key=lambda line: -line[0, 1])  # from the top down
    markers, lines = ([line for line in points if len(line) == count] for count in (1, 2))
    (zero,) = (line for line in lines if line[0, 1] != line[1, 1])
    assert zero[:, 0].tolist() == [0, 0]
    bars = [line for line in lines if line is not zero]
    for contrast, bar, marker in zip(contrasts, bars, markers, strict=True):
        np.testing.assert_allclose(bar[:, 0], 100 * np.array(contrast.difference.interval), rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(marker[0], (100 * contrast.difference.value, bar[0, 1]), rtol=1e-6, atol=1e-6)


def test_curve_figure_draws_the_validation_loss_of_every_run(report):
    arms = load_arms([report.parent])
    (axes,) = curve_figure({"Lift": arms}, make_marker_styles(arm.setting.backbone for arm in arms)).axes
    runs = [cell.loss_curve for arm in arms for cell in arm.cells]
    assert len(runs) == 4 * 3
    curves = [[(row["epoch"], row["validation_loss"]) for row in run] for run in runs]
    assert drawn(curves) == drawn(line.get_xydata() for line in axes.lines)
    assert len(axes.lines) == len(runs)


def test_svg_takes_its_colours_from_the_page_and_escapes_labels(tmp_path):
    write_results(tmp_path, make_results([True, False], backbone="$x_1$ <b>&"))
    arms = load_arms([tmp_path])
    with style():
        figure = success_figure({"Lift <i>": arms}, "gmacs", make_marker_styles(["$x_1$ <b>&"]))
    svg = to_svg(figure, 'a "quoted" <description>')
    assert svg.startswith('<svg role="img" aria-label="a &quot;quoted&quot; &lt;description>"')
    assert "var(--series-0)" in svg
    assert COLORS[0] not in svg
    assert "$x_1$ &lt;b&gt;&amp;" in svg
    assert "<i>" not in svg


def test_looks_of_many_backbones_differ():
    assert len(set(make_marker_styles(map(str, range(40))).values())) == 40


def test_long_training_logs_are_thinned_and_keep_their_last_point():
    rows = [{"step": step, "train_loss": 1 / (1 + step)} for step in range(12_345)]
    xs, ys = loss_series(rows, "train_loss")
    assert len(xs) <= 302
    assert (xs[-1], ys[-1]) == (12_344, 1 / 12_345)


def test_gaps_in_a_training_log_are_skipped():
    rows = [{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": math.nan}, {"epoch": 3, "train_loss": "?"}, {}]
    assert loss_series(rows, "train_loss") == ([1], [0.5])
    assert loss_series(rows, "validation_loss") == ([], [])


def test_the_picture_of_a_run_shows_loss_and_success(tmp_path):
    with_losses = plot_run(make_results([True] * 47 + [False] * 3), tmp_path / "run.png")
    without = plot_run(make_results([False] * 5, loss_curve=[]), tmp_path / "bare.png")
    assert Image.open(with_losses).size == Image.open(without).size
    assert np.asarray(Image.open(with_losses).convert("L")).std() > 5


def test_the_picture_of_a_run_draws_its_losses_and_its_episodes():
    results = make_results([True] * 47 + [False] * 3)
    losses, successes = _draw_run(results).axes
    curves = [[(row["epoch"], row[key]) for row in results["loss_curve"]] for key in ("train_loss", "validation_loss")]
    assert drawn(line.get_xydata() for line in losses.lines) == drawn(curves)
    lines = sorted(successes.lines, key=lambda line: -len(line.get_xydata()))
    curve, (bar, level), marker = lines[0], sorted(lines[1:3], key=lambda line: line.get_linestyle() == ":"), lines[3]
    solved = np.array([row["steps"] for row in results["episode_results"] if row["success"]])
    shares = {step: np.mean(solved <= step) * 0.94 for step in (0, *solved, 100)}
    assert dict(curve.get_xydata()) == pytest.approx(shares)  # what is drawn last at a step
    np.testing.assert_allclose(bar.get_ydata(), wilson_interval(47, 50), rtol=1e-9)
    np.testing.assert_allclose([*marker.get_ydata(), *level.get_ydata()], 0.94, rtol=1e-9)


def test_results_that_cannot_be_drawn_name_the_field(tmp_path):
    document = make_results([True])
    del document["episode_results"]
    with pytest.raises(ReportError, match="episode_results"):
        plot_run(document, tmp_path / "run.png")


def test_the_report_does_not_import_torch():
    code = "import sys, s2robot.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_200_cells_of_500_episodes_draw_states_once_and_take_250_megabytes(tmp_path, monkeypatch):
    backbones = {f"backbone{index}": (0.4 * 2**index, 5e6 * (index + 1)) for index in range(6)}
    write_benchmark(tmp_path, policies=("bc", "diffusion_unet"), backbones=backbones, episodes=500)
    assert len(list(tmp_path.rglob("results.json"))) >= 200
    draw, drawn = bootstrap._draw_counts, []
    monkeypatch.setattr(bootstrap, "_draw_counts", lambda rng, n, *rest: drawn.append(n) or draw(rng, n, *rest))
    bootstrap._state_counts.cache_clear()
    start = time.process_time()
    write_report([tmp_path], tmp_path / "out")
    seconds = time.process_time() - start
    assert sum(states >= 500 for states in drawn) == 1
    bootstrap._state_counts.cache_clear()
    start = time.process_time()
    paired_bootstrap(np.zeros(500), np.ones(500))
    assert seconds < 1000 * (time.process_time() - start)  # 110 of them, most of it for drawing figures
    tracemalloc.start()
    write_report([tmp_path], tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 250e6  # 105e6

"""Comparing arms: pairing by evaluation seed, Holm over all contrasts, caveats, and the sentences made of them."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from report_results import SCALES, cell_writer, compare, make_results, outcomes, write_results

from s2robot.report import wording
from s2robot.report.aggregates import _summary, aggregate, aggregate_label
from s2robot.report.contrasts import compare_all
from s2robot.report.load import load_arms
from s2robot.report.plan import Plan, PlannedArm
from s2robot.statistics import (
    Interval,
    fisher_exact,
    holm,
    interquartile_mean,
    mcnemar_exact,
    paired_bootstrap,
)


@pytest.fixture
def write(tmp_path):
    """Write one cell and return the folder of all."""
    return cell_writer(tmp_path)


def test_a_contrast_is_the_paired_statistics_of_its_two_arms(write):
    base, treated = outcomes(0.5), outcomes(0.8, seed=1)
    write(base)
    (contrast,) = compare(write(treated, scales=[224, 448]), SCALES).contrasts
    assert contrast.difference == paired_bootstrap(base, treated)
    assert contrast.exact_pvalue == pytest.approx(mcnemar_exact(base, treated).pvalue)
    assert contrast.discordant == ((base & ~treated).sum(), (treated & ~base).sum())
    assert contrast.pvalue == max(contrast.exact_pvalue, contrast.difference.pvalue)
    assert contrast.verdict == "higher"


def test_a_worse_treatment_is_called_lower_and_a_null_result_null(write):
    write(outcomes(0.8))
    write(outcomes(0.4, seed=1), scales=[224, 448])
    folder = write(outcomes(0.8, seed=2), scales=[224, 448], backbone="vit")
    write(outcomes(0.8, seed=3), backbone="vit")
    lower, null = compare(folder, SCALES).contrasts
    assert lower.verdict == "lower"
    assert wording.finding(lower).startswith("Lower: ")
    assert null.verdict == "no difference shown"
    assert "compatible with anything from −" in wording.finding(null)


def test_only_shared_initial_states_are_paired_and_the_report_says_so(write):
    base, treated = outcomes(0.5, 60), outcomes(0.8, 50, seed=1)
    write(base, first_seed=0)
    (contrast,) = compare(write(treated, first_seed=20, scales=[224, 448]), SCALES).contrasts
    assert contrast.states == 40
    assert contrast.left_out == 30
    assert contrast.difference == paired_bootstrap(base[20:], treated[:40])
    assert any(caveat.startswith("Only the 40 initial states") and "30 others" in caveat for caveat in contrast.caveats)


def test_arms_without_a_shared_initial_state_are_compared_unpaired_and_the_report_says_so(write):
    base, treated = outcomes(0.44, 16), outcomes(0.63, 16, seed=1)
    write(base, first_seed=0)
    (contrast,) = compare(write(treated, first_seed=1000, scales=[224, 448]), SCALES).contrasts
    assert contrast.states == 0
    assert contrast.pvalue == fisher_exact((base.sum(), 16), (treated.sum(), 16))
    assert any("without pairing" in caveat for caveat in contrast.caveats)
    assert "unpaired episodes" in wording.evidence(contrast)


@pytest.mark.parametrize(("kind", "message"), [("data", "different data"), ("environment", "different environments")])
def test_different_fingerprints_are_named_in_the_caveats(write, kind, message):
    write(outcomes(0.5), fingerprints={kind: "a" * 64})
    folder = write(outcomes(0.8), scales=[224, 448], fingerprints={kind: "b" * 64})
    (contrast,) = compare(folder, SCALES).contrasts
    assert any(message in caveat and "aaaaaaaa and bbbbbbbb" in caveat for caveat in contrast.caveats)


@pytest.mark.parametrize(("kind", "message"), [("data", "different data"), ("environment", "different environments")])
def test_different_fingerprints_within_an_arm_are_named_too(write, kind, message):
    for seed, fingerprint in enumerate("ab"):
        for scales in ([224], [224, 448]):
            folder = write(outcomes(0.5), training_seed=seed, scales=scales, fingerprints={kind: fingerprint * 64})
    (contrast,) = (comparisons := compare(folder, SCALES)).contrasts
    said = f"The training seeds of the baseline and of the treatment were {{}} {message}"
    assert any(text.startswith((said.format("trained on"), said.format("evaluated in"))) for text in contrast.caveats)
    limits = wording.limits(comparisons, load_arms([folder]))
    assert sum("differ in their data or their environment" in limit for limit in limits) == 2


@pytest.mark.parametrize(("first", "second", "named"), [("a", "b", True), ("a", "a", False), ("a", None, False)])
def test_other_settings_of_arms_of_one_policy_are_a_caveat_where_they_are_known(write, first, second, named):
    write(outcomes(0.5), settings=first)
    (contrast,) = compare(write(outcomes(0.5), scales=[224, 448], settings=second), SCALES).contrasts
    assert any("differ in settings of policy, readout or training" in text for text in contrast.caveats) == named


def test_few_training_seeds_saturation_and_errors_are_caveats(write):
    write(np.ones(50, bool))
    solved = np.arange(50) > 0
    rows = make_results(solved)["episode_results"]
    rows[0]["error"] = "simulator diverged"
    folder = write(solved, scales=[224, 448], episode_results=rows, episodes=49)
    (contrast,) = compare(folder, SCALES).contrasts
    text = " ".join(contrast.caveats)
    assert "One training seed" in text
    assert "saturated" in text
    assert "error of the simulator are left out: 1." in text
    assert contrast.states == 49
    assert contrast.rates == (1.0, 1.0)
    limits = wording.limits(compare(folder, SCALES), load_arms([folder]))
    assert any("Left out everywhere: 1 episode in which the simulator failed" in limit for limit in limits)


def test_three_training_seeds_on_the_same_states_leave_no_caveat(write):
    for seed in range(3):
        write(outcomes(0.5, seed=seed), training_seed=seed)
        folder = write(outcomes(0.7, seed=9 + seed), training_seed=seed, scales=[224, 448])
    (contrast,) = compare(folder, SCALES).contrasts
    assert contrast.caveats == ()
    assert contrast.improvement == 1.0


def test_holm_adjusts_over_all_contrasts_of_the_report(write):
    for index, backbone in enumerate(("a", "b", "c")):
        write(outcomes(0.5, seed=index), backbone=backbone)
        folder = write(outcomes(0.55 + 0.1 * index, seed=7 + index), backbone=backbone, scales=[224, 448])
    contrasts = compare(folder, SCALES).contrasts
    assert [contrast.adjusted for contrast in contrasts] == holm([contrast.pvalue for contrast in contrasts])


def test_other_weights_of_one_backbone_are_a_caveat(write):
    write(outcomes(0.5), fingerprints={"backbone": "a" * 64})
    folder = write(outcomes(0.5), scales=[224, 448], fingerprints={"backbone": "b" * 64})
    (contrast,) = compare(folder, SCALES).contrasts
    assert any("different weights of the same backbone" in caveat for caveat in contrast.caveats)


def test_an_interval_without_0_beside_a_large_p_is_called_a_lead(write):
    write(outcomes(0.5))
    arms = load_arms([write(outcomes(0.68, seed=1), scales=[224, 448])])
    (contrast,) = compare_all(arms, Plan((SCALES,))).contrasts
    assert (contrast.difference.interval.low > 0, contrast.pvalue < 0.05) == (True, True)
    sentence = wording.finding(replace(contrast, adjusted=0.2))
    assert sentence.startswith("No difference shown")
    assert "p allows for all of them: a lead, not a finding" in sentence
    alone = replace(contrast, exact_pvalue=0.06, adjusted=0.06)
    assert "p is the more lenient test" not in wording.finding(alone)
    assert "leaves out 0, but is the more lenient test: a lead" in wording.finding(alone)
    assert "compatible with anything" not in sentence


def test_the_smallest_p_that_the_bootstrap_can_give_is_a_bound_and_shrinks_with_the_number_of_contrasts(write):
    write([False] * 40)
    arms = load_arms([write([True] * 40, scales=[224, 448])])
    (contrast,) = compare_all(arms, Plan((SCALES,))).contrasts
    assert "p < 0.001" in wording.finding(contrast)
    assert "p ≤ 0.010" in wording.finding(replace(contrast, adjusted=0.01))
    many = [replace(arm.setting.plain, task=f"task {n}") for arm in arms for n in range(300)]
    (contrast,) = compare_all(arms, Plan((SCALES,), tuple(map(PlannedArm, many)))).contrasts
    assert contrast.adjusted == pytest.approx(0.025, rel=0.01)
    assert contrast.verdict == "higher"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.percent(0.9625), "96.2%"),
        (wording.percent(1.0), "100%"),
        (wording.percent(0.99996), "100.0%"),
        (wording.points(-0.061), "−6.1"),
        (wording.points(-0.0001), "0.0"),
        (wording.points_interval(Interval(-0.06, 0.04)), "−6.0 to +4.0"),
        (wording.pvalue(0.00002), "p < 0.001"),
        (wording.pvalue(0.0123), "p = 0.012"),
        (wording.pvalue(0.5), "p = 0.50"),
        (wording.pvalue(0.0504), "p = 0.0504"),  # not 0.050, which would count as a difference
        (wording.pvalue(0.04996), "p = 0.050"),
        (wording.count(4_652_008), "4.65 M"),
        (wording.plural(1, "arm"), "1 arm"),
    ],
)
def test_numbers_are_written_as_people_read_them(text, expected):
    assert text == expected


def test_episodes_in_error_are_named_and_compared_nowhere(write):
    rows = make_results([True, False, True])["episode_results"]
    rows[1]["error"] = "the simulator hung"
    folder = write([True, True, True])
    changes = {"scales": [224, 448], "episode_results": rows, "successes": 2, "episodes": 2}
    write_results(folder / "broken", make_results([True, False, True]) | changes)
    arms = load_arms([folder])
    (contrast,) = compare_all(arms, Plan(contrasts=(SCALES,))).contrasts
    assert (contrast.states, contrast.left_out) == (2, 1)
    ((where, error),) = wording.failed_episodes(arms)
    assert "initial state 100001" in where
    assert error == "the simulator hung"


def test_the_interval_of_the_interquartile_mean_covers_about_nine_times_in_ten():
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        cells = [SimpleNamespace(rate=rate) for rate in rng.normal(0.6, 0.05, 6)]
        arms = [SimpleNamespace(cells=runs, setting=SimpleNamespace(task="")) for runs in (cells[:3], cells[3:])]
        low, high = _summary(None, arms).interval
        hits.append(low <= 0.6 <= high)
    cells = [SimpleNamespace(rate=rate) for rate in (1.0, 1.0, 0.9)]
    high = [SimpleNamespace(cells=cells, setting=SimpleNamespace(task=""))] * 2
    assert _summary(None, high).interval.high == 1
    assert 0.86 <= np.mean(hits) <= 0.97  # 0.91; 0.83 without the widening


def test_the_interquartile_mean_is_shown_over_all_tasks(write):
    rates = {"Lift": (0.2, 0.5, 0.6), "Can": (0.5, 0.6, 1.0)}
    for task, values in rates.items():
        for seed, rate in enumerate(values):
            folder = write([True] * int(20 * rate) + [False] * int(20 - 20 * rate), task=task, training_seed=seed)
    write([True] * 20, task="Lift", scales=[448])  # not run on both tasks: no part of the summary
    (found,) = aggregate(load_arms([folder]))
    assert (found.tasks, found.runs) == (2, 6)
    assert found.iqm == pytest.approx(interquartile_mean([*rates["Lift"], *rates["Can"]])) == pytest.approx(0.55)
    assert found.interval.low <= found.iqm <= found.interval.high


def test_numbers_of_demonstrations_are_no_tasks(write):
    for demonstrations in (12, 60):
        for seed in range(4):
            write(
                [True] * 5 * (1 + demonstrations // 20) + [False] * 10,
                training_seed=seed,
                demonstrations=demonstrations,
            )
    folder = write([True], scales=[448])
    many, few = aggregate(load_arms([folder]))
    assert [(found.tasks, found.runs) for found in (many, few)] == [(1, 4), (1, 4)]
    assert ["60 demonstrations" in aggregate_label(many), "12 demonstrations" in aggregate_label(few)] == [True, True]

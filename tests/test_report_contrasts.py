"""Comparing arms: pairing by evaluation seed, Holm over all contrasts, caveats, and the sentences made of them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from report_results import make_results, write_results

from s2robot.report import wording
from s2robot.report.aggregates import _summary, aggregate
from s2robot.report.contrasts import compare_all
from s2robot.report.load import load_arms
from s2robot.report.plan import Plan, PlannedContrast, load_plan
from s2robot.statistics import (
    Interval,
    anytime_comparison,
    fisher_exact,
    holm,
    interquartile_mean,
    mcnemar_exact,
    paired_bootstrap,
)

SCALES = PlannedContrast("more scales", {"scales": (224,)}, {"scales": (224, 448)})


@pytest.fixture
def write(tmp_path):
    """Write one cell and return the folder of all."""
    count = 0

    def write_cell(successes, **changes):
        nonlocal count
        count += 1
        write_results(tmp_path / str(count), make_results(successes, **changes))
        return tmp_path

    return write_cell


def outcomes(rate, size=100, seed=0):
    return np.random.default_rng(seed).random(size) < rate


def compare(folder, *planned):
    return compare_all(load_arms([folder]), Plan(contrasts=planned))


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


def test_a_selector_pairs_arms_that_agree_in_everything_it_does_not_mention(write):
    for task in ("Lift", "Door"):
        write(outcomes(0.5), task=task)
        folder = write(outcomes(0.6), task=task, scales=[224, 448])
    write(outcomes(0.6), task="Stack", scales=[224, 448])
    contrasts = compare(folder, SCALES).contrasts
    assert [contrast.name for contrast in contrasts] == ["more scales (Door)", "more scales (Lift)"]


def test_a_contrast_without_both_arms_is_listed_as_not_compared(write):
    comparisons = compare(write(outcomes(0.5)), SCALES)
    assert comparisons.contrasts == ()
    assert comparisons.missing == ("more scales: not both arms have results",)


def test_the_first_sentence_counts_what_could_not_be_compared(write):
    write(outcomes(0.5))
    folder = write(outcomes(0.5), scales=[224, 448])
    other = PlannedContrast("a larger model", {"backbone": "a"}, {"backbone": "none"})
    comparisons = compare(folder, SCALES, other)
    sentence = wording.headline(comparisons, load_arms([folder]))
    assert sentence == "The one planned contrast shows no difference. 1 more could not be compared."


def test_without_a_plan_arms_that_differ_in_one_setting_are_compared_as_leads(write):
    arms = {"base": {}, "scales": {"scales": [224, 448], "gmacs": 2.0}, "two": {"scales": [112], "policy": "diffusion"}}
    for changes in arms.values():
        folder = write(outcomes(0.5), **changes)
    comparisons = compare(folder)
    assert [contrast.name for contrast in comparisons.contrasts] == [
        "{224, 448} against {224} (Lift · bc · efficientnet_lite0 · conv · 60 demonstrations)"
    ]
    assert not comparisons.planned
    assert any("No contrast was planned" in limit for limit in wording.limits(comparisons, load_arms([folder])))


def test_without_a_plan_a_large_grid_is_not_fished(write):
    for scales in range(12):
        folder = write(outcomes(0.5, 20), scales=[112 * (scales + 1)])
    comparisons = compare(folder)
    assert comparisons.contrasts == ()
    assert "66 pairs" in comparisons.missing[0]


def test_a_plan_file_is_read_with_its_failed_cells_and_notes(tmp_path):
    plan = {
        "contrasts": [{"name": "n", "baseline": {"scales": [224]}, "treatment": {"scales": [224, 448]}}],
        "failed": [{"cell": "Lift-vit", "error": "out of memory"}],
        "notes": "calibrated on other seeds",
    }
    (tmp_path / "benchmark.json").write_text(json.dumps(plan))
    expected = PlannedContrast("n", {"scales": (224,)}, {"scales": (224, 448)})
    failed, notes = (("Lift-vit", "out of memory"),), ("calibrated on other seeds",)
    assert load_plan([tmp_path]) == Plan((expected,), failed=failed, notes=notes)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "benchmark.json").write_text(json.dumps({"contrasts": plan["contrasts"]}))
    assert load_plan([tmp_path]).contrasts == (expected,)  # planned twice, compared once


def test_what_was_planned_and_has_no_results_is_named_and_counts_in_the_adjustment(write):
    write(outcomes(0.5))
    arms = load_arms([write(outcomes(0.8, seed=1), scales=[224, 448])])
    (alone,) = compare_all(arms, Plan((SCALES,))).contrasts
    settings = {replace(arm.setting, encoder="", task=task) for arm in arms for task in ("Lift", "Door", "Stack")}
    comparisons = compare_all(arms, Plan((SCALES,), frozenset(settings)))
    assert comparisons.missing == tuple(
        f"more scales ({task}): not both arms have results" for task in ("Door", "Stack")
    )
    (one_of_three,) = comparisons.contrasts
    assert one_of_three.name == "more scales (Lift)"
    assert one_of_three.adjusted == pytest.approx(3 * alone.adjusted)
    assert "2 more could not be compared" in wording.headline(comparisons, arms)


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
    many = frozenset(replace(arm.setting, encoder="", task=f"task {n}") for arm in arms for n in range(300))
    (contrast,) = compare_all(arms, Plan((SCALES,), many)).contrasts
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
        (wording.count(4_652_008), "4.65 M"),
        (wording.plural(1, "arm"), "1 arm"),
    ],
)
def test_numbers_are_written_as_people_read_them(text, expected):
    assert text == expected


def test_sequential_stopping_takes_the_anytime_test_and_says_so(write):
    base, treated = outcomes(0.4), outcomes(0.75, seed=1)
    write(base)
    folder = write(treated, scales=[224, 448])
    stopping = {"contrasts": ["more scales"], "decided": ["more scales"], "batch": 10, "alpha": 0.05, "budget": 200}
    sides = {"baseline": {"scales": [224]}, "treatment": {"scales": [224, 448]}}
    document = {"contrasts": [{"name": "more scales", **sides}], "sequential": stopping}
    (folder / "benchmark.json").write_text(json.dumps(document))
    plan = load_plan([folder])
    (contrast,) = compare_all(load_arms([folder]), plan).contrasts
    anytime = anytime_comparison(base, treated)
    assert contrast.stopping == "decides"
    assert contrast.adjusted == contrast.pvalue  # one of one
    assert (contrast.exact_pvalue, contrast.difference.interval) == (anytime.pvalue, anytime.interval)
    assert contrast.pvalue > mcnemar_exact(base, treated).pvalue
    assert any("Rollouts were added until" in caveat for caveat in contrast.caveats)
    assert plan.budgets[0].startswith("Sequential stopping: rollouts were added 10 at a time")


def test_a_contrast_that_shares_an_arm_with_a_deciding_one_takes_the_anytime_test_too(write):
    base, treated, other = outcomes(0.4), outcomes(0.9, seed=1), outcomes(0.6, seed=2)
    write(base)
    write(other, backbone="efficientnet_lite2")
    arms = load_arms([write(treated, scales=[224, 448])])
    larger = PlannedContrast("larger", {"backbone": "efficientnet_lite0"}, {"backbone": "efficientnet_lite2"})
    plan = Plan((SCALES, larger), sequential=frozenset(["more scales"]), alpha=0.01)
    deciding, following = compare_all(arms, plan).contrasts
    assert (deciding.stopping, deciding.alpha, deciding.verdict) == ("decides", 0.01, "higher")
    assert (following.stopping, following.alpha) == ("follows", 0.05)
    assert following.exact_pvalue == anytime_comparison(base, other).pvalue
    assert following.adjusted == following.pvalue  # Holm over the contrasts that decided nothing
    assert any("until another comparison of one of its arms" in caveat for caveat in following.caveats)
    door = {replace(arm.setting, encoder="", task="Door") for arm in arms if arm.setting.backbone.endswith("0")}
    awaiting = compare_all(arms, replace(plan, settings=frozenset(door)))  # what decides is a family of its own
    assert len(awaiting.missing) == 1
    assert [found.adjusted for found in awaiting.contrasts] == [deciding.adjusted, following.adjusted]


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
        arms = [SimpleNamespace(cells=cells[:3]), SimpleNamespace(cells=cells[3:])]
        low, high = _summary(None, arms).interval
        hits.append(low <= 0.6 <= high)
    high = [SimpleNamespace(cells=[SimpleNamespace(rate=rate) for rate in (1.0, 1.0, 0.9)])] * 2
    assert _summary(None, high).interval.high == 1
    assert 0.87 <= np.mean(hits) <= 0.97  # 0.83 without the widening


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

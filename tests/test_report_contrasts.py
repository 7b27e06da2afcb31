"""Comparing arms: pairing by evaluation seed, Holm over all contrasts, caveats, and the sentences made of them."""

import json

import numpy as np
import pytest
from report_results import make_results, write_results

from s2robot.report import wording
from s2robot.report.aggregates import aggregate
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
    assert load_plan([tmp_path]) == Plan((expected,), (("Lift-vit", "out of memory"),), ("calibrated on other seeds",))


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
    assert contrast.sequential
    assert (contrast.exact_pvalue, contrast.difference.interval) == (anytime.pvalue, anytime.interval)
    assert contrast.pvalue > mcnemar_exact(base, treated).pvalue
    assert any("Rollouts were added until" in caveat for caveat in contrast.caveats)
    assert plan.budgets[0].startswith("Sequential stopping: rollouts were added 10 at a time")


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

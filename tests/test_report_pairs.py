"""What is compared: the plan's contrasts, pairs of arms and their names, what is awaited, who decides when to stop."""

import json
from dataclasses import replace

import pytest
from report_results import SCALES, cell_writer, compare, make_results, outcomes, write_results

from s2robot.report import wording
from s2robot.report.contrasts import compare_all
from s2robot.report.load import load_arms
from s2robot.report.plan import FailedCell, Plan, PlannedArm, StoppingRule, load_plan
from s2robot.report.plan_document import PlannedContrast
from s2robot.statistics import anytime_comparison, mcnemar_exact


@pytest.fixture
def write(tmp_path):
    """Write one cell and return the folder of all."""
    return cell_writer(tmp_path)


def write_plan(folder, **changes):
    """A `benchmark.json` that plans `SCALES` for the arms {224} and {224, 448} of Lift."""
    sides = {"baseline": {"scales": [224]}, "treatment": {"scales": [224, 448]}}
    same = {"task": "Lift", "policy": "bc", "backbone": "efficientnet_lite0", "readout": "conv", "demonstrations": 60}
    document = {
        "contrasts": [{"name": "more scales", **sides}],
        "arms": [{**same, "scales": side["scales"]} for side in sides.values()],
        "plan": {"training_seeds": [0, 1, 2], "episodes": 100, "first_seed": 100_000},
    }
    (folder / "benchmark.json").write_text(json.dumps(document | changes))


def test_a_selector_pairs_arms_that_agree_in_everything_it_does_not_mention(write):
    for task in ("Lift", "Door"):
        write(outcomes(0.5), task=task)
        folder = write(outcomes(0.6), task=task, scales=[224, 448])
    write(outcomes(0.6), task="Stack", scales=[224, 448])
    contrasts = compare(folder, SCALES).contrasts
    assert [contrast.name for contrast in contrasts] == ["more scales (Door)", "more scales (Lift)"]


def test_a_setting_that_one_side_leaves_open_is_part_of_the_name(write):
    larger = PlannedContrast("larger", {"backbone": "efficientnet_lite0", "scales": (224,)}, {"backbone": "vit"})
    write(outcomes(0.5))
    for scales in ([224], [224, 448]):
        folder = write(outcomes(0.6), backbone="vit", scales=scales)
    contrasts = compare(folder, larger).contrasts
    assert [contrast.name for contrast in contrasts] == ["larger (treatment {224})", "larger (treatment {224, 448})"]


def test_no_verdict_before_all_planned_training_seeds_have_results(write):
    for seed in range(3):
        folder = write(outcomes(0.3, seed=seed), training_seed=seed)
    write(outcomes(0.8, seed=9), scales=[224, 448])
    write_plan(folder)
    (contrast,) = compare_all(load_arms([folder]), Plan((SCALES,))).contrasts
    assert contrast.verdict == "higher"  # of one seed: the more lenient comparison
    arms, plan = load_arms([folder]), load_plan([folder])
    (contrast,) = (comparisons := compare_all(arms, plan)).contrasts
    assert (contrast.verdict, contrast.adjusted) == ("awaiting results", 1)
    text = wording.finding(contrast)
    assert text.startswith("Awaiting results, 1 of 3 planned training seeds of the treatment are here")
    assert "a difference of +" in text
    assert wording.headline(comparisons, arms) == "No verdict yet. 1 planned contrast awaits planned training seeds."
    for seed in (1, 2):
        write(outcomes(0.8, seed=9 + seed), scales=[224, 448], training_seed=seed)
    (contrast,) = compare_all(load_arms([folder]), plan).contrasts
    assert contrast.verdict == "higher"


def test_what_awaits_training_seeds_counts_in_the_adjustment_of_the_rest(write):
    write(outcomes(0.5))
    folder = write(outcomes(0.8, seed=1), scales=[224, 448])
    (alone,) = compare(folder, SCALES).contrasts
    for scales in ([224], [224, 448]):
        write(outcomes(0.5), task="Door", scales=scales)
    arms = load_arms([folder])
    planned = tuple(PlannedArm(arm.setting.plain, frozenset([0, 1])) for arm in arms if arm.setting.task == "Door")
    waiting, judged = (comparisons := compare_all(arms, Plan((SCALES,), planned))).contrasts
    assert (waiting.awaited != "", judged.verdict) == (True, "higher")
    assert judged.adjusted == pytest.approx(2 * alone.adjusted)
    sentence = wording.headline(comparisons, arms)
    assert sentence.startswith("1 of 1 planned contrast shows a difference")
    assert sentence.endswith("1 more awaits planned training seeds.")


def test_arms_of_other_weights_are_compared_within_their_benchmark(tmp_path):
    for weights in "ab":
        for scales in ([224], [224, 448]):
            prints = {"encoder": weights * 32 + str(len(scales)) * 32, "backbone": weights * 64}
            cell = tmp_path / f"w{weights}" / "cells" / str(len(scales))
            write_results(cell, make_results(outcomes(0.5), scales=scales, fingerprints=prints, variant=""))
        write_plan(tmp_path / f"w{weights}", plan={"training_seeds": [0]})
    folders = [tmp_path / "wa", tmp_path / "wb"]
    plan = load_plan(folders)
    plan = replace(plan, contrasts=tuple(replace(c, baseline=c.baseline | {"variant": ""}) for c in plan.contrasts))
    comparisons = compare_all(load_arms(folders), plan)
    assert [contrast.name for contrast in comparisons.contrasts] == [
        f"more scales (baseline encoder {name * 8}; treatment encoder {name * 8})" for name in "ab"
    ]
    assert comparisons.missing == ()
    assert all(contrast.verdict == "no difference shown" for contrast in comparisons.contrasts)


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
    failed, notes = (FailedCell("Lift-vit", "out of memory"),), ("calibrated on other seeds",)
    assert load_plan([tmp_path]) == Plan((expected,), failed=failed, notes=notes)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "benchmark.json").write_text(json.dumps({"contrasts": plan["contrasts"]}))
    assert load_plan([tmp_path]).contrasts == (expected,)  # planned twice, compared once


def test_a_failed_cell_that_has_all_its_episodes_is_forgotten_and_a_part_of_them_is_said(tmp_path):
    names = {"none": 0, "part": 40, "whole": 100}
    for name, episodes in names.items():
        if episodes:
            write_results(tmp_path / "cells" / name, make_results([True] * episodes))
    write_plan(tmp_path, failed=[{"cell": name, "error": "killed"} for name in names])
    failed = load_plan([tmp_path]).failed
    assert failed == (FailedCell("none", "killed", 0, 100), FailedCell("part", "killed", 40, 100))
    assert [wording.lacking(cell) for cell in failed] == ["no results", "40 of 100 episodes"]
    sentence = "1 cell failed and is missing here, 1 more failed and has fewer episodes than planned"
    assert wording.failed_cells(failed) == sentence
    assert wording.failed_cells(failed[1:]) == "1 cell failed and has fewer episodes than planned"


def test_what_was_planned_and_has_no_results_is_named_and_counts_in_the_adjustment(write):
    write(outcomes(0.5))
    arms = load_arms([write(outcomes(0.8, seed=1), scales=[224, 448])])
    (alone,) = compare_all(arms, Plan((SCALES,))).contrasts
    settings = [replace(arm.setting.plain, task=task) for arm in arms for task in ("Lift", "Door", "Stack")]
    comparisons = compare_all(arms, Plan((SCALES,), tuple(map(PlannedArm, settings))))
    assert comparisons.missing == tuple(
        f"more scales ({task}): not both arms have results" for task in ("Door", "Stack")
    )
    (one_of_three,) = comparisons.contrasts
    assert one_of_three.name == "more scales (Lift)"
    assert one_of_three.adjusted == pytest.approx(3 * alone.adjusted)
    assert "2 more could not be compared" in wording.headline(comparisons, arms)


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
    assert contrast.exact_pvalue == pytest.approx(anytime.pvalue, abs=1e-6)
    assert contrast.difference.interval == pytest.approx(anytime.interval, abs=1e-6)
    assert contrast.pvalue > mcnemar_exact(base, treated).pvalue
    assert any("Rollouts were added until" in caveat for caveat in contrast.caveats)
    assert plan.budgets[0].startswith("Sequential stopping: rollouts were added 10 at a time")


def test_a_contrast_that_shares_an_arm_with_a_deciding_one_takes_the_anytime_test_too(write):
    base, treated, other = outcomes(0.4), outcomes(0.9, seed=1), outcomes(0.6, seed=2)
    write(base)
    write(other, backbone="efficientnet_lite2")
    arms = load_arms([write(treated, scales=[224, 448])])
    larger = PlannedContrast("larger", {"backbone": "efficientnet_lite0"}, {"backbone": "efficientnet_lite2"})
    plan = Plan((SCALES, larger), rules=(StoppingRule((SCALES,), alpha=0.01, comparisons=1),))
    deciding, following = compare_all(arms, plan).contrasts
    assert (deciding.stopping, deciding.alpha, deciding.verdict) == ("decides", 0.01, "higher")
    assert (following.stopping, following.alpha) == ("follows", 0.05)
    assert following.exact_pvalue == pytest.approx(anytime_comparison(base, other).pvalue, abs=1e-6)
    assert following.adjusted == following.pvalue  # Holm over the contrasts that decided nothing
    assert any("until another comparison of one of its arms" in caveat for caveat in following.caveats)
    door = [replace(arm.setting.plain, task="Door") for arm in arms if arm.setting.backbone.endswith("0")]
    # What decides is a family of its own.
    awaiting = compare_all(arms, replace(plan, arms=tuple(map(PlannedArm, door))))
    assert len(awaiting.missing) == 1
    assert [found.adjusted for found in awaiting.contrasts] == [deciding.adjusted, following.adjusted]


def test_every_deciding_pair_counts_and_decides_in_its_own_benchmark_only(write):
    stopping = {"contrasts": ["more scales"], "decided": [], "batch": 10, "alpha": 0.05, "budget": 200}
    for task in ("Lift", "Can", "Door"):
        for seed, scales in enumerate(([224], [224, 448])):
            folder = write(outcomes(0.4 + 0.3 * seed, seed=seed), task=task, scales=scales)
    for name, tasks, sequential in (("stopped", ("Lift", "Can"), stopping), ("fixed", ("Door",), {})):
        (folder / name).mkdir()
        write_plan(folder / name, sequential=sequential, plan={})
        document = json.loads((folder / name / "benchmark.json").read_text())
        document["arms"] = [arm | {"task": task} for task in tasks for arm in document["arms"]]
        (folder / name / "benchmark.json").write_text(json.dumps(document))
    found = compare_all(load_arms([folder]), load_plan([folder])).contrasts
    stoppings = {contrast.baseline.setting.task: contrast.stopping for contrast in found}
    assert stoppings == {"Can": "decides", "Lift": "decides", "Door": ""}
    assert [contrast.adjusted / contrast.pvalue for contrast in found] == pytest.approx([2, 1, 2])

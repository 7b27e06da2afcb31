"""Reading result files: grouping into arms, and one clear error for every kind of damage."""

import json
import math

import numpy as np
import pytest
from report_results import make_results, write_results

from s2robot.interfaces import ReportError
from s2robot.report import plot_run
from s2robot.report.arm_results import Setting, setting_label
from s2robot.report.load import load_arms, load_cell
from s2robot.report.plan import load_plan
from s2robot.statistics import hierarchical_bootstrap, wilson_interval


def test_cells_that_differ_in_the_training_seed_only_form_one_arm(tmp_path):
    for seed in (2, 0, 1):
        write_results(tmp_path / f"run{seed}", make_results([True, False], training_seed=seed))
    write_results(tmp_path / "other", make_results([True, True], scales=[224, 448]))
    arms = load_arms([tmp_path])
    assert [len(arm.cells) for arm in arms] == [3, 1]
    assert [cell.training_seed for cell in arms[0].cells] == [0, 1, 2]
    assert (arms[0].successes, arms[0].episodes, arms[0].rate) == (3, 6, 0.5)


def test_one_training_seed_gets_wilsons_interval_and_several_the_hierarchical_bootstrap(tmp_path):
    outcomes = np.random.default_rng(0).random((2, 40)) < 0.6
    for seed, row in enumerate(outcomes):
        write_results(tmp_path / f"run{seed}", make_results(row, training_seed=seed))
    assert load_arms([tmp_path / "run0"])[0].interval == wilson_interval(int(outcomes[0].sum()), 40)
    assert load_arms([tmp_path])[0].interval == pytest.approx(hierarchical_bootstrap(outcomes), abs=1e-6)


def test_overlapping_folders_count_a_cell_once(tmp_path):
    write_results(tmp_path / "cells" / "a", make_results([True, False]))
    assert load_arms([tmp_path, tmp_path / "cells", tmp_path / "cells" / "a"])[0].episodes == 2


def test_a_cell_that_the_plan_does_not_have_any_more_is_left_out_and_counted(tmp_path):
    write_results(tmp_path / "cells" / "now", make_results([True, False]))
    write_results(tmp_path / "cells" / "before", make_results([False, False], training_seed=1))
    (tmp_path / "benchmark.json").write_text(json.dumps({"cells": ["now"]}))
    (arm,) = load_arms([tmp_path])
    assert [cell.training_seed for cell in arm.cells] == [0]
    (note,) = load_plan([tmp_path]).notes
    assert note.startswith("Left out, because the plan has them no more: 1 of the cells in")


def test_the_rollouts_of_a_store_are_not_read_beside_the_cells_made_of_them(tmp_path):
    write_results(tmp_path / "lift" / "cells" / "a", make_results([True, False]))
    for part in ("100000-100001", "film100001"):
        write_results(tmp_path / "store" / "rollouts" / "0123456789abcdef" / part, make_results([False, False]))
    (arm,) = load_arms([tmp_path])
    assert (arm.successes, arm.episodes) == (1, 2)


def test_a_copied_result_counts_once(tmp_path):
    for name in ("a", "b"):
        write_results(tmp_path / name, make_results([True, False]))
    assert load_arms([tmp_path])[0].episodes == 2


def test_two_results_that_disagree_about_a_cell_are_named(tmp_path):
    write_results(tmp_path / "a", make_results([True, False]))
    write_results(tmp_path / "b", make_results([True, True]))
    with pytest.raises(ReportError, match=r"a/results.json and .*b/results.json are of the same cell"):
        load_arms([tmp_path])


def test_arms_that_differ_in_the_encoder_alone_stay_apart(tmp_path):
    for name in "ab":
        write_results(tmp_path / name, make_results([True], fingerprints={"encoder": name * 64}))
    arms = load_arms([tmp_path])
    assert [arm.setting.shown_variant for arm in arms] == ["encoder aaaaaaaa", "encoder bbbbbbbb"]


def test_other_settings_of_training_make_another_arm_and_unknown_ones_do_not(tmp_path):
    for seed, settings in enumerate(["a" * 16, None, "a" * 16]):
        write_results(tmp_path / f"a{seed}", make_results([True], training_seed=seed, settings=settings))
    assert [len(arm.cells) for arm in load_arms([tmp_path])] == [3]
    write_results(tmp_path / "b", make_results([False], settings="b" * 16))
    marks = {arm.setting.mark: len(arm.cells) for arm in load_arms([tmp_path])}
    assert marks == {"settings aaaaaaaa": 2, "settings bbbbbbbb": 1, "settings unknown": 1}


def test_of_a_cell_that_was_continued_elsewhere_the_longer_result_counts(tmp_path):
    write_results(tmp_path / "longer", make_results([True, False, True]))
    write_results(tmp_path / "short", make_results([True, False]))
    (arm,) = load_arms([tmp_path])
    assert arm.episodes == 3
    write_results(tmp_path / "short", make_results([True, False], first_seed=1))
    with pytest.raises(ReportError, match="same cell .*, but have other initial states"):
        load_arms([tmp_path])


def test_versions_and_latency_of_a_cell_are_those_of_all_its_ranges(tmp_path):
    parts = [("2.0", 10.0), ("2.1", 20.0)]
    ranges = [{"episodes": 1, "latency_ms": latency, "versions": {"torch": version}} for version, latency in parts]
    cell = load_cell(write_results(tmp_path, make_results([True, False], ranges=ranges)))
    assert (cell.versions["torch"], cell.latency_ms) == (("2.0", "2.1"), 15)


def test_outcomes_line_up_with_the_evaluation_seeds(tmp_path):
    write_results(tmp_path / "a", make_results([True, False, True], first_seed=10))
    write_results(tmp_path / "b", make_results([False, True], first_seed=11, training_seed=1))
    arm = load_arms([tmp_path])[0]
    np.testing.assert_array_equal(arm.outcomes(np.array([10, 11, 12])), [[1, 0, 1], [np.nan, 0, 1]])
    np.testing.assert_array_equal(arm.shared_seeds(), [11, 12])


def test_optional_fields_may_be_missing_and_unknown_ones_are_ignored(tmp_path):
    document = make_results([True], latency_ms=None, something_new={"a": 1})
    for key in ("loss_curve", "videos", "command", "versions", "fingerprints", "seconds"):
        del document[key]
    cell = load_cell(write_results(tmp_path, document))
    assert cell.latency_ms is None
    assert cell.videos == []
    assert cell.commands == []


def test_episodes_that_ended_in_an_error_are_left_out_and_counted(tmp_path):
    document = make_results([True, False, False])
    document["episode_results"][2]["error"] = "died"
    document |= {"episodes": 2, "successes": 1}
    cell = load_cell(write_results(tmp_path, document))
    assert (cell.errors, cell.episode_count, cell.rate) == (1, 2, 0.5)
    assert plot_run(document, tmp_path / "results.png").stat().st_size > 0


def test_videos_that_are_gone_are_left_out(tmp_path):
    kept = {"path": "videos/kept.mp4", "seed": 100_000, "success": False}
    (tmp_path / "videos").mkdir()
    (tmp_path / kept["path"]).write_bytes(b"a video")
    gone = {"path": "videos/gone.mp4", "seed": 100_001, "success": True}
    cell = load_cell(write_results(tmp_path, make_results([False], videos=[kept, gone])))
    assert [video.seed for video in cell.videos] == [100_000]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 7}, "schema is 7, but this version reads 1"),
        ({"task": None}, "task must be of type str, got None"),
        ({"scales": [224, "x"]}, r"scales must be a list of numbers or pairs of numbers, got \[224, 'x'\]"),
        ({"scales": []}, "scales must be a list of numbers"),
        ({"gmacs": math.nan}, "gmacs must be of type float, got nan"),
        ({"training_seed": True}, "training_seed must be of type int, got True"),
        ({"episode_results": []}, "episode_results is empty"),
        ({"episode_results": [{"seed": 1, "error": "x"}]}, "every episode ended in an error of the simulator"),
        ({"episode_results": [3]}, "expected a JSON object, got int"),
        ({"episode_results": [{"seed": 1, "success": "yes"}]}, "success must be of type bool, got 'yes'"),
        ({"episode_results": [{"seed": 1, "success": True}] * 2}, "holds a seed twice"),
        ({"successes": 2}, "states 2 of 2 successes, but episode_results has 1 of 2"),
        ({"videos": [{"path": "../../secret.mp4", "seed": 1, "success": True}]}, "outside the result folder"),
    ],
)
def test_a_damaged_file_is_named_with_its_field(tmp_path, changes, message):
    path = write_results(tmp_path, make_results([True, False]) | changes)
    with pytest.raises(ReportError, match=message) as error:
        load_arms([tmp_path])
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"text"', "\xff\xfe"])
def test_a_foreign_file_is_named(tmp_path, content):
    (tmp_path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(ReportError, match=r"results\.json"):
        load_arms([tmp_path])


def test_a_missing_folder_and_an_empty_one_are_named(tmp_path):
    with pytest.raises(ReportError, match="nowhere is not a folder"):
        load_arms([tmp_path / "nowhere"])
    (empty := tmp_path / "empty").mkdir()
    write_results(tmp_path / "full", make_results([True, False]))
    with pytest.raises(ReportError, match=f"no results.json in or below {empty}"):
        load_arms([tmp_path / "full", empty])


def test_a_contrast_by_an_unknown_field_names_the_choices(tmp_path):
    plan = {"contrasts": [{"name": "x", "baseline": {"backbon": "a"}, "treatment": {}}]}
    (tmp_path / "benchmark.json").write_text(json.dumps(plan))
    with pytest.raises(ReportError, match="did you mean 'backbone'"):
        load_plan([tmp_path])


def test_labels_show_the_settings_asked_for():
    setting = Setting("Lift", "bc", "resnet18", (112, 224), "mean", 60, "upsampled")
    assert setting_label(setting) == "Lift · bc · resnet18 {112, 224} · mean · 60 demonstrations · upsampled"
    assert setting_label(setting, ["scales", "readout"]) == "{112, 224} · mean"

"""`benchmark.json`: written and read by one class, as it was, and a damaged one named with its field and value."""

import json
import shutil
from pathlib import Path

import pytest
from toy_benchmark import toy_config

from s2robot.benchmark import make_grid
from s2robot.benchmark.plan import change_document, store_plan
from s2robot.interfaces import ReportError
from s2robot.report.plan import load_plan
from s2robot.report.plan_document import PLAN_FILE, PlanDocument, PlannedContrast, StoppingRecord, read_plan

STORED = Path(__file__).parent / "data" / "benchmark_plan.json"
"""Amended, raced, with a failed cell and notes; written by commit 16ed58d."""
SIDES = {"baseline": {"scales": [224]}, "treatment": {"scales": [224, 448]}}
ARM = {"task": "Lift", "policy": "bc", "backbone": "a", "readout": "conv", "demonstrations": 60, "scales": [224]}
RACE = {"contrasts": [], "decided": [], "batch": 1, "alpha": 0.05, "budget": 9}


def text_of(document):
    return json.dumps(document.to_json(), indent=1)


def test_a_file_of_before_is_written_back_byte_for_byte():
    assert text_of(read_plan(STORED)) == STORED.read_text()


def test_a_file_of_before_means_what_it_meant(tmp_path):
    document = read_plan(STORED)
    assert (document.planned[:4], document.plan.episodes, document.plan.sequential["batch"]) == ("2026", 40, 10)
    (amendment,) = document.amendments
    assert (amendment.changed, amendment.before["episodes"]) == (("contrasts", "episodes", "sequential", "cells"), 20)
    assert [failure.error for failure in document.failed] == ["the simulator is gone"]
    assert [arm.scales for arm in document.arms] == [(64,), (64, (128, 128)), (64, (128, 128))]
    (decided,) = document.sequential.decided
    assert decided == document.contrasts[0].name == document.plan.contrasts[0].name
    shutil.copy(STORED, tmp_path / PLAN_FILE)
    notes = load_plan([tmp_path]).notes
    assert "Run on two machines." in notes
    assert any("twenty told nothing apart" in note for note in notes)


def test_planning_the_same_again_changes_no_byte(tmp_path):
    config = toy_config(tmp_path)
    store_plan(config, make_grid(config))
    before = (tmp_path / PLAN_FILE).read_text()
    # The order of the fields is that of the file, and fields of other versions are kept.
    shuffled = {"of another version": 1, **dict(reversed(json.loads(before).items()))}
    for text in (before, json.dumps(shuffled, indent=1)):
        (tmp_path / PLAN_FILE).write_text(text)
        store_plan(config, make_grid(config))
        assert (tmp_path / PLAN_FILE).read_text() == text


def test_fields_are_replaced_and_removed_alone(tmp_path):
    config = toy_config(tmp_path)
    store_plan(config, make_grid(config))
    before = read_plan(tmp_path / PLAN_FILE)
    change_document(config, sequential=StoppingRecord(("a",), (), 1, 0.05, 9))
    assert read_plan(tmp_path / PLAN_FILE).sequential.budget == 9
    change_document(config, sequential=None)
    assert text_of(read_plan(tmp_path / PLAN_FILE)) == text_of(before)


def test_scales_of_a_contrast_are_those_of_an_arm_whatever_their_form():
    written = {"name": "n", "baseline": {"scales": [[224, 448]]}, "treatment": {}}
    document = PlanDocument.from_json({"contrasts": [written]}, Path("a"))
    assert document.contrasts == (PlannedContrast("n", {"scales": ((224, 448),)}, {}),)
    assert document.to_json()["contrasts"] == [written]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "cannot be read as JSON"),
        ([], "expected a JSON object, got list"),
        ({"plan": []}, r"plan must be of type dict, got \[\]"),
        ({"plan": {"episodes": "9"}}, "episodes must be of type int, got '9'"),
        ({"plan": {"training_seeds": 0}}, "training_seeds must be of type list, got 0"),
        ({"plan": {"contrasts": [{"name": "n", **SIDES, "baseline": 3}]}}, "baseline must be of type dict, got 3"),
        ({"planned": 3}, "planned must be of type str, got 3"),
        ({"contrasts": [{"name": 3, **SIDES}]}, "name must be of type str, got 3"),
        ({"contrasts": [{"name": "n"}]}, "baseline must be of type dict, got nothing"),
        ({"contrasts": [{"name": "n", **SIDES, "treatment": {"scale": 1}}]}, "field in a contrast treatment 'scale'"),
        ({"contrasts": [{"name": "n", **SIDES, "treatment": {"scales": 448}}]}, "scales must be of type list, got 448"),
        ({"contrasts": [{"name": "n", **SIDES, "baseline": {"scales": ["a"]}}]}, r"numbers or pairs .*, got \['a'\]"),
        ({"arms": [{}]}, "task must be of type str, got nothing"),
        ({"arms": [ARM | {"policy": ["bc"]}]}, r"policy must be of type str, got \['bc'\]"),
        ({"arms": [ARM | {"demonstrations": "60"}]}, "demonstrations must be of type int, got '60'"),
        ({"arms": [ARM | {"scales": 224}]}, "scales must be of type list, got 224"),
        ({"arms": [ARM | {"seed": 1}]}, "unknown field in a contrast arm 'seed'"),
        ({"amendments": [{"changed": []}]}, "reason must be of type str, got nothing"),
        ({"cells": "a"}, "cells must be of type list, got 'a'"),
        ({"notes": 3}, "notes must be of type str, got 3"),
        ({"sequential": RACE | {"alpha": "x"}}, "alpha must be of type float, got 'x'"),
        ({"sequential": RACE | {"decided": None}}, "decided must be of type list, got None"),
    ],
)
def test_a_damaged_plan_is_named_by_whoever_reads_it(document, message, tmp_path):
    path = tmp_path / PLAN_FILE
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    config = toy_config(tmp_path)
    for read in (lambda: load_plan([tmp_path]), lambda: store_plan(config, make_grid(config))):
        with pytest.raises(ReportError, match=f"{path}.*{message}"):
            read()

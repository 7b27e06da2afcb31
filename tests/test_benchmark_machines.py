"""Cells whose ranges of episodes were run on several machines, with several policies, or before either was recorded."""

import json

import pytest
from report_results import make_results
from toy_benchmark import make_cells, toy_config

from s2robot.benchmark.output import read_results, write_parquet, write_results
from s2robot.benchmark.stages import _clip
from s2robot.system.machine import MIXED

A = {"renderer": "llvmpipe", "processor": "A", "capability": "AVX2", "threads": 2, "device": "cpu", "engine": "eager"}
B = {**A, "processor": "B"}


def part(first_seed, machine, policy="p" * 64, warnings=()):
    """The results of three episodes; of before machines and policies were recorded where `machine` is None."""
    document = make_results([True, False, True], first_seed=first_seed)
    if machine is not None:
        document["machines"] = [{**machine, "episodes": 3}]
        document["fingerprints"]["policy"] = policy
        document["warnings"], document["notes"] = list(warnings), ["a note"]
        for row in document["episode_results"]:
            row["machine"] = 0
    return document


@pytest.fixture
def joined(tmp_path):
    """Join ranges into one cell; its results, and the rows of the table."""

    def join(*documents):
        (cell,) = make_cells(toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0]))
        write_results(tmp_path, cell, list(documents), [], {})
        parquet = pytest.importorskip("pyarrow.parquet", reason="results.parquet needs pyarrow")
        return read_results(tmp_path, cell), parquet.read_table(write_parquet(tmp_path, [cell])).to_pylist()

    return join


def test_a_cell_run_on_two_machines_names_both_and_every_row_its_own(joined):
    results, rows = joined(part(0, A), part(3, B), part(6, A))
    assert results["machines"] == [{**A, "episodes": 6}, {**B, "episodes": 3}]
    assert [entry["machines"] for entry in results["ranges"]] == [[{**kind, "episodes": 3}] for kind in (A, B, A)]
    (warning,) = results["warnings"]
    assert warning.startswith(MIXED)
    assert [json.loads(row["machine"])["processor"] for row in rows] == [*"AAABBBAAA"]


def test_a_cell_run_on_one_machine_says_so_and_warns_of_nothing(joined):
    results, rows = joined(part(0, A), part(3, A))
    assert results["machines"] == [{**A, "episodes": 6}]
    assert (results["warnings"], results["notes"]) == ([], ["a note"])
    assert results["fingerprints"]["policy"] == "p" * 64
    assert {row["machine"] for row in rows} == {json.dumps(A, sort_keys=True)}


def test_warnings_of_every_range_are_kept_once(joined):
    results, _ = joined(part(0, A, warnings=["x"]), part(3, A, warnings=["x", "y", f"{MIXED}, of another range"]))
    assert results["warnings"] == ["x", "y"]


def test_ranges_of_before_machines_were_recorded_join_the_others(joined):
    results, rows = joined(part(0, None), part(3, B))
    assert results["machines"] == [{**B, "episodes": 3}]
    assert results["warnings"] == []
    assert [row["machine"] and json.loads(row["machine"])["processor"] for row in rows] == [None] * 3 + ["B"] * 3


def test_a_policy_trained_again_between_two_ranges_is_a_warning_and_no_fingerprint(joined):
    results, _ = joined(part(0, A, "1" * 64), part(3, A, "2" * 64))
    (warning,) = results["warnings"]
    assert "run with 2 policies of the same settings (weights 11111111, 22222222)" in warning
    assert "policy" not in results["fingerprints"]
    assert [entry["policy"] for entry in results["ranges"]] == ["1" * 64, "2" * 64]


def test_a_part_of_a_range_names_the_machines_of_that_part():
    document = part(0, A)
    document["machines"] = [{**A, "episodes": 2}, {**B, "episodes": 1}]
    document["episode_results"][2]["machine"] = 1
    assert _clip(document, 0, 3)["machines"] == document["machines"]
    clipped = _clip(document, 2, 3)
    assert clipped["machines"] == [{**B, "episodes": 1}]
    assert [row["machine"] for row in clipped["episode_results"]] == [0]

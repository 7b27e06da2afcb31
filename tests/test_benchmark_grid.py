"""The grid is made once and handed on."""

from collections import Counter, defaultdict

import pytest
from toy_benchmark import collect_toys, empty_report, make_toys, run_toys, toy_config, toy_facts

from s2robot.benchmark import calibrate, describe, make_grid
from s2robot.benchmark import grid as grid_module
from s2robot.benchmark.cells import Cell
from s2robot.benchmark.dry_run import Speeds
from s2robot.cli import main


@pytest.fixture
def made(monkeypatch):
    """How often arms were made, contrasts planned, and cells of training seeds of a benchmark."""
    counts = Counter()

    def counting(name, function):
        def wrapped(*arguments, **settings):
            counts[name] += 1
            return function(*arguments, **settings)

        return wrapped

    for name in ("make_arms", "planned_contrasts", "Grid"):
        monkeypatch.setattr(grid_module, name, counting(name, getattr(grid_module, name)))
    monkeypatch.setattr(Cell, "__init__", counting("Cell", Cell.__init__))
    monkeypatch.setattr("s2robot.benchmark.runner.write_report", empty_report)
    monkeypatch.setattr("s2robot.benchmark.dry_run._calibrate", lambda *_: Speeds(0.0, defaultdict(float)))
    return counts


def once(cells):
    return {"make_arms": 1, "planned_contrasts": 1, "Grid": 1, "Cell": cells}


def test_a_run_makes_the_grid_once(made, tmp_path):
    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0, 1], episodes=2, videos=0)
    run_toys(config)
    assert made == once(cells=2)


def test_a_run_that_is_handed_the_grid_makes_none(made, tmp_path, monkeypatch):
    monkeypatch.setattr("s2robot.cli.cells.collect_demonstrations", collect_toys)
    monkeypatch.setattr("s2robot.cli.cells.make_vector_env", make_toys)
    words = ["backbones=[test_efficientnet]", "scale_sets=[[32],[32,64]]", "size=64", "demonstrations=4", "device=cpu"]
    words += ["encoder.weights=none", "training.epochs=1", "episodes=1", "videos=0", f"output={tmp_path}/out"]
    words += ["policy.action_steps=4", "policy.execute_steps=4"]
    for word in ("dry_run=true", "dry_run=false"):
        made.clear()
        assert main(["benchmark", *words, word]) == 0
        assert made == once(cells=2)


def test_a_dry_run_makes_the_grid_once(made, tmp_path):
    describe(toy_config(tmp_path), toy_facts, 1)
    assert made == once(cells=4)


def test_a_calibration_makes_the_grid_once(made, tmp_path):
    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0], episodes=2)
    calibrate(config, collect_toys, make_toys, 2)
    assert (made["make_arms"], made["Grid"]) == (1, 1)


def test_the_grid_is_not_changed_by_whoever_holds_it(tmp_path):
    grid = make_grid(toy_config(tmp_path))
    for name in ("arms", "cells", "contrasts"):
        assert isinstance(getattr(grid, name), tuple)
        with pytest.raises(AttributeError):
            setattr(grid, name, ())

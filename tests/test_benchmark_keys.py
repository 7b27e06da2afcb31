"""Stores and plans made before are found again: names, keys and `benchmark.json` are those of an earlier version.

`tests/data/benchmark_keys.json` was written by commit 16ed58d. A changed hash means that stores, results and plans of
users are not found any more: change it only together with the version in `s2robot.benchmark.stages`.
"""

import hashlib
import json
import re
from pathlib import Path

import pytest

from s2robot.benchmark import make_grid
from s2robot.benchmark.plan import store_plan
from s2robot.benchmark.sequential import make_races, stopping_rule
from s2robot.benchmark.stages import (
    demonstrations_key,
    outcome_settings,
    rollouts_key,
    training_key,
)
from s2robot.cli.words import compose
from s2robot.config import BenchmarkConfig, SequentialConfig, TrainingConfig
from s2robot.config.benchmark import CONTROLS
from s2robot.policies.bc import BCConfig
from s2robot.report.plan_document import PLAN_FILE

STORED = json.loads((Path(__file__).parent / "data" / "benchmark_keys.json").read_text())
COUNTS = {"successes": 3, "episodes": 10}
BLOCK = {
    "arm": "efficientnet_lite0 {224}, conv",
    "first_seed": 1_000_000,
    "last_seed": 1_000_009,
    "policies": {"bc": {**COUNTS, "settings": "0123456789abcdef"}, "diffusion_unet": COUNTS},
    "date": "2026-01-01",
}
SIDES = {"baseline": {"backbone": "efficientnet_lite0", "scales": [224]}, "treatment": {"variant": "pairs"}}
CONFIGS = {
    "the default grid": {},
    "all controls": {"controls": list(CONTROLS), "scale_sets": [[224], [224, 448], [224, [448, 448]]]},
    "readouts and policies": {
        "readouts": ["conv", {"name": "mean", "width": 32}, {"name": "attention", "label": "pooled"}],
        "policies": [
            "bc",
            {"name": "bc", "label": "wide", "hidden": [512]},
            {"name": "bc_rnn", "training": {"epochs": 7, "loggers": ["tensorboard"]}},
            "bc_transformer",
            "diffusion_unet",
            {"name": "diffusion_transformer", "execute_steps": 4},
            "flow_matching",
        ],
        "controls": ["from_scratch", "upsampled"],
        "training_seeds": [0, 1, 2],
    },
    "a list of arms": {
        "backbones": [],
        "arms": [
            {"name": "base", "encoder": {"scales": [224]}},
            {
                "name": "pairs",
                "encoder": {"scales": [[224, 224], [448, 448]]},
                "readout": {"name": "mean", "width": 64},
            },
            {"name": "own", "policy": {"name": "diffusion_unet", "training": {"epochs": 3}}},
        ],
    },
    "stated contrasts": {
        "arms": [{"name": "pairs", "encoder": {"scales": [[224, 224], [448, 448]]}}],
        "contrasts": [
            {"name": "Pairs", **SIDES},
            {"name": "Scales", "baseline": {"scales": [224], "variant": ""}, "treatment": {"scales": [224, 448]}},
        ],
        "training": TrainingConfig(epochs=5, save_every_steps=7, keep_checkpoints=2),
    },
    "sequential stopping": {
        "sequential": SequentialConfig(batch=5, alpha=0.1),
        "training_seeds": [3, 1],
        "amend": "for no reason",
        "tasks": ["Lift", "Can"],
    },
    "sequential stopping by one contrast": {
        "sequential": SequentialConfig(
            batch=5, contrasts=["Lift: efficientnet_lite1 {224} against efficientnet_lite0 {224}"]
        ),
    },
    "tasks with settings of their own": {
        "tasks": [
            {"task": "Lift", "variant": {"object_scale": 0.6, "clutter": True}, "horizon": 90, "calibration": BLOCK},
            {"task": "Lift", "name": "small", "size": 512, "demonstrations": 7, "cameras": ["frontview"]},
            {"task": "Door", "seed": 2, "noise": 0.3, "render_profile": "full"},
        ],
        "policies": ["bc", "diffusion_unet"],
        "first_seed": 123_456,
        "episodes": 7,
    },
}
EXPERIMENTS = ("size_or_scales", "s2_paper")


def config_of(name: str, output: Path) -> BenchmarkConfig:
    if name in EXPERIMENTS:
        return compose("benchmark", [f"+experiment={name}", f"output={output}"])
    return BenchmarkConfig(output=str(output), **{"policy": BCConfig(), **CONFIGS[name]})


def digest(document) -> str:
    text = document if isinstance(document, str) else json.dumps(document)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def facts_of(config: BenchmarkConfig) -> dict:
    """Hashes of all that a stored benchmark is found by, and of the text of its `benchmark.json` less its dates."""
    grid = make_grid(config)
    cells = grid.cells
    document = store_plan(config, grid).to_json()
    races = make_races(config, grid.contrasts, cells)
    text = (Path(config.output) / PLAN_FILE).read_text()
    # Statements of a calibration name the day on which the plan is written; the hashes are of this day.
    text = re.sub(r"written down, \d{4}-\d\d-\d\d", "written down, 2026-11-28", text)
    stopping = {"stopping": digest(stopping_rule(config, races, []).to_json())} if races else {}
    return {
        "cells": len(cells),
        "names": digest([cell.name for cell in cells]),
        "demonstrations": digest([demonstrations_key(cell.task) for cell in cells]),
        "training": digest([training_key(cell) for cell in cells]),
        "rollouts": digest([rollouts_key(cell) for cell in cells]),
        "outcomes": digest([outcome_settings(cell) for cell in cells]),
        "contrasts": digest(document["contrasts"]),
        PLAN_FILE: digest(re.sub(r'"planned": ".*?"', '"planned": ""', re.sub(r"\d{4}-\d\d-\d\dT[\d:+]*", "", text))),
        **stopping,
    }


@pytest.mark.parametrize("name", [*CONFIGS, *EXPERIMENTS])
def test_what_a_benchmark_is_found_by_is_what_it_was(name, tmp_path):
    assert facts_of(config_of(name, tmp_path)) == STORED[name]


def test_every_stored_benchmark_is_looked_at():
    assert STORED.keys() == {*CONFIGS, *EXPERIMENTS}

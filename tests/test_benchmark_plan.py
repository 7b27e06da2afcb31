"""What a benchmark refuses before it runs, and which contrasts it plans."""

from collections import defaultdict

import pytest
from test_benchmark import grid
from toy_benchmark import planned_contrasts, toy_facts

from s2robot.benchmark import describe, make_grid
from s2robot.benchmark.arms import make_arms
from s2robot.benchmark.dry_run import Speeds
from s2robot.benchmark.plan import store_plan
from s2robot.cli import main
from s2robot.config import EncoderConfig
from s2robot.config.checks import build
from s2robot.interfaces import ConfigError


def contrast(baseline, treatment, name="a"):
    return {"name": name, "baseline": baseline, "treatment": treatment}


def sides(config):
    """Treatment and baseline of each contrast, by all that can tell their arms apart."""
    keys = ("backbone", "scales", "readout", "policy", "variant")
    both = [(entry.treatment, entry.baseline) for entry in planned_contrasts(config)]
    return [[tuple(side[key] for key in keys) for side in pair] for pair in both]


SMALL, LARGE = {"scales": [224]}, {"scales": [224, 448]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training_seeds": [0, 0, 1]}, "training_seeds=.* distinct seeds"),
        (
            {"backbones": ["test_vit"], "scale_sets": []},
            r"scale_sets=\[\] is not possible; valid: a list with at least",
        ),
        ({"videos": -1}, "videos=-1 is not possible; valid: 0 or more"),
        ({"num_envs": -2}, "num_envs=-2 is not possible; valid: 1 or more"),
        ({"retries": -1}, "retries=-1 is not possible; valid: 0 or more"),
        ({"size": -4}, "size=-4 is not possible; valid: 16 or more"),
        ({"tasks": [{"task": "Lift", "size": -4}]}, "tasks.size=-4 is not possible; valid: 16 pixels or more"),
        ({"tasks": [{"task": "Lift", "noise": -1}]}, "tasks.noise=-1 is not possible"),
        ({"tasks": [{"variant": {}}]}, "tasks.task='\\?\\?\\?' is not possible; valid: the name of a task"),
    ],
)
def test_impossible_numbers_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        grid(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": [{"task": "Lift", "demonstrations": "12"}]}, "task setting demonstrations='12' .* integer or null"),
        ({"tasks": [{"task": "Lift", "cameras": "agentview"}]}, "cameras='agentview' .* list of strings or null"),
        ({"tasks": [{"task": "Lift", "calibration": {"date": "today"}}]}, "calibration of 'Lift'=.* first_seed"),
        ({"policies": [{"name": "bc", "training": {"epochs": "5"}}]}, "training setting epochs='5' .* valid: integer"),
        ({"policies": [{"name": "bc", "training": None}]}, "policies setting training=None .* valid: mapping"),
        ({"policies": [{"name": "bc", "low_noise": 1}]}, "policy bc setting low_noise=1 .* valid: true or false"),
        ({"readouts": [{"name": ["conv"]}]}, "readouts setting name=.* valid: string"),
        ({"arms": [{"name": "a", "encoder": {"scales": 224}}]}, "encoder setting scales=224 .* valid: list"),
        ({"arms": [{"name": "a", "encoder": None}]}, "arms setting encoder=None .* valid: mapping"),
        ({"arms": [{"name": 3}]}, "arms setting name=3 .* valid: string"),
        ({"arms": [{"name": "a", "policy": {"name": "bc", "label": 3}}]}, "arms.policy setting label=3 .* string"),
        ({"contrasts": [contrast(None, {})]}, "contrasts setting baseline=None .* valid: mapping"),
    ],
)
def test_wrong_types_within_mappings_are_one_clear_error(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config = grid(output=str(tmp_path), **changes)
        store_plan(config, make_grid(config))


def test_a_wrong_type_is_the_users_error_to_the_command_line_too(capsys):
    assert main(["benchmark", "tasks=[{task: Lift, demonstrations: '12'}]", "dry_run=true"]) == 2
    assert "error: task setting demonstrations='12'" in capsys.readouterr().err


def test_types_are_checked_and_not_converted():
    """Cells are named by a hash of their settings: 1 must not become 1.0."""
    encoder = build(EncoderConfig, {"scales": (112, [224, 448]), "tile": None}, "encoder")
    assert encoder.scales == (112, [224, 448])
    (arm,) = make_arms(grid(backbones=["a"], scale_sets=[[224]], policies=[{"name": "bc", "dropout": 0}]))
    assert isinstance(arm.policy.config.dropout, int)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        (contrast({"variant": ""} | SMALL, {"variant": "upsampeld"}), "treatment selects nothing: unknown variant 'up"),
        (contrast(SMALL | {"task": "Lift"}, LARGE | {"task": "Door"}), "unknown task 'Door'. Choices: Lift"),
        (contrast(SMALL, LARGE | {"variant": "two"}), "'two' of the list is run as efficientnet_lite0 {224, 448}, wh"),
        (contrast({"variant": ""}, {"variant": "upsampled"} | SMALL), "nothing: no arm has all of"),
        (
            contrast({"backbone": "efficientnet_lite0", **SMALL}, LARGE | {"variant": "listed"}),
            "They differ in readout",
        ),
        (contrast(SMALL, SMALL), "compares nothing: its baseline selects Lift · bc · efficientnet_lite0 .224. · conv"),
    ],
)
def test_a_stated_contrast_that_compares_no_arms_is_refused_before_anything_runs(stated, message, tmp_path):
    listed = [
        {"name": "two", "encoder": LARGE},
        {"name": "listed", "encoder": LARGE, "readout": "mean"},
    ]
    config = grid(
        output=str(tmp_path / "out"),
        backbones=["efficientnet_lite0"],
        controls=["upsampled"],
        arms=listed,
        contrasts=[stated],
    )
    with pytest.raises(ConfigError, match=message):
        store_plan(config, make_grid(config))
    with pytest.raises(ConfigError, match=message):
        describe(config, toy_facts, 1)
    assert not (tmp_path / "out" / "benchmark.json").exists()


def test_contrasts_of_one_name_are_refused():
    tasks = ["Lift", "Can"]
    stated = [contrast({"task": task} | SMALL, {"task": task} | LARGE, "More scales") for task in tasks]
    with pytest.raises(ConfigError, match="'More scales', 'More scales'.* their own name"):
        planned_contrasts(grid(tasks=tasks, contrasts=stated))


def test_derived_contrasts_have_a_name_each():
    config = grid(
        backbones=["efficientnet_lite0"],
        readouts=[{"name": "conv", "channels": 64}, "mean"],
        controls=["from_scratch"],
        arms=[{"name": "x", "encoder": LARGE | {"antialias": True}, "readout": name} for name in ("mean", "attention")],
    )
    names = [entry.name for entry in planned_contrasts(config)]
    assert names[0] == "Lift: efficientnet_lite0 {224, 448} against efficientnet_lite0 {224} (conv)"
    assert "Lift: efficientnet_lite0 {224, 448} against pixels {224} from scratch (mean against resnet18)" in names
    assert len(set(names)) == len(names) == 6


def test_one_arm_from_scratch_serves_all_readouts():
    config = grid(controls=["from_scratch"], readouts=[{"name": "conv", "channels": 64}, "mean"])
    pixels = [arm for arm in make_arms(config) if arm.encoder.backbone == "pixels"]
    assert [(arm.readout.label, arm.readout.config.channels) for arm in pixels] == [("resnet18", 64)]


def test_an_arm_with_a_policy_of_its_own_is_held_against_the_base_arm():
    own = {"name": "own", "policy": "diffusion_unet"}
    config = grid(backbones=["efficientnet_lite0"], scale_sets=[[224]], arms=[own])
    (entry,) = planned_contrasts(config)
    assert entry.name.endswith(
        "efficientnet_lite0 {224} own against efficientnet_lite0 {224} (diffusion_unet against bc)"
    )
    config = grid(
        backbones=["efficientnet_lite0"],
        scale_sets=[[224]],
        policies=["bc", "diffusion_unet"],
        arms=[{"name": "longer", "policy": {"name": "diffusion_unet", "action_steps": 32}}],
    )
    (pair,) = sides(config)
    assert [policy for *_, policy, _ in pair] == ["diffusion_unet", "diffusion_unet"]
    assert [variant for *_, variant in pair] == ["longer", ""]


def test_an_arm_of_the_list_changes_the_base_arm_and_nothing_else():
    config = grid(
        backbones=["efficientnet_lite1", "efficientnet_lite0"],
        scale_sets=[[112, 224], [224]],
        arms=[{"name": "sharp", "encoder": {"antialias": True}}],
    )
    *_, listed = make_arms(config)
    assert (listed.encoder.backbone, listed.encoder.scales) == ("efficientnet_lite1", [112, 224])
    assert sides(config)[-1] == [
        ("efficientnet_lite1", (112, 224), "conv", "bc", "sharp"),
        ("efficientnet_lite1", (112, 224), "conv", "bc", ""),
    ]


def test_a_dry_run_counts_the_comparisons_that_holm_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("s2robot.benchmark.dry_run._calibrate", lambda *_: Speeds(0.0, defaultdict(float)))
    stated = {"contrasts": [contrast(SMALL, LARGE)], "policies": ["bc", "diffusion_unet"], "tasks": ["Lift", "Stack"]}
    config = grid(output=str(tmp_path), backbones=["test_efficientnet"], training_seeds=[0, 1], **stated)
    text = describe(config, toy_facts, 1)
    assert "\n1 planned contrasts, 4 comparisons (Holm's correction is for as many):\n  a\n" in text


def test_pixels_are_not_encoded_and_say_nothing_of_what_encoding_takes(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr("s2robot.benchmark.dry_run._seconds_per_step", lambda *_: 0.0)
    monkeypatch.setattr(
        "s2robot.benchmark.dry_run._seconds_per_frame", lambda encoder, _: timed.append(encoder.backbone) or 1e-3
    )
    changes = {"backbones": ["vit_small"], "scale_sets": [[224], [224, 448]], "encoder": EncoderConfig(weights="none")}
    texts = [describe(grid(output=str(tmp_path), controls=c, **changes), toy_facts, 1) for c in ([], ["from_scratch"])]
    encoding = [text.split("encoding ")[1].split(",")[0] for text in texts]
    assert timed == ["vit_small"] * 2
    assert encoding[0] == encoding[1]

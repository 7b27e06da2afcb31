"""The grid, its controls and contrasts, the dry run, sequential stopping and calibration."""

import hashlib
import itertools
import json
from dataclasses import asdict, replace

import pytest
from report_results import make_results, write_results
from toy_benchmark import (
    collect_toys,
    make_cells,
    make_toys,
    planned_contrasts,
    run_toys,
    toy_config,
    toy_facts,
)

from s2robot.benchmark import calibrate, describe
from s2robot.benchmark.arms import make_arms
from s2robot.benchmark.calibration import blocks_text, calibration_statements
from s2robot.benchmark.cells import encoder_settings, weights_digest
from s2robot.benchmark.controls import encoder_cost
from s2robot.benchmark.dry_run import power_sentence
from s2robot.benchmark.films import choose_films
from s2robot.benchmark.sequential import is_decided, make_races, next_episodes, stopping_rule
from s2robot.benchmark.stages import demonstrations_key, rollouts_key, training_key
from s2robot.config import CALIBRATION_SEED, BenchmarkConfig, EncoderConfig, ReadoutConfig, TrainingConfig
from s2robot.config.benchmark import CONTROLS
from s2robot.encoder import S2Encoder
from s2robot.interfaces import ConfigError, WeightsError
from s2robot.policies.bc import BCConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.report.contrasts import compare_all
from s2robot.report.load import load_arms
from s2robot.report.plan import load_plan
from s2robot.report.plan_document import PlanDocument, selector_json


def grid(**changes) -> BenchmarkConfig:
    """Two EfficientNets × two scale sets, described and not run."""
    return replace(BenchmarkConfig(output="unused", policy=BCConfig()), **changes)


def planned_arm(setting):
    """An arm's settings as `results.json` has them."""
    return selector_json({key: value for key, value in asdict(setting).items() if key not in ("encoder", "mark")})


def statements(config, planned=None):
    return calibration_statements(config, make_arms(config), planned)


def labels(config):
    return [arm.label for arm in make_arms(config)]


def test_the_grid_is_the_product_of_its_factors():
    config = grid(
        tasks=["Lift", {"task": "Lift", "variant": {"object_scale": 0.6}}],
        readouts=["conv", "mean"],
        policies=["bc", {"name": "diffusion_unet", "down_dims": [64], "training": {"learning_rate": 3e-4}}],
        training_seeds=[0, 1, 2],
    )
    cells = make_cells(config)
    assert len(cells) == 2 * 2 * 2 * 2 * 2 * 3
    assert len({cell.name for cell in cells}) == len(cells)
    diffusion = next(cell.arm.policy for cell in cells if cell.arm.policy.label == "diffusion_unet")
    assert isinstance(diffusion.config, DiffusionUNetConfig)
    assert diffusion.config.down_dims == [64]
    assert (diffusion.training.learning_rate, diffusion.training.epochs) == (3e-4, config.training.epochs)
    encoders = [cell.arm.encoder_key for cell in cells]
    assert len(list(itertools.groupby(encoders))) == 2 * 4  # cells that share an encoder are neighbours


def test_every_control_takes_one_thing_away():
    config = grid(backbones=["efficientnet_lite0"], scale_sets=[[224, 448]], controls=list(CONTROLS))
    arms = {arm.variant or arm.label: arm for arm in make_arms(config)}
    assert list(arms) == [
        "efficientnet_lite0 {224, 448}",
        "efficientnet_lite0 {224}",
        "channels ×2",
        "upsampled",
        "whole image",
        "compute-matched",
        "from scratch",
    ]
    full = encoder_cost(arms["efficientnet_lite0 {224, 448}"].encoder)
    costs = {name: encoder_cost(arm.encoder) for name, arm in arms.items()}
    assert costs["channels ×2"].feature_width == full.feature_width
    assert costs["channels ×2"].gmacs == costs["efficientnet_lite0 {224}"].gmacs
    assert costs["upsampled"].gmacs == full.gmacs
    assert costs["whole image"].tiles == 1
    assert arms["compute-matched"].encoder.backbone == "efficientnet_lite2"  # 0.8 GMACs, the nearest of its family
    assert (arms["from scratch"].encoder.backbone, arms["from scratch"].readout.label) == ("pixels", "resnet18")
    assert {arm.readout.config.width for arm in arms.values()} == {config.readout.width}
    contrasts = planned_contrasts(config)
    assert len(contrasts) == 6
    assert all(contrast.treatment["scales"] == (224, 448) for contrast in contrasts)
    assert {contrast.baseline["variant"] for contrast in contrasts} == {"", *list(arms)[2:]}


def test_costs_from_shapes_are_those_of_the_encoder_itself():
    for scales in ([32], [32, 64]):
        config = EncoderConfig(backbone="test_vit", scales=scales, weights="none", channels_last=True)
        assert encoder_cost(config) == S2Encoder(**asdict(config)).cost()


def test_an_arm_that_the_grid_holds_already_is_not_run_twice():
    config = grid(scale_sets=[[224], [224, 448]], controls=["single_scale", "larger_backbone"])
    assert labels(config) == [
        "efficientnet_lite0 {224}",
        "efficientnet_lite0 {224, 448}",
        "efficientnet_lite1 {224}",
        "efficientnet_lite1 {224, 448}",
        "efficientnet_lite2 {224} compute-matched",
    ]


def test_derived_contrasts_are_more_scales_and_a_larger_backbone():
    names = [contrast.name for contrast in planned_contrasts(grid())]
    assert names == [
        "Lift: efficientnet_lite0 {224, 448} against efficientnet_lite0 {224}",
        "Lift: efficientnet_lite1 {224} against efficientnet_lite0 {224}",
        "Lift: efficientnet_lite1 {224, 448} against efficientnet_lite1 {224}",
    ]


def test_listed_arms_and_stated_contrasts():
    config = grid(
        backbones=[],
        arms=[
            {"name": "base", "encoder": {"scales": [224]}},
            {"name": "wide", "encoder": {"scales": [[224, 224], [448, 448]]}, "readout": {"name": "mean", "width": 64}},
        ],
        contrasts=[
            {
                "name": "wide?",
                "baseline": {"variant": "base", "scales": [224], "readout": "conv"},
                "treatment": {"variant": "wide", "scales": [[224, 224], [448, 448]], "readout": "mean"},
            }
        ],
    )
    assert labels(config) == ["efficientnet_lite0 {224} base", "efficientnet_lite0 {224×224, 448×448} wide"]
    assert make_arms(config)[1].readout.config.width == 64
    assert [contrast.to_json() for contrast in planned_contrasts(config)] == config.contrasts
    (derived,) = planned_contrasts(replace(config, contrasts=[]))
    assert (derived.baseline["variant"], derived.treatment["variant"]) == ("base", "wide")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"controls": ["upsamled"]}, "unknown control 'upsamled'; did you mean 'upsampled'"),
        ({"tasks": [{"task": "Lift", "sise": 3}]}, "unknown task setting 'sise'; did you mean 'size'"),
        ({"tasks": ["Lift", {"task": "Lift", "demonstrations": 9}]}, "give tasks with equal labels a name"),
        ({"first_seed": 7}, "first_seed=7 is not possible; valid: 100000"),
        ({"first_seed": CALIBRATION_SEED}, "lower seeds are for collection, higher for calibration"),
        ({"training_seeds": [CALIBRATION_SEED]}, "higher seeds are for calibration"),
        ({"engine": "dask"}, "unknown engine of the benchmark 'dask'. Choices: local, ray"),
    ],
)
def test_impossible_settings_are_one_clear_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        grid(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"size": 224},
            "size of task 'Lift'=224 is not possible; valid: 448 or more, for efficientnet_lite0 {224, 448}",
        ),
        ({"policies": ["bcc"]}, "unknown policy 'bcc'; did you mean 'bc'"),
        ({"arms": [{"name": "a", "encodr": {}}]}, "unknown key of an arm 'encodr'; did you mean 'encoder'"),
        (
            {"arms": [{"name": "a", "encoder": {"scale": [1]}}]},
            "unknown encoder setting 'scale'; did you mean 'scales'",
        ),
        ({"contrasts": [{"name": "a", "baseline": {"x": 1}, "treatment": {}}]}, "unknown setting in a contrast's base"),
        ({"backbones": ["mvp_large"], "controls": ["larger_backbone"]}, "no named backbone of the family 'MVP"),
    ],
)
def test_impossible_grids_are_one_clear_error(changes, message):
    with pytest.raises(ConfigError, match=message):
        planned_contrasts(grid(**changes))


def stage_keys(**changes):
    """Names of the demonstrations, the training and the rollouts of the grid's first cell."""
    cell = make_cells(grid(**changes))[0]
    return demonstrations_key(cell.task), training_key(cell), rollouts_key(cell)


@pytest.mark.parametrize(
    "changes",
    [
        {"episodes": 9},
        {"first_seed": 100_009},
        {"device": "cpu"},
        {"controls": ["upsampled"]},
        {"tasks": [{"task": "Lift", "name": "lifting", "calibration": {"block": 1}}]},
    ],
)
def test_cells_that_need_the_same_share_every_stage(changes):
    assert stage_keys(**changes) == stage_keys()


@pytest.mark.parametrize(
    ("changes", "shares_demonstrations"),
    [
        ({"demonstrations": 9}, False),
        ({"size": 512}, False),
        ({"cameras": ["frontview"]}, False),
        ({"tasks": ["Door"]}, False),
        *(
            ({"tasks": [{"task": "Lift", **setting}]}, False)
            for setting in (
                {"variant": {"object_scale": 0.6}},
                {"horizon": 9},
                {"seed": 1},
                {"noise": 0.2},
                {"render_profile": "full"},
            )
        ),
        ({"backbones": ["efficientnet_lite1"]}, True),
        ({"scale_sets": [[224, 448]]}, True),
        ({"encoder": EncoderConfig(antialias=True)}, True),
        ({"encoder": EncoderConfig(engine="openvino")}, True),
        ({"readout": ReadoutConfig(name="mean")}, True),
        ({"readout": ReadoutConfig(width=64)}, True),
        ({"policy": BCConfig(execute_steps=1)}, True),
        ({"policy": DiffusionUNetConfig()}, True),
        ({"training": TrainingConfig(learning_rate=3e-4)}, True),
        ({"training_seeds": [1]}, True),
    ],
)
def test_whatever_an_episode_depends_on_makes_another_training_and_other_rollouts(changes, shares_demonstrations):
    (demonstrations, *others), (base_demonstrations, *base) = stage_keys(**changes), stage_keys()
    assert (demonstrations == base_demonstrations) == shares_demonstrations
    assert not set(others) & set(base)


def test_the_dry_run_says_what_would_be_run_and_runs_nothing(tmp_path):
    config = toy_config(tmp_path / "none", controls=["channel_duplicated"], episodes=200, training_seeds=[0, 1, 2])
    text = describe(config, toy_facts, 2)
    assert "9 cells, 9 of them to run" in text
    assert all(cell.name in text for cell in make_cells(config))
    assert "200 rollouts × 3 seeds tell 80% from 94% apart with 80% power" in text
    assert "estimated time" in text
    assert "measured now" in text
    assert "disk: demonstrations" in text
    assert "Lift: not calibrated" in text
    assert not (tmp_path / "none").exists()


def test_the_detectable_difference_shrinks_with_episodes():
    assert power_sentence(20, 1, 0.5) == "20 rollouts × 1 seed tell 50% from 96% apart with 80% power"
    assert "apart from no higher rate" in power_sentence(10, 1, 0.8)


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """Output of the toy's two arms, run two episodes at a time."""
    output = tmp_path_factory.mktemp("raced")
    config = toy_config(output, training_seeds=[0], episodes=4, videos=0)
    config.sequential.batch = 2
    run_toys(config)
    return output


@pytest.fixture
def fake_results(tmp_path):
    """Write outcomes of a cell as the runner would."""

    def write(cell, outcomes):
        folder = tmp_path / "cells" / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        rows = [{"seed": 100_000 + i, "success": bool(o), "steps": 1, "error": None} for i, o in enumerate(outcomes)]
        (folder / "results.json").write_text(json.dumps({"episode_results": rows}))

    return write


def test_sequential_stopping_adds_batches_until_decided_or_spent(tmp_path, fake_results):
    config = grid(output=str(tmp_path), backbones=["efficientnet_lite0"], episodes=100)
    config.sequential.batch = 20
    base, treated = cells = make_cells(config)
    races = make_races(config, planned_contrasts(config), cells)

    def targets():
        return list(next_episodes(config, tmp_path, races, cells).values())

    assert targets() == [20, 20]
    fake_results(base, [0] * 20)
    assert targets() == [20, 20]  # the other arm is behind
    fake_results(treated, [0, 1] * 10)
    assert targets() == [20, 20]  # decided: ten states for the treatment, none against
    fake_results(treated, [0, 0, 0, 1] * 5)
    assert targets() == [40, 40]
    for cell in cells:
        fake_results(cell, [0, 1] * 50)
    assert targets() == [100, 100]  # spent


def test_what_decides_a_race_alone_does_not_decide_it_among_three(tmp_path, fake_results):
    config = grid(output=str(tmp_path), episodes=200)
    config.sequential.batch = 100
    cells = make_cells(config)
    races = make_races(config, planned_contrasts(config), cells)
    assert len(races) == 3
    race = races[0]
    for cell, wins in zip(race.cells, (0, 8), strict=True):
        fake_results(cell, [1] * wins + [0] * (100 - wins))
    assert is_decided(config, tmp_path, [race], race)  # the mixture's p is 9/256
    assert not is_decided(config, tmp_path, races, race)


def test_a_sequential_benchmark_stops_early_and_its_report_says_so(raced):
    document = json.loads((raced / "benchmark.json").read_text())
    assert document["sequential"]["decided"] == []  # four states decide nothing
    assert document["sequential"]["contrasts"] == [contrast["name"] for contrast in document["contrasts"]]
    assert len(list(raced.glob("rollouts/*/*-*/results.json"))) == 2 * 2  # cells × batches
    text = (raced / "report" / "report.md").read_text()
    assert "Sequential stopping: rollouts were added 2 at a time" in text
    assert "sequential stopping</span>" in (raced / "report" / "report.html").read_text()


def test_what_decides_a_race_is_what_the_report_calls_a_difference(tmp_path):
    config = grid(output=str(tmp_path), backbones=["efficientnet_lite0"], training_seeds=[0, 1, 2], episodes=200)
    config.sequential.batch = 20
    config.training_seeds.reverse()  # their order must not matter
    cells = make_cells(config)
    (race,) = races = make_races(config, planned_contrasts(config), cells)
    none, all_ = [False] * 100, [True] * 100
    differs = [none] * 3, [all_] * 3
    differs_for_these_policies = [none, none, all_], [all_, all_, none]  # training again may turn it around
    does_not = [[False, True] * 50] * 3, [[False, True] * 50] * 3
    found = []
    for sides in (differs, differs_for_these_policies, does_not):
        for cell, outcomes in zip(race.cells, itertools.chain(*sides), strict=True):
            results = make_results(outcomes, **planned_arm(cell.setting), training_seed=cell.training_seed)
            write_results(tmp_path / "cells" / cell.name, results)
        settings = tuple(cell.setting for cell in cells)
        document = PlanDocument(contrasts=(race.contrast,), arms=settings, sequential=stopping_rule(config, races, []))
        (tmp_path / "benchmark.json").write_text(json.dumps(document.to_json()))
        (contrast,) = compare_all(load_arms([tmp_path]), load_plan([tmp_path])).contrasts
        decided = is_decided(config, tmp_path, races, race)
        assert decided == (contrast.verdict != "no difference shown")
        found.append(decided)
    assert found == [True, False, False]


def test_weights_that_were_overwritten_make_another_cell(tmp_path):
    file = tmp_path / "mine.safetensors"
    config = grid(output=str(tmp_path), encoder=EncoderConfig(weights=str(file)), training_seeds=[0])
    names = []
    for content in (b"one", b"another", b"one"):
        file.write_bytes(content)
        weights_digest.cache_clear()  # as a new process has it
        (cell, *_) = make_cells(config)
        names.append((cell.name, training_key(cell)))
    assert names[0] == names[2] != names[1]
    (tmp_path / "README.txt").write_text("a folder holds more than weights")
    file.rename(tmp_path / "efficientnet_lite0.safetensors")
    weights_digest.cache_clear()
    (cell, *_) = make_cells(replace(config, encoder=EncoderConfig(weights=str(tmp_path))))
    assert encoder_settings(cell.arm.encoder)["weights_sha256"] == hashlib.sha256(b"one").hexdigest()
    weights_digest.cache_clear()
    with pytest.raises(WeightsError, match="mine.safetensors does not exist"):
        run_toys(config)
    assert not (tmp_path / "benchmark.json").exists()


def test_films_are_of_states_that_divide_the_arms_of_a_contrast(tmp_path, fake_results):
    config = grid(output=str(tmp_path), backbones=["efficientnet_lite0"], training_seeds=[0, 1])
    cells = make_cells(config)
    for cell, outcomes in zip(cells, ([0, 1, 1, 0], [1] * 4, [1, 1, 0, 0], [1] * 4), strict=True):
        fake_results(cell, outcomes)
    contrasts = planned_contrasts(config)
    films = choose_films(replace(config, videos=3), tmp_path, contrasts, cells)
    assert films == {cells[0].name: [100_000, 100_002, 100_003], cells[2].name: [100_000, 100_002, 100_003]}
    assert choose_films(replace(config, videos=1), tmp_path, contrasts, cells)[cells[0].name] == [100_000]


def test_calibration_runs_the_base_arm_alone_on_seeds_of_its_own(tmp_path):
    task = {"task": "Lift", "variant": {"contrast": 0.5}}
    config = toy_config(tmp_path, tasks=[task], episodes=4)
    (block,) = calibrate(config, collect_toys, make_toys, 2)
    assert config.first_seed == 100_000  # the caller's settings stay
    results = [json.loads(path.read_text()) for path in tmp_path.glob("rollouts/*/*/results.json")]
    assert [(result["scales"], result["training_seed"]) for result in results] == [([32], CALIBRATION_SEED)]
    assert [row["seed"] for row in results[0]["episode_results"]] == list(range(CALIBRATION_SEED, CALIBRATION_SEED + 4))
    assert results[0]["environment"]["variant"] == {"contrast": 0.5}  # it reached collection and rollouts
    assert block["policies"]["bc"]["episodes"] == 4
    assert "30% to 80%" in blocks_text(config, [block])

    (frozen,) = statements(replace(config, tasks=[{**task, "calibration": block}]))
    solved = block["policies"]["bc"]["successes"]
    where = "calibrated on seeds 1000000 to 1000003 with test_efficientnet {32}, mean alone"
    assert f"{where} (bc {solved} of 4 solved)" in frozen
    assert "are others" not in frozen
    dated = replace(config, tasks=[{**task, "calibration": {**block, "date": "2026-05-05"}}])
    for planned, order in (("2026-05-05T10:00:00", "not later than"), ("2026-05-04T23:00:00", "LATER than")):
        assert f"{order} the day its contrasts were written down" in statements(dated, planned)[0]
    (changed,) = statements(replace(config, demonstrations=9, tasks=[{**task, "calibration": block}]))
    assert "The settings of now are others than those calibrated, for bc" in changed


def test_a_report_of_the_toy_reads_the_cells_and_not_the_stages(raced):
    page = (raced / "report" / "report.html").read_text()
    assert "2 cells in 2 arms" in " ".join(page.split())
    assert all(path.stat().st_size > 0 for path in (raced / "report").iterdir())

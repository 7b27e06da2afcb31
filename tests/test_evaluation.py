import json
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from rollout_toys import CAMERAS, PROPRIOCEPTION, SIZE, make_checkpoint, write_checkpoint
from vectors import InProcess

import s2robot_envs
from s2robot.checkpoint import save_checkpoint
from s2robot.cli import main
from s2robot.config import EvaluateConfig
from s2robot.evaluation import EpisodeLog, evaluate
from s2robot.evaluation.results import _variant
from s2robot.evaluation.videos import choose_seeds, compare, write_video
from s2robot.interfaces import ConfigError
from s2robot.rollout import EpisodeFilm, EpisodeResult, Times
from s2robot.system.machine import MIXED

VIDEO = {"path": "videos/seed7_success.mp4", "seed": 7, "success": True}


def add(log, seed, success, steps, seconds=1.0):
    log.add(EpisodeResult(seed, success, steps, latency_ms=5.0), Times([0.1], [0.2], 0.5), seconds)


def test_finished_episodes_are_there_after_a_restart(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    add(log, 8, False, 150, 3.0)
    add(log, 7, True, 33, 4.0)
    log.add(EpisodeResult(6, False, 12, error="died"), Times(), 4.5)
    log.add_video(7, VIDEO, None, 5.0)
    log.add_video(8, None, "seed 8 could not be filmed", 5.0)
    again = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    assert again.episodes == {
        6: EpisodeResult(6, False, 12, error="died"),
        7: EpisodeResult(7, True, 33),
        8: EpisodeResult(8, False, 150),
    }
    assert again.episodes[7].latency_ms == 5.0
    assert again.videos == [VIDEO]
    assert again.warnings == {8: "seed 8 could not be filmed"}
    assert again.filmed() == set()  # the video was deleted
    (tmp_path / "videos").mkdir()
    (tmp_path / VIDEO["path"]).touch()
    assert again.filmed() == {7}
    again.add_video(8, {**VIDEO, "seed": 8}, None, 6.0)
    assert again.warnings == {}
    assert again.missing(range(5, 10)) == [5, 6, 9]
    assert again.times == Times([0.1, 0.1], [0.2, 0.2], 1.0)
    add(again, 9, True, 30, 2.0)
    assert again.seconds == 7.0  # both sessions


def test_line_cut_short_by_a_kill_costs_only_its_own_episode(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    for seed in (1, 2):
        add(log, seed, True, 30)
    log.path.write_text(log.path.read_text()[:-20])
    again = EpisodeLog(log.path, "a")
    assert list(again.episodes) == [1]
    add(again, 2, True, 30)
    assert list(EpisodeLog(log.path, "a").episodes) == [1, 2]


def test_episodes_of_another_evaluation_are_not_counted(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    add(log, 1, True, 30)
    assert EpisodeLog(log.path, "b").episodes == {}
    assert EpisodeLog(log.path, "b").seconds == 0


def test_episodes_of_another_evaluation_are_kept_beside_the_new_ones(tmp_path, capsys):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a")
    add(log, 1, True, 30)
    former = log.path.read_bytes()
    EpisodeLog(log.path, "b")
    assert "the output has results of another evaluation; its episodes are kept in" in capsys.readouterr().err
    EpisodeLog(log.path, "c")  # b had none to keep
    assert (tmp_path / "episodes.jsonl.old").read_bytes() == former
    assert capsys.readouterr().err == ""


HERE = {"processor": "A", "capability": "AVX2", "threads": 2, "device": "cpu", "engine": "eager"}
THERE = {**HERE, "processor": "B"}


def test_a_log_says_which_machine_ran_each_episode_and_not_which_reads_it(tmp_path):
    log = EpisodeLog(tmp_path / "episodes.jsonl", "a", HERE)
    log.add(EpisodeResult(1, True, 30, renderer="llvmpipe"), Times(), 1.0)
    log.add(EpisodeResult(2, False, 0, error="died"), Times(), 1.0)
    again = EpisodeLog(log.path, "a", THERE)
    assert again.machines == {1: {"renderer": "llvmpipe", **HERE}}
    assert again.moved([1]) == "processor B, was A"
    assert again.moved([2, 3]) == ""
    assert EpisodeLog(log.path, "a", HERE).moved([1]) == ""


def test_a_log_of_before_machines_were_recorded_is_read_and_says_nothing_of_them(tmp_path):
    path = tmp_path / "episodes.jsonl"
    episode = {"seed": 1, "success": True, "steps": 30, "error": None, "latency_ms": 5.0}
    times = {"encode": [], "policy": [], "simulate": 0.0}
    lines = [{"evaluation": "a"}, {"episode": episode, "times": times, "seconds": 1.0}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    log = EpisodeLog(path, "a", HERE)
    assert log.episodes == {1: EpisodeResult(1, True, 30)}
    assert (log.machines, log.moved([1])) == ({}, "")


@pytest.mark.parametrize(
    ("outcomes", "count", "expected"),
    [
        ("ssfsff", 4, [0, 1, 2, 4]),
        ("ssfsff", 3, [0, 1, 2]),
        ("ssfsff", 1, [0]),
        ("ffff", 1, [0]),
        ("ssss", 2, [0, 1]),
        ("sfffff", 4, [0, 1, 2, 3]),
        ("esefes", 4, [1, 3, 5]),
        ("eee", 2, []),
        ("sf", 0, []),
        ("sf", 9, [0, 1]),
    ],
)
def test_first_successes_and_failures_are_filmed_and_errors_are_not(outcomes, count, expected):
    episodes = [
        EpisodeResult(seed, kind == "s", 10, error="died" if kind == "e" else None)
        for seed, kind in enumerate(outcomes)
    ]
    assert choose_seeds(episodes[::-1], count) == expected


def test_filmed_episode_that_went_another_way_is_a_warning():
    counted = EpisodeResult(3, True, 30, latency_ms=5.0)
    assert compare(counted, EpisodeResult(3, True, 30, latency_ms=9.0)) is None
    warning = compare(counted, EpisodeResult(3, False, 150))
    assert "ended in failure after 150 steps; the counted episode ended in success after 30 steps" in warning
    assert compare(counted, EpisodeResult(3, True, 31)) is not None
    assert "could not be filmed: died" in compare(counted, EpisodeResult(3, False, 4, error="died"))


def test_video_is_named_by_its_seed_and_outcome(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    assert write_video(tmp_path, EpisodeFilm(7, True, frames)) == VIDEO
    assert (tmp_path / VIDEO["path"]).stat().st_size > 0


def test_times_give_the_median_the_tail_and_the_shares():
    times = Times([0.001] * 19 + [0.002], [0.003] * 20, simulate=0.019)
    summary = times.summary()
    assert json.loads(json.dumps(summary)) == summary
    assert (summary["calls"], summary["median_ms"]) == (20, 4.0)
    assert 4.0 < summary["p95_ms"] < 5.0
    assert (summary["encode_share"], summary["policy_share"], summary["simulate_share"]) == (0.21, 0.6, 0.19)
    assert times.drain().encode[-1] == 0.002
    assert times == Times()
    assert times.summary() is None


@pytest.mark.parametrize(
    "setting", [{"execute_steps": 0}, {"temporal_ensemble": -0.1}, {"videos": -1}, {"step_timeout": 0}]
)
def test_impossible_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        EvaluateConfig(checkpoint="x", **setting)


class Dark(gymnasium.Env):
    """Fits the policy `bc` of `rollout_toys`; shows nothing, and one chunk of actions solves it."""

    def __init__(self, action_steps=2):
        images = {f"{camera}_image": spaces.Box(0, 255, (3, SIZE, SIZE, 3), np.uint8) for camera in CAMERAS}
        vectors = {key: spaces.Box(-1, 1, (3, width), np.float32) for key, width in PROPRIOCEPTION.items()}
        self.observation_space = spaces.Dict({**images, **vectors})
        self.action_space = spaces.Box(-1, 1, (action_steps, 7), np.float32)
        self.nothing = {key: np.zeros(space.shape, space.dtype) for key, space in self.observation_space.items()}

    def reset(self, *, seed=None, options=None):
        return self.nothing, {"is_success": False, "steps": 0}

    def step(self, actions):
        return self.nothing, 1.0, False, False, {"is_success": True, "steps": 2}


@pytest.mark.parametrize(("first_seed", "unseen"), [(100_000, True), (99_999, False), (0, False)])
def test_seeds_that_may_be_those_of_demonstrations_are_not_called_unseen(
    tmp_path, monkeypatch, capsys, first_seed, unseen
):
    monkeypatch.setattr(s2robot_envs, "make_vector_env", lambda num_envs, **_: InProcess(Dark, num_envs))
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bc")
    words = [f"checkpoint={checkpoint}", f"first_seed={first_seed}", "episodes=2", "videos=0", "device=cpu"]
    assert main(["evaluate", *words]) == 0
    printed = capsys.readouterr().out
    warnings = json.loads((tmp_path / "results.json").read_text())["warnings"]
    if unseen:
        assert f"over unseen seeds {first_seed} to {first_seed + 1}" in printed
        assert warnings == []
    else:
        assert f"over seeds {first_seed} to {first_seed + 1}" in printed
        (warning,) = warnings
        assert "seeds below 100000 may be those of demonstrations" in warning
        assert warning.endswith(f"first_seed={first_seed}")
        assert f"warning: {warning}" in printed


def test_an_evaluation_with_other_settings_in_the_same_folder_runs_every_seed_again(tmp_path):
    config = EvaluateConfig(str(write_checkpoint(tmp_path / "checkpoint", "bc")), episodes=2, videos=0, device="cpu")
    sizes = []

    def make_dark(num_envs, action_steps, **_):
        sizes.append(num_envs)  # no more environments than seeds are left
        return InProcess(lambda: Dark(action_steps), num_envs)

    def environments(**changes):
        sizes.clear()
        evaluate(replace(config, **changes), make_dark, num_envs=9)
        return list(sizes)

    assert environments() == [2]
    assert environments() == []
    for changes in (
        {"horizon": 11},
        {"execute_steps": 1},
        {"temporal_ensemble": 0.1},
        {"variant": {"contrast": 0.5}, "allow_mismatch": True},
        {"render_profile": "full", "allow_mismatch": True},
    ):
        assert environments(**changes) == [2], changes
        assert environments() == [2]


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ({"filter_key": "better"}, "filter_key=better"),
        ({"successes_only": True}, "successes_only"),
        ({"action_key": "actions_abs"}, "action_key=actions_abs"),
        ({"flip": ["agentview"]}, "flip=['agentview']"),
        ({"dataset": ["a", "b"], "dataset_weights": [1.0, 2.0]}, "dataset_weights=[1.0, 2.0]"),
        ({"action_normalization": "none"}, "action_normalization=none"),
        ({"initial": {"weights": "0123456789"}}, "init_from=01234567"),
    ],
)
def test_reports_tell_policies_apart_that_learned_otherwise_from_the_same_file(setting, named):
    """Data and seed are the same, so that they would pass for one policy, or for two seeds of one arm."""
    checkpoint = make_checkpoint("bc")[0]
    trained, config = checkpoint.config, EvaluateConfig("checkpoint")
    assert named not in _variant(checkpoint, config)
    if "initial" in setting:
        changed = replace(checkpoint, **setting)
    elif "action_normalization" in setting:
        changed = replace(checkpoint, config=replace(trained, policy=replace(trained.policy, **setting)))
    else:
        changed = replace(checkpoint, config=replace(trained, **setting))
    assert _variant(changed, config).endswith(named)


class Drawn(Dark):
    """Also says what draws its images."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed, options=options)
        return observation, {**info, "renderer": "llvmpipe"}


def run_on(monkeypatch, checkpoint, machine, episodes, make=Drawn):
    """An evaluation on a machine of these facts; its results as they are on disk."""
    monkeypatch.setattr("s2robot.evaluation.run.machine_facts", lambda device: machine)
    config = EvaluateConfig(str(checkpoint), episodes=episodes, videos=0, device="cpu")
    evaluate(config, lambda num_envs, **_: InProcess(make, num_envs), num_envs=2)
    return json.loads((checkpoint.parent / "results.json").read_text())


def test_results_name_the_machine_that_ran_the_episodes_whoever_reads_them(tmp_path, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bc")
    results = run_on(monkeypatch, checkpoint, HERE, 2)
    assert results["machines"] == [{"renderer": "llvmpipe", **HERE, "episodes": 2}]
    assert [row["machine"] for row in results["episode_results"]] == [0, 0]
    assert results["fingerprints"]["policy"] == json.loads((checkpoint / "config.json").read_text())["sha256"]
    assert (results["warnings"], results["notes"]) == ([], [])
    again = run_on(monkeypatch, checkpoint, THERE, 2)  # nothing is left to run
    assert again["machines"] == results["machines"]


def test_an_evaluation_that_goes_on_elsewhere_says_so_and_names_both_machines(tmp_path, monkeypatch, capsys):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bc")
    run_on(monkeypatch, checkpoint, HERE, 1)
    assert "kind of machine" not in capsys.readouterr().err
    results = run_on(monkeypatch, checkpoint, THERE, 3)
    assert capsys.readouterr().err.count("some of them ran on another kind of machine (processor B, was A)") == 1
    assert [(machine["processor"], machine["episodes"]) for machine in results["machines"]] == [("A", 1), ("B", 2)]
    assert [row["machine"] for row in results["episode_results"]] == [0, 1, 1]
    (warning,) = results["warnings"]
    assert warning.startswith(MIXED)


def test_environments_that_do_not_say_what_draws_them_are_recorded_as_such(tmp_path, monkeypatch):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bc")
    assert run_on(monkeypatch, checkpoint, HERE, 1, make=Dark)["machines"][0]["renderer"] is None


@pytest.mark.parametrize(("trained_on", "noted"), [(["NVIDIA"], True), (["llvmpipe"], False), ([], False)])
def test_another_renderer_than_that_of_the_demonstrations_is_noted(tmp_path, monkeypatch, capsys, trained_on, noted):
    checkpoint, _, model = make_checkpoint("bc")
    checkpoint.renderers = trained_on
    save_checkpoint(tmp_path / "checkpoint", model.state_dict(), checkpoint)
    monkeypatch.setattr(s2robot_envs, "make_vector_env", lambda num_envs, **_: InProcess(Drawn, num_envs))
    assert main(["evaluate", f"checkpoint={tmp_path / 'checkpoint'}", "episodes=1", "videos=0", "device=cpu"]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert len(results["notes"]) == noted
    message = "demonstrations were rendered by NVIDIA, those of the rollouts by llvmpipe"
    assert (f"note: the pictures of the {message}" in capsys.readouterr().out) == noted

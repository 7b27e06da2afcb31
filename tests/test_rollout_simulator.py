"""Rollouts in the real simulator: outcomes independent of the neighbours, and failures that cost their own episode."""

import itertools
import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from fatal_seed import FATAL, make_fatal_vector_env
from rollout_toys import make_checkpoint, write_checkpoint

import s2robot_envs
from s2robot.cli import main
from s2robot.config import EvaluateConfig
from s2robot.evaluation import evaluate
from s2robot.interfaces import RolloutError
from s2robot.rollout import Actor, rollout
from s2robot_envs import make_vector_env

pytestmark = pytest.mark.sim
SEEDS = [100_000, 100_001, 100_002, 100_003]


def films(name, num_envs):
    checkpoint, encoder, model = make_checkpoint(name)
    actor = Actor(model, encoder, checkpoint, torch.device("cpu"))
    settings = checkpoint.config.policy
    envs = make_vector_env(
        num_envs=num_envs,
        observation_steps=settings.observation_steps,
        action_steps=settings.execute_steps,
        **checkpoint.environment,
    )
    outcomes = {result.seed: (result, film.frames) for result, film in rollout(actor, envs, SEEDS, film=SEEDS)}
    envs.close()
    return outcomes


@pytest.mark.parametrize(
    "name", ["diffusion_unet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bc", "bc_rnn"))]
)
def test_episodes_are_the_same_in_one_two_and_four_environments(name):
    alone = films(name, 1)
    assert sorted(alone) == SEEDS
    assert not np.array_equal(alone[SEEDS[0]][1], alone[SEEDS[1]][1])
    for num_envs in (2, 4):
        beside = films(name, num_envs)
        for seed in SEEDS:
            assert beside[seed][0] == alone[seed][0]
            np.testing.assert_array_equal(beside[seed][1], alone[seed][1])


def run(checkpoint, output, make=make_vector_env, **settings):
    config = EvaluateConfig(
        checkpoint=str(checkpoint), output=str(output), **{"episodes": 4, "videos": 0, "device": "cpu", **settings}
    )
    return evaluate(config, make, num_envs=2)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", "bc")


@pytest.fixture(scope="module")
def flawless(checkpoint, tmp_path_factory):
    return run(checkpoint, tmp_path_factory.mktemp("flawless"))


def outcomes(results):
    return [(row["seed"], row["success"], row["steps"], row["error"]) for row in results["episode_results"]]


@pytest.mark.parametrize("blow", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.slow)])
def test_killed_or_hung_simulator_costs_nothing_but_time(checkpoint, flawless, tmp_path, blow):
    def make(**kwargs):
        envs = make_vector_env(**kwargs)
        step, calls = envs.step, itertools.count()

        def step_and_strike(actions):
            if next(calls) == 2:  # in the middle of the first two episodes
                os.kill(envs.processes[0].pid, blow)
            return step(actions)

        envs.step = step_and_strike
        return envs

    results = run(checkpoint, tmp_path, make, step_timeout=10)
    assert outcomes(results) == outcomes(flawless)
    assert results["errors"] == 0


def test_seed_that_always_crashes_is_an_error_and_neither_success_nor_failure(checkpoint, flawless, tmp_path):
    results = run(checkpoint, tmp_path, make_fatal_vector_env, videos=4)
    ran = [row for row in outcomes(results) if row[0] != FATAL]
    assert ran == [row for row in outcomes(flawless) if row[0] != FATAL]
    assert (results["episodes"], results["errors"], results["success_rate"]) == (3, 1, results["successes"] / 3)
    (failed,) = [row for row in results["episode_results"] if row["error"] is not None]
    assert failed["seed"] == FATAL
    assert f"(seed {FATAL}) died with exit code -9" in failed["error"]
    assert [video["seed"] for video in results["videos"]] == [seed for seed in SEEDS if seed != FATAL]
    assert json.loads((tmp_path / "results.json").read_text()) == results


def test_command_shows_the_results_and_ends_with_the_errors(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(s2robot_envs, "make_vector_env", make_fatal_vector_env)
    words = [f"checkpoint={checkpoint}", f"output={tmp_path}", "episodes=2", "videos=0", "num_envs=2", "device=cpu"]
    assert main(["evaluate", *words]) == 2
    captured = capsys.readouterr()
    assert "success 0/1 = 0.0%" in captured.out
    assert f"1 of 2 episodes could not be run and are not counted: the simulator failed twice with seed {FATAL}" in (
        captured.err
    )


@pytest.mark.slow
def test_no_episode_at_all_is_an_error_and_leaves_no_results(checkpoint, tmp_path):
    with pytest.raises(RolloutError, match="the simulator failed in all 1 episodes"):
        run(checkpoint, tmp_path, make_fatal_vector_env, first_seed=FATAL, episodes=1)
    assert not (tmp_path / "results.json").exists()


def test_killed_evaluation_goes_on_to_the_same_results(checkpoint, flawless, tmp_path):
    class KilledError(Exception):
        pass

    def make(**kwargs):
        envs = make_vector_env(**kwargs)
        step, calls = envs.step, itertools.count()

        def step_until_killed(actions):
            if next(calls) == 8:  # two episodes are done, two run
                raise KilledError
            return step(actions)

        envs.step = step_until_killed
        return envs

    with pytest.raises(KilledError):
        run(checkpoint, tmp_path, make)
    assert len((tmp_path / "episodes.jsonl").read_text().split()) > 1
    asked = []

    def make_and_note(**kwargs):
        asked.append(kwargs["num_envs"])
        return make_vector_env(**kwargs)

    results = run(checkpoint, tmp_path, make_and_note, videos=1)
    assert outcomes(results) == outcomes(flawless)
    assert results["latency"]["calls"] > 8  # of both sessions
    assert asked == [2, 1]  # the two episodes that were left, then one film
    assert results["warnings"] == []
    assert outcomes(run(checkpoint, tmp_path, make_and_note, videos=1)) == outcomes(flawless)
    assert asked == [2, 1]  # asked again, there is nothing left to do
    more = run(checkpoint, tmp_path, make_and_note, videos=1, episodes=len(SEEDS) + 1)
    assert outcomes(more)[:-1] == outcomes(flawless)
    assert asked == [2, 1, 1]


def test_episodes_that_ended_in_an_error_are_run_when_asked_again(checkpoint, flawless, tmp_path):
    assert run(checkpoint, tmp_path, make_fatal_vector_env)["errors"] == 1
    results = run(checkpoint, tmp_path)
    assert outcomes(results) == outcomes(flawless)
    assert results["errors"] == 0


def test_a_second_evaluation_of_one_folder_waits_for_the_first(checkpoint, flawless, tmp_path, capfd):
    started = threading.Event()

    def make_slowly(**kwargs):
        started.set()
        time.sleep(1)
        return make_vector_env(**kwargs)

    def make_never(**kwargs):
        raise AssertionError("the first evaluation has run every episode")

    with ThreadPoolExecutor(1) as other:
        first = other.submit(run, checkpoint, tmp_path, make_slowly)
        started.wait()
        second = run(checkpoint, tmp_path, make_never)
    assert outcomes(first.result()) == outcomes(second) == outcomes(flawless)
    assert "waiting for another process" in capfd.readouterr().err


def test_temporal_ensembling_is_recorded_and_acts_otherwise(checkpoint, tmp_path):
    results = run(checkpoint, tmp_path, episodes=1, execute_steps=1, temporal_ensemble=0.01)
    assert (results["execute_steps"], results["temporal_ensemble"]) == (1, 0.01)
    assert results["variant"] == "execute_steps=1, temporal_ensemble=0.01"
    assert results["latency"]["calls"] == 12

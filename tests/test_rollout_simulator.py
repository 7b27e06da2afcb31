"""Rollouts in the real simulator: outcomes independent of the neighbours, and failures that cost their own episode."""

import itertools
import json
import os
import signal

import numpy as np
import pytest
import torch
from fatal_seed import FATAL, make_fatal_vector_env
from rollout_toys import evaluate_checkpoint, make_checkpoint, outcomes, write_checkpoint

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
def test_episodes_are_the_same_in_one_environment_and_in_three(name):
    alone, beside = films(name, 1), films(name, 3)  # of the three, one runs a second episode
    assert sorted(alone) == SEEDS
    assert not np.array_equal(alone[SEEDS[0]][1], alone[SEEDS[1]][1])
    for seed in SEEDS:
        assert beside[seed][0] == alone[seed][0]
        # Drivers may round otherwise in another process; another state of the robot shows by far more.
        assert np.abs(beside[seed][1].astype(int) - alone[seed][1]).max() <= 2


def run(checkpoint, output, make=make_vector_env, **settings):
    return evaluate_checkpoint(checkpoint, output, make, **settings)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", "bc")


@pytest.fixture(scope="module")
def flawless(checkpoint, tmp_path_factory):
    return run(checkpoint, tmp_path_factory.mktemp("flawless"))


@pytest.mark.parametrize(
    ("blow", "timeout"), [(signal.SIGKILL, 300), pytest.param(signal.SIGSTOP, 30, marks=pytest.mark.slow)]
)
def test_killed_or_hung_simulator_costs_nothing_but_time(checkpoint, flawless, tmp_path, blow, timeout):
    def make(**kwargs):
        envs = make_vector_env(**kwargs)
        step, calls = envs.step, itertools.count()

        def step_and_strike(actions):
            if next(calls) == 2:  # in the middle of the first two episodes
                os.kill(envs.processes[0].pid, blow)
            return step(actions)

        envs.step = step_and_strike
        return envs

    results = run(checkpoint, tmp_path, make, step_timeout=timeout)
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

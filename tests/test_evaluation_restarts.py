"""Evaluations that are killed, asked for again, or asked for twice at once; a simulator is killed elsewhere.

The environment here is a stand-in in this process: what is tested is the log of the episodes.
"""

import functools
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from rollout_toys import (
    CAMERAS,
    PROPRIOCEPTION,
    SIZE,
    evaluate_checkpoint,
    outcomes,
    random_observation,
    write_checkpoint,
)
from vectors import InProcess

import s2robot_envs
from s2robot.cli import main
from s2robot.interfaces import RolloutError
from s2robot.system import files

SEEDS = [100_000, 100_001, 100_002, 100_003]
FATAL = 100_001
HORIZON = 12
WAIT = 120  # seconds until what does happen is given up, on however busy a machine


class Walk(gymnasium.Env):
    """Fits the policy `bc` of `rollout_toys`; odd seeds are solved by the tenth action, even ones never."""

    def __init__(self, observation_steps, action_steps):
        images = {
            f"{camera}_image": spaces.Box(0, 255, (observation_steps, SIZE, SIZE, 3), np.uint8) for camera in CAMERAS
        }
        vectors = {
            key: spaces.Box(-9, 9, (observation_steps, width), np.float32) for key, width in PROPRIOCEPTION.items()
        }
        self.observation_space = spaces.Dict({**images, **vectors})
        self.action_space = spaces.Box(-1, 1, (action_steps, 7), np.float32)
        self.observation_steps = observation_steps

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.steps, self.over = seed, 0, False
        seen = random_observation(self.np_random, 1, self.observation_steps)
        self.seen = {key: values[0] for key, values in seen.items()}
        self.record = bool((options or {}).get("record"))
        return self.seen, self.info(False, 0)

    def step(self, actions):
        executed, success = 0, False
        for _ in actions:
            if self.over:
                break
            self.steps += 1
            executed += 1
            success = bool(self.seed % 2) and self.steps == 10
            self.over = success or self.steps == HORIZON
        return self.seen, 0.0, False, self.steps == HORIZON, self.info(success, executed)

    def info(self, success, executed):
        frames = {"frames": np.zeros((max(executed, 1), 16, 16, 3), np.uint8)} if self.record else {}
        return {"is_success": success, "steps": executed, **frames}


class Walks(InProcess):
    """Several of them; `before_step(number of the step)` may raise."""

    def __init__(self, num_envs, observation_steps, action_steps, before_step=None, fatal=()):
        super().__init__(functools.partial(Walk, observation_steps, action_steps), num_envs)
        self.before_step, self.fatal, self.calls = before_step, fatal, itertools.count()

    def step(self, actions):
        if self.before_step:
            self.before_step(next(self.calls))
        *outcome, infos = super().step(actions)
        for index, env in enumerate(self.envs):
            if env.unwrapped.seed in self.fatal and env.unwrapped.steps > 2:  # as a worker that died does
                infos.setdefault("error", np.full(self.num_envs, None, dtype=object))[index] = "died"
                env.unwrapped.over = True
        return *outcome, infos


def make_walks(num_envs, observation_steps, action_steps, before_step=None, fatal=(), **_):
    return Walks(num_envs, observation_steps, action_steps, before_step, fatal)


make_fatal = functools.partial(make_walks, fatal=(FATAL,))


def run(checkpoint, output, make=make_walks, **settings):
    return evaluate_checkpoint(checkpoint, output, make, **settings)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("run") / "checkpoint", "bc")


@pytest.fixture(scope="module")
def flawless(checkpoint, tmp_path_factory):
    return run(checkpoint, tmp_path_factory.mktemp("flawless"))


def test_an_evaluation_counts_what_the_environment_says(flawless):
    assert outcomes(flawless) == [(seed, bool(seed % 2), 10 if seed % 2 else 12, None) for seed in SEEDS]


def test_command_shows_the_results_and_ends_with_the_errors(checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(s2robot_envs, "make_vector_env", make_fatal)
    words = [f"checkpoint={checkpoint}", f"output={tmp_path}", "episodes=2", "videos=0", "num_envs=2", "device=cpu"]
    assert main(["evaluate", *words]) == 2
    captured = capsys.readouterr()
    assert "success 0/1 = 0.0%" in captured.out
    assert f"1 of 2 episodes could not be run and are not counted: the simulator failed twice with seed {FATAL}" in (
        captured.err
    )


def test_no_episode_at_all_is_an_error_and_leaves_no_results(checkpoint, tmp_path):
    with pytest.raises(RolloutError, match="the simulator failed in all 1 episodes"):
        run(checkpoint, tmp_path, make_fatal, first_seed=FATAL, episodes=1)
    assert not (tmp_path / "results.json").exists()


def test_killed_evaluation_goes_on_to_the_same_results(checkpoint, flawless, tmp_path):
    class KilledError(Exception):
        pass

    def kill(step):
        if step == 8:  # two episodes are done, two run
            raise KilledError

    with pytest.raises(KilledError):
        run(checkpoint, tmp_path, functools.partial(make_walks, before_step=kill))
    assert (tmp_path / "episodes.jsonl").read_text().count('"episode"') == 2
    asked = []

    def make_and_note(**kwargs):
        asked.append(kwargs["num_envs"])
        return make_walks(**kwargs)

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
    assert run(checkpoint, tmp_path, make_fatal)["errors"] == 1
    results = run(checkpoint, tmp_path)
    assert outcomes(results) == outcomes(flawless)
    assert results["errors"] == 0


def test_a_second_evaluation_of_one_folder_waits_for_the_first(checkpoint, flawless, tmp_path, monkeypatch):
    started, waiting, said = threading.Event(), threading.Event(), []

    def hear(*words, **_):
        said.append(" ".join(words))
        waiting.set()

    monkeypatch.setattr(files, "print", hear, raising=False)

    def make_once_the_second_waits(**kwargs):
        started.set()
        assert waiting.wait(WAIT)
        return make_walks(**kwargs)

    def make_never(**kwargs):
        raise AssertionError("the first evaluation has run every episode")

    with ThreadPoolExecutor(1) as other:
        first = other.submit(run, checkpoint, tmp_path, make_once_the_second_waits)
        try:
            assert started.wait(WAIT)
            second = run(checkpoint, tmp_path, make_never)
        finally:
            waiting.set()
    assert outcomes(first.result()) == outcomes(second) == outcomes(flawless)
    (message,) = said
    assert message.startswith("waiting for another process")


def test_temporal_ensembling_is_recorded_and_acts_otherwise(checkpoint, tmp_path):
    results = run(checkpoint, tmp_path, episodes=1, execute_steps=1, temporal_ensemble=0.01)
    assert (results["execute_steps"], results["temporal_ensemble"]) == (1, 0.01)
    assert results["variant"] == "execute_steps=1, temporal_ensemble=0.01"
    assert results["latency"]["calls"] == HORIZON

"""Failing workers, in real processes that run a toy; `test_envs_vector.py` has the simulator."""

import functools
import os
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from s2robot_envs.errors import EnvConfigError, WorkerError
from s2robot_envs.processes import ProcessVectorEnv

ACTIONS = np.ones((3, 1, 1), np.float32)
PATIENCE = 600  # seconds: a worker that works answers, however busy the machine is


class Adder(gymnasium.Env):
    """Adds the actions up, starting at the seed; seed 13 raises in its second step, seed 99 kills its process."""

    observation_space = spaces.Dict({"sum": spaces.Box(-1e9, 1e9, (1,), np.float64)})
    action_space = spaces.Box(-1, 1, (1, 1), np.float32)

    def __init__(self, broken=False):
        if broken:
            raise OSError("no display")

    def reset(self, *, seed=None, options=None):
        if seed == 99:
            os.kill(os.getpid(), signal.SIGKILL)
        self.seed, self.sum, self.steps = seed, float(seed), 0
        return self._observation(), {"steps": 0}

    def step(self, action):
        self.steps += 1
        self.sum += float(action[0, 0])
        if self.seed == 13 and self.steps == 2:
            raise ValueError("unstable simulation")
        return self._observation(), 1.0, False, self.steps == 3, {"steps": 1}

    def _observation(self):
        return {"sum": np.array([self.sum])}


def make_envs(**kwargs):
    return ProcessVectorEnv([Adder] * 3, "forkserver", **kwargs)


@pytest.fixture(scope="module")
def envs():
    envs = make_envs(on_failure="replace", timeout=PATIENCE)
    yield envs
    envs.close()


def step_until_error(envs):
    before = [process.pid for process in envs.processes]
    observations, rewards, _, _, infos = envs.step(ACTIONS)
    (failed,) = [index for index, reason in enumerate(infos["error"]) if reason is not None]
    after = [process.pid for process in envs.processes]
    assert [old != new for old, new in zip(before, after, strict=True)] == [index == failed for index in range(3)]
    assert rewards.tolist() == [float(index != failed) for index in range(3)]
    return failed, infos["error"][failed], observations["sum"][:, 0]


def check_replacement_idles_then_works(envs, failed, sums):
    others = [index for index in range(3) if index != failed]
    observations, rewards, *_, infos = envs.step(ACTIONS)
    assert "error" not in infos
    assert rewards[failed] == infos["steps"][failed] == 0
    assert (observations["sum"][others, 0] == sums[others] + 1).all()  # as if nothing had happened
    mask = np.arange(3) == failed
    observations, infos = envs.reset(seed=[40, 40, 40], options={"reset_mask": mask})
    assert "error" not in infos
    assert observations["sum"][failed] == 40
    observations, rewards, *_ = envs.step(ACTIONS)
    assert observations["sum"][failed] == 41


def stop(envs, index, monkeypatch):
    """Stop a worker's process for good, and let only this worker run out of time at once; returns the process."""
    worker = envs._workers[index]
    os.kill(worker.process.pid, signal.SIGSTOP)
    poll = worker._pipe.poll
    monkeypatch.setattr(worker._pipe, "poll", lambda seconds: poll(seconds - PATIENCE + 0.2))
    return worker.process


def test_killed_worker_is_replaced_and_the_others_go_on(envs):
    envs.reset(seed=[1, 2, 3])
    os.kill(envs.processes[1].pid, signal.SIGKILL)
    failed, reason, sums = step_until_error(envs)
    assert (failed, reason.split(";")[0]) == (1, "environment 1 (seed 2) died with exit code -9")
    check_replacement_idles_then_works(envs, failed, sums)


def test_worker_that_raises_is_replaced_and_the_others_go_on(envs):
    envs.reset(seed=[13, 2, 3])
    envs.step(ACTIONS)
    failed, reason, sums = step_until_error(envs)
    assert (failed, reason) == (0, "environment 0 (seed 13) raised ValueError: unstable simulation")
    check_replacement_idles_then_works(envs, failed, sums)


def test_hung_worker_is_replaced_and_the_others_go_on(monkeypatch):
    envs = make_envs(on_failure="replace", timeout=PATIENCE)
    envs.reset(seed=[1, 2, 3])
    hung = stop(envs, 2, monkeypatch)
    failed, reason, sums = step_until_error(envs)
    assert (failed, reason) == (2, "environment 2 (seed 3) did not answer within 600 s")
    assert not hung.is_alive()
    check_replacement_idles_then_works(envs, failed, sums)
    envs.close()


def test_failure_in_reset_is_reported_where_it_happened(envs):
    observations, infos = envs.reset(seed=[1, 99, 3])
    assert [reason is None for reason in infos["error"]] == [True, False, True]
    assert "environment 1 (seed 99) died with exit code -9" in infos["error"][1]
    assert observations["sum"][[0, 2], 0].tolist() == [1, 3]


def test_all_workers_may_fail_at_once(envs):
    envs.reset(seed=[1, 2, 3])
    for process in envs.processes:
        os.kill(process.pid, signal.SIGKILL)
    *_, infos = envs.step(ACTIONS)
    assert all(infos["error"])
    *_, infos = envs.step(ACTIONS)
    assert infos == {}
    assert envs.reset(seed=[4, 5, 6])[0]["sum"][:, 0].tolist() == [4, 5, 6]


def test_a_killed_worker_ends_everything_unless_replacing_was_asked_for():
    envs = make_envs()
    envs.reset(seed=[1, 2, 3])
    os.kill(envs.processes[0].pid, signal.SIGKILL)
    with pytest.raises(WorkerError, match=r"environment 0 \(seed 1\) died with exit code -9"):
        envs.step(ACTIONS)
    assert envs.closed


def test_failures_end_everything_unless_replacing_was_asked_for(monkeypatch):
    envs = make_envs(timeout=PATIENCE)
    envs.reset(seed=[1, 2, 3])
    processes = envs.processes
    stop(envs, 0, monkeypatch)
    with pytest.raises(WorkerError, match=r"environment 0 \(seed 1\) did not answer within 600 s"):
        envs.step(ACTIONS)
    assert envs.closed
    assert not any(process.is_alive() for process in processes)
    with pytest.raises(WorkerError, match="closed"):
        envs.reset(seed=[1, 2, 3])


def test_environment_that_cannot_be_made_is_an_error_at_once():
    factories = [Adder, functools.partial(Adder, broken=True)]
    with pytest.raises(WorkerError, match="environment 1 .* raised OSError: no display"):
        ProcessVectorEnv(factories, "spawn", on_failure="replace")


def test_closing_kills_a_hung_worker(monkeypatch):
    monkeypatch.setattr("s2robot_envs.processes._CLOSING", 0.5)
    envs = make_envs(on_failure="replace")
    processes = envs.processes
    os.kill(processes[0].pid, signal.SIGSTOP)
    envs.close()
    assert processes[0].exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"on_failure": "replce"}, "did you mean 'replace'"), ({"timeout": 0}, "timeout is 0; it must be a positive")],
)
def test_impossible_settings_are_refused(kwargs, message):
    with pytest.raises(EnvConfigError, match=message):
        make_envs(**kwargs)


def test_impossible_resets_are_refused(envs):
    with pytest.raises(EnvConfigError, match="reset needs 3 seeds"):
        envs.reset(seed=[1, 2])
    with pytest.raises(EnvConfigError, match="bool reset_mask"):
        envs.reset(seed=[1, 2, 3], options={"reset_mask": np.zeros(3, bool)})

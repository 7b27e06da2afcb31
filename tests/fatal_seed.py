"""A simulator that kills its own process at one seed; without torch, because the workers import this module."""

import functools
import os
import signal

import gymnasium

from s2robot_envs import make_env
from s2robot_envs.processes import ProcessVectorEnv

FATAL = 100_001


class FatalSeed(gymnasium.Wrapper):
    """An environment whose process dies in the second chunk of one seed."""

    def reset(self, *, seed=None, options=None):
        self.seed, self.chunks = seed, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.chunks += 1
        if self.seed == FATAL and self.chunks == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.env.step(action)


def make_fatal_env(**kwargs):
    return FatalSeed(make_env(**kwargs))


def make_fatal_vector_env(num_envs, on_failure, timeout, **kwargs):
    """Make the environments for `evaluate`, one seed of which is fatal."""
    factory = functools.partial(make_fatal_env, **kwargs)
    return ProcessVectorEnv([factory] * num_envs, "forkserver", on_failure, timeout)

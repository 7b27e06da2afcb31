"""The former path of `s2robot.policies.readouts`."""

from s2robot.policies.readouts import *  # noqa: F403

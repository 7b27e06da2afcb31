"""The former path of `s2robot.encoder.tuning`."""

from s2robot.encoder.tuning import *  # noqa: F403

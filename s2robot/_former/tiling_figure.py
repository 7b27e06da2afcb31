"""The former path of `s2robot.s2.figure`."""

from s2robot.s2.figure import *  # noqa: F403

"""The former path of `s2robot.system.extras`."""

from s2robot.system.extras import *  # noqa: F403

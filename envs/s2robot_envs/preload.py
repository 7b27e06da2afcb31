"""The module that the fork server imports once, so that each worker process starts with robosuite already loaded.

It creates no environment and no OpenGL context, because neither would survive the fork.
"""

import contextlib

from s2robot_envs.errors import EnvConfigError
from s2robot_envs.simulator import import_any_robosuite

with contextlib.suppress(EnvConfigError):  # environments of other families do without
    import_any_robosuite()

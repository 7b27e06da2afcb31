"""The module that the fork server imports once, so that each worker process starts with robosuite already loaded.

It creates no environment and no OpenGL context, because neither would survive the fork.
"""

from s2robot_envs.simulator import import_robosuite

import_robosuite()

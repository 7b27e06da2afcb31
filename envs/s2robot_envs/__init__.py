"""Simulated manipulation tasks as gymnasium environments, with scripted experts.

>>> from s2robot_envs import make_env                                                   # doctest: +SKIP
>>> env = make_env("Lift", cameras=("agentview", "robot0_eye_in_hand"), image_size=448)  # doctest: +SKIP
>>> observation, info = env.reset(seed=0)                                               # doctest: +SKIP

Importing the package registers `s2robot_envs/<Task>-v0` with gymnasium and loads neither mujoco nor robosuite.
"""

from s2robot_envs.collection import collect, collect_episode
from s2robot_envs.errors import S2RobotEnvError
from s2robot_envs.factory import make_env, register_with_gymnasium
from s2robot_envs.rendering import RENDER_PROFILES, ensure_gl_backend
from s2robot_envs.tasks import TASKS
from s2robot_envs.variants import Variant
from s2robot_envs.vector import default_num_envs, make_vector_env

__all__ = [
    "RENDER_PROFILES",
    "TASKS",
    "S2RobotEnvError",
    "Variant",
    "collect",
    "collect_episode",
    "default_num_envs",
    "ensure_gl_backend",
    "make_env",
    "make_vector_env",
]

register_with_gymnasium()

"""robosuite's own environment of the same scene, and the tolerance of its images."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from s2robot_envs.robosuite_env import RobosuiteEnv


@contextmanager
def robosuite_twin(env: RobosuiteEnv) -> Iterator:
    """Make the scene and state of `env` in robosuite from its `env_args`, rendered by the same device.

    robosuite renders in the current OpenGL context, which is its own until `env` renders again.
    """
    import robosuite

    args = env.env_args()
    if env.image_sizes:
        env.render()
        _share_display()
    theirs = robosuite.make(args["env_name"], **args["env_kwargs"])
    try:
        theirs.reset_from_xml_string(env.model_xml())
        theirs.sim.set_state_from_flattened(env.state())
        theirs.sim.forward()
        yield theirs
    finally:
        if env.image_sizes:  # robosuite frees its objects in the current context
            theirs.sim._render_context_offscreen.gl_ctx.make_current()
        theirs.close()


def _share_display() -> None:
    """robosuite takes the first EGL device, or a CUDA one; MuJoCo, which we use, takes the first that works."""
    if os.environ["MUJOCO_GL"] == "egl":
        import mujoco.egl
        from robosuite.renderers.context import egl_context

        if egl_context.EGL_DISPLAY is None:  # for the rest of this process
            egl_context.EGL_DISPLAY = mujoco.egl.EGL_DISPLAY


def assert_same_picture(ours: np.ndarray, theirs: np.ndarray, name: str = "") -> None:
    """Compare images of one scene by one driver; pixels on edges may differ, because the buffers differ in size."""
    difference = np.abs(ours.astype(int) - theirs)
    share = (difference.max(axis=-1) <= 2).mean()
    assert share >= 0.999, f"{name}: only {share:.2%} of the pixels are the same, largest difference {difference.max()}"

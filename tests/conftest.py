"""Settings that must be made before mujoco and torch are imported."""

import os

# EGL renders without a screen; a value from outside (osmesa, glfw) wins.
os.environ.setdefault("MUJOCO_GL", "egl")
# Tests start worker processes: spinning threads of several of them on few cores are slower than one each.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test may ask a model hub: a missing file must fail at once, not after retries.
os.environ.setdefault("HF_HUB_OFFLINE", "1")

"""Settings that must be made before mujoco, torch and the model hub's client are imported."""

import os
import shutil
import tempfile

import hypothesis

# A busy machine misses deadlines; examples drawn anew each time would fail somewhere else than here.
hypothesis.settings.register_profile("s2robot", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("s2robot")
# EGL renders without a screen; a value from outside (osmesa, glfw) wins.
os.environ.setdefault("MUJOCO_GL", "egl")
# Tests start worker processes: spinning threads of several of them on few cores are slower than one each. What a user
# exported for other work must not choose other kernels here.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = os.environ.get("S2ROBOT_TEST_THREADS", "1")
# No test may ask a model hub: a missing file must fail at once, not after retries.
os.environ["HF_HUB_OFFLINE"] = "1"
# Nor may a test find what this machine's user has fetched before: every pytest process, a worker of pytest-xdist too,
# has empty caches of its own.
CACHES = tempfile.mkdtemp(prefix="s2robot-tests-")
for _variable, _folder in {
    "HF_HOME": "huggingface",
    "HF_HUB_CACHE": "huggingface/hub",
    "TORCH_HOME": "torch",
    "S2ROBOT_CACHE": "s2robot",
}.items():
    os.environ[_variable] = os.path.join(CACHES, _folder)  # noqa: PTH118


def pytest_unconfigure():
    # No `atexit`, which processes forked by a test would run too.
    shutil.rmtree(CACHES, ignore_errors=True)

"""Settings that must be made before mujoco, torch and the model hub's client are imported."""

import os
import shutil
import tempfile
from multiprocessing import forkserver

import hypothesis
import pytest

# No deadline, because a busy machine misses it. Examples are fixed, because new ones in each run would fail on someone
# else's machine and not here.
hypothesis.settings.register_profile("s2robot", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("s2robot")
# EGL renders without a screen; a value that is already set (osmesa, glfw) is kept.
os.environ.setdefault("MUJOCO_GL", "egl")
# Tests start several worker processes, and on few cores their spinning threads are slower than one thread each.
# Variables that a user exported for other work must not choose other kernels here.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = os.environ.get("S2ROBOT_TEST_THREADS", "1")
# No test may contact a model hub: a missing file must fail at once, not after retries.
os.environ["HF_HUB_OFFLINE"] = "1"
# No test may find files that this machine's user has fetched before: every pytest process, including the workers of
# pytest-xdist, has its own empty caches.
CACHES = tempfile.mkdtemp(prefix="s2robot-tests-")
for _variable, _folder in {
    "HF_HOME": "huggingface",
    "HF_HUB_CACHE": "huggingface/hub",
    "TORCH_HOME": "torch",
    "S2ROBOT_CACHE": "s2robot",
}.items():
    os.environ[_variable] = os.path.join(CACHES, _folder)  # noqa: PTH118


# What the fork server of a pytest process imports once for all that it starts: simulators and trainings. It is started
# before any test, because the first that needed it would choose for the others.
PRELOADED = (
    "s2robot_envs.preload",
    "s2robot.training",
    "timm",
    "diffusers.optimization",
    "diffusers.training_utils",
    "accelerate",
)


def pytest_configure(config):
    if hasattr(config, "workerinput"):  # in a process of pytest-xdist, which runs many files
        forkserver.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()


def pytest_unconfigure():
    # Not with `atexit`, which processes forked by a test would run too.
    shutil.rmtree(CACHES, ignore_errors=True)


# Files that take ten seconds of processor time and more, the longest first. The processes of pytest-xdist take one file
# after the other, and one that begins last would keep its process busy while the others wait.
LONGEST = [
    "plugins",
    "end_to_end",
    "backbones",
    "outside_package",
    "training_resume",
    "rollout_simulator",
    "engines",
    "backbones_outside",
    "encoder_identity",
    "encoder",
    "benchmark_faults",
    "data_rerender",
    "envs_all_tasks",
    "training_processes",
    "contributing",
    "policy_outputs",
    "policies",
    "training_continue",
    "training",
    "cli_words",
    "docs",
    "server",
    "envs_collection",
    "policy_diffusion",
    "envs_registry",
    "envs_variants",
    "envs_rendering",
    "statistics",
    "evaluation_restarts",
    "training_recordings",
    "setup",
    "packaging",
]


def pytest_collection_modifyitems(items):
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(place)))


@pytest.fixture(scope="module")
def one_thread():
    """One thread of torch, as in processes that tests start: how many threads add up may change the last bit."""
    import torch  # after the settings above

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

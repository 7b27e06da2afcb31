"""Names and settings: every wrong one is a single error that lists the right ones. Nothing here needs OpenGL."""

import subprocess
import sys

import pytest

from s2robot_envs import TASKS, make_env, make_vector_env
from s2robot_envs.errors import EnvConfigError, RenderingError, S2RobotEnvError, unknown_name
from s2robot_envs.experts import make_expert
from s2robot_envs.rendering import ensure_gl_backend


def test_importing_the_package_loads_neither_simulator_nor_torch():
    code = "import sys, s2robot_envs; print(sorted({'mujoco', 'robosuite', 'torch', 's2robot'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


def test_unknown_name_finds_a_match_whatever_the_case():
    assert (
        unknown_name("task", "lift", ["Lift", "Door"])
        == "unknown task 'lift'; did you mean 'Lift'? Choices: Door, Lift"
    )
    assert unknown_name("task", "xyz", ["Lift"]) == "unknown task 'xyz'. Choices: Lift"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "Lfit"}, r"unknown task 'Lfit'; did you mean 'Lift'\? Choices: .*Lift"),
        ({"render_profile": "fats"}, r"unknown render profile 'fats'; did you mean 'fast'\? Choices: fast, full"),
        ({"cameras": ["agentvew"]}, r"unknown camera of Lift 'agentvew'; did you mean 'agentview'\?"),
        ({"cameras": "agentview"}, r"cameras='agentview' is not a list of cameras; write cameras=\('agentview',\)"),
        ({"cameras": ["agentview", "agentview"]}, "'agentview' is named twice"),
        ({"image_size": 0}, "image_size of agentview is 0"),
        ({"image_size": 64.5}, "image_size of agentview is 64.5"),
        ({"cameras": ["agentview"], "image_size": {"agentview": [64, 64]}}, r"image_size of agentview is \[64, 64\]"),
        ({"image_size": {"agentview": 64}}, "no entry for camera 'robot0_eye_in_hand'"),
        ({"cameras": ["agentview"], "image_size": {"agentview": 64, "frontview": 64}}, "'frontview'"),
        ({"horizon": 0}, "horizon is 0"),
        ({"render_mode": "human"}, "unknown render mode 'human'. Choices: rgb_array"),
        ({"action_steps": 0}, "action_steps is 0"),
    ],
)
@pytest.mark.sim
def test_an_impossible_setting_is_one_error_with_the_choices(kwargs, message):
    with pytest.raises(EnvConfigError, match=message) as error:
        make_env(**{"task": "Lift", **kwargs})
    assert isinstance(error.value, S2RobotEnvError)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [({"num_envs": 0}, "num_envs is 0"), ({"num_envs": 1, "start_method": "fork"}, "choices: forkserver, spawn")],
)
def test_an_impossible_vector_setting_is_refused(kwargs, message):
    with pytest.raises(EnvConfigError, match=message):
        make_vector_env("Lift", **kwargs)


def test_a_task_without_expert_lists_those_that_have_one():
    with pytest.raises(EnvConfigError, match=r"unknown task with a scripted expert 'Dance'. Choices: .*Lift"):
        make_expert("Dance")


def test_every_task_is_named_by_its_key():
    assert all(name == spec.name for name, spec in TASKS.items())


def test_missing_opengl_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("s2robot_envs.rendering._library_loads", lambda backend: False)
    with pytest.raises(RenderingError, match="apt-get install -y libegl1 libgl1-mesa-dri"):
        ensure_gl_backend()


def test_osmesa_is_the_fallback_for_missing_egl(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # restored after the test, whatever ensure_gl_backend exports
    monkeypatch.setattr("s2robot_envs.rendering._library_loads", lambda backend: backend == "osmesa")
    assert ensure_gl_backend() == "osmesa"


def test_a_chosen_backend_is_respected_and_an_unknown_one_refused(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert ensure_gl_backend() == "glfw"
    monkeypatch.setenv("MUJOCO_GL", "egll")
    with pytest.raises(RenderingError, match="did you mean 'egl'"):
        ensure_gl_backend()

"""Every task that robosuite registers, by its own name: `make_env("robosuite:Wipe", robots="IIWA")`."""

from __future__ import annotations

import inspect

from s2robot_envs import simulator
from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.tasks import ROBOSUITE_TASKS, TaskSpec, get_task

PREFIX = "robosuite:"
_HORIZON = 1000  # robosuite's own


def task_spec(task: str) -> TaskSpec:
    """Return what is known of a task of robosuite: of our table by its name, else by `robosuite:<name>`.

    Args:
        task: a key of `s2robot_envs.TASKS`, or `robosuite:<name>` with a name that robosuite registers, or
            `robosuite:<module>:<name>`, whose module is imported first and registers it.

    Raises:
        EnvConfigError: the task is unknown, and the message lists the choices; or the module cannot be imported.
    """
    if not task.startswith(PREFIX):
        return get_task(task)
    module, _, name = task.removeprefix(PREFIX).rpartition(":")
    if module:
        simulator.import_module(f"task {task}: the module {module!r}", module)
    registered = environments()
    if name not in registered:
        raise EnvConfigError(
            f"{unknown_name('task of robosuite', name, registered)}. "
            f"{PREFIX}<module>:{name} first imports a module that registers it"
        )
    from robosuite.environments.manipulation.two_arm_env import TwoArmEnv

    cls = registered[name]
    arms = "TWO" if issubclass(cls, TwoArmEnv) else "ONE"
    alike = ROBOSUITE_TASKS["TwoArmLift" if arms == "TWO" else "Lift"]  # the usual names of cameras and observables
    horizon = inspect.signature(cls).parameters.get("horizon")
    return TaskSpec(
        task,
        horizon=_HORIZON if horizon is None else horizon.default,
        cameras=alike.cameras,
        proprioception=alike.proprioception,
        num_robots=alike.num_robots,
        environment=f"{module}:{name}" if module else name,
    )


def task_of(environment: str) -> str:
    """Return the task of one of robosuite's environments: its name in our table, else `robosuite:<name>`."""
    return environment if environment in ROBOSUITE_TASKS else PREFIX + environment


def environments() -> dict[str, type]:
    """Return robosuite's registered environments, by name."""
    simulator.import_robosuite()
    from robosuite.environments.base import REGISTERED_ENVS

    return dict(REGISTERED_ENVS)

"""Options and properties of gymnasium environments that this package did not define."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator

from s2robot_envs.errors import EnvConfigError, RenderingError, unknown_name
from s2robot_envs.rendering import ensure_gl_backend, load_triton_first

PREFIX = "gym:"
RENDER = "render"  # the camera behind the environment's own `render()`


@dataclass(frozen=True)
class GymOptions:
    """Options of a gymnasium environment that is not from this package; the defaults suit most.

    Attributes:
        kwargs: arguments of `gymnasium.make`.
        success: entry of `info` that is true on success, a boolean or a number 0 or 1; `terminated` if reaching the
            goal ends the episode; None for the first of `is_success` and `success` that `info` has.
        proprioception: keys observed in addition to the cameras; None for every vector of the observation, without
            matrices of 8 x 8 numbers and more. A mapping gives new names to vectors or to parts of them:
            `{"hand": ["observation", 0, 3]}`.
        actions: `unit` if actions are in [-1, 1], mapped to the environment's bounds; `own` if they are in the
            environment's own units; or the bounds of the actions, `{"low": 0, "high": 512}` (numbers, or one per
            dimension), mapped to the environment's bounds; None means `unit`.
    """

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    success: str | None = None
    proprioception: Sequence[str] | Mapping[str, Sequence[Any]] | None = None
    actions: str | Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, value: GymOptions | Mapping[str, Any] | None) -> GymOptions:
        """Make options from a mapping.

        Raises:
            EnvConfigError: an option is unknown.
        """
        if isinstance(value, GymOptions):
            return value
        names = [field.name for field in fields(cls)]
        for name in value or {}:
            if name not in names:
                raise EnvConfigError(unknown_name("gym option", name, names))
        return cls(**(value or {}))

    def plain(self) -> dict[str, Any]:
        """Return the options as a mapping, JSON-able; `parse` reads them back."""
        options = asdict(self)
        if self.actions is None:  # as before there was a choice
            del options["actions"]
        return options


def make_registered(task: str, options: GymOptions) -> gymnasium.Env:
    """Call `gymnasium.make` for the name after `gym:`, with `rgb_array` rendering if the environment has it.

    Raises:
        EnvConfigError: gymnasium does not know the environment, or cannot make it with these arguments.
    """
    module, _, env_id = task.removeprefix(PREFIX).rpartition(":")
    with contextlib.suppress(RenderingError):  # without OpenGL the rest still runs; rendering raises later
        ensure_gl_backend()
    load_triton_first()  # some environments, dm_control's for one, make an OpenGL context when they are made or reset
    try:
        if module:  # registers the environment
            importlib.import_module(module)
        spec = gymnasium.spec(env_id)
        creator = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
        modes = getattr(creator, "metadata", {}).get("render_modes", [])
        mode = {"render_mode": "rgb_array"} if "rgb_array" in modes else {}
        # -1 and disabled checks: `ImageEnv` counts the steps and checks the actions itself.
        return gymnasium.make(env_id, max_episode_steps=-1, disable_env_checker=True, **{**mode, **options.kwargs})
    except Exception as error:  # another package's constructor may raise any type
        raise EnvConfigError(
            f"gymnasium cannot make {task.removeprefix(PREFIX)!r}: {type(error).__name__}: {error}"
        ) from error


def horizon_of(env: gymnasium.Env, asked: int | None, name: str) -> int:
    """Return the steps until truncation: those requested, or the environment's own limit."""
    if asked is not None:
        return asked
    specs = [env.spec, gymnasium.registry.get(env.spec.id)] if env.spec else []
    for spec in specs:
        if spec and spec.max_episode_steps and spec.max_episode_steps > 0:  # -1 means made without a limit
            return spec.max_episode_steps
    raise EnvConfigError(f"{name} has no step limit of its own; give horizon")


def action_scale(space: spaces.Space, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the flattened action, float64 [A] each."""
    if not isinstance(space, spaces.Box) or not np.isfinite([space.low, space.high]).all():
        raise EnvConfigError(f"{name} has actions {space}; valid: a Box with finite bounds")
    return space.low.astype(float).ravel(), space.high.astype(float).ravel()


def action_bounds(
    asked: str | Mapping[str, Any] | None, own: tuple[np.ndarray, np.ndarray], name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the bounds of the actions that are given to an environment, float64 [A] each; see `GymOptions.actions`.

    Args:
        asked: the option.
        own: the bounds of the environment itself.
        name: name of the environment in messages.
    """
    ones = np.ones_like(own[0])
    if asked is None or asked == "unit":
        return -ones, ones
    if asked == "own":
        return own
    bounds = asked if isinstance(asked, Mapping) else {}
    try:
        low, high = (np.broadcast_to(np.asarray(bounds[end], dtype=float), ones.shape) for end in ("low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise EnvConfigError(
            f"gym.actions={asked!r} of {name} is not possible; valid: unit, own, or low and high, one number each or "
            f"{len(ones)}"
        ) from error
    if not (np.isfinite([low, high]).all() and (low < high).all()):
        raise EnvConfigError(f"gym.actions={asked!r} of {name} is not possible; valid: low below high, both finite")
    return low, high


def is_verdict(value: Any) -> bool:
    """Return whether an entry of `info` is one boolean or one number 0 or 1, alone or in an array of one."""
    # A list, for example of tasks, is never a verdict, not even with one entry; `np.asarray` reads torch's tensors.
    if value is None or isinstance(value, str | bytes | list | tuple | set | frozenset | Mapping):
        return False
    array = np.asarray(value)
    return array.size == 1 and array.dtype.kind in "biuf" and array.item() in (0, 1)


def verdict(name: str, key: str, value: Any) -> bool:
    """Return the success that an environment reports.

    Raises:
        EnvConfigError: the value is not a verdict (see `is_verdict`): as a truth value, a list of open tasks, for
            example, would be a success until it is empty.
    """
    if not is_verdict(value):
        raise EnvConfigError(
            f"{name} reports {key}={value!r}, which does not say whether the task is solved; valid: one boolean, or "
            "one number 0 or 1. Give another entry of info as gym.success"
        )
    return bool(np.asarray(value).item())


def undecided(name: str, info: Mapping[str, Any], terminated: str) -> str:
    """Return the error text for unreported success; it names the entries of `info` that can be given as gym.success."""
    usable = sorted(key for key, value in info.items() if is_verdict(value))
    found = ", ".join(usable) if usable else "no entry that is true or false" if info else "no entries"
    first = "one of these, or " if usable else ""
    return (
        f"{name} does not say whether its task is solved: info has {found}; "
        f"give gym.success: {first}{terminated!r} if success ends the episode"
    )


def own_camera(env: gymnasium.Env) -> tuple[str, ...]:
    """Return the camera `render` if the environment renders frames itself, else nothing."""
    return (RENDER,) if env.render_mode == "rgb_array" else ()


def model_cameras(env: gymnasium.Env) -> dict[str, int]:
    """Return name -> index of the cameras of an environment's MuJoCo model; empty if it has no model."""
    mujoco = sys.modules.get("mujoco")  # if nothing has imported it, no environment can hold a model of it
    model = getattr(env.unwrapped, "model", None)
    if mujoco is None or not isinstance(model, mujoco.MjModel):
        return {}
    return {model.camera(index).name: index for index in range(model.ncam) if model.camera(index).name}


def version(env: gymnasium.Env, family: str) -> str:
    """Return what made the environment: the family of its name, and the version of its package."""
    module = sys.modules.get(type(env.unwrapped).__module__.partition(".")[0])
    return f"{family} {getattr(module, '__version__', 'unknown')}"

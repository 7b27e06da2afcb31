"""Wrap any gymnasium environment with images as an `ImageEnv`: `make_env("gym:CarRacing-v3", …)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np

from s2robot_envs.base import DEFAULT_IMAGE_SIZE, ImageEnv, ImageSize, ObservationDict, Outcome
from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.families import refuse_variant
from s2robot_envs.foreign import (
    PREFIX,
    RENDER,
    GymOptions,
    action_bounds,
    action_scale,
    horizon_of,
    make_registered,
    model_cameras,
    own_camera,
    undecided,
    verdict,
    version,
)
from s2robot_envs.pictures import fit_square, is_map, is_picture, leaves, turned_upright, upright_picture
from s2robot_envs.rendering import OffscreenRenderer, load_triton_first
from s2robot_envs.settings import EnvSettings

TERMINATED = "terminated"
_SUCCESS_KEYS = ("is_success", "success")
_GYM = 2  # robomimic's EnvType.GYM_TYPE

DrawFrame = Callable[[gymnasium.Env], np.ndarray]


class GymnasiumEnv(ImageEnv):
    """Wrap a gymnasium environment; see `ImageEnv` for what all environments have in common.

    Cameras come from three places, and each can be observed at any size:

    - images of the observation, uint8 [H, W, C], [C, H, W] or [H, W] with C 1 or 3. Entries of a dictionary keep their
      names (nested names are joined by dots, a final `_image` is dropped). An observation that is one image is the
      camera `observation`.
    - every camera of the MuJoCo model, if `env.unwrapped` has `model` and `data`. It is rendered at the requested size
      and in the requested render profile. A camera that is fixed in the world upside down is turned upright.
    - `render`, the environment's own `render()`.

    Images of the first and the last kind have their own size. They are shrunk by averaging, or enlarged (which adds no
    detail), to the requested size, with black bars if they are not square.

    Vectors of the observation are proprioception, float32; an observation that is one vector is the key `observation`.
    Bounded actions are mapped from [-1, 1] to the environment's bounds, unless `GymOptions.actions` says otherwise. If
    the environment ends an episode itself, the episode is truncated, and `info["terminated"]` says whether it reached a
    final state.

    Args:
        env: the environment to wrap.
        horizon: steps until truncation; None for the environment's own limit.
        cameras: names of the cameras to observe; None for the images of the observation, or `render` if it has none.
        task: name that made the environment, for `env_args`; empty if it cannot be recreated by name.
        image_size: the same as for `ImageEnv`.
        render_profile: render profile of the cameras of a MuJoCo model.
        options: options of the environment, see `GymOptions`.
        frames: additional cameras: name -> function from `env` to its current image.
        render_mode: `rgb_array` or None.

    Raises:
        EnvConfigError: there is no horizon, the actions are not a bounded vector, or the environment lacks a requested
            camera or vector.
    """

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (gymnasium's attribute)

    def __init__(
        self,
        env: gymnasium.Env,
        *,
        horizon: int | None = None,
        cameras: Sequence[str] | None = None,
        task: str = "",
        image_size: ImageSize = DEFAULT_IMAGE_SIZE,
        render_profile: str = "fast",
        options: GymOptions | Mapping[str, Any] | None = None,
        frames: Mapping[str, DrawFrame] | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        self.env = env
        self.task = task
        self.options = GymOptions.parse(options)
        self._frames = dict(frames or {})
        name = task or (env.spec.id if env.spec else type(env.unwrapped).__name__)
        self.metadata = {**self.metadata, "render_fps": env.metadata.get("render_fps", 20)}
        self._leaves = dict(leaves(env.observation_space))
        self._pictures = {k.removesuffix("_image"): k for k, (space, _) in self._leaves.items() if is_picture(space)}
        self._model_cameras = model_cameras(env)
        self.available_cameras = (*self._pictures, *self._frames, *self._model_cameras, *own_camera(env))
        self.default_camera = next(iter(self._pictures), RENDER)
        if cameras is None:
            cameras = tuple(self._pictures) or own_camera(env)
            if not cameras:
                raise EnvConfigError(
                    f"{name} has no default camera: its observation has no images and render_mode is "
                    f"{env.render_mode!r}; give cameras; choices: {', '.join(self.available_cameras) or 'none'}. An "
                    "environment that can draw itself and does not say so needs gym.kwargs.render_mode=rgb_array"
                )
        super().__init__(
            name,
            cameras=cameras,
            image_size=image_size,
            render_profile=render_profile,
            horizon=horizon_of(env, horizon, name),
            render_mode=render_mode,
        )
        self._parts = self._vector_parts()
        self._scale = action_scale(env.action_space, name)
        self._drawn: Any = None  # the model for which the renderer was made
        self.raw_observation: Any = None
        self._own_end = False
        self._given = action_bounds(self.options.actions, self._scale, name)
        self._declare_spaces(*self._given)

    def _vector_parts(self) -> dict[str, tuple[str, slice]]:
        """Return name -> (entry of the observation, part of that entry)."""
        vectors = [key for key, (space, _) in self._leaves.items() if not is_picture(space) and len(space.shape) <= 2]
        asked = self.options.proprioception
        if asked is None:
            return {key: (key, slice(None)) for key in vectors if not is_map(self._leaves[key][0])}
        parts = {}
        for name in asked:
            where: Any = asked[name] if isinstance(asked, Mapping) else name
            key, *bounds = [where] if isinstance(where, str) else list(where)
            if key not in vectors:
                raise EnvConfigError(unknown_name(f"vector in the observation of {self.name}", key, vectors))
            if len(bounds) > 3 or not all(bound is None or isinstance(bound, int) for bound in bounds):
                raise EnvConfigError(f"gym.proprioception: {name!r} is {[key, *bounds]!r}; valid: a key, start and end")
            parts[name] = (key, slice(*bounds) if bounds else slice(None))
        return parts

    # What `ImageEnv` asks for -----------------------------------------------------------------------------------

    def _restart(self, seed: int) -> bool:
        self.raw_observation, info = self.env.reset(seed=seed)
        self._own_end = False
        return any(verdict(self.name, key, info[key]) for key in self._success_keys() if key in info)

    def _advance(self, action: np.ndarray) -> Outcome:
        (low, high), (first, last) = self._scale, self._given
        space: Any = self.env.action_space
        if self.options.actions == "own":
            scaled = np.clip(action, low, high)
        else:
            scaled = np.clip(low + (action - first) / (last - first) * (high - low), low, high)
        self.raw_observation, reward, terminated, truncated, info = self.env.step(
            scaled.astype(space.dtype).reshape(space.shape)
        )
        self._own_end = bool(terminated)
        return Outcome(float(reward), self._succeeded(info, terminated), bool(terminated or truncated))

    def _success_keys(self) -> tuple[str, ...]:
        return _SUCCESS_KEYS if self.options.success is None else (self.options.success,)

    def _succeeded(self, info: Mapping[str, Any], terminated: bool) -> bool:
        if self.options.success == TERMINATED:
            return bool(terminated)
        for key in self._success_keys():
            if key in info:
                return verdict(self.name, key, info[key])
        raise EnvConfigError(undecided(self.name, info, TERMINATED))

    def unclear_actions(self) -> str:
        """See `ImageEnv.unclear_actions`: own bounds other than [-1, 1] need `GymOptions.actions`."""
        low, high = self._scale
        if self.options.actions is not None or ((low == -1).all() and (high == 1).all()):
            return ""
        return (
            f"the environment's own actions go from {low.tolist()} to {high.tolist()}; give gym.actions=own if these "
            "are the recorded units, gym.actions=unit if -1 and 1 are recorded for them, or "
            "gym.actions={low: …, high: …}"
        )

    def info(self) -> dict[str, Any]:
        """Return `ImageEnv.info` and `terminated`: whether the wrapped environment reported a final state."""
        return {**super().info(), "terminated": self._own_end}

    def _proprioception(self) -> ObservationDict:
        return {name: self._vector(key)[part] for name, (key, part) in self._parts.items()}

    def _vector(self, key: str) -> np.ndarray:
        space, _ = self._leaves[key]
        if self.raw_observation is None:  # before the first reset: only its shape matters
            return np.zeros(space.shape, np.float32).ravel()
        return np.array(self._leaf(key), dtype=np.float32).ravel()  # a copy: environments may reuse their buffers

    def _leaf(self, key: str) -> Any:
        value = self.raw_observation
        for name in self._leaves[key][1]:
            value = value[name]
        return value

    def _render(self, camera: str, size: int) -> np.ndarray:
        if camera in self._pictures:
            return fit_square(upright_picture(self._leaf(self._pictures[camera])), size)
        if camera in self._frames:
            return fit_square(upright_picture(self._frames[camera](self.env)), size)
        if camera in self._model_cameras:
            return self._render_model(camera, size)
        load_triton_first()  # before the environment makes an OpenGL context of its own
        return fit_square(upright_picture(self.env.render()), size)

    def _render_model(self, camera: str, size: int) -> np.ndarray:
        model, data = self.env.unwrapped.model, self.env.unwrapped.data  # type: ignore[attr-defined]
        if self._renderer is None or self._drawn is not model:  # some environments load a new model at reset
            self.close_renderer()
            self._renderer = OffscreenRenderer(model, self._profile, self._largest_size)
            self._drawn = model
        index = self._model_cameras[camera]
        return turned_upright(self._renderer.render(data, index, size), model, data, index)

    def close(self) -> None:
        """Close the wrapped environment and free the OpenGL context; closing twice is harmless."""
        self.close_renderer()
        self.env.close()

    def env_args(self) -> dict[str, Any]:
        """Describe how to recreate this environment, JSON-able, in robomimic's form.

        Raises:
            EnvConfigError: the environment was wrapped as an object, not made by name.
        """
        if not self.task:
            raise EnvConfigError(
                f"{self.name} cannot be recreated from a recording; register it with gymnasium and make it by name: "
                f"make_env('{PREFIX}module:Name-v0')"
            )
        family, _, env_id = self.task.partition(":")
        return {
            "env_name": env_id,
            "env_version": version(self.env, family),
            "type": _GYM,
            "env_kwargs": dict(self.options.kwargs),
            "s2robot": {
                "task": self.task,
                "cameras": list(self.image_sizes),
                "image_size": self._size_arguments(),
                "render_profile": self.render_profile,
                "horizon": self.horizon,
                "variant": {},
                "gym": self.options.plain(),
            },
        }


def make(task: str, settings: EnvSettings) -> GymnasiumEnv:
    """Make and wrap the environment named after `gym:`; the function of its family, see `s2robot_envs.families`.

    Raises:
        EnvConfigError: the same as for `make_registered` and `GymnasiumEnv`.
    """
    options = GymOptions.parse(settings.get("gym"))
    refuse_variant(task, settings)
    return wrap(make_registered(task, options), task, options, settings)


def wrap(env: gymnasium.Env, task: str, options: GymOptions, settings: EnvSettings) -> GymnasiumEnv:
    """Wrap an environment in `GymnasiumEnv`; close it if the settings are not valid."""
    others: dict[str, Any] = {name: value for name, value in settings.items() if name not in ("gym", "variant")}
    try:
        return GymnasiumEnv(env, task=task, options=options, **others)
    except BaseException:
        env.close()
        raise

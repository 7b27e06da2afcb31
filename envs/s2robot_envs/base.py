"""The base class of all environments, independent of the simulator: cameras, sizes, horizon, success, seeds."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from s2robot_envs.errors import ActionError, EnvConfigError, EpisodeOverError, unknown_name
from s2robot_envs.rendering import OffscreenRenderer, get_render_profile

DEFAULT_IMAGE_SIZE = 448
ObservationDict = dict[str, np.ndarray]
ImageSize = int | Mapping[str, int | Sequence[int]]


class Outcome(NamedTuple):
    """The outcome of one step: the reward, whether the task is solved now, and whether the simulation ended itself."""

    reward: float
    success: bool
    terminated: bool = False


class ImageEnv(gymnasium.Env[ObservationDict, np.ndarray], abc.ABC):
    """A manipulation task with image observations.

    Simulating and observing are separate calls, because rendering is expensive.

    - **Observations** are a flat dictionary: `<camera>_image`, uint8 [H, W, 3], upright, and proprioception, float32
      [d].
    - **Actions** are float32 [A] in [-1, 1], if the simulator does not state other bounds; larger values are clipped.
    - **Episodes** end by truncation. `terminated` is always False, so a success never cuts an episode short.
    - **Info** holds `is_success` (now), `success_so_far` (at any step of this episode) and `seed`, an integer that
      resets to this episode again, even if `reset` was called without a seed.

    Args:
        name: name of the task in messages.
        cameras: names of the cameras to observe; may be empty.
        image_size: pixels per side: one number, or one per camera, or several per camera. Of several, the largest is
            `<camera>_image`. Each smaller one is `<camera>_image_<size>`, averaged from the largest, because rendering
            costs far more than shrinking.
        render_profile: `fast` or `full`, see `s2robot_envs.rendering.RENDER_PROFILES`.
        horizon: steps until truncation.
        render_mode: `rgb_array` or None.

    Attributes:
        image_sizes: observed camera -> its largest size.
        proprioception: keys of the other observations, in order.
        available_cameras: all cameras that `render_camera` accepts.
        default_camera: camera that `render` shows if no camera is observed.

    Raises:
        EnvConfigError: a size, profile, horizon or render mode is not valid.
    """

    available_cameras: tuple[str, ...]
    default_camera: str
    proprioception: tuple[str, ...]
    # Made by `_render` at the first frame, because an OpenGL context does not survive a fork.
    _renderer: OffscreenRenderer | None = None

    def __init__(
        self,
        name: str,
        *,
        cameras: Sequence[str],
        image_size: ImageSize,
        render_profile: str,
        horizon: int,
        render_mode: str | None,
    ) -> None:
        self.name = name
        self.horizon = horizon
        self.render_profile = render_profile
        self.render_mode = render_mode
        self._profile = get_render_profile(render_profile)
        if render_mode not in (None, "rgb_array"):
            raise EnvConfigError(unknown_name("render mode", render_mode, ["rgb_array"]))
        if horizon < 1:
            raise EnvConfigError(f"horizon is {horizon}; it must be at least 1 step")
        self._sizes = _image_sizes(cameras, image_size)
        self.image_sizes = {camera: largest for camera, (largest, *_) in self._sizes.items()}
        self._elapsed: int | None = None  # None until the first reset
        self._seed = 0
        self._success = self._success_so_far = self._terminated = False

    # What a simulator provides ---------------------------------------------------------------------------------

    @abc.abstractmethod
    def _restart(self, seed: int) -> bool:
        """Start the episode of a seed; return whether its task is already solved."""

    @abc.abstractmethod
    def _advance(self, action: np.ndarray) -> Outcome:
        """Simulate one step; the action is float64 [A], finite and within the bounds."""

    @abc.abstractmethod
    def _proprioception(self) -> ObservationDict:
        """Return the current proprioception, float32 [d] each."""

    @abc.abstractmethod
    def _render(self, camera: str, size: int) -> np.ndarray:
        """Render one of the available cameras now, upright, uint8 [size, size, 3]."""

    @abc.abstractmethod
    def env_args(self) -> dict[str, Any]:
        """Describe how to recreate this environment, JSON-able, in robomimic's form; `make_env(**s2robot)` does it."""

    def offered(self) -> dict[str, int]:
        """Return key -> width of everything that could be observed besides cameras; here what is observed."""
        return {key: int(value.size) for key, value in self._proprioception().items()}

    def unclear_actions(self) -> str:
        """Return why actions that others recorded may mean something else here; empty if they cannot."""
        return ""

    def state(self) -> np.ndarray | None:
        """Return the simulator state, float64 [S], from which `s2robot render` can render this step again.

        None if the simulator does not support it.
        """
        return None

    def model_xml(self) -> str | None:
        """Return the scene as this episode placed it (MJCF); None if the simulator cannot describe it."""
        return None

    # -----------------------------------------------------------------------------------------------------------

    @property
    def renderer_name(self) -> str | None:
        """OpenGL's renderer and version; None before the first frame, or if a foreign environment draws by itself."""
        return None if self._renderer is None else self._renderer.name

    def close_renderer(self) -> None:
        """Free the OpenGL context; the next frame makes a new one for the model at that time."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def _declare_spaces(self, low: np.ndarray, high: np.ndarray) -> None:
        """Set the spaces, with the bounds of actions [A]; constructors call it last, when the simulator can be read."""
        for camera in self.image_sizes:
            if camera not in self.available_cameras:
                raise EnvConfigError(unknown_name(f"camera of {self.name}", camera, self.available_cameras))
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        images = {}
        for camera, (largest, *smaller) in self._sizes.items():
            for key, size in {f"{camera}_image": largest, **{f"{camera}_image_{s}": s for s in smaller}}.items():
                images[key] = spaces.Box(0, 255, (size, size, 3), np.uint8)
        proprioception = {
            key: spaces.Box(-np.inf, np.inf, value.shape, np.float32) for key, value in self._proprioception().items()
        }
        self.proprioception = tuple(proprioception)
        self.observation_space = spaces.Dict({**images, **proprioception})  # type: ignore[assignment]  # loosely typed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[ObservationDict, dict[str, Any]]:
        """Start an episode, which depends on the seed alone and not on earlier episodes.

        On the same machine, the same seed repeats the episode bit for bit. On another machine, pixels may differ with
        the renderer, and trajectories by rounding (docs/architecture.md).

        Args:
            seed: any non-negative integer; None draws one from the environment's generator.
            options: must be empty; wrappers such as `ActionChunk` have options.
        """
        if options:
            raise EnvConfigError(unknown_name("reset option", next(iter(options)), []))
        self.reset_simulation(seed)
        return self.observe(), self.info()

    def step(self, action: np.ndarray) -> tuple[ObservationDict, float, bool, bool, dict[str, Any]]:
        """Advance one step and observe.

        Raises:
            ActionError: the action has the wrong shape or is not finite.
            EpisodeOverError: the episode is over, or `reset` was never called.
        """
        reward, truncated = self.simulate(action)
        return self.observe(), reward, False, truncated, self.info()

    def reset_simulation(self, seed: int | None = None) -> None:
        """Do what `reset` does, but without rendering or observing."""
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        self._success = self._success_so_far = self._restart(self._seed)
        self._elapsed, self._terminated = 0, False

    def simulate(self, action: np.ndarray) -> tuple[float, bool]:
        """Advance one step without rendering or observing.

        Args:
            action: the same as for `step`.

        Returns:
            The reward, and whether the episode is over.
        """
        action = self._checked(action)
        if self._elapsed is None or not self.steps_left:
            raise EpisodeOverError(f"this {self.name} episode {self._why_over()}; call reset before step")
        reward, self._success, self._terminated = self._advance(action)
        self._elapsed += 1
        self._success_so_far |= self._success
        return reward, not self.steps_left

    @property
    def steps_left(self) -> int:
        """Steps until truncation; 0 if `reset` must be called first."""
        return 0 if self._elapsed is None or self._terminated else self.horizon - self._elapsed

    def observe(self) -> ObservationDict:
        """Render the observed cameras and return the current observation."""
        images = {}
        for camera, (_, *smaller) in self._sizes.items():
            images[f"{camera}_image"] = frame = self.render_camera(camera)
            for size in smaller:
                images[f"{camera}_image_{size}"] = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
        return {**images, **self._proprioception()}

    def info(self) -> dict[str, Any]:
        """Return the `info` of the current step: `is_success`, `success_so_far`, `seed`."""
        return {"is_success": self._success, "success_so_far": self._success_so_far, "seed": self._seed}

    def render(self) -> np.ndarray | None:
        """Render the first observed camera, else the default one, uint8 [H, W, 3]; None without a render mode."""
        if self.render_mode is None:
            return None
        return self.render_camera(next(iter(self.image_sizes), self.default_camera))

    def render_camera(self, camera: str, size: int | None = None) -> np.ndarray:
        """Render any available camera, uint8 [size, size, 3].

        Args:
            camera: name of the camera; it need not be observed.
            size: pixels per side; None for the size at which it is observed, else for the largest observed size.
        """
        return self._render(camera, self.image_sizes.get(camera, self._largest_size) if size is None else size)

    @property
    def _largest_size(self) -> int:
        return max(self.image_sizes.values(), default=DEFAULT_IMAGE_SIZE)

    def _size_arguments(self) -> dict[str, int | list[int]]:
        """Return `image_size` as the caller gave it, per camera, as plain numbers."""
        return {camera: sizes if len(sizes) > 1 else sizes[0] for camera, sizes in self._sizes.items()}

    def _why_over(self) -> str:
        if self._elapsed is None:
            return "was never reset"
        return "ended by itself" if self._terminated else f"was truncated at its horizon of {self.horizon}"

    def _checked(self, action: np.ndarray) -> np.ndarray:
        array = np.asarray(action, dtype=np.float64)
        if array.shape != self.action_space.shape:
            raise ActionError(f"{self.name} action has shape {array.shape}; expected {self.action_space.shape}")
        if not np.isfinite(array).all():
            raise ActionError(f"{self.name} action holds NaN or infinity: {array.tolist()}")
        return np.clip(array, self.action_space.low, self.action_space.high)  # type: ignore[attr-defined]


def _image_sizes(cameras: Sequence[str], image_size: ImageSize) -> dict[str, list[int]]:
    """Return the sizes of each camera, largest first."""
    if isinstance(cameras, str):  # a string is iterable too: each letter would be taken as a name
        raise EnvConfigError(f"cameras={cameras!r} is not a list of cameras; write cameras=({cameras!r},)")
    duplicates = [name for name, group in itertools.groupby(sorted(cameras)) if len(list(group)) > 1]
    if duplicates:
        raise EnvConfigError(f"camera {duplicates[0]!r} is named twice in {tuple(cameras)}")
    given = image_size if isinstance(image_size, Mapping) else dict.fromkeys(cameras, image_size)
    for camera in [*cameras, *given]:
        if camera not in given:
            raise EnvConfigError(f"image_size has no entry for camera {camera!r}; it is {dict(given)}")
        if camera not in cameras:
            raise EnvConfigError(unknown_name("camera in image_size", camera, cameras))
    sizes = {}
    for camera in cameras:
        entry = given[camera]
        sizes[camera] = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry]
        valid = all(isinstance(size, int) and 8 <= size <= 4096 for size in sizes[camera])
        if not valid or not sizes[camera] or len(set(sizes[camera])) < len(sizes[camera]):
            raise EnvConfigError(f"image_size of {camera} is {entry!r}; valid: different whole numbers from 8 to 4096")
    return {camera: sorted(values, reverse=True) for camera, values in sizes.items()}

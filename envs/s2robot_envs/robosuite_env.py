"""robosuite tasks as a correct `gymnasium.Env`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from s2robot_envs import simulator
from s2robot_envs.errors import ActionError, EnvConfigError, EpisodeOverError, unknown_name
from s2robot_envs.rendering import OffscreenRenderer, get_render_profile
from s2robot_envs.tasks import CONTROL_FREQUENCY, get_task
from s2robot_envs.variants import Scene, Variant

DEFAULT_IMAGE_SIZE = 448
Observation = dict[str, np.ndarray]
ImageSize = int | Mapping[str, int | Sequence[int]]


class RobosuiteEnv(gymnasium.Env[Observation, np.ndarray]):
    """One robosuite task with image observations.

    Observations are a flat dictionary under robomimic's key names: `<camera>_image`, uint8 [H, W, 3], upright,
    and the task's proprioception, float32: `robot0_eef_pos` [3] (metres, world frame), `robot0_eef_quat` [4]
    (x, y, z, w of the hand body) and `robot0_gripper_qpos` [2] (metres). The quaternion's sign is MuJoCo's, which
    follows the joints without jumps; it is not canonicalised, because the usual rule (w >= 0) flips where w is 0,
    exactly at a gripper that points down.

    Actions are float32 [7] per arm in [-1, 1]: end-effector translation (1 is 0.05 m) and rotation (axis-angle,
    1 is 0.5 rad) relative to the current pose in the robot's base frame, and the gripper (-1 opens, 1 closes).
    Larger values are clipped.

    Episodes end by truncation at the horizon; `terminated` is always False, so a success never cuts an episode
    short. `info` holds `is_success` (now), `success_so_far` (at any step of this episode) and `seed`, the integer
    from which this episode can be reset again, also when `reset` was called without one.

    Args:
        task: a key of `s2robot_envs.TASKS`.
        cameras: names of the cameras to observe; None for the task's own, empty for none (no OpenGL needed).
        image_size: pixels per side: one number, or one per camera, or several per camera. Of several the largest is
            `<camera>_image` and each smaller one, `<camera>_image_<size>`, is its average over areas: rendering
            costs far more than shrinking.
        render_profile: `fast` (no shadows, reflections or antialiasing) or `full` (robosuite's look).
        horizon: steps until truncation; None for the task's own.
        variant: how the scene departs from the task: a `Variant`, or its options as a mapping.
        render_mode: `rgb_array` or None.

    Raises:
        EnvConfigError: unknown task, camera or profile, or an impossible size, horizon or variant.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_FREQUENCY}  # noqa: RUF012 (gymnasium's attribute)

    def __init__(
        self,
        task: str,
        *,
        cameras: Sequence[str] | None = None,
        image_size: ImageSize = DEFAULT_IMAGE_SIZE,
        render_profile: str = "fast",
        horizon: int | None = None,
        variant: Variant | Mapping[str, Any] | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        self.task = get_task(task)
        self.render_profile = render_profile
        self.render_mode = render_mode
        self.horizon = self.task.horizon if horizon is None else horizon
        self._profile = get_render_profile(render_profile)
        if render_mode not in (None, "rgb_array"):
            raise EnvConfigError(unknown_name("render mode", render_mode, ["rgb_array"]))
        if self.horizon < 1:
            raise EnvConfigError(f"horizon is {self.horizon}; it must be at least 1 step")
        cameras = tuple(self.task.cameras if cameras is None else cameras)
        sizes = _image_sizes(cameras, image_size)
        self.image_sizes = {camera: largest for camera, (largest, *_) in sizes.items()}
        self._smaller_sizes = {camera: smaller for camera, (_, *smaller) in sizes.items()}
        self.variant = Variant.parse(variant)
        self.variant.check(self.task)

        self.simulator = simulator.build(self.task, self.horizon, self.variant)
        self._scene = Scene(self.simulator, self.task, self.variant)
        available = self.simulator.sim.model.camera_names
        for camera in cameras:
            if camera not in available:
                raise EnvConfigError(unknown_name(f"camera of {task}", camera, available))
        self._renderer: OffscreenRenderer | None = None
        self._elapsed: int | None = None  # None until the first reset
        self._seed = 0
        self._success = self._success_so_far = False

        self.action_space = spaces.Box(-1.0, 1.0, (self.simulator.action_dim,), np.float32)
        images = {}
        for camera, (largest, *smaller) in sizes.items():
            for key, size in {f"{camera}_image": largest, **{f"{camera}_image_{s}": s for s in smaller}}.items():
                images[key] = spaces.Box(0, 255, (size, size, 3), np.uint8)
        proprioception = {
            key: spaces.Box(-np.inf, np.inf, value.shape, np.float32) for key, value in self._proprioception().items()
        }
        self.observation_space = spaces.Dict({**images, **proprioception})  # type: ignore[assignment]  # loosely typed

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; the same seed gives the same episode bit for bit, whatever ran before it.

        Args:
            seed: any non-negative integer; None draws one from the environment's generator.
            options: none are known here.
        """
        if options:
            raise EnvConfigError(unknown_name("reset option", next(iter(options)), []))
        self.reset_simulation(seed)
        return self.observe(), self.info()

    def step(self, action: np.ndarray) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Advance 1/20 s and observe.

        Raises:
            ActionError: the action has the wrong shape or is not finite.
            EpisodeOverError: `reset` is due.
        """
        reward, truncated = self.simulate(action)
        return self.observe(), reward, False, truncated, self.info()

    def reset_simulation(self, seed: int | None = None) -> None:
        """`reset` without rendering or observing anything."""
        super().reset(seed=seed)
        self._seed = int(self.np_random.integers(2**31)) if seed is None else int(seed)
        simulator.seed_generators(self.simulator, self._seed)
        self.simulator.reset()
        repainted = self._scene.start_episode(self._seed)
        if self._renderer is not None:
            self._renderer.upload_textures(repainted)
        self._elapsed = 0
        self._success = self._success_so_far = self._is_success()

    def simulate(self, action: np.ndarray) -> tuple[float, bool]:
        """Advance one step without rendering or observing anything.

        Args:
            action: as for `step`.

        Returns:
            The reward (1 on success, else 0) and whether the horizon was reached.
        """
        action = self._checked(action)
        if self._elapsed is None or self._elapsed >= self.horizon:
            state = "was never reset" if self._elapsed is None else f"was truncated at its horizon of {self.horizon}"
            raise EpisodeOverError(f"this {self.task.name} episode {state}; call reset before step")
        self.simulator.step(action)
        simulator.refresh_positions(self.simulator)
        self._elapsed += 1
        self._success = self._is_success()
        self._success_so_far |= self._success
        return float(self._success), self._elapsed >= self.horizon

    @property
    def steps_left(self) -> int:
        """Steps until truncation; 0 when a reset is due."""
        return 0 if self._elapsed is None else self.horizon - self._elapsed

    def observe(self) -> Observation:
        """Render and read the current observation."""
        images = {}
        for camera, smaller_sizes in self._smaller_sizes.items():
            images[f"{camera}_image"] = frame = self.render_camera(camera)
            for size in smaller_sizes:
                images[f"{camera}_image_{size}"] = cv2.resize(frame, (size, size), interpolation=cv2.INTER_AREA)
        return {**images, **self._proprioception()}

    def info(self) -> dict[str, Any]:
        """The `info` of the current step: `is_success`, `success_so_far`, `seed`."""
        return {"is_success": self._success, "success_so_far": self._success_so_far, "seed": self._seed}

    def render(self) -> np.ndarray | None:
        """Frame of the first camera (agentview where none is observed), uint8 [H, W, 3]; None without render mode."""
        if self.render_mode is None:
            return None
        return self.render_camera(next(iter(self.image_sizes), self.task.cameras[0]))

    def render_camera(self, camera: str, size: int | None = None) -> np.ndarray:
        """Render any camera of the model, uint8 [size, size, 3].

        Args:
            camera: its name, observed or not.
            size: pixels per side; None for the size it is observed at, or else the largest observed size.
        """
        largest = max(self.image_sizes.values(), default=DEFAULT_IMAGE_SIZE)
        size = self.image_sizes.get(camera, largest) if size is None else size
        if self._renderer is None:  # created at the first frame: processes that fork before it share no OpenGL
            self._renderer = OffscreenRenderer(self.simulator.sim.model._model, self._profile, largest)
        camera_id = self.simulator.sim.model.camera_name2id(camera)
        return self._renderer.render(self.simulator.sim.data._data, camera_id, size)

    def close(self) -> None:
        """Free the OpenGL context and the simulation; closing twice is harmless."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None
        if self.simulator is not None:
            self.simulator.close()
            self.simulator = None

    # Recording and replay -------------------------------------------------------------------------------------

    def state(self) -> np.ndarray:
        """Flattened simulator state (time, joint positions, joint velocities), float64 [S]."""
        return self.simulator.sim.get_state().flatten()

    def set_state(self, state: np.ndarray) -> None:
        """Restore a state recorded from the same task and model; observations of it are bit-identical.

        Raises:
            EnvConfigError: the state has another length than this model's.
        """
        expected = self.state().shape
        if np.shape(state) != expected:
            raise EnvConfigError(f"state has shape {np.shape(state)}; this {self.task.name} model needs {expected}")
        self.simulator.sim.set_state_from_flattened(np.asarray(state, dtype=np.float64))
        self.simulator.sim.forward()
        self._success = self._is_success()

    def model_xml(self) -> str:
        """MJCF of the scene as this episode placed it."""
        return simulator.model_xml(self.simulator)

    def env_args(self) -> dict[str, Any]:
        """How to make this environment again, JSON-able, in robomimic's form.

        `robosuite.make(env_name, **env_kwargs)` builds it in robosuite, `make_env(**s2robot)` builds it here.
        """
        cameras = list(self.image_sizes)
        sizes = list(self.image_sizes.values())
        return {
            "env_name": self.task.name,
            "env_version": simulator.import_robosuite().__version__,
            "type": 1,  # robomimic's EnvType.ROBOSUITE_TYPE
            "env_kwargs": {
                **simulator.robosuite_kwargs(self.task, self.horizon),
                "has_renderer": False,
                "has_offscreen_renderer": bool(cameras),
                "use_camera_obs": bool(cameras),
                "camera_depths": False,
                **({"camera_names": cameras, "camera_heights": sizes, "camera_widths": sizes} if cameras else {}),
            },
            "s2robot": {
                "task": self.task.name,
                "cameras": cameras,
                "image_size": {
                    camera: [size, *self._smaller_sizes[camera]] if self._smaller_sizes[camera] else size
                    for camera, size in self.image_sizes.items()
                },
                "render_profile": self.render_profile,
                "horizon": self.horizon,
                "variant": self.variant.options(),
            },
        }

    # ----------------------------------------------------------------------------------------------------------

    def _proprioception(self) -> Observation:
        return {key: simulator.read_observable(self.simulator, key) for key in self.task.proprioception}

    def _is_success(self) -> bool:
        return bool(self.simulator._check_success())

    def _checked(self, action: np.ndarray) -> np.ndarray:
        array = np.asarray(action, dtype=np.float64)
        if array.shape != self.action_space.shape:
            raise ActionError(f"{self.task.name} action has shape {array.shape}; expected {self.action_space.shape}")
        if not np.isfinite(array).all():
            raise ActionError(f"{self.task.name} action holds NaN or infinity: {array.tolist()}")
        return np.clip(array, -1.0, 1.0)


def _image_sizes(cameras: Sequence[str], image_size: ImageSize) -> dict[str, list[int]]:
    """The sizes of each camera, largest first."""
    duplicates = [name for name, group in itertools.groupby(sorted(cameras)) if len(list(group)) > 1]
    if duplicates:
        raise EnvConfigError(f"camera {duplicates[0]!r} is named twice in {tuple(cameras)}")
    given = image_size if isinstance(image_size, Mapping) else dict.fromkeys(cameras, image_size)
    for camera in [*cameras, *given]:
        if camera not in given:
            raise EnvConfigError(f"image_size has no entry for camera {camera!r}: {dict(given)}")
        if camera not in cameras:
            raise EnvConfigError(unknown_name("camera in image_size", camera, cameras))
    sizes = {}
    for camera in cameras:
        entry = given[camera]
        sizes[camera] = list(entry) if isinstance(entry, Sequence) and not isinstance(entry, str) else [entry]
        valid = all(isinstance(size, int) and 8 <= size <= 4096 for size in sizes[camera])
        if not valid or not sizes[camera] or len(set(sizes[camera])) < len(sizes[camera]):
            raise EnvConfigError(f"image_size of {camera} is {entry!r}; it must be whole numbers from 8 to 4096")
    return {camera: sorted(values, reverse=True) for camera, values in sizes.items()}

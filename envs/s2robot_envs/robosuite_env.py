"""robosuite tasks as correct gymnasium environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from s2robot_envs import simulator
from s2robot_envs.base import DEFAULT_IMAGE_SIZE, ImageEnv, ImageSize, ObservationDict, Outcome
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.observables import action_bounds, cameras_of, observable_names, observables_of, read_observables
from s2robot_envs.registered import task_spec
from s2robot_envs.rendering import OffscreenRenderer
from s2robot_envs.settings import EnvSettings
from s2robot_envs.tasks import CONTROL_FREQUENCY
from s2robot_envs.variants import Scene, Variant


class RobosuiteEnv(ImageEnv):
    """One robosuite task with image observations; see `ImageEnv` for what all environments have in common.

    - **Observations** have robomimic's key names: `<camera>_image`, and the task's proprioception, float32:
      `robot0_eef_pos` [3] (metres, world frame), `robot0_eef_quat` [4] (x, y, z, w of the hand body) and
      `robot0_gripper_qpos` [2] (metres).
    - **The quaternion's sign** is MuJoCo's, which follows the joints without jumps. It is not canonicalised: the usual
      rule (w >= 0) flips the sign where w is 0, which is exactly where the gripper points down.
    - **Actions** are float32 [7] per arm in [-1, 1]: end-effector translation (1 is 0.05 m) and rotation (axis-angle, 1
      is 0.5 rad) relative to the current pose in the robot's base frame, and the gripper (-1 opens, 1 closes). Other
      robots and controllers have actions of other widths. Absolute positions and angles have no bounds.
    - **Time**: a step is 1/20 s.
    - **Reward**: 1 on success, else 0.

    Args:
        task: a key of `s2robot_envs.TASKS`, or `robosuite:<name>` with a name that robosuite registers.
        cameras: names of the cameras to observe; None for the task's own, empty for none (then no OpenGL is needed).
        image_size: the same as for `ImageEnv`.
        render_profile: `fast` (no shadows, reflections or antialiasing) or `full` (robosuite's look).
        horizon: steps until truncation; None for the task's own.
        variant: changes to the task's scene: a `Variant`, or its options as a mapping.
        robots: robosuite's names of the robots, one or a list; None for a Panda, or two.
        controller: robosuite's name of a controller, or its settings in the form of robosuite 1.4 or 1.5; one, or one
            per robot; None for the robot's own.
        control_freq: actions per second; None for 20.
        robosuite: further arguments of `robosuite.make`.
        proprioception: names of robosuite's observables, or `object` for all true object poses together; None for the
            task's own, or the pose of every hand if its robots have others.
        render_mode: `rgb_array` or None.

    Raises:
        EnvConfigError: a task, robot, controller, camera, observable or profile is unknown, or a size, horizon or
            variant is not valid.
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
        robots: str | Sequence[str] | None = None,
        controller: str | Mapping[str, Any] | Sequence[Any] | None = None,
        control_freq: float | None = None,
        robosuite: Mapping[str, Any] | None = None,
        proprioception: Sequence[str] | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        self.task = task_spec(task)
        self.variant = Variant.parse(variant)
        self.variant.check(self.task)
        self.robot_settings = simulator.RobotSettings(robots, controller, control_freq, robosuite)
        horizon = self.task.horizon if horizon is None else horizon
        self.simulator = simulator.build_robosuite(self.task, horizon, self.variant, self.robot_settings)
        try:
            super().__init__(
                task,
                cameras=cameras_of(self.simulator, self.task) if cameras is None else cameras,
                image_size=image_size,
                render_profile=render_profile,
                horizon=horizon,
                render_mode=render_mode,
            )
            self.metadata = {**self.metadata, "render_fps": self.robot_settings.frequency()}
            self._scene = Scene(self.simulator, self.task, self.variant)
            self.available_cameras = tuple(self.simulator.sim.model.camera_names)
            self.default_camera = cameras_of(self.simulator, self.task)[0]
            self._asked_observables = None if proprioception is None else list(proprioception)
            self._observables = observables_of(self.simulator, self.task, proprioception)
            self._declare_spaces(*action_bounds(self.simulator))
        except BaseException:
            self.simulator.close()
            raise

    def _restart(self, seed: int) -> bool:
        simulator.seed_generators(self.simulator, seed)
        self.simulator.reset()
        repainted = self._scene.start_episode(seed)
        if self._renderer is not None:
            self._renderer.upload_textures(repainted)
        return self._is_success()

    def _advance(self, action: np.ndarray) -> Outcome:
        self.simulator.step(action)
        simulator.refresh_positions(self.simulator)
        success = self._is_success()
        return Outcome(float(success), success)

    def _render(self, camera: str, size: int) -> np.ndarray:
        if self._renderer is None:
            model = self.simulator.sim.model._model
            self._renderer = OffscreenRenderer(
                model, self._profile, self._largest_size, hidden_groups=simulator.COLLISION_GROUPS
            )
        camera_id = self.simulator.sim.model.camera_name2id(camera)
        return self._renderer.render(self.simulator.sim.data._data, camera_id, size)

    def close(self) -> None:
        """Free the OpenGL context and the simulation; closing twice is harmless."""
        self.close_renderer()
        if self.simulator is not None:
            self.simulator.close()
            self.simulator = None

    def offered(self) -> dict[str, int]:
        """Return key -> width of every observable of robosuite, which `proprioception` can name."""
        names = observable_names(self.simulator)
        return {key: int(value.size) for key, value in read_observables(self.simulator, names).items()}

    # Recording and replay -------------------------------------------------------------------------------------

    def state(self) -> np.ndarray:
        """Return the flattened simulator state (time, joint positions, joint velocities), float64 [S]."""
        return self.simulator.sim.get_state().flatten()

    def set_state(self, state: np.ndarray) -> None:
        """Restore a state recorded with the same task and model; the same machine observes it bit-identically.

        Raises:
            EnvConfigError: the state's length is not that of this model's states.
        """
        expected = self.state().shape
        if np.shape(state) != expected:
            raise EnvConfigError(f"state has shape {np.shape(state)}, but this {self.task.name} model needs {expected}")
        self.simulator.sim.set_state_from_flattened(np.asarray(state, dtype=np.float64))
        self.simulator.sim.forward()
        simulator.wipe(self.simulator)
        self._success = self._is_success()

    def model_xml(self) -> str:
        """Return the MJCF of the scene as this episode placed it."""
        return simulator.model_xml(self.simulator)

    def env_args(self) -> dict[str, Any]:
        """Describe how to recreate this environment, JSON-able, in robomimic's form.

        `robosuite.make(env_name, **env_kwargs)` makes it in robosuite, `make_env(**s2robot)` makes it in this package.
        """
        cameras = list(self.image_sizes)
        sizes = list(self.image_sizes.values())
        return {
            "env_name": self.task.robosuite_name,
            "env_version": simulator.import_robosuite().__version__,
            "type": 1,  # robomimic's EnvType.ROBOSUITE_TYPE
            "env_kwargs": {
                **simulator.robosuite_kwargs(self.task, self.horizon, self.robot_settings),
                "has_renderer": False,
                "has_offscreen_renderer": bool(cameras),
                "use_camera_obs": bool(cameras),
                "camera_depths": False,
                **({"camera_names": cameras, "camera_heights": sizes, "camera_widths": sizes} if cameras else {}),
            },
            "s2robot": {
                "task": self.task.name,
                "cameras": cameras,
                "image_size": self._size_arguments(),
                "render_profile": self.render_profile,
                "horizon": self.horizon,
                "variant": self.variant.options(),
                **self.robot_settings.chosen(),
                **({} if self._asked_observables is None else {"proprioception": self._asked_observables}),
            },
        }

    # ----------------------------------------------------------------------------------------------------------

    def _proprioception(self) -> ObservationDict:
        return read_observables(self.simulator, self._observables)

    def _is_success(self) -> bool:
        return bool(self.simulator._check_success())


def make(task: str, settings: EnvSettings) -> RobosuiteEnv:
    """Make a robosuite task; the function of its family, see `s2robot_envs.families`.

    Raises:
        EnvConfigError: the same as for `RobosuiteEnv`, or the settings have `gym` options.
    """
    options: dict[str, Any] = dict(settings)
    gym = options.pop("gym", None)
    if gym:
        raise EnvConfigError(f"gym options {dict(gym)} do not apply to {task}, which is a robosuite task")
    return RobosuiteEnv(task, **options)

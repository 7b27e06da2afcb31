"""LIBERO's tasks: `make_env("libero:libero_spatial/0", …)`.

Install `s2robot[libero]` in an environment of its own: it needs robosuite 1.4.0. Sources: Liu et al., 2306.03310;
`libero/lifelong/metric.py` (evaluation) and `scripts/create_dataset.py` (names of observations) of
https://github.com/Lifelong-Robot-Learning/LIBERO.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from s2robot_envs.base import DEFAULT_IMAGE_SIZE, ImageEnv, ImageSize, ObservationDict, Outcome
from s2robot_envs.errors import EnvConfigError
from s2robot_envs.families import refuse_variant
from s2robot_envs.libero_package import find_task, import_libero, read_initial_states, use_assets, with_local_files
from s2robot_envs.rendering import OffscreenRenderer
from s2robot_envs.settings import EnvSettings
from s2robot_envs.simulator import COLLISION_GROUPS, import_any_robosuite

CAMERAS = {"agentview_rgb": "agentview", "eye_in_hand_rgb": "robot0_eye_in_hand"}  # name in LIBERO's files -> MuJoCo's
HORIZON = 600  # `max_steps` of LIBERO's evaluation
CONTROL_FREQUENCY = 20
_SETTLING_STEPS = 5  # LIBERO's evaluation lets objects settle so long before the policy acts; its files begin there
_GYM = 2  # robomimic's EnvType.GYM_TYPE
_ROBOT = "robot0_"
_NOT_HERE = ("gym", "robosuite", "proprioception")  # settings of other families


class LiberoEnv(ImageEnv):
    """One task of LIBERO; see `ImageEnv` for what all environments have in common.

    - **Initial states** are LIBERO's fixed ones (50 per task): seed s starts state s modulo their number. Where the
      fixtures stand (cabinets, stoves) is not part of such a state. LIBERO draws it at every reset; here the seed does.
      Five actions of zeros follow, as in LIBERO's evaluation.
    - **Observations** have the names and quantities of LIBERO's demonstrations: `agentview_rgb_image` and
      `eye_in_hand_rgb_image`, upright (LIBERO's own are upside down), and float32 `ee_pos` [3] (metres, world frame),
      `ee_ori` [3] (axis-angle), `ee_states` [6] (both), `gripper_states` [2] (finger joints, metres) and `joint_states`
      [7] (radians). All cameras of the MuJoCo model can be observed by their own names, too.
    - **Actions** are float32 [7] in [-1, 1], as recorded: translation (1 is 0.05 m), rotation (axis-angle, 1 is 0.5
      rad), gripper (-1 opens).
    - **Time**: a step is 1/20 s.
    - **Success** is LIBERO's: all goal conditions of the task's definition hold now. The reward is then 1, else 0.

    Args:
        task: `libero:<suite>/<number>` or `libero:<suite>/<name>`.
        cameras: names of the cameras to observe; None for the two of LIBERO's files.
        image_size: the same as for `ImageEnv`; LIBERO's files have 128.
        render_profile: `fast`, or `full` (LIBERO's own look).
        horizon: steps until truncation; None for 600.
        robots: name of the robot, or a list with one name; None for LIBERO's (`Panda`).
        controller: a controller of robosuite 1.4: its name, or its settings; None for LIBERO's (`OSC_POSE`).
        control_freq: actions per second; None for 20.
        render_mode: `rgb_array` or None.

    Attributes:
        language: the task in words.

    Raises:
        EnvConfigError: LIBERO is not installed, or a setting is not valid.
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
        robots: str | Sequence[str] | None = None,
        controller: str | Mapping[str, Any] | Sequence[Any] | None = None,
        control_freq: float | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        self.task = task
        definition = find_task(task)
        super().__init__(
            task,
            cameras=tuple(CAMERAS) if cameras is None else cameras,
            image_size=image_size,
            render_profile=render_profile,
            horizon=HORIZON if horizon is None else horizon,
            render_mode=render_mode,
        )
        chosen = {"robots": robots, "controller": controller, "control_freq": control_freq}
        self.robot_settings = {name: value for name, value in chosen.items() if value is not None}
        self.metadata = {**self.metadata, "render_fps": control_freq or CONTROL_FREQUENCY}
        self._initial_states = read_initial_states(definition)
        self._observed: dict[str, np.ndarray] = {}
        described = import_libero("libero.libero.envs.bddl_utils").get_problem_info(str(definition.definition))
        self.language = str(described["language_instruction"])
        self.simulator = _build(task, described["problem_name"], str(definition.definition), self.robot_settings)
        self._require_fitting_states()
        self.available_cameras = (*CAMERAS, *self.simulator.sim.model.camera_names)
        self.default_camera = next(iter(CAMERAS))
        self._observe_robot(self.simulator._get_observations(force_update=True))
        self._declare_spaces(*self.simulator.action_spec)

    def _require_fitting_states(self) -> None:
        found, expected = self._initial_states.shape[1], len(self.simulator.sim.get_state().flatten())
        if found != expected:
            raise EnvConfigError(
                f"the initial states of {self.task} have {found} numbers, but its simulation has {expected}; its "
                "models are of another version, or robots is not LIBERO's Panda"
            )

    # What `ImageEnv` asks for -----------------------------------------------------------------------------------

    def _restart(self, seed: int) -> bool:
        env = self.simulator
        with _numpy_seeded(seed):
            _reset(env)
        # As LIBERO's `set_init_state`, which also observes here. Without that, robosuite samples at the end of each
        # action, as when LIBERO's files were made, and not one step of the physics earlier.
        env.sim.set_state_from_flattened(self._initial_states[seed % len(self._initial_states)])
        env.sim.forward()
        env._post_process()
        for _ in range(_SETTLING_STEPS):
            observation, *_ = env.step(np.zeros(env.action_dim))
        self._observe_robot(observation)
        return self._is_success()

    def _advance(self, action: np.ndarray) -> Outcome:
        observation, reward, success, _ = self.simulator.step(action)
        self._observe_robot(observation)
        return Outcome(float(reward), bool(success))

    def _observe_robot(self, observation: Mapping[str, np.ndarray]) -> None:
        from robosuite.utils.transform_utils import quat2axisangle

        position = observation[f"{_ROBOT}eef_pos"]
        orientation = quat2axisangle(np.array(observation[f"{_ROBOT}eef_quat"]))  # a copy: it clips in place
        values = {
            "ee_ori": orientation,
            "ee_pos": position,
            "ee_states": np.concatenate([position, orientation]),
            "gripper_states": observation[f"{_ROBOT}gripper_qpos"],
            "joint_states": observation[f"{_ROBOT}joint_pos"],
        }
        self._observed = {key: np.array(value, dtype=np.float32) for key, value in values.items()}

    def _proprioception(self) -> ObservationDict:
        return dict(self._observed)

    def _is_success(self) -> bool:
        return bool(self.simulator._check_success())

    def _render(self, camera: str, size: int) -> np.ndarray:
        sim = self.simulator.sim
        if self._renderer is None:
            self._renderer = OffscreenRenderer(
                sim.model._model, self._profile, self._largest_size, hidden_groups=COLLISION_GROUPS
            )
        return self._renderer.render(sim.data._data, sim.model.camera_name2id(CAMERAS.get(camera, camera)), size)

    def load_scene(self, model_file: str) -> None:
        """Replace the scene by a recorded one (MJCF), with the meshes and textures of this machine.

        Raises:
            EnvConfigError: the scene cannot be loaded, or is not this task's.
        """
        scene = with_local_files(model_file, use_assets())
        self.close_renderer()  # it belongs to the model that is replaced
        try:
            self.simulator.reset_from_xml_string(scene)
        except Exception as error:  # XML, MuJoCo and robosuite raise many types
            raise EnvConfigError(
                f"the recorded model_file is not a scene of {self.task} ({type(error).__name__}: {error})"
            ) from error

    def set_state(self, state: np.ndarray) -> None:
        """Restore a recorded state, float64 [S], of the same task and scene.

        Raises:
            EnvConfigError: the state's length is not that of this model's states.
        """
        sim, expected = self.simulator.sim, self.simulator.sim.get_state().flatten().shape
        if np.shape(state) != expected:
            raise EnvConfigError(f"state has shape {np.shape(state)}, but this model of {self.task} needs {expected}")
        sim.set_state_from_flattened(np.asarray(state, dtype=np.float64))
        sim.forward()
        self.simulator._post_process()
        self._observe_robot(self.simulator._get_observations(force_update=True))
        self._success = self._is_success()

    def close(self) -> None:
        """Free the OpenGL context and the simulation; closing twice is harmless."""
        self.close_renderer()
        if self.simulator is not None:
            self.simulator.close()
            self.simulator = None

    def env_args(self) -> dict[str, Any]:
        """Describe how to recreate this environment, JSON-able, in robomimic's form."""
        return {
            "env_name": self.task,
            "env_version": f"robosuite {import_any_robosuite().__version__}",
            "type": _GYM,
            "env_kwargs": {},
            "language": self.language,
            "s2robot": {
                "task": self.task,
                "cameras": list(self.image_sizes),
                "image_size": self._size_arguments(),
                "render_profile": self.render_profile,
                "horizon": self.horizon,
                "variant": {},
                **self.robot_settings,
            },
        }


def _build(task: str, problem: str, definition: str, settings: Mapping[str, Any]) -> Any:
    """Construct LIBERO's environment without cameras; resets are soft, see `simulator.build_robosuite`."""
    use_assets()
    problems = import_libero("libero.libero.envs").TASK_MAPPING
    robots, controller = settings.get("robots", "Panda"), settings.get("controller", "OSC_POSE")
    robots = [robots] if isinstance(robots, str) else list(robots)
    try:
        if isinstance(controller, str):
            controller = import_any_robosuite().load_controller_config(default_controller=controller)
        with _numpy_seeded(0):
            env = problems[problem](
                bddl_file_name=definition,
                robots=robots,
                controller_configs=controller,
                initialization_noise=None,
                use_camera_obs=False,
                has_renderer=False,
                has_offscreen_renderer=False,
                ignore_done=True,
                hard_reset=False,
                control_freq=settings.get("control_freq", CONTROL_FREQUENCY),
            )
    except Exception as error:  # robosuite asserts, or looks names up in dictionaries
        raise EnvConfigError(
            f"LIBERO cannot make {task} with {dict(settings)} ({type(error).__name__}: {error})"
        ) from error
    # Objects would be observed at every step of the physics.
    for name in env.observation_names:
        seen = name in (f"{_ROBOT}{key}" for key in ("eef_pos", "eef_quat", "gripper_qpos", "joint_pos"))
        env.modify_observable(name, "enabled", seen)
        env.modify_observable(name, "active", seen)
    return env


def _reset(env: Any) -> None:
    """Reset LIBERO's environment; drawing again until the fixtures do not overlap, as LIBERO does."""
    from robosuite.utils.errors import RandomizationError

    for robot in env.robots:
        # A soft reset keeps the gripper's last command, a hard one does not.
        robot.gripper.current_action = np.zeros(robot.gripper.dof)
    while True:
        with contextlib.suppress(RandomizationError):
            env.reset()
            return


@contextlib.contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, from which LIBERO draws, inside this block only."""
    former = np.random.get_state()
    np.random.seed(np.random.SeedSequence(seed).generate_state(8))
    try:
        yield
    finally:
        np.random.set_state(former)


def make(task: str, settings: EnvSettings) -> LiberoEnv:
    """Make the LIBERO task named after `libero:`; the function of its family, see `s2robot_envs.families`.

    Raises:
        EnvConfigError: the same as for `LiberoEnv`, or a setting does not apply to LIBERO.
    """
    refuse_variant(task, settings)
    for name in _NOT_HERE:
        if settings.get(name):
            raise EnvConfigError(f"{name} does not apply to {task}")
    others: dict[str, Any] = {name: value for name, value in settings.items() if name not in (*_NOT_HERE, "variant")}
    return LiberoEnv(task, **others)

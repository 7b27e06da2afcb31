"""All code that depends on robosuite's internals: its import, construction, seeding and recorded metadata."""

from __future__ import annotations

import contextlib
import importlib
import logging
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from s2robot_envs.controllers import composite_controller, is_bimanual
from s2robot_envs.errors import EnvConfigError, RenderingError, unknown_name
from s2robot_envs.rendering import ensure_gl_backend
from s2robot_envs.settings import ROBOT_SETTINGS
from s2robot_envs.tasks import CONTROL_FREQUENCY, ROBOT, TaskSpec
from s2robot_envs.variants import Variant

# robosuite samples some sizes (Lift's cube: 20-22 mm half-width) when it loads a model. Every environment of a task
# loads with this seed, so that the model is the same in every process and only `reset` varies an episode.
MODEL_SEED = 0

COLLISION_GROUPS = (0,)  # groups of geometry that robosuite does not draw; group 1 is the visible one


@cache
def import_robosuite() -> ModuleType:
    """Import robosuite 1.5, see `import_any_robosuite`.

    Raises:
        EnvConfigError: robosuite is not installed, or in another version.
    """
    robosuite = import_any_robosuite()
    if not str(robosuite.__version__).startswith("1.5."):
        raise EnvConfigError(
            f"robosuite {robosuite.__version__} is installed (LIBERO needs 1.4), but robosuite's tasks need 1.5; run: "
            "pip install 's2robot[sim]' in another environment"
        )
    return robosuite


@cache
def import_any_robosuite() -> ModuleType:
    """Import robosuite after choosing the OpenGL backend, and silence its advertisements on stderr.

    Raises:
        EnvConfigError: robosuite is not installed.
    """
    with contextlib.suppress(RenderingError):  # without OpenGL the physics still runs; rendering raises later
        ensure_gl_backend()
    logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)
    try:
        import robosuite
    except ModuleNotFoundError as error:
        raise EnvConfigError(f"the simulator is not installed ({error}); run: pip install 's2robot[sim]'") from error
    return robosuite


@dataclass(frozen=True)
class RobotSettings:
    """What moves, and how: the settings of `EnvSettings` of the same names."""

    robots: str | Sequence[str] | None = None
    controller: str | Mapping[str, Any] | Sequence[Any] | None = None
    control_freq: float | None = None
    robosuite: Mapping[str, Any] | None = None

    def chosen(self) -> dict[str, Any]:
        """The settings that are not the task's own, JSON-able."""
        named = {name: getattr(self, name) for name in ROBOT_SETTINGS}
        return {name: _plain(value) for name, value in named.items() if value is not None}

    def frequency(self) -> float:
        """Actions per second."""
        return CONTROL_FREQUENCY if self.control_freq is None else self.control_freq


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, list | tuple) else value


def robot_names(spec: TaskSpec, asked: str | Sequence[str] | None) -> list[str]:
    """Return the robots of an environment: one name stands for as many of that robot as the task needs.

    Raises:
        EnvConfigError: robosuite has no such robot; the message names the choices.
    """
    import_robosuite()
    from robosuite.robots import ROBOT_CLASS_MAPPING

    asked = ROBOT if asked is None else asked
    for name in [asked] if isinstance(asked, str) else asked:
        if name not in ROBOT_CLASS_MAPPING:
            raise EnvConfigError(unknown_name("robot", name, ROBOT_CLASS_MAPPING))
    if not isinstance(asked, str):
        return list(asked)
    return [asked] * (1 if is_bimanual(asked) else spec.num_robots)


def robosuite_kwargs(spec: TaskSpec, horizon: int, settings: RobotSettings | None = None) -> dict[str, Any]:
    """Arguments of `robosuite.make` for a task, without its cameras; plain JSON values.

    Raises:
        EnvConfigError: robosuite has no such robot or controller, or there are not as many controllers as robots.
    """
    import_robosuite()
    settings = settings or RobotSettings()
    robots = robot_names(spec, settings.robots)
    given = settings.controller
    controllers = list(given) if isinstance(given, list | tuple) else [given] * len(robots)
    if len(controllers) != len(robots):
        raise EnvConfigError(f"controller has {len(controllers)} entries for {len(robots)} robots {robots}")
    return {
        "robots": robots,
        "controller_configs": [
            composite_controller(controller, robot) for controller, robot in zip(controllers, robots, strict=True)
        ],
        "control_freq": settings.frequency(),
        "horizon": horizon,
        "ignore_done": True,
        "reward_shaping": False,
        "use_object_obs": True,
        **spec.robosuite_kwargs,
        **_plain(settings.robosuite or {}),
    }


def build_robosuite(spec: TaskSpec, horizon: int, variant: Variant, settings: RobotSettings | None = None) -> Any:
    """Construct the robosuite environment without cameras, renderer or active observables.

    Resets are soft (`hard_reset=False`): the model is loaded once. With the same model, a soft reset starts the same
    trajectory as a hard one, bit for bit, and takes 2 ms instead of 200 (1500 with a render context). The changes that
    a variant makes in every episode are applied by `Scene`.
    """
    kwargs = robosuite_kwargs(spec, horizon, settings)
    try:
        env = import_robosuite().make(
            _import_environment(spec),
            has_renderer=False,
            has_offscreen_renderer=False,
            use_camera_obs=False,
            renderer="mujoco",
            hard_reset=False,
            seed=MODEL_SEED,
            **kwargs,
        )
    except Exception as error:  # robosuite asserts, or looks names up in dictionaries
        chosen = settings.chosen() if settings else {}
        if not chosen and ":" not in spec.name:
            raise
        with_these = f" with {chosen}" if chosen else ""
        raise EnvConfigError(
            f"robosuite cannot make {spec.name}{with_these} ({type(error).__name__}: {error})"
        ) from error
    if variant.edits_model():
        env.set_xml_processor(lambda xml: variant.edit_model(xml, spec))
        env.placement_initializer, env.rng = None, np.random.default_rng(MODEL_SEED)  # as when the model first loaded
        env.hard_reset = True
        env.reset()
        env.hard_reset = False
    # robosuite would sample every observable in each of the 25 physics steps of an action. `read_observables` reads the
    # needed ones once per observation. `active` tells which ones robosuite would show.
    for name in env.observation_names:
        env.modify_observable(name, "enabled", False)
    return env


def _import_environment(spec: TaskSpec) -> str:
    """Import the task's own module, if it names one, and return robosuite's name of its environment."""
    module = (spec.environment or "").rpartition(":")[0]
    if module:
        import_module(f"task {spec.name}: the module of environment={spec.environment!r}", module)
    return spec.robosuite_name


def import_module(what: str, module: str) -> None:
    """Import a module that registers an environment with robosuite.

    Raises:
        EnvConfigError: it cannot be imported; the message begins with `what`.
    """
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise EnvConfigError(f"{what} cannot be imported: {error}") from error


def seed_generators(env: Any, seed: int) -> None:
    """Give every source of randomness inside a robosuite environment a new generator made from `seed`.

    robosuite's own `seed` argument acts only at construction. After that its samplers draw from one stream, so an
    episode would depend on the episodes before it.
    """
    rng = np.random.default_rng(seed)
    env.rng = rng
    placement = getattr(env, "placement_initializer", None)  # Wipe has none
    pending = [placement] if placement is not None else []
    while pending:
        sampler = pending.pop()
        sampler.rng = rng
        for placed in sampler.mujoco_objects:
            if hasattr(placed, "rng"):  # objects can be random too: TwoArmTransport's hammer draws its orientation
                placed.rng = rng
        pending += getattr(sampler, "samplers", {}).values()
    arena: Any = getattr(env.model, "mujoco_arena", None)
    if hasattr(arena, "rng"):  # Wipe's arena draws the path of the dirt
        arena.rng = rng


def refresh_positions(env: Any) -> None:
    """Update the poses of bodies, sites and cameras to the current joint positions, without changing the dynamics.

    robosuite stops after integrating, which leaves poses one physics step (2 ms) behind. After this update, an
    observation is a function of the recorded state alone. So replaying states with the same renderer gives the same
    pixels.
    """
    import mujoco

    model, data = env.sim.model._model, env.sim.data._data
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_camlight(model, data)


def wipe(env: Any) -> None:
    """Let Wipe's dirt vanish where the tool stands; do nothing in other environments.

    Which dirt is gone is not part of MuJoCo's state. robosuite notes it when it computes a reward, so that states that
    are set one after another show the table as it was recorded.
    """
    if hasattr(env, "wiped_markers"):
        env.reward()


def model_xml(env: Any) -> str:
    """Return the MJCF of the current scene, including what a reset moves in the model: Door's frame, cameras, lights.

    Repainted textures (`Variant.textures`) are not included.
    """
    xml = env.model.get_xml()
    for process in env._xml_processors:
        xml = process(xml)
    root = ElementTree.fromstring(xml)
    model = env.sim.model
    world = root.find("worldbody")
    assert world is not None  # every MJCF robosuite writes has one
    for body in world.findall("body"):
        index = model.body_name2id(body.get("name"))
        if model.body_jntnum[index] == 0:
            _write_pose(body, model.body_pos[index], model.body_quat[index])
    for body in world.findall("body/body//body[@name]") + world.findall("body/body[@name]"):
        position = model.body_pos[model.body_name2id(body.get("name"))]
        if not np.allclose(np.array(body.get("pos", "0 0 0").split(), float), position):  # Wipe's dirt, on its table
            body.set("pos", _numbers(position))
    for camera in world.findall("camera"):
        index = model.camera_name2id(camera.get("name"))
        _write_pose(camera, model.cam_pos[index], model.cam_quat[index])
    for index, light in enumerate(world.findall("light")):
        light.set("pos", _numbers(model.light_pos[index]))
        light.set("diffuse", _numbers(model.light_diffuse[index]))
    visual = root.find("visual")
    visual = ElementTree.SubElement(root, "visual") if visual is None else visual
    headlight = visual.find("headlight")
    headlight = ElementTree.SubElement(visual, "headlight") if headlight is None else headlight
    headlight.set("diffuse", _numbers(model._model.vis.headlight.diffuse))
    return ElementTree.tostring(root, encoding="unicode")


def _write_pose(element: ElementTree.Element, position: np.ndarray, quaternion: np.ndarray) -> None:
    for other in ("axisangle", "xyaxes", "zaxis", "euler"):
        element.attrib.pop(other, None)
    element.set("pos", _numbers(position))
    element.set("quat", _numbers(quaternion))


def _numbers(values: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in values)

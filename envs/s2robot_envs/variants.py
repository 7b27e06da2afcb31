"""Task variants that make visual detail matter: smaller objects, farther cameras, clutter, randomised looks."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.tasks import TaskSpec

# Every randomisation has its own random stream of the episode's seed, so that enabling one does not change the others.
_STREAMS = {"distractors": 2, "lighting": 3, "textures": 4, "camera_pose": 5}

# Shape, half sizes in metres (cylinders: radius and half height), colour. They resemble the tasks' own objects.
_DISTRACTORS = (
    ("box", "0.02 0.02 0.02", "0.1 0.6 0.2 1"),
    ("cylinder", "0.018 0.025", "0.8 0.1 0.1 1"),
    ("box", "0.03 0.015 0.015", "0.1 0.2 0.8 1"),
    ("sphere", "0.02", "0.9 0.5 0.1 1"),
    ("cylinder", "0.025 0.015", "0.9 0.8 0.1 1"),
    ("box", "0.015 0.015 0.03", "0.5 0.1 0.6 1"),
)
_RANGES = {
    "object_scale": (0.5, 1),
    "camera_distance": (1, 2),
    "distractors": (0, 6),
}
_CLEARANCE = 0.11  # least distance in metres from a distractor to the task's objects: leaves room for the open hand
_SPACING = 0.07  # least distance in metres between distractors

_ARENA_TEXTURES = ("texplane", "tex-ceramic", "tex-light-gray-plaster", "tex-light-wood", "tex-dark-wood")


@dataclass(frozen=True)
class Variant:
    """Changes to a task's scene; the defaults change nothing.

    Attributes:
        object_scale: size of the task's object as a fraction of the original, 0.5 to 1 (Lift, Stack's upper cube,
            PickPlaceCan).
        camera_distance: distance of the fixed cameras from the scene as a multiple of the original, 1 to 2.
        distractors: number of additional small objects, 0 to 6 (tasks on an open table or bin).
        lighting: whether direction and brightness of the light change with every episode.
        textures: whether floor, walls and table get new textures in every episode.
        camera_pose: whether the fixed cameras move by about 2 cm and 2 degrees in every episode.

    Raises:
        EnvConfigError: a value is out of range.
    """

    object_scale: float = 1.0
    camera_distance: float = 1.0
    distractors: int = 0
    lighting: bool = False
    textures: bool = False
    camera_pose: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            if not low <= getattr(self, name) <= high:
                raise EnvConfigError(f"variant.{name} is {getattr(self, name)}; it must be from {low} to {high}")

    @classmethod
    def parse(cls, value: Variant | Mapping[str, Any] | None) -> Variant:
        """Make a variant from its options.

        Raises:
            EnvConfigError: an option is unknown, or a value is out of range.
        """
        if isinstance(value, Variant):
            return value
        names = [field.name for field in fields(cls)]
        for name in value or {}:
            if name not in names:
                raise EnvConfigError(unknown_name("variant option", name, names))
        return cls(**(value or {}))

    def options(self) -> dict[str, Any]:
        """Return the options that differ from the defaults, JSON-able; `parse` reads them back."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}

    def check(self, spec: TaskSpec) -> None:
        """Check that the task supports this variant.

        Raises:
            EnvConfigError: the task's object must keep its size, or there is no room for distractors.
        """
        if self.object_scale != 1 and spec.scalable_body is None:
            raise EnvConfigError(
                f"variant.object_scale does not apply to {spec.name}: its object must fit another part"
            )
        if self.distractors and spec.clutter is None:
            raise EnvConfigError(f"variant.distractors does not apply to {spec.name}: its scene has no free space")

    def edits_model(self) -> bool:
        """Return whether this variant changes the MJCF itself."""
        return self.object_scale != 1 or self.distractors > 0

    def edit_model(self, xml: str, spec: TaskSpec) -> str:
        """Return a task's MJCF with the object shrunk and the distractors added."""
        root = ElementTree.fromstring(xml)
        if self.object_scale != 1:
            _scale_body(root, spec.scalable_body, self.object_scale)
        world = root.find("worldbody")
        assert world is not None  # every MJCF robosuite writes has one
        for index, (kind, size, colour) in enumerate(_DISTRACTORS[: self.distractors]):
            body = ElementTree.SubElement(world, "body", name=f"distractor{index}", pos=f"{index} 5 0.5")
            ElementTree.SubElement(body, "joint", name=f"distractor{index}_joint", type="free", damping="0.0005")
            shape = {"type": kind, "size": size, "rgba": colour}
            # robosuite's convention: group 0 collides and is not drawn, group 1 is drawn and does not collide.
            ElementTree.SubElement(body, "geom", {**shape, "group": "0", "density": "500", "condim": "4"})
            drawn = {"group": "1", "contype": "0", "conaffinity": "0", "mass": "0"}
            ElementTree.SubElement(body, "geom", {**shape, **drawn})
        return ElementTree.tostring(root, encoding="unicode")


def _scale_body(root: ElementTree.Element, name: str | None, scale: float) -> None:
    body = root.find(f".//body[@name='{name}']")
    if body is None:
        raise EnvConfigError(f"the model has no body {name!r} to scale")
    for element in (*body.iter("geom"), *body.iter("site")):
        for key in ("size", "pos"):
            if key in element.attrib:
                element.set(key, " ".join(str(float(number) * scale) for number in element.attrib[key].split()))
    for mesh in {geom.get("mesh") for geom in body.iter("geom")} - {None}:
        asset = root.find(f"asset/mesh[@name='{mesh}']")
        assert asset is not None  # else the model would not have loaded
        factors = asset.get("scale", "1 1 1").split()
        asset.set("scale", " ".join(str(float(factor) * scale) for factor in factors))


class Scene:
    """Apply a variant to its robosuite environment in every episode.

    Args:
        env: the robosuite environment; `Variant.edit_model` has already changed its model.
        spec: the environment's task.
        variant: the variant to apply.
    """

    def __init__(self, env: Any, spec: TaskSpec, variant: Variant) -> None:
        self._env, self._spec, self._variant = env, spec, variant
        self._model = env.sim.model._model
        self._fixed_cameras = np.flatnonzero(self._model.cam_bodyid == 0)
        self._move_cameras_away()
        self._cameras = self._model.cam_pos.copy(), self._model.cam_quat.copy()
        self._lights = self._model.light_pos.copy(), self._model.light_diffuse.copy()
        self._headlight = self._model.vis.headlight.diffuse.copy()
        names = [self._model.tex(index).name for index in range(self._model.ntex)]
        self._textures = [names.index(name) for name in _ARENA_TEXTURES if name in names]

    def start_episode(self, seed: int) -> list[int]:
        """Apply the variant; call this directly after robosuite's reset.

        Returns:
            Indices of the textures whose pixels changed, which the renderer must upload again.
        """
        variant = self._variant
        if variant.object_scale != 1:
            self._lower_object()
        if variant.distractors:
            self._place_distractors(np.random.default_rng([seed, _STREAMS["distractors"]]))
        if variant.lighting:
            self._change_light(np.random.default_rng([seed, _STREAMS["lighting"]]))
        if variant.camera_pose:
            self._shake_cameras(np.random.default_rng([seed, _STREAMS["camera_pose"]]))
        if variant.textures:
            self._paint(np.random.default_rng([seed, _STREAMS["textures"]]))
        if variant.options():
            self._env.sim.forward()
        return self._textures if variant.textures else []

    def _move_cameras_away(self) -> None:
        for index in self._fixed_cameras:
            forward = -Rotation.from_quat(np.roll(self._model.cam_quat[index], -1)).as_matrix()[:, 2]
            # Distance to the table top along the line of sight, limited to 1 m so that the camera stays in the room.
            height = self._model.cam_pos[index][2] - 0.8
            distance = min(height / -forward[2], 1.0) if forward[2] < -0.1 else 1.0
            self._model.cam_pos[index] -= forward * distance * (self._variant.camera_distance - 1)

    def _lower_object(self) -> None:
        """Lower the shrunken object by the size difference, so that it rests on the surface instead of falling."""
        for placed in self._env.model.mujoco_objects:
            if placed.root_body == self._spec.scalable_body:
                pose = self._env.sim.data.get_joint_qpos(placed.joints[0]).copy()
                pose[2] += placed.bottom_offset[2] * (1 - self._variant.object_scale)
                self._env.sim.data.set_joint_qpos(placed.joints[0], pose)

    def _place_distractors(self, rng: np.random.Generator) -> None:
        assert self._spec.clutter is not None  # `Variant.check`
        self._env.sim.forward()
        (x_low, x_high), (y_low, y_high), height = self._spec.clutter
        model, data = self._model, self._env.sim.data
        free = [model.jnt_bodyid[j] for j in range(model.njnt) if model.jnt_type[j] == 0]
        names = [model.body(index).name for index in free]
        taken = [data.body_xpos[i][:2] for i, name in zip(free, names, strict=True) if "distractor" not in name]
        placed: list[np.ndarray] = []
        while len(placed) < self._variant.distractors:
            spot = rng.uniform((x_low, y_low), (x_high, y_high))
            if all(np.linalg.norm(spot - t) > _CLEARANCE for t in taken) and all(
                np.linalg.norm(spot - p) > _SPACING for p in placed
            ):
                angle = rng.uniform(0, np.pi)
                pose = [*spot, height + 0.032, np.cos(angle / 2), 0, 0, np.sin(angle / 2)]
                data.set_joint_qpos(f"distractor{len(placed)}_joint", pose)
                placed.append(spot)

    def _change_light(self, rng: np.random.Generator) -> None:
        position, diffuse = self._lights
        self._model.light_pos[:] = position + rng.uniform(-1.0, 1.0, position.shape) * (1.5, 1.5, 0.3)
        self._model.light_diffuse[:] = diffuse * rng.uniform(0.5, 1.2) * rng.uniform(0.85, 1.15, 3)
        self._model.vis.headlight.diffuse[:] = self._headlight * rng.uniform(0.5, 1.3)

    def _shake_cameras(self, rng: np.random.Generator) -> None:
        positions, quaternions = self._cameras
        for index in self._fixed_cameras:
            self._model.cam_pos[index] = positions[index] + rng.normal(0.0, 0.02, 3)
            base = Rotation.from_quat(np.roll(quaternions[index], -1))  # MuJoCo has w first, scipy last
            turn = Rotation.from_rotvec(rng.normal(0.0, np.deg2rad(2), 3))
            self._model.cam_quat[index] = np.roll((turn * base).as_quat(), 1)

    def _paint(self, rng: np.random.Generator) -> None:
        model = self._model
        for index in self._textures:
            start = model.tex_adr[index]
            shape = model.tex_height[index], model.tex_width[index], model.tex_nchannel[index]
            model.tex_data[start : start + np.prod(shape)] = _pattern(rng, shape).ravel()


def _pattern(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Draw a random flat, checkered, striped or mottled texture, uint8 of `shape`."""
    height, width, channels = shape
    cells = int(rng.integers(4, 24))
    row, column = np.indices((cells, cells))
    mixtures = [0.0 * row, (row + column) % 2, row % 2, rng.random((cells, cells))]
    first, second = rng.uniform(60, 255, (2, channels))
    colours = (first + mixtures[rng.integers(4)][..., None] * (second - first)).astype(np.uint8)
    return colours[np.arange(height) * cells // height][:, np.arange(width) * cells // width]

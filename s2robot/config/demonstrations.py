"""Settings of the verbs that record, render and convert demonstrations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from s2robot.config.checks import require, require_cameras
from s2robot.config.selection import Selecting


@dataclass
class CollectConfig:
    """`s2robot collect`: record demonstrations of a scripted expert as robomimic HDF5."""

    task: str = "Lift"
    num: int = 120
    size: int = 448
    out: str = MISSING
    cameras: list[str] | None = None  # null = the task's own
    noise: float = 0.15
    seed: int = 0
    workers: int | None = None  # null = one per core
    render_profile: str = "fast"
    horizon: int | None = None  # null = the task's own
    variant: dict[str, Any] = field(default_factory=dict)  # such as {object_scale: 0.6}; see `s2robot_envs.Variant`
    # Options of tasks gym:… and metaworld:…, such as {success: terminated}
    gym: dict[str, Any] = field(default_factory=dict)
    # Of robosuite's tasks: null = the task's own. robots=IIWA, controller=OSC_POSITION, control_freq=10,
    # robosuite={gripper_types: WipingGripper}, proprioception=[robot0_joint_pos]; see `s2robot_envs.EnvSettings`
    robots: Any = None
    controller: Any = None
    control_freq: float | None = None
    robosuite: dict[str, Any] | None = None
    proprioception: list[str] | None = None
    expert: str | None = None  # null = the task's own, else module:Name
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.num >= 1, "num", self.num, "1 or more")
        require(self.size >= 16, "size", self.size, "16 pixels or more")
        require(self.noise >= 0, "noise", self.noise, "0 or more")
        _require_hdf5(self.out)


@dataclass
class RenderConfig(Selecting):
    """`s2robot render`: render recorded states again, at any size and from any camera."""

    dataset: str = MISSING
    out: str = MISSING
    size: int = 448
    cameras: list[str] | None = None  # null = as recorded, else the task's own
    task: str | None = None  # null = as recorded; robosuite:<module>:<name> imports a module that registers it
    render_profile: str | None = None  # null = as recorded, else fast
    workers: int | None = None  # null = one per core
    # Whether to record `actions_abs` too: the absolute poses that the recorded increments command (`action_key=`).
    absolute_actions: bool = False
    overwrite: bool = False
    episodes: list[Any] | None = None  # positions, ranges such as "10-19", names; null = all
    filter_key: str | None = None  # only what this list in the file names, such as robomimic's mask/better
    successes_only: bool = False  # only demonstrations recorded as successful

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.size >= 16, "size", self.size, "16 pixels or more")
        _require_hdf5(self.out)


@dataclass
class ConvertConfig(Selecting):
    """`s2robot convert`: copy any readable dataset to robomimic HDF5 (out=*.hdf5) or a LeRobot folder (out=NAME)."""

    dataset: str = MISSING
    out: str = MISSING
    fps: int | None = None  # steps per second; null = as recorded, or 20 for LeRobot if nothing is recorded
    # Names, or a mapping such as {front: agentview_rgb} (new name: recorded name); null = every camera.
    cameras: Any = None
    flip: list[str] = field(default_factory=list)  # cameras whose pictures were stored upside down
    video: bool = True  # LeRobot only: true = images as videos (lossy), false = as PNG files
    # null = every key, except that LeRobot folders leave out `object` (the true object poses): LeRobot's policies see
    # every key that is written.
    proprioception: list[str] | None = None
    episodes: list[Any] | None = None  # positions, ranges such as "10-19", names; null = all
    filter_key: str | None = None  # only what this list in the file names, such as robomimic's mask/better
    successes_only: bool = False  # only demonstrations recorded as successful

    def __post_init__(self) -> None:
        super().__post_init__()
        require_cameras(self.cameras)
        require(self.fps is None or self.fps >= 1, "fps", self.fps, "1 or more")


@dataclass
class InspectConfig(Selecting):
    """`s2robot inspect`: describe a dataset, whose path is the verb's one word without `=`."""

    sheet: str | None = None  # PNG file to draw
    cameras: Any = None  # as in `ConvertConfig`
    flip: list[str] = field(default_factory=list)
    episodes: list[Any] | None = None  # as in `ConvertConfig`
    filter_key: str | None = None
    successes_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_cameras(self.cameras)


def _require_hdf5(out: str) -> None:
    """Check the file name's ending, by which readers recognise the format."""
    require(out == MISSING or Path(out).suffix in (".hdf5", ".h5"), "out", out, "a file name that ends in .hdf5 or .h5")

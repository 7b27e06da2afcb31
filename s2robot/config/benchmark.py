"""Settings of the benchmark: tasks, the grid of arms, controls, contrasts, and execution."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from omegaconf import MISSING

from s2robot.config.checks import build, require, require_types
from s2robot.config.encoder import EncoderConfig, ReadoutConfig
from s2robot.config.evaluation import EVALUATION_SEED
from s2robot.config.policy import PolicyConfig
from s2robot.config.selection import Selecting
from s2robot.config.training import TrainingConfig
from s2robot.interfaces import ConfigError, unknown_name

CALIBRATION_SEED = 1_000_000
"""Calibration seeds start here, both for initial states and for training; evaluation seeds end below."""

CONTROLS = ("single_scale", "channel_duplicated", "upsampled", "whole_image", "larger_backbone", "from_scratch")
"""Controls that each scale set with several sizes can be compared with; see `s2robot.benchmark.controls`."""

ENGINES = ("local", "ray")

_LEAST = {
    "episodes": 1,
    "demonstrations": 2,
    "size": 16,
    "videos": 0,
    "num_envs": 1,
    "ray_cpus": 0,
    "ray_gpus": 0,
    "retries": 0,
}
"""Smallest valid values in `BenchmarkConfig`; null is valid too where it is a default."""

_ENTRY = {
    "name": str,
    "label": str,
    "encoder": dict[str, Any],
    "training": dict[str, Any],
    "baseline": dict[str, Any],
    "treatment": dict[str, Any],
}
"""Types of the keys that entries of `readouts`, `policies`, `arms` and `contrasts` have besides dataclass fields."""


@dataclass
class TaskConfig(Selecting):
    """One task of a benchmark, with settings that make it neither trivial nor hopeless.

    Attributes:
        task: name of the simulator's task.
        name: name of this setting in reports; null = the task and its variant.
        demonstrations, size, cameras: as in `BenchmarkConfig`; null = the benchmark's value.
        episodes, filter_key, successes_only: which of the demonstrations the policies are trained on, see `Selection`.
        variant: options of the environment's variant, used for both collection and rollouts.
        horizon: steps until an episode ends; null = the task's own.
        seed, noise, render_profile: settings of the collection, as in `CollectConfig`.
        calibration: what `s2robot benchmark calibrate=true` printed for this setting: base arm, seeds, success.
    """

    task: str = MISSING
    name: str | None = None
    demonstrations: int | None = None
    size: int | None = None
    cameras: list[str] | None = None
    variant: dict[str, Any] = field(default_factory=dict)
    horizon: int | None = None
    seed: int = 0
    noise: float = 0.15
    render_profile: str = "fast"
    calibration: dict[str, Any] | None = None
    episodes: list[Any] | None = None
    filter_key: str | None = None
    successes_only: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        named = isinstance(self.task, str) and self.task != MISSING
        require(named, "tasks.task", self.task, "the name of a task")
        if self.demonstrations is not None:
            require(self.demonstrations >= 2, "tasks.demonstrations", self.demonstrations, "2 or more")
        if self.size is not None:
            require(self.size >= 16, "tasks.size", self.size, "16 pixels or more")
        require(self.horizon is None or self.horizon >= 1, "tasks.horizon", self.horizon, "1 or more, or null")
        require(self.noise >= 0, "tasks.noise", self.noise, "0 or more")

    @property
    def label(self) -> str:
        """Name in reports, such as "Lift (object_scale 0.6)"."""
        shown = {name: value for name, value in vars(self.selection).items() if value != Selecting.former[name]}
        settings = {**self.variant, **shown}.items()
        options = ", ".join(f"{key} {value}" if value is not True else key for key, value in settings)
        return self.name or (f"{self.task} ({options})" if options else self.task)


@dataclass
class SequentialConfig:
    """Optional sequential stopping: rollouts run in batches until the contrasts are decided or `episodes` are spent.

    Attributes:
        batch: number of episodes added at a time; null = off, all episodes at once.
        contrasts: names of the planned contrasts that decide when to stop; empty = all planned contrasts.
        alpha: probability of ever declaring a difference that does not exist, over all deciding contrasts together.
    """

    batch: int | None = None
    contrasts: list[str] = field(default_factory=list)
    alpha: float = 0.05

    def __post_init__(self) -> None:
        require(self.batch is None or self.batch >= 1, "sequential.batch", self.batch, "1 or more, or null to disable")
        require(0 < self.alpha < 1, "sequential.alpha", self.alpha, "a number between 0 and 1")


@dataclass
class BenchmarkConfig:
    """`s2robot benchmark`: a grid of cells that share demonstrations, budget and initial states.

    Attributes:
        output: folder of the results, the plan and the report.
        store: folder of demonstrations, features, trainings and rollouts, which several benchmarks may share; null =
            inside `output`.
        tasks: names, or mappings with the fields of `TaskConfig`.
        backbones, scale_sets: factors whose product gives the arms; the first entries of both form the base arm.
        readouts, policies: further factors: names, or mappings with a `name` and changed settings (a policy's mapping
            may include `training`); empty = the one chosen as `readout` and `policy`.
        controls: names from `CONTROLS`, each added for every scale set with several sizes.
        larger_backbones: candidates for the control `larger_backbone`; empty = the named backbones of the same family.
        arms: further arms: mappings with `name`, `encoder` (changes to the base arm's settings), and optionally
            `readout` and `policy`.
        contrasts: comparisons planned before anything runs: mappings with `name`, `baseline` and `treatment`, each a
            mapping of settings that an arm must have; empty = the contrasts that follow from grid and controls.
        cells: numbers of the cells to run, as `dry_run=true` prints them; null = all cells, then the report. Contrasts
            between cells of this list are filmed.
        videos: number of initial states filmed per contrast, in both arms; states on which the arms disagree.
        amend: reason for changing the plan stored in `output`; without a reason, a changed plan is refused.
        calibrate: run only the base arm, on calibration seeds, and print the blocks to freeze in `tasks`.
        engine: `local`, or `ray` with `ray_cpus` and `ray_gpus` per cell (`ray_gpus` null = 1 unless device=cpu).
        retries: how often Ray restarts a cell whose worker died.
        encoder: settings of all arms; its `backbone` and `scales` become those of the base arm.
    """

    output: str = MISSING
    store: str | None = None
    tasks: list[Any] = field(default_factory=lambda: ["Lift"])
    backbones: list[str] = field(default_factory=lambda: ["efficientnet_lite0", "efficientnet_lite1"])
    scale_sets: list[list[Any]] = field(default_factory=lambda: [[224], [224, 448]])
    readouts: list[Any] = field(default_factory=list)
    policies: list[Any] = field(default_factory=list)
    controls: list[str] = field(default_factory=list)
    larger_backbones: list[str] = field(default_factory=list)
    arms: list[Any] = field(default_factory=list)
    contrasts: list[Any] = field(default_factory=list)
    training_seeds: list[int] = field(default_factory=lambda: [0])
    demonstrations: int = 60
    size: int = 448
    cameras: list[str] | None = None
    episodes: int = 50
    first_seed: int = EVALUATION_SEED
    videos: int = 2
    num_envs: int | None = None
    device: str = "auto"
    dry_run: bool = False
    cells: Any = None
    amend: str | None = None
    calibrate: bool = False
    engine: str = "local"
    ray_cpus: float = 1
    ray_gpus: float | None = None
    retries: int = 3
    sequential: SequentialConfig = field(default_factory=SequentialConfig)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    policy: PolicyConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name in ("tasks", "training_seeds"):
            require(len(getattr(self, name)) >= 1, name, getattr(self, name), "a list with at least one entry")
        for name in ("backbones", "scale_sets"):
            given = bool(getattr(self, name) or self.arms)
            require(given, name, getattr(self, name), "a list with at least one entry; only with arms may it be empty")
        for name in self.controls:
            if name not in CONTROLS:
                raise ConfigError(unknown_name("control", name, CONTROLS))
        if self.engine not in ENGINES:
            raise ConfigError(unknown_name("engine of the benchmark", self.engine, ENGINES))
        for name, least in _LEAST.items():
            value = getattr(self, name)
            require(value is None or value >= least, name, value, f"{least} or more")
        require(
            EVALUATION_SEED <= self.first_seed <= CALIBRATION_SEED - self.episodes,
            "first_seed",
            self.first_seed,
            f"{EVALUATION_SEED} … {CALIBRATION_SEED} minus episodes; lower seeds are for collection, higher for "
            "calibration",
        )
        require(
            all(0 <= seed < CALIBRATION_SEED for seed in self.training_seeds),
            "training_seeds",
            self.training_seeds,
            f"0 … {CALIBRATION_SEED - 1}; higher seeds are for calibration",
        )
        different = len(set(self.training_seeds)) == len(self.training_seeds)
        require(different, "training_seeds", self.training_seeds, "distinct seeds: a repeated seed repeats a run")
        for name in ("readouts", "policies", "arms", "contrasts"):
            for entry in getattr(self, name):
                _check_entry(entry, name)
        labels = [task.label for task in self.task_list]
        require(
            len(set(labels)) == len(labels), "tasks", labels, "distinct labels; give tasks with equal labels a name"
        )
        if self.backbones and self.scale_sets:  # so that an entry of `arms` changes only the settings it names
            self.encoder = replace(self.encoder, backbone=self.backbones[0], scales=list(self.scale_sets[0]))

    @property
    def task_list(self) -> list[TaskConfig]:
        """The tasks, with the benchmark's settings filled in where a task has none.

        Raises:
            ConfigError: an entry is neither a name nor a mapping of `TaskConfig`'s fields.
        """
        tasks = []
        for entry in self.tasks:
            values = {"task": entry} if isinstance(entry, str) else entry
            require(isinstance(values, dict), "tasks", entry, "names, or mappings such as {task: Lift, variant: {}}")
            task: TaskConfig = build(TaskConfig, values, "task")
            task.demonstrations = task.demonstrations or self.demonstrations
            task.size = task.size or self.size
            task.cameras = task.cameras or self.cameras
            tasks.append(task)
        return tasks


def _check_entry(entry: Any, where: str) -> None:
    """Check the types in an entry of a list before anything reads them."""
    if not isinstance(entry, dict):
        return  # a name, or a wrong type that is refused where the list is read
    require_types(entry, _ENTRY, where)
    for key in ("readout", "policy"):
        _check_entry(entry.get(key), f"{where}.{key}")

"""Settings of a training run."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from omegaconf import MISSING

from s2robot.config.checks import require, require_cameras
from s2robot.config.encoder import EncoderConfig, ReadoutConfig
from s2robot.config.environment import EnvironmentSettings
from s2robot.config.policy import PolicyConfig
from s2robot.config.selection import Selecting
from s2robot.system.precision import PRECISIONS

SCHEDULES = ("cosine", "constant")
LOGGERS = ("tensorboard", "wandb")
CONTROLLER_INPUTS = ("delta", "absolute")
INIT_NORMALIZATIONS = ("keep", "refit")


@dataclass
class TrainingConfig:
    """Settings of the training loop; defaults are those that Diffusion Policy shares (arXiv 2303.04137, Table 9).

    Epochs are passes over the training windows, steps are batches. robomimic's BC-RNN (arXiv 2108.03298) uses Adam:
    set `weight_decay=0`, `schedule=constant`, `warmup_steps=0` and no weight averaging (`ema_max_decay=0`).

    Attributes:
        batch_size: windows per step, in total over all processes.
        weight_decay: weight decay of AdamW, applied to every parameter as in robomimic and Diffusion Policy's U-Net; a
            policy with another recipe overrides `parameter_groups`.
        schedule: learning-rate schedule after the warm-up: cosine (decay to zero) or constant.
        gradient_clip: largest norm of the gradient; null = no clipping.
        ema_power, ema_max_decay: moving average of the weights with decay 1 - (1 + step)**-ema_power, at most
            ema_max_decay; ema_max_decay=0 = no averaging.
        precision: precision of the loss computation: fp32, bf16 or fp16 (with loss scaling); weights and optimizer stay
            in float32.
        num_shifts: number of randomly shifted copies of every frame, of which a window sees one per epoch. Cached
            features rule out crops drawn anew in every step; fixed copies are possible. Each copy costs as much
            encoding time and disk as the frames themselves.
        shift_pixels: largest shift in pixels; null = 1/21 of the image, as in DrQ (4 pixels of 84).
        validation_fraction: fraction of the episodes that is held out.
        validate_every: epochs between validations.
        save_every_steps: steps between saves of the whole training state, from which a killed run continues.
        checkpoint_every: epochs between intermediate checkpoints.
        keep_checkpoints: number of intermediate checkpoints to keep (the latest); 0 = write none.
        loggers: additional loggers for the rows of log.csv: tensorboard, wandb.
        wandb_project: project of Weights & Biases; its environment variables (WANDB_MODE=offline, …) set the rest.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6
    betas: list[float] = field(default_factory=lambda: [0.95, 0.999])
    schedule: str = "cosine"
    warmup_steps: int = 500
    gradient_clip: float | None = 1.0
    ema_power: float = 0.75
    ema_max_decay: float = 0.9999
    precision: str = "fp32"
    num_shifts: int = 0
    shift_pixels: int | None = None
    validation_fraction: float = 0.1
    validate_every: int = 10
    save_every_steps: int = 500
    checkpoint_every: int = 50
    keep_checkpoints: int = 1
    loggers: list[str] = field(default_factory=list)
    wandb_project: str = "s2robot"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "save_every_steps", "checkpoint_every"):
            self._require(name, getattr(self, name) >= 1, "an integer of 1 or more")
        for name in ("warmup_steps", "weight_decay", "num_shifts", "keep_checkpoints"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("learning_rate", self.learning_rate > 0, "a positive number")
        self._require(
            "gradient_clip", self.gradient_clip is None or self.gradient_clip > 0, "a positive number or null"
        )
        self._require("shift_pixels", self.shift_pixels is None or self.shift_pixels >= 1, "1 or more, or null")
        self._require("betas", len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas), "two numbers in [0, 1)")
        self._require("ema_power", self.ema_power > 0, "a positive number")
        self._require("ema_max_decay", 0 <= self.ema_max_decay < 1, "a number in [0, 1)")
        self._require("validation_fraction", 0 <= self.validation_fraction < 1, "a number in [0, 1)")
        self._require("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS))
        self._require("schedule", self.schedule in SCHEDULES, ", ".join(SCHEDULES))
        self._require("loggers", set(self.loggers) <= set(LOGGERS), f"a list of {', '.join(LOGGERS)}")

    def _require(self, name: str, condition: bool, valid: str) -> None:
        require(condition, f"training.{name}", getattr(self, name), valid)


TASK_CONDITIONING = ("none", "embedding", "vectors")
_FORMER_TASKS = {"task_conditioning": "none", "task_texts": None, "task_vectors": None, "task_width": 64}


@dataclass(kw_only=True)
class _Files:
    """What every run names; a base class of its own, so that help and messages list it first."""

    dataset: Any = MISSING  # a file or folder; or a list of them, whose cameras, observations and actions agree
    # Of several datasets: how many windows of each are drawn, relative to the others; null = each window once an epoch.
    dataset_weights: list[float] | None = None
    output: str = MISSING


@dataclass
class TrainConfig(Selecting, EnvironmentSettings, _Files):
    """One training run: `python train_policy.py`. Beside the settings below, it has those of `EnvironmentSettings`."""

    # Settings that were added later, with the value that means what the code did before; see `without_former`.
    former: ClassVar[dict[str, Any]] = {
        "flip": [],
        "validation_filter_key": None,
        "dataset_weights": None,
        "action_key": None,
        "controller_input": None,
        **_FORMER_TASKS,
        "init_from": None,
        "init_normalization": "keep",
    }

    seed: int = 0
    device: str = "auto"
    num_demonstrations: int | None = None  # the first n of the chosen ones; null = all
    episodes: list[Any] | None = None  # positions, ranges such as "10-19", names; null = all
    filter_key: str | None = None  # only what this list in the file names, such as robomimic's mask/better
    successes_only: bool = False  # only demonstrations recorded as successful
    validation_filter_key: str | None = None  # these are held out, in place of training.validation_fraction
    task_conditioning: str = "none"  # how a policy is told its task: none, embedding (learned), vectors (task_vectors)
    task_texts: list[str] | None = None  # one text for each dataset; null = the texts that the demonstrations record
    task_vectors: str | None = None  # *.npz or *.json, text -> vector of a text encoder; the same numbers in all runs
    task_width: int = 64  # width of the vector of the task that joins what the policy sees
    # Names, or a mapping such as {front: agentview_rgb} (new name: recorded name); null = every camera of the dataset.
    cameras: Any = None
    flip: list[str] = field(default_factory=list)  # cameras whose pictures were stored upside down
    # Recorded array of actions to learn (`s2robot inspect` lists them), or a list that is put side by side; null = the
    # format's own, `actions` or `action`.
    action_key: Any = None
    # How the environment's controllers take these actions, `delta` or `absolute`; null = as the names of `action_key`
    # say, else as recorded. Evaluation makes the controllers accordingly.
    controller_input: str | None = None
    proprioception: list[str] | None = None  # null = every key except `object`, the true object poses
    render_profile: str | None = None  # an error unless the dataset was rendered in this profile; null = accept any
    init_from: str | None = None  # checkpoint whose weights the run starts from; null = random weights
    init_normalization: str = "keep"  # statistics of that checkpoint, or `refit`: of this dataset
    cache_dir: str = "outputs/feature_cache"
    resume: bool = True  # also with more epochs than a finished run had
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    policy: PolicyConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_datasets()
        self._check_tasks()
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        require_cameras(self.cameras)
        named = all(isinstance(key, str) and key for key in self.action_keys)
        require(
            named and (self.action_key is None or bool(self.action_keys)),
            "action_key",
            self.action_key,
            "null, a name such as actions_abs, or a list of names",
        )
        require(
            self.controller_input in (None, *CONTROLLER_INPUTS),
            "controller_input",
            self.controller_input,
            f"{', '.join(CONTROLLER_INPUTS)}, or null",
        )
        if self.num_demonstrations is not None:
            require(self.num_demonstrations >= 2, "num_demonstrations", self.num_demonstrations, "2 or more")
        require(
            self.init_normalization in INIT_NORMALIZATIONS,
            "init_normalization",
            self.init_normalization,
            ", ".join(INIT_NORMALIZATIONS),
        )
        # `pixels` passes images through untouched, and only resnet18 can learn from them; resnet18 takes nothing else.
        require(
            (self.encoder.backbone == "pixels") == (self.readout.name == "resnet18"),
            "readout.name",
            self.readout.name,
            "resnet18 with encoder.backbone=pixels, and only then",
        )

    @property
    def action_keys(self) -> list[str]:
        """The arrays that actions are read from; empty for the format's own."""
        if isinstance(self.action_key, list | tuple):
            return list(self.action_key)
        return [] if self.action_key is None else [self.action_key]

    @property
    def datasets(self) -> list[str]:
        """The paths of the datasets, at least one."""
        return [self.dataset] if isinstance(self.dataset, str) else list(self.dataset)

    def each(self) -> list[TrainConfig]:
        """Return the settings of each dataset alone."""
        return [replace(self, dataset=path, dataset_weights=None, task_texts=None) for path in self.datasets]

    def _check_tasks(self) -> None:
        kind, texts = self.task_conditioning, self.task_texts
        require(kind in TASK_CONDITIONING, "task_conditioning", kind, ", ".join(TASK_CONDITIONING))
        with_file = "a file with task_conditioning=vectors, and only then"
        require((kind == "vectors") == (self.task_vectors is not None), "task_vectors", self.task_vectors, with_file)
        require(self.task_width >= 1, "task_width", self.task_width, "1 or more")
        if texts is not None:
            sound = kind != "none" and len(texts) == len(self.datasets) and all(text.strip() for text in texts)
            valid = f"with task_conditioning, one text for each of the {len(self.datasets)} datasets; else null"
            require(sound, "task_texts", texts, valid)

    def _check_datasets(self) -> None:
        paths = self.dataset if isinstance(self.dataset, list | tuple) else [self.dataset]
        named = bool(paths) and all(isinstance(path, str) and path for path in paths)
        require(named, "dataset", self.dataset, "a file or folder, or a list of them")
        require(
            len(set(paths)) == len(paths), "dataset", self.dataset, "each dataset once; dataset_weights= weighs them"
        )
        weights = self.dataset_weights
        if weights is not None:
            sound = len(weights) == len(paths) > 1 and all(0 < weight < math.inf for weight in weights)
            valid = f"a positive number for each of several datasets; dataset has {len(paths)}"
            require(sound, "dataset_weights", weights, valid)

"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from s2robot.config.checks import require
from s2robot.config.encoder import EncoderConfig, ReadoutConfig
from s2robot.config.policy import PolicyConfig

PRECISIONS = ("fp32", "bf16", "fp16")
SCHEDULES = ("cosine", "constant")
LOGGERS = ("tensorboard", "wandb")


@dataclass
class TrainingConfig:
    """The training loop; the defaults are Diffusion Policy's shared ones (arXiv 2303.04137, Table 9).

    Epochs are passes over the training windows, steps are batches. robomimic's BC-RNN (arXiv 2108.03298) uses Adam,
    that is `weight_decay=0`, `schedule=constant`, no warm-up and no averaging (`ema_max_decay=0`).

    Attributes:
        batch_size: windows a step, over all processes together.
        weight_decay: of AdamW, on every parameter alike, as robomimic and Diffusion Policy's U-Net do; a policy whose
            recipe differs says so in its `parameter_groups`.
        schedule: of the learning rate after the warm-up: cosine (to zero) or constant.
        gradient_clip: largest norm of the gradient; null = no clipping.
        ema_power, ema_max_decay: moving average of the weights, decay 1 - (1 + step)**-power up to the largest;
            0 = the weights themselves.
        precision: fp32, bf16 or fp16 (with loss scaling); weights and optimizer stay in float32.
        num_shifts: randomly shifted copies of every frame, of which a window sees one an epoch. Cached features forbid
            crops drawn anew in every step; this they allow. Each copy costs encoding and disk as the frames do.
        shift_pixels: largest shift; null = 1/21 of the image, DrQ's 4 pixels of 84.
        validation_fraction: share of the episodes that is held out.
        validate_every: epochs between validations.
        save_every_steps: steps between savings of the whole state of training, from which a killed run goes on.
        checkpoint_every: epochs between intermediate checkpoints.
        keep_checkpoints: how many of the last intermediate checkpoints are kept; 0 = none are written.
        loggers: where the rows of log.csv go as well: tensorboard, wandb.
        wandb_project: project of Weights & Biases; its environment variables (WANDB_MODE=offline, …) say the rest.
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
        self._require("ema_max_decay", 0 <= self.ema_max_decay < 1, "[0, 1)")
        self._require("validation_fraction", 0 <= self.validation_fraction < 1, "[0, 1)")
        self._require("precision", self.precision in PRECISIONS, ", ".join(PRECISIONS))
        self._require("schedule", self.schedule in SCHEDULES, ", ".join(SCHEDULES))
        self._require("loggers", set(self.loggers) <= set(LOGGERS), f"a list of {', '.join(LOGGERS)}")

    def _require(self, name: str, condition: bool, valid: str) -> None:
        require(condition, f"training.{name}", getattr(self, name), valid)


@dataclass
class TrainConfig:
    """One training run: `python train_policy.py`."""

    dataset: str = MISSING
    output: str = MISSING
    seed: int = 0
    device: str = "auto"
    num_demonstrations: int | None = None  # the first n of the file; null = all
    cameras: list[str] | None = None  # null = every camera of the dataset
    proprioception: list[str] | None = None  # null = every key but `object`, where the objects are
    render_profile: str | None = None  # what the dataset must have been rendered in; null = either
    cache_dir: str = "outputs/feature_cache"
    resume: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    policy: PolicyConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "0 or more")
        if self.num_demonstrations is not None:
            require(self.num_demonstrations >= 2, "num_demonstrations", self.num_demonstrations, "2 or more")
        # Each of the two is nothing without the other: pixels are learned from, and only pixels are.
        require(
            (self.encoder.backbone == "pixels") == (self.readout.name == "resnet18"),
            "readout.name",
            self.readout.name,
            "resnet18 with encoder.backbone=pixels, and only then",
        )

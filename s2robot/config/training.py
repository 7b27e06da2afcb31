"""Settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from s2robot.config.checks import require
from s2robot.config.encoder import EncoderConfig, ReadoutConfig
from s2robot.config.policies import PolicyConfig


@dataclass
class TrainingConfig:
    """The training loop; the defaults are Diffusion Policy's shared ones (arXiv 2303.04137, Table 9)."""

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-4
    weight_decay: float = 1e-6
    betas: list[float] = field(default_factory=lambda: [0.95, 0.999])
    warmup_steps: int = 500
    gradient_clip: float = 1.0
    ema_power: float = 0.75
    ema_max_decay: float = 0.9999
    validation_fraction: float = 0.1
    # Cached features forbid crops drawn anew in every step. What they allow: so many copies of each frame, randomly
    # shifted before encoding, of which a window sees one an epoch; each costs encoding and disk as the frames do.
    num_shifts: int = 0
    shift_pixels: int | None = None  # largest shift; null = 1/21 of the image, DrQ's 4 pixels of 84
    validate_every: int = 10
    save_every: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "save_every"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "an integer of 1 or more")
        require(self.num_shifts >= 0, "training.num_shifts", self.num_shifts, "0 (no augmentation) or more")
        require(self.shift_pixels is None or self.shift_pixels >= 1, "training.shift_pixels", self.shift_pixels, "1 …")
        require(self.learning_rate > 0, "training.learning_rate", self.learning_rate, "a positive number")
        require(self.warmup_steps >= 0, "training.warmup_steps", self.warmup_steps, "0 or more")
        require(0 <= self.validation_fraction < 1, "training.validation_fraction", self.validation_fraction, "[0, 1)")


@dataclass
class TrainConfig:
    """One training run: `python train_policy.py`."""

    dataset: str = MISSING
    output: str = MISSING
    seed: int = 0
    device: str = "auto"
    num_demonstrations: int | None = None  # the first n of the file; null = all
    cameras: list[str] | None = None  # null = every camera of the dataset
    proprioception: list[str] | None = None  # null = every key of the dataset
    cache_dir: str = "outputs/feature_cache"
    resume: bool = True
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    policy: PolicyConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        if self.num_demonstrations is not None:
            require(self.num_demonstrations >= 2, "num_demonstrations", self.num_demonstrations, "2 or more")
        # Each of the two is nothing without the other: pixels are learned from, and only pixels are.
        require(
            (self.encoder.backbone == "pixels") == (self.readout.name == "resnet18"),
            "readout.name",
            self.readout.name,
            "resnet18 with encoder.backbone=pixels, another with any other backbone",
        )

"""Every setting of the package: typed dataclasses that own the defaults and validate them.

YAML files under `configs/` record choices only. `register()` makes the dataclasses known to Hydra, so that
a mistyped key or name is an error that lists the valid ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, Container, OmegaConf, SCMode
from omegaconf.errors import MissingMandatoryValue

from s2robot.interfaces import ConfigError, unknown_name

_PACKAGED = Path(__file__).parent / "configs"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "configs"
"""Folder of the YAML files: inside the installed package, else in the checkout."""


def require(condition: bool, field_name: str, value: object, valid: str) -> None:
    """Raise `ConfigError` naming the field, the value received and what is valid, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field_name}={value!r} is not possible; valid: {valid}")


@dataclass
class EncoderConfig:
    """The frozen S² encoder; the fields are the arguments of `S2Encoder`, which documents and checks them."""

    backbone: str = "efficientnet_lite0"
    scales: list[Any] = field(default_factory=lambda: [224, 448])  # pixels, [height, width] pairs, or float factors
    weights: str = "default"
    tile: int | None = None
    antialias: bool = False
    pool_to: str = "base"
    cover: str = "exact"
    keep_aspect: bool = False
    upsampled: bool = False
    precision: str = "fp32"
    channels_last: bool = False
    engine: str = "eager"
    max_tiles: int | None = None


@dataclass
class ReadoutConfig:
    """The trainable readout of one camera's feature map; every kind ends in `width` numbers."""

    name: str = "conv"
    width: int = 256
    channels: int = 32
    queries: int = 1

    def __post_init__(self) -> None:
        for name in ("width", "channels", "queries"):
            require(getattr(self, name) >= 1, f"readout.{name}", getattr(self, name), "an integer of 1 or more")


@dataclass
class PolicyConfig:
    """What all policies share: how much they see, predict and execute.

    At time t a policy sees the observations t-To+1 … t, predicts the actions t … t+Ta-1 (`action_steps`) and
    executes the first `execute_steps` of them before it looks again.
    """

    name: str = MISSING
    observation_steps: int = 1
    action_steps: int = 8
    execute_steps: int = 4

    def __post_init__(self) -> None:
        require(self.observation_steps >= 1, "policy.observation_steps", self.observation_steps, "1 or more")
        require(
            1 <= self.execute_steps <= self.action_steps,
            "policy.execute_steps",
            self.execute_steps,
            f"1 … action_steps={self.action_steps}",
        )


@dataclass
class BCConfig(PolicyConfig):
    """Chunked behaviour cloning: an MLP that regresses Ta actions with a smooth-L1 loss."""

    name: str = "bc"
    hidden: list[int] = field(default_factory=lambda: [512, 512])
    dropout: float = 0.0


@dataclass
class DiffusionUNetConfig(PolicyConfig):
    """Diffusion Policy, CNN form (arXiv 2303.04137); the defaults are the published ones."""

    name: str = "diffusion_unet"
    observation_steps: int = 2
    action_steps: int = 16
    execute_steps: int = 8
    down_dims: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    kernel_size: int = 5
    groups: int = 8
    step_embedding: int = 128
    train_timesteps: int = 100
    sampler: str = "ddpm"
    inference_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        stride = 2 ** (len(self.down_dims) - 1)
        require(len(self.down_dims) >= 1, "policy.down_dims", self.down_dims, "one width or more")
        require(
            all(d % self.groups == 0 for d in self.down_dims),
            "policy.down_dims",
            self.down_dims,
            f"multiples of groups={self.groups}",
        )
        require(
            self.action_steps % stride == 0,
            "policy.action_steps",
            self.action_steps,
            f"a multiple of {stride}, because the U-Net halves the sequence {len(self.down_dims) - 1} times",
        )
        require(self.sampler in ("ddpm", "ddim"), "policy.sampler", self.sampler, "ddpm, ddim")
        require(
            1 <= self.inference_steps <= self.train_timesteps,
            "policy.inference_steps",
            self.inference_steps,
            f"1 … train_timesteps={self.train_timesteps}",
        )


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
    validate_every: int = 10
    save_every: int = 10

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "validate_every", "save_every"):
            require(getattr(self, name) >= 1, f"training.{name}", getattr(self, name), "an integer of 1 or more")
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


EVALUATION_SEED = 100_000
"""Evaluation seeds start here; collection seeds stay below it, so rollouts never repeat a demonstration's start."""


@dataclass
class EvaluateConfig:
    """`s2robot evaluate`: rollouts of a checkpoint over held-out seeds."""

    checkpoint: str = MISSING
    episodes: int = 100
    first_seed: int = EVALUATION_SEED
    num_envs: int | None = None  # null = one for each core, fewer where memory is short
    horizon: int | None = None  # null = the task's own
    videos: int = 4
    output: str | None = None  # null = the checkpoint's parent folder
    device: str = "auto"
    engine: str | None = None  # what runs the backbone; null = as in training (features differ by rounding only)

    def __post_init__(self) -> None:
        require(self.episodes >= 1, "episodes", self.episodes, "1 or more")
        require(self.first_seed >= 0, "first_seed", self.first_seed, "0 or more")
        require(self.num_envs is None or self.num_envs >= 1, "num_envs", self.num_envs, "1 or more, or null")


@dataclass
class CollectConfig:
    """`s2robot collect`: demonstrations of a scripted expert, written as robomimic HDF5."""

    task: str = "Lift"
    num: int = 120
    size: int = 448
    out: str = MISSING
    cameras: list[str] | None = None  # null = the task's own
    noise: float = 0.15
    seed: int = 0
    workers: int | None = None  # null = one for each core
    render_profile: str = "fast"
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.num >= 1, "num", self.num, "1 or more")
        require(self.size >= 16, "size", self.size, "16 pixels or more")
        require(self.noise >= 0, "noise", self.noise, "0 or more")


@dataclass
class RenderConfig:
    """`s2robot render`: recorded states shown again at any size and from any camera."""

    dataset: str = MISSING
    out: str = MISSING
    size: int = 448
    cameras: list[str] | None = None  # null = those of the recording, or the task's own
    render_profile: str | None = None  # null = that of the recording, or fast
    workers: int | None = None  # null = one for each core
    overwrite: bool = False

    def __post_init__(self) -> None:
        require(self.size >= 16, "size", self.size, "16 pixels or more")


@dataclass
class ConvertConfig:
    """`s2robot convert`: any readable dataset to robomimic HDF5 (out=*.hdf5) or a LeRobot folder (any other name)."""

    dataset: str = MISSING
    out: str = MISSING
    fps: int = 20  # steps per second, which LeRobot records
    video: bool = True  # LeRobot: images as videos (lossy), else as PNG pictures

    def __post_init__(self) -> None:
        require(self.fps >= 1, "fps", self.fps, "1 or more")


@dataclass
class BenchmarkConfig:
    """`s2robot benchmark`: a grid of cells that share demonstrations, budget and initial states."""

    output: str = MISSING
    tasks: list[str] = field(default_factory=lambda: ["Lift"])
    backbones: list[str] = field(default_factory=lambda: ["efficientnet_lite0", "efficientnet_lite1"])
    scale_sets: list[list[int]] = field(default_factory=lambda: [[224], [224, 448]])
    training_seeds: list[int] = field(default_factory=lambda: [0])
    demonstrations: int = 60
    size: int = 448
    cameras: list[str] | None = None
    episodes: int = 50
    first_seed: int = EVALUATION_SEED
    num_envs: int | None = None
    device: str = "auto"
    dry_run: bool = False
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    policy: PolicyConfig = MISSING
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        for name in ("tasks", "backbones", "scale_sets", "training_seeds"):
            require(len(getattr(self, name)) >= 1, name, getattr(self, name), "a list with at least one entry")


POLICIES: dict[str, type[PolicyConfig]] = {"bc": BCConfig, "diffusion_unet": DiffusionUNetConfig}
READOUTS = ("cls", "mean", "spatial_softmax", "attention", "conv")


def register(backbones: Iterable[str] = ()) -> None:
    """Make the dataclasses known to Hydra: the schemas and the groups `encoder`, `readout` and `policy`.

    Args:
        backbones: names offered as `encoder=NAME` (any other timm name goes through `encoder.backbone=NAME`).
    """
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    for name in backbones:
        store.store(group="encoder", name=name, node=EncoderConfig(backbone=name))
    for name in READOUTS:
        store.store(group="readout", name=name, node=ReadoutConfig(name=name))
    for name, policy in POLICIES.items():
        store.store(group="policy", name=name, node=policy)


def resolve(settings: Container) -> Any:
    """Turn a composed configuration into its dataclass, once, at the entry point.

    Raises:
        ConfigError: a required setting is missing, or a value is impossible.
    """
    try:
        return OmegaConf.to_container(
            settings, resolve=True, throw_on_missing=True, structured_config_mode=SCMode.INSTANTIATE
        )
    except MissingMandatoryValue as error:
        raise ConfigError(f"a required setting is missing: {str(error).splitlines()[0]}") from error


def policy_from_dict(values: dict[str, Any]) -> PolicyConfig:
    """Rebuild a policy's dataclass from the plain mapping that a checkpoint stores.

    Raises:
        ConfigError: the name is unknown or a field does not belong to the policy.
    """
    name = values.get("name")
    if name not in POLICIES:
        raise ConfigError(unknown_name("policy", name, POLICIES))
    return build(POLICIES[name], values, "policy")


def build(cls: type[Any], values: dict[str, Any], where: str) -> Any:
    """Make a config dataclass from a plain mapping; unknown keys are an error that lists the valid ones."""
    fields = cls.__dataclass_fields__
    for key in values:
        if key not in fields:
            raise ConfigError(unknown_name(f"{where} setting", key, fields))
    return cls(**values)

"""All settings of the package: typed dataclasses that hold the defaults and validate the values.

The YAML files under `configs/` record choices only. `register()` makes the dataclasses known to Hydra, so that a
mistyped key or name is an error that lists the valid ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import Container, OmegaConf, SCMode
from omegaconf.errors import MissingMandatoryValue

from s2robot.config.benchmark import CALIBRATION_SEED, BenchmarkConfig, SequentialConfig, TaskConfig
from s2robot.config.checks import build, require
from s2robot.config.demonstrations import CollectConfig, ConvertConfig, InspectConfig, RenderConfig
from s2robot.config.deployment import ExportConfig, ServeConfig
from s2robot.config.encoder import EncoderConfig, ReadoutConfig
from s2robot.config.evaluation import EVALUATION_SEED, EvaluateConfig
from s2robot.config.policy import PolicyConfig
from s2robot.config.training import TrainConfig, TrainingConfig
from s2robot.interfaces import ConfigError, unknown_name

__all__ = [
    "CALIBRATION_SEED",
    "CONFIG_DIR",
    "EVALUATION_SEED",
    "BenchmarkConfig",
    "CollectConfig",
    "ConvertConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "ExportConfig",
    "InspectConfig",
    "PolicyConfig",
    "ReadoutConfig",
    "RenderConfig",
    "SequentialConfig",
    "ServeConfig",
    "TaskConfig",
    "TrainConfig",
    "TrainingConfig",
    "build",
    "register",
    "require",
    "resolve",
]

_PACKAGED = Path(__file__).parents[1] / "configs"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""Folder of the YAML files: inside the installed package, else in the checkout."""


def register(
    backbones: Iterable[str], readouts: Mapping[str, ReadoutConfig], policies: Mapping[str, PolicyConfig]
) -> None:
    """Make the dataclasses known to Hydra: the schemas and the groups `encoder`, `readout` and `policy`.

    The choices are arguments because this layer lies below encoders and policies; `s2robot.cli.choices` passes them.

    Args:
        backbones: names offered as `encoder=NAME` (any other timm name goes through `encoder.backbone=NAME`).
        readouts: name -> settings offered as `readout=NAME`.
        policies: name -> settings offered as `policy=NAME`.
    """
    store = ConfigStore.instance()
    store.store(name="train_schema", node=TrainConfig)
    store.store(name="benchmark_schema", node=BenchmarkConfig)
    for name in backbones:
        store.store(group="encoder", name=name, node=EncoderConfig(backbone=name))
    for name, readout in readouts.items():
        store.store(group="readout", name=name, node=readout)
    for name, policy in policies.items():
        store.store(group="policy", name=name, node=policy)


def resolve(settings: Container) -> Any:
    """Turn a composed configuration into its dataclass. Call this once, at the entry point.

    Raises:
        ConfigError: a required setting is missing, a value is impossible, or a setting is unknown (Hydra's `+key=value`
            adds keys without a check).
    """
    try:
        # INSTANTIATE makes the dataclasses, whose `__post_init__` checks the values.
        config = OmegaConf.to_container(
            settings, resolve=True, throw_on_missing=True, structured_config_mode=SCMode.INSTANTIATE
        )
    except MissingMandatoryValue as error:
        raise ConfigError(f"a required setting is missing: {str(error).splitlines()[0]}") from error
    _refuse_unknown(config)
    return config


def _refuse_unknown(config: Any, prefix: str = "") -> None:
    """Raise for unknown settings: OmegaConf sets them as attributes that nothing would ever read."""
    known = [item.name for item in fields(config)]
    for name, value in vars(config).items():
        if name not in known:
            raise ConfigError(unknown_name("setting", f"{prefix}{name}", [f"{prefix}{other}" for other in known]))
        if is_dataclass(value):
            _refuse_unknown(value, f"{prefix}{name}.")

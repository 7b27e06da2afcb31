"""Every setting of the package: typed dataclasses that own the defaults and validate them.

YAML files under `configs/` record choices only. `register()` makes the dataclasses known to Hydra, so that
a mistyped key or name is an error that lists the valid ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import Container, OmegaConf, SCMode
from omegaconf.errors import MissingMandatoryValue

from s2robot.config.benchmark import CALIBRATION_SEED, BenchmarkConfig, SequentialConfig, TaskConfig
from s2robot.config.checks import build, require
from s2robot.config.demonstrations import CollectConfig, ConvertConfig, RenderConfig
from s2robot.config.deployment import ExportConfig, ServeConfig
from s2robot.config.encoder import READOUTS, EncoderConfig, ReadoutConfig
from s2robot.config.evaluation import EVALUATION_SEED, EvaluateConfig
from s2robot.config.policies import (
    POLICIES,
    BCConfig,
    BCRNNConfig,
    BCTransformerConfig,
    DiffusionTransformerConfig,
    DiffusionUNetConfig,
    FlowMatchingConfig,
    PolicyConfig,
)
from s2robot.config.training import TrainConfig, TrainingConfig
from s2robot.interfaces import ConfigError, unknown_name

__all__ = [
    "CALIBRATION_SEED",
    "CONFIG_DIR",
    "EVALUATION_SEED",
    "POLICIES",
    "READOUTS",
    "BCConfig",
    "BCRNNConfig",
    "BCTransformerConfig",
    "BenchmarkConfig",
    "CollectConfig",
    "ConvertConfig",
    "DiffusionTransformerConfig",
    "DiffusionUNetConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "ExportConfig",
    "FlowMatchingConfig",
    "PolicyConfig",
    "ReadoutConfig",
    "RenderConfig",
    "SequentialConfig",
    "ServeConfig",
    "TaskConfig",
    "TrainConfig",
    "TrainingConfig",
    "build",
    "policy_from_dict",
    "register",
    "require",
    "resolve",
]

_PACKAGED = Path(__file__).parents[1] / "configs"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""Folder of the YAML files: inside the installed package, else in the checkout."""


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
        ConfigError: a required setting is missing, a value is impossible, or a setting unknown (Hydra's `+key=value`).
    """
    try:
        config = OmegaConf.to_container(
            settings, resolve=True, throw_on_missing=True, structured_config_mode=SCMode.INSTANTIATE
        )
    except MissingMandatoryValue as error:
        raise ConfigError(f"a required setting is missing: {str(error).splitlines()[0]}") from error
    _refuse_unknown(config)
    return config


def _refuse_unknown(config: Any, prefix: str = "") -> None:
    """OmegaConf sets what is not a field as an attribute, and nothing would ever read it."""
    known = [item.name for item in fields(config)]
    for name, value in vars(config).items():
        if name not in known:
            raise ConfigError(unknown_name("setting", f"{prefix}{name}", [f"{prefix}{other}" for other in known]))
        if is_dataclass(value):
            _refuse_unknown(value, f"{prefix}{name}.")


def policy_from_dict(values: dict[str, Any]) -> PolicyConfig:
    """Rebuild a policy's dataclass from the plain mapping that a checkpoint stores.

    A checkpoint older than `causal` holds a transformer that is.

    Raises:
        ConfigError: the name is unknown or a field does not belong to the policy.
    """
    name = values.get("name")
    if name not in POLICIES:
        raise ConfigError(unknown_name("policy", name, POLICIES))
    older = {"causal": True} if hasattr(POLICIES[name], "causal") else {}
    return build(POLICIES[name], {**older, **values}, "policy")

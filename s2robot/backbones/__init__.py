"""Named, frozen, single-scale vision models: `load_backbone(name)` gives the `Backbone` that S² runs on tiles."""

from s2robot.backbones.fetching import fetch
from s2robot.backbones.frozen import FrozenBackbone
from s2robot.backbones.listing import encoder_text, encoders_table
from s2robot.backbones.loading import load_backbone
from s2robot.backbones.table import BACKBONES, BackboneSpec, find_spec

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "FrozenBackbone",
    "encoder_text",
    "encoders_table",
    "fetch",
    "find_spec",
    "load_backbone",
]

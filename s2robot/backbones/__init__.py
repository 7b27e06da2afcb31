"""Named, frozen, single-scale vision models: `load_backbone(name)` gives the `Backbone` that S² runs on tiles."""

from s2robot.backbones.availability import is_available
from s2robot.backbones.fetching import fetch
from s2robot.backbones.frozen import FrozenBackbone
from s2robot.backbones.loading import load_backbone
from s2robot.backbones.table import BACKBONES, BackboneSpec, find_spec

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "FrozenBackbone",
    "fetch",
    "find_spec",
    "is_available",
    "load_backbone",
]

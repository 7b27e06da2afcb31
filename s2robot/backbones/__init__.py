"""Named, frozen, single-scale vision models: `load_backbone(name)` returns the `Backbone` that S² runs on tiles."""

from s2robot.backbones.availability import is_available
from s2robot.backbones.fetching import fetch
from s2robot.backbones.frozen import FrozenBackbone
from s2robot.backbones.loading import load_backbone
from s2robot.backbones.network import Network
from s2robot.backbones.spec import BackboneSpec
from s2robot.backbones.table import BACKBONES, find_spec

__all__ = [
    "BACKBONES",
    "BackboneSpec",
    "FrozenBackbone",
    "Network",
    "fetch",
    "find_spec",
    "is_available",
    "load_backbone",
]

"""Named, frozen, single-scale vision models: `load_backbone(name)` returns the `Backbone` that S² runs on tiles."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from s2robot.backbones.spec import BackboneSpec
from s2robot.backbones.table import BACKBONES, find_spec

if TYPE_CHECKING:
    from s2robot.backbones.availability import is_available
    from s2robot.backbones.fetching import fetch
    from s2robot.backbones.frozen import FrozenBackbone
    from s2robot.backbones.loading import load_backbone
    from s2robot.backbones.network import Network

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

_MODULES = {
    "FrozenBackbone": "frozen",
    "Network": "network",
    "fetch": "fetching",
    "is_available": "availability",
    "load_backbone": "loading",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch on first use: listing the backbones must not import torch."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"s2robot.backbones.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

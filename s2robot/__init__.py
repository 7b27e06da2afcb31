"""Frozen multi-scale (S²) vision encoders for robot-manipulation policies."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from s2robot.encoder import S2Encoder

__all__ = ["S2Encoder", "__version__"]

# Documented modules that moved are still found under their former names, `s2robot.readout` for one.
__path__.append(str(Path(__file__).with_name("_former")))


def __getattr__(name: str) -> Any:
    """Import `S2Encoder` (and with it torch and timm) only when it is asked for; look the installed version up."""
    if name == "__version__":
        return importlib.metadata.version("s2robot")
    if name == "S2Encoder":
        from s2robot.encoder import S2Encoder

        return S2Encoder
    raise AttributeError(f"module 's2robot' has no attribute {name!r}")

"""The location of fetched weights on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def weights_folder() -> Path:
    """Folder of fetched weights: `$S2ROBOT_CACHE/weights`, else `weights` in `$XDG_CACHE_HOME/s2robot`."""
    root = os.environ.get("S2ROBOT_CACHE")
    if root:
        return Path(root).expanduser() / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")).expanduser() / "s2robot" / "weights"


def fetched_file(name: str) -> Path:
    """Path of a named backbone's fetched weights, whether or not the file exists."""
    return weights_folder() / f"{name}.safetensors"

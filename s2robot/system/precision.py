"""Floating-point precisions of networks, by their names in settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # importing torch takes seconds, and settings are checked without it
    import torch

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Name in settings -> name in PyTorch."""


def dtype_of(precision: str) -> torch.dtype:
    """Return the PyTorch dtype of a name in `PRECISIONS`."""
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype

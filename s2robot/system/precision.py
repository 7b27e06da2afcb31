"""Numbers that networks compute with, by the names that users give them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # settings are read without PyTorch
    import torch

PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Name -> PyTorch's name."""


def dtype_of(precision: str) -> torch.dtype:
    """The dtype of one of `PRECISIONS`."""
    import torch

    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype

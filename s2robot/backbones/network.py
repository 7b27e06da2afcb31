"""Networks that timm does not have, as a row of the table describes them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from s2robot.backbones.checkpoints import StateDict
from s2robot.s2 import TileOutput


@dataclass(frozen=True)
class Network:
    """How to build and run a network that timm does not have.

    Attributes:
        build: `() -> network`, without a classifier, with random weights and the names of its checkpoint. It is called
            on PyTorch's meta device too, for the cost.
        version: version of the features. Raise it whenever the same weights give different features, or caches and
            checkpoints of the old features would be accepted for the new ones.
        extract: `(network, normalised images [B, 3, H, W])` -> a map [B, C, h, w], tokens [B, P+N, C] with the prefix
            tokens first, or the pair (map, prefix [B, P, C]).
        convert: function that renames a checkpoint's tensors to the network's and drops the classifier's.
        finish: `(network) -> network`, conversion to the structure that runs, such as one convolution for several
            branches. Its rounding does not affect the fingerprint.
        patch_size: side of a patch [pixels]; tile sizes must be multiples of it; 1 if any size works.
        minimum_size: smallest tile [pixels].
    """

    build: Callable[[], nn.Module]
    version: str
    extract: Callable[[nn.Module, Tensor], TileOutput] = lambda network, images: network(images)
    convert: Callable[[StateDict], StateDict] = lambda state: state
    finish: Callable[[nn.Module], nn.Module] = lambda network: network
    patch_size: int = 1
    minimum_size: int = 1


def structure_hash(module: nn.Module) -> str:
    """Sha256 of a network's structure: strides, activations and the like leave no trace in its tensors."""
    # Remove addresses, which differ in every process.
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(module)).encode()).hexdigest()

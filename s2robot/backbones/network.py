"""Networks that timm lacks, as a row of the table brings them."""

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
    """What s2robot needs to know of a network that it cannot have from timm.

    Attributes:
        build: `() -> network`, without a classifier, with random weights and the names of its checkpoint. It is called
            on PyTorch's meta device too, for the cost.
        version: of its features. Raise it whenever the same weights give other features than before, or caches and
            checkpoints made before would be taken for those of now.
        extract: `(network, normalised images [B, 3, H, W])` -> a map [B, C, h, w], tokens [B, P+N, C] with the prefix
            tokens first, or the pair (map, prefix [B, P, C]).
        convert: from a checkpoint's tensors to the network's: names, and without those of the classifier.
        finish: `(network) -> network`, to the structure that runs, such as one convolution for several branches; what
            it rounds is no part of the fingerprint.
        patch_size: side of a patch that tile sizes must be a multiple of [pixels]; 1 where any size works.
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
    """Sha256 of how a network is built: strides, activations and the like leave no trace in its tensors."""
    # Addresses differ in every process.
    return hashlib.sha256(re.sub(r" at 0x[0-9a-f]+", "", repr(module)).encode()).hexdigest()

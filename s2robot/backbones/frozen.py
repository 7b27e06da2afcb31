"""The one class every backbone is served as: a frozen model plus what S² has to know about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from s2robot.s2 import TileOutput, as_map_and_prefix


class FrozenBackbone(nn.Module):
    """A single-scale vision model that never trains; implements `interfaces.Backbone`.

    Args:
        model: the network; it is frozen in place.
        extract: features of normalised images: `(model, [B, 3, H, W])` -> a map [B, C, h, w], tokens [B, P+N, C] with
            the prefix tokens first, or the pair (map, prefix [B, P, C]).
        name: what the user called it.
        architecture: what computes the features, as far as the weights do not tell (part of the fingerprint).
        size: native image height = width [pixels].
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation of images in [0, 1].
        num_prefix_tokens: P, class and register tokens.
        patch_size: side of a patch that tile sizes must be a multiple of [pixels]; 1 where any size works.
        minimum_size: smallest tile the model can see [pixels].
    """

    def __init__(
        self,
        model: nn.Module,
        extract: Callable[[nn.Module, Tensor], TileOutput],
        *,
        name: str,
        architecture: str,
        size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        num_prefix_tokens: int = 0,
        patch_size: int = 1,
        minimum_size: int = 1,
    ) -> None:
        super().__init__()
        self.name = name
        self.architecture = architecture
        self.size = size
        self.mean = mean
        self.std = std
        self.num_prefix_tokens = num_prefix_tokens
        self.patch_size = patch_size
        self.minimum_size = max(minimum_size, patch_size)
        self.model = model.requires_grad_(False).eval()
        self._extract = extract
        # Hashed before any cast or resampling of position embeddings, whose rounding differs between machines.
        self._weights_hash = hash_tensors(model)

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images [B, 3, H, W] to (map [B, C, h, w], prefix [B, P, C])."""
        return as_map_and_prefix(self._extract(self.model, images), images, self.num_prefix_tokens)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Same as `forward_features`."""
        return self.forward_features(images)

    def weights_hash(self) -> str:
        """Sha256 over names, shapes, dtypes and bytes of every tensor and buffer, as they were loaded."""
        return self._weights_hash

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in evaluation mode whatever `mode` says: batch-norm statistics never move."""
        return super().train(False)


def hash_tensors(module: nn.Module) -> str:
    """Sha256 over the names, shapes, dtypes and bytes of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(data.shape)} {data.dtype}".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

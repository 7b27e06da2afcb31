"""The image itself as features: what a network that is trained from scratch reads.

With `backbone=pixels` the features of a frame are its pixels at one size, so that cache, windows, rollouts and
checkpoints are those of every other arm. The network is the readout `resnet18`, trained with the policy.
"""

from __future__ import annotations

from torch import nn

from s2robot.backbones.frozen import FrozenBackbone

PIXELS = "pixels"
STRIDE = 32
"""Pixels per cell of the last map of ResNet-18, which reads the image: no image is smaller."""


class PixelBackbone(FrozenBackbone):
    """Features [B, 3, H, W] that are whole numbers 0 … 255, as a camera of this size would give; exact in float16.

    Args:
        size: height = width of the image [pixels].
    """

    def __init__(self, size: int) -> None:
        super().__init__(
            nn.Identity(),
            # Resizing leaves fractions, and bicubic kernels overshoot.
            lambda model, images: images.float().round().clamp(0, 255),
            name=PIXELS,
            architecture=PIXELS,
            size=size,
            mean=(0.0, 0.0, 0.0),
            std=(1 / 255, 1 / 255, 1 / 255),
            minimum_size=STRIDE,
        )

"""The image itself as features, for a network that is trained from scratch.

With `backbone=pixels` the features of a frame are its pixels at one size, so this arm uses the same cache, windows,
rollouts and checkpoints as every other arm. The network is the readout `resnet18`, trained with the policy.
"""

from __future__ import annotations

from torch import nn

from s2robot.backbones.frozen import FrozenBackbone

PIXELS = "pixels"
STRIDE = 32
"""Stride of ResNet-18's last map [pixels]; images must not be smaller, because ResNet-18 reads them."""


class PixelBackbone(FrozenBackbone):
    """Returns pixels as features [B, 3, H, W]: whole numbers 0 … 255 as a camera gives them, exact in float16.

    Args:
        size: height = width of the image [pixels].
    """

    def __init__(self, size: int) -> None:
        super().__init__(
            nn.Identity(),
            # Resizing gives fractions, and bicubic kernels overshoot the range.
            lambda model, images: images.float().round().clamp(0, 255),
            name=PIXELS,
            architecture=PIXELS,
            size=size,
            mean=(0.0, 0.0, 0.0),
            std=(1 / 255, 1 / 255, 1 / 255),
            minimum_size=STRIDE,
        )

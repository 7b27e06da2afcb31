"""The image itself as features, and the network that is trained on it from scratch: the control for frozen encoders.

With `backbone=pixels` the features of a frame are its pixels at one size, so that cache, windows, rollouts and
checkpoints are those of every other arm. The readout `resnet18` holds the network; it is trained with the policy.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from s2robot.backbones.frozen import FrozenBackbone

PIXELS = "pixels"
STRIDE = 32
"""Pixels per cell of ResNet-18's last map."""

WIDTH = 512
"""Channels of ResNet-18's last map."""

CROP = 76 / 84
"""Side of the crop that the network sees, of the image's: robomimic's (arXiv 2108.03298) and Diffusion Policy's."""


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

    def reader_cost(self, height: int, width: int) -> tuple[int, float]:
        """Parameters of the network that reads them, and its multiply-accumulates per `height` x `width` image."""
        return _trunk_cost(crop_side(height), crop_side(width))


def resnet18_trunk() -> nn.Sequential:
    """A ResNet-18, torchvision's, with random weights, up to its last map [B, 512, h/32, w/32].

    Every BatchNorm is a GroupNorm of 16 channels a group, whose statistics a moving average of the weights does not
    upset (Diffusion Policy, arXiv 2303.04137, §3.2).
    """
    from torchvision.models import resnet18

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(channels // 16, channels)

    network: Any = resnet18(weights=None, norm_layer=norm)
    return nn.Sequential(*list(network.children())[:-2])  # all but the pooling and the classes


def crop_side(side: int) -> int:
    """Pixels that are left of a side of the image."""
    return round(side * CROP)


def crop(images: Tensor, random: bool) -> Tensor:
    """Cut `CROP` of images [B, C, H, W] out: each from a place of its own, or all from the centre.

    Frames of one window are cropped apart, as robomimic and Diffusion Policy do.
    """
    height, width = images.shape[-2:]
    rows, columns = crop_side(height), crop_side(width)
    if not random:
        top, left = (height - rows) // 2, (width - columns) // 2
        return images[:, :, top : top + rows, left : left + columns]
    count, device = len(images), images.device
    down = torch.randint(height - rows + 1, (count, 1), device=device) + torch.arange(rows, device=device)
    right = torch.randint(width - columns + 1, (count, 1), device=device) + torch.arange(columns, device=device)
    index = torch.arange(count, device=device)[:, None, None]
    return images.permute(0, 2, 3, 1)[index, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


@functools.cache
def _trunk_cost(height: int, width: int) -> tuple[int, float]:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        trunk = resnet18_trunk()
        trunk(torch.empty(1, 3, height, width))
    return sum(parameter.numel() for parameter in trunk.parameters()), counter.get_total_flops() / 2

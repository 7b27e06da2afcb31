"""A ResNet-18 that is trained from scratch on the image itself: the control for frozen encoders."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from s2robot.backbones.pixels import PIXELS, STRIDE
from s2robot.config import ReadoutConfig
from s2robot.encoder.cost import EncoderCost
from s2robot.interfaces import Features, FeatureShape
from s2robot.policies.readouts.base import Readout
from s2robot.policies.readouts.spatial_softmax import SpatialSoftmaxReadout

WIDTH = 512
"""Channels of ResNet-18's last map."""

CROP = 76 / 84
"""Side of the crop relative to the image's side, as in robomimic (arXiv 2108.03298) and Diffusion Policy."""


class ResNet18Readout(Readout):
    """A ResNet-18 trained from scratch on the image itself, for `backbone=pixels`: the arm without a frozen encoder.

    As in Diffusion Policy (arXiv 2303.04137, §3.2): images in [-1, 1], random crops in training and the centre crop
    otherwise, GroupNorm, and a spatial softmax over the last map with `channels` keypoints.
    """

    def __init__(self, config: ReadoutConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.trunk = resnet18_trunk()
        h, w = (-(-crop_side(side) // STRIDE) for side in (shape.height, shape.width))
        self.head = SpatialSoftmaxReadout(config, FeatureShape(WIDTH, h, w))

    def forward(self, features: Features) -> Tensor:
        """Map pixels 0 … 255 of B frames to [B, D]."""
        images = crop(features.map, random=self.training) / 127.5 - 1
        return self.head(Features(self.trunk(images), features.prefix))


def resnet18_trunk() -> nn.Sequential:
    """Make torchvision's ResNet-18 with random weights, up to its last map [B, 512, h/32, w/32].

    GroupNorm with 16 channels per group replaces BatchNorm, whose running statistics do not fit a moving average of the
    weights (Diffusion Policy, arXiv 2303.04137, §3.2).
    """
    from torchvision.models import resnet18

    def norm(channels: int) -> nn.Module:
        return nn.GroupNorm(channels // 16, channels)

    network: Any = resnet18(weights=None, norm_layer=norm)
    return nn.Sequential(*list(network.children())[:-2])  # without the pooling and the classifier


def crop_side(side: int) -> int:
    """Side of the crop of an image with this side [pixels]."""
    return round(side * CROP)


def crop(images: Tensor, random: bool) -> Tensor:
    """Crop images [B, C, H, W] to `CROP` of each side: each at its own random place, or all at the centre.

    The frames of one window are cropped independently, as in robomimic and Diffusion Policy.
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


def with_reader(cost: EncoderCost, backbone: str) -> EncoderCost:
    """Return the cost of an arm's vision: the encoder's, plus the trained ResNet-18's if the backbone is `pixels`.

    Args:
        cost: cost of the encoder.
        backbone: name of the encoder's backbone.
    """
    if backbone != PIXELS:
        return cost
    (image,) = cost.scales  # pixels have one scale
    parameters, macs = _trunk_cost(*(crop_side(side) for side in image.size))
    scale = replace(image, gmacs=image.gmacs + macs / 1e9)
    return replace(cost, parameters=cost.parameters + parameters, scales=(scale,))


@functools.cache
def _trunk_cost(height: int, width: int) -> tuple[int, float]:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        trunk = resnet18_trunk()
        trunk(torch.empty(1, 3, height, width))
    return sum(parameter.numel() for parameter in trunk.parameters()), counter.get_total_flops() / 2

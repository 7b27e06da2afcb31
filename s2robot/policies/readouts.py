"""The small trainable modules between frozen features and a policy; every one ends in the same common width.

Arms of a comparison then differ in their features and not in the size of their head: a wider feature is not a freely
better one (Theia, arXiv 2407.20179, found naive channel concatenation of several models to be worse).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from s2robot.backbones.pixels import STRIDE
from s2robot.interfaces import ConfigError, Features, FeatureShape, unknown_name
from s2robot.policies.resnet import WIDTH, crop, crop_side, resnet18_trunk


class ClsReadout(nn.Module):
    """First prefix token (CLS), projected.

    Args:
        shape: per-frame size of the features.
        width: D of the result.

    Raises:
        ConfigError: the backbone has no prefix tokens.
    """

    def __init__(self, shape: FeatureShape, width: int) -> None:
        super().__init__()
        if not shape.num_prefix:
            raise ConfigError("readout 'cls' needs a backbone with a CLS token; this one has none, use 'mean'")
        self.project = _projection(shape.channels, width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(features.prefix[:, 0])


class MeanReadout(nn.Module):
    """Mean over the feature map, projected.

    Args:
        shape: per-frame size of the features.
        width: D of the result.
    """

    def __init__(self, shape: FeatureShape, width: int) -> None:
        super().__init__()
        self.project = _projection(shape.channels, width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(features.map.mean(dim=(2, 3)))


class SpatialSoftmaxReadout(nn.Module):
    """Expected image positions of learned keypoints (Finn et al., arXiv 1509.06113), projected.

    A 1×1 convolution makes one heat map per keypoint; its softmax over positions gives an expected (x, y) in [-1, 1].

    Args:
        shape: per-frame size of the features.
        width: D of the result.
        channels: number of keypoints.
    """

    def __init__(self, shape: FeatureShape, width: int, channels: int = 32) -> None:
        super().__init__()
        self.heat = nn.Conv2d(shape.channels, channels, 1)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        y = torch.linspace(-1, 1, shape.height) if shape.height > 1 else torch.zeros(1)
        x = torch.linspace(-1, 1, shape.width) if shape.width > 1 else torch.zeros(1)
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], dim=-1).reshape(-1, 2)
        self.grid = nn.Buffer(grid, persistent=False)
        self.project = _projection(2 * channels, width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        attention = (self.heat(features.map).flatten(2) / self.log_temperature.exp()).softmax(dim=-1)
        return self.project((attention @ self.grid).flatten(1))


class AttentionReadout(nn.Module):
    """Cross-attention of learned queries to all map and prefix tokens (as AFA, arXiv 2511.10762), projected.

    Args:
        shape: per-frame size of the features.
        width: D of the result, also the width of the attention.
        queries: number of learned queries.
        heads: attention heads; must divide `width`.
    """

    def __init__(self, shape: FeatureShape, width: int, queries: int = 1, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ConfigError(f"readout 'attention': width={width} is no multiple of heads={heads}")
        self.norm = nn.LayerNorm(shape.channels)
        self.embed = nn.Linear(shape.channels, width)
        self.position = nn.Parameter(torch.randn(1, shape.height * shape.width + shape.num_prefix, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(1, queries, width) * 0.02)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.project = _projection(queries * width, width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        tokens = torch.cat([features.prefix, features.map.flatten(2).transpose(1, 2)], dim=1)
        tokens = self.embed(self.norm(tokens)) + self.position
        pooled, _ = self.attention(self.queries.expand(len(tokens), -1, -1), tokens, tokens, need_weights=False)
        return self.project(pooled.flatten(1))


class ConvReadout(nn.Module):
    """1×1 convolution to few channels, flattened with its positions and projected; the default.

    Args:
        shape: per-frame size of the features.
        width: D of the result.
        channels: channels kept per position.
    """

    def __init__(self, shape: FeatureShape, width: int, channels: int = 32) -> None:
        super().__init__()
        self.compress = nn.Sequential(nn.Conv2d(shape.channels, channels, 1), nn.GELU())
        self.project = _projection(channels * shape.height * shape.width, width)

    def forward(self, features: Features) -> Tensor:
        """Map features of B frames to [B, D]."""
        return self.project(self.compress(features.map).flatten(1))


class ResNet18Readout(nn.Module):
    """A ResNet-18 trained from scratch on the image itself, for `backbone=pixels`: the arm without a frozen encoder.

    As in Diffusion Policy (arXiv 2303.04137, §3.2): images in [-1, 1], random crops in training and the centre crop
    otherwise, GroupNorm, spatial softmax over the last map.

    Args:
        shape: per-frame size of the features, which must be pixels.
        width: D of the result.
        channels: number of keypoints.
    """

    def __init__(self, shape: FeatureShape, width: int, channels: int = 32) -> None:
        super().__init__()
        self.trunk = resnet18_trunk()
        h, w = (-(-crop_side(side) // STRIDE) for side in (shape.height, shape.width))
        self.head = SpatialSoftmaxReadout(FeatureShape(WIDTH, h, w), width, channels)

    def forward(self, features: Features) -> Tensor:
        """Map pixels 0 … 255 of B frames to [B, D]."""
        images = crop(features.map, random=self.training) / 127.5 - 1
        return self.head(Features(self.trunk(images), features.prefix))


READOUTS: dict[str, Callable[..., nn.Module]] = {
    "cls": ClsReadout,
    "mean": MeanReadout,
    "spatial_softmax": SpatialSoftmaxReadout,
    "attention": AttentionReadout,
    "conv": ConvReadout,
    "resnet18": ResNet18Readout,
}


def make_readout(name: str, shape: FeatureShape, width: int, **options: int) -> nn.Module:
    """Build a readout from `Features` of B frames to [B, width].

    Args:
        name: one of `READOUTS`.
        shape: per-frame size of the features, from `S2Encoder.feature_shape`.
        width: D of the result.
        options: `channels`, `queries`, `heads`; a readout takes those it knows of, so that one set of options serves
            a comparison of all of them.

    Raises:
        ConfigError: unknown name or option, or features that this readout cannot read.

    >>> readout = make_readout("conv", FeatureShape(640, 7, 7), width=256)
    >>> readout(Features(torch.zeros(2, 640, 7, 7), torch.zeros(2, 0, 640))).shape
    torch.Size([2, 256])
    """
    if name not in READOUTS:
        raise ConfigError(unknown_name("readout", name, READOUTS))
    known = {option for readout in READOUTS.values() for option in inspect.signature(readout).parameters}
    for option in options:
        if option not in known - {"shape", "width"}:
            raise ConfigError(unknown_name("readout option", option, known - {"shape", "width"}))
    _check_pixels(name, shape)
    accepted = inspect.signature(READOUTS[name]).parameters
    return READOUTS[name](shape, width, **{key: value for key, value in options.items() if key in accepted})


def module_key(camera: str) -> str:
    """A camera's name without the dots that a module's may not hold; of two cameras never the same.

    >>> module_key("agentview"), module_key("images.front")
    ('agentview', 'images%2Efront')
    """
    return camera.replace("%", "%25").replace(".", "%2E")


def _check_pixels(name: str, shape: FeatureShape) -> None:
    # No pre-trained model ends in a map of three channels that is as large as an image.
    pixels = shape.channels == 3 and not shape.num_prefix and min(shape.height, shape.width) >= STRIDE
    if name == "resnet18" and not pixels:
        raise ConfigError(
            f"readout 'resnet18' is trained on images, not on features {shape.channels}x{shape.height}x{shape.width}; "
            "use encoder.backbone=pixels encoder.scales=[84], or another readout"
        )
    if name != "resnet18" and pixels:
        raise ConfigError(f"readout {name!r} cannot learn from pixels; use readout=resnet18, or another backbone")


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters, to report beside every comparison."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _projection(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.LayerNorm(inputs), nn.Linear(inputs, width))

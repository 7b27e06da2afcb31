"""LSNet (arXiv 2503.23135), model T: see large with a 7 x 7 kernel, focus small with kernels made for each position.

Modules have the names in the authors' checkpoints. The authors apply the small kernels with Triton, which needs a GPU;
here they are plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTHS = (64, 128, 256, 384)
DEPTHS = (0, 2, 8, 10)
HEADS, KEY_WIDTH = 4, 16
"""Number of heads and width of a key in the last stage's attention."""

CELLS = 4
"""Side of the last stage's map, which images of 193 to 256 pixels give; the attention has biases for this side only."""


class ConvNorm(nn.Sequential):
    """A convolution and its batch norm."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs))


class Residual(nn.Module):
    """x + m(x)."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.m = module

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x + self.m(x)


class FeedForward(nn.Module):
    """Two pointwise convolutions with twice the channels between them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pw1 = ConvNorm(channels, 2 * channels)
        self.pw2 = ConvNorm(2 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return self.pw2(self.pw1(x).relu())


class RepDepthwise(nn.Module):
    """The sum of depthwise 3 x 3 and 1 x 1 convolutions and the identity (RepVGG, arXiv 2101.03697)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = ConvNorm(channels, channels, 3, groups=channels)
        self.conv1 = ConvNorm(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return self.conv(x) + self.conv1(x) + x


class SqueezeExcitation(nn.Module):
    """Channel gates from the average over all positions (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 4, 1)
        self.fc2 = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class LargeKernelPerception(nn.Module):
    """See large (equation 5): the small kernels of every position, from 7 x 7 pixels around it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, kernels = channels // 2, channels // 8
        self.cv1 = ConvNorm(channels, half)
        self.cv2 = ConvNorm(half, half, 7, groups=half)
        self.cv3 = ConvNorm(half, half)
        self.cv4 = nn.Conv2d(half, 9 * kernels, 1)
        self.norm = nn.GroupNorm(kernels, 9 * kernels)

    def forward(self, x: Tensor) -> Tensor:
        """Map [B, C, H, W] to kernels of 3 x 3 for every position, [B, C / 8, 9, H, W]; 8 channels share one."""
        x = self.cv3(self.cv2(self.cv1(x).relu())).relu()
        return self.norm(self.cv4(x)).unflatten(1, (-1, 9))


def aggregate(x: Tensor, kernels: Tensor) -> Tensor:
    """Focus small (equation 6): every position's weighted sum of the 3 x 3 pixels around it.

    Channel c takes kernel c mod G, as the authors' code pairs them.

    Args:
        x: [B, C, H, W].
        kernels: [B, G, 9, H, W].

    Returns:
        [B, C, H, W].
    """
    batch, groups, _, height, width = kernels.shape
    around = F.unfold(x, 3, padding=1).reshape(batch, -1, groups, 9, height, width)
    return (around * kernels[:, None]).sum(3).flatten(1, 2)


class LargeSmallConvolution(nn.Module):
    """LS convolution (section 3.2): perception with a large kernel, aggregation with small ones."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.lkp = LargeKernelPerception(channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return self.bn(aggregate(x, self.lkp(x))) + x


class Attention(nn.Module):
    """Attention over all positions with learned biases for their distances (LeViT, arXiv 2104.01136)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.value_width = channels // HEADS
        keys = HEADS * KEY_WIDTH
        self.qkv = ConvNorm(channels, channels + 2 * keys)
        self.proj = nn.Sequential(nn.ReLU(), ConvNorm(channels, channels))
        self.dw = ConvNorm(keys, keys, 3, groups=keys)
        self.attention_biases = nn.Parameter(torch.zeros(HEADS, CELLS**2))
        self.register_buffer("attention_bias_idxs", _distances(CELLS))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, 4, 4] -> the same shape."""
        keys = HEADS * KEY_WIDTH
        query, key, value = self.qkv(x).split([keys, keys, HEADS * self.value_width], dim=1)
        query, key, value = (
            part.flatten(2).unflatten(1, (HEADS, -1)).transpose(2, 3) for part in (self.dw(query), key, value)
        )
        scores = query @ key.transpose(2, 3) * KEY_WIDTH**-0.5 + self.attention_biases[:, self.attention_bias_idxs]
        mixed = (scores.softmax(dim=-1) @ value).transpose(2, 3).flatten(1, 2)
        return self.proj(mixed.unflatten(2, x.shape[-2:]))


class Block(nn.Module):
    """Mixing of positions, then of channels; the kind of mixing alternates within a stage (section 3.3)."""

    def __init__(self, channels: int, index: int, last_stage: bool) -> None:
        super().__init__()
        self.mixer: nn.Module
        self.se: nn.Module = nn.Identity()
        if index % 2 == 0:
            self.mixer, self.se = RepDepthwise(channels), SqueezeExcitation(channels)
        else:
            self.mixer = Residual(Attention(channels)) if last_stage else LargeSmallConvolution(channels)
        self.ffn = Residual(FeedForward(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return self.ffn(self.se(self.mixer(x)))


class LSNet(nn.Module):
    """The network without its classifier: [B, 3, H, W] of 193 to 256 pixels a side -> map [B, 384, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        first = WIDTHS[0]
        self.patch_embed = nn.Sequential(
            ConvNorm(3, first // 4, 3, 2),
            nn.ReLU(),
            ConvNorm(first // 4, first // 2, 3, 2),
            nn.ReLU(),
            ConvNorm(first // 2, first, 3, 2),
        )
        self.blocks1, self.blocks2, self.blocks3, self.blocks4 = (_stage(index) for index in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """Map of normalised images."""
        return self.blocks4(self.blocks3(self.blocks2(self.blocks1(self.patch_embed(x)))))


def _stage(index: int) -> nn.Sequential:
    width = WIDTHS[index]
    layers: list[nn.Module] = []
    if index:
        former = WIDTHS[index - 1]
        layers = [ConvNorm(former, former, 3, 2, groups=former), ConvNorm(former, width)]
    return nn.Sequential(*layers, *(Block(width, number, index == 3) for number in range(DEPTHS[index])))


def _distances(side: int) -> Tensor:
    """[side², side²]: index of the pair's distance (rows apart, columns apart), in the order of first appearance."""
    points: Sequence[tuple[int, int]] = [(row, column) for row in range(side) for column in range(side)]
    known: dict[tuple[int, int], int] = {}
    indices = [[known.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(known)) for b in points] for a in points]
    return torch.tensor(indices)

"""UniRepLKNet (arXiv 2311.15599), model A: a convolutional network with kernels of 13 x 13.

Modules have the names in the authors' checkpoints, which hold the network as it was trained: each large kernel has
parallel branches of small dilated kernels (section 3.2, "Dilated Reparam Block"). `merge` folds these branches and the
batch norms into one kernel.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DEPTHS = (2, 2, 6, 2)
WIDTHS = (40, 80, 160, 320)
KERNELS = (3, 13, 13, 13)
"""Blocks, channels and kernel size of each stage (Table 2; 13 x 13 in all stages but the first)."""

DILATED = ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))
"""Kernel size and dilation of the branches in parallel to a kernel of 13 x 13."""


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every position of [B, C, H, W]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, 1e-6).movedim(-1, 1)


class ResponseNorm(nn.Module):
    """Global response norm (ConvNeXt V2, arXiv 2301.00808, section 3.2) of [B, H, W, C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C] -> the same shape."""
        response = torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True)
        return x + self.gamma * x * (response / (response.mean(dim=-1, keepdim=True) + 1e-6)) + self.beta


class SqueezeExcitation(nn.Module):
    """Channel gates from the average over all positions (arXiv 1709.01507)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class DilatedReparamBlock(nn.Module):
    """A large depthwise kernel and dilated small ones in parallel, each with its batch norm."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.lk_origin = _depthwise(channels, kernel)
        self.origin_bn = nn.BatchNorm2d(channels)
        for size, dilation in DILATED:
            self.add_module(f"dil_conv_k{size}_{dilation}", _depthwise(channels, size, dilation))
            self.add_module(f"dil_bn_k{size}_{dilation}", nn.BatchNorm2d(channels))

    def branches(self) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        """Convolution and norm of every branch, the large one first."""
        pairs = [(self.lk_origin, self.origin_bn)]
        for size, dilation in DILATED:
            suffix = f"k{size}_{dilation}"
            pairs.append((self.get_submodule(f"dil_conv_{suffix}"), self.get_submodule(f"dil_bn_{suffix}")))
        return pairs

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        return torch.stack([norm(conv(x)) for conv, norm in self.branches()]).sum(0)

    def merged(self) -> nn.Conv2d:
        """The one convolution that computes the same (equation 2)."""
        folded = [_fold(conv, norm) for conv, norm in self.branches()]
        kernel = folded[0][0]
        for (conv, _), (weight, _) in zip(self.branches()[1:], folded[1:], strict=True):
            spread = _undilated(weight, conv.dilation[0])
            kernel = kernel + F.pad(spread, [(kernel.shape[-1] - spread.shape[-1]) // 2] * 4)
        return _convolution(self.lk_origin, kernel, torch.stack([bias for _, bias in folded]).sum(0))


class Block(nn.Module):
    """Depthwise convolution, squeeze and excitation, feed-forward network; a residual with a scale per channel."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.dwconv = DilatedReparamBlock(channels, kernel) if kernel >= 7 else _depthwise(channels, kernel)
        self.norm = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels)
        self.pwconv1 = nn.Sequential(nn.Identity(), nn.Linear(channels, hidden))
        self.act = nn.Sequential(nn.GELU(), ResponseNorm(hidden))
        self.pwconv2 = nn.Sequential(nn.Linear(hidden, channels, bias=False), nn.Identity(), nn.BatchNorm2d(channels))
        self.gamma = nn.Parameter(1e-6 * torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> the same shape."""
        y = self.se(self.norm(self.dwconv(x))).movedim(1, -1)
        y = self.pwconv2[0](self.act(self.pwconv1(y))).movedim(-1, 1)
        return x + self.gamma[:, None, None] * self.pwconv2[2](y)

    def merge(self) -> None:
        """Fold the branches and the norm behind them into one convolution, in place."""
        conv = self.dwconv.merged() if isinstance(self.dwconv, DilatedReparamBlock) else self.dwconv
        self.dwconv = _convolution(conv, *_fold(conv, self.norm))
        self.norm = nn.Identity()


class UniRepLKNet(nn.Module):
    """The network without its classifier: [B, 3, H, W] -> map [B, 320, H / 32, W / 32].

    The last norm is applied to every position; the authors apply it to the average over all positions, before their
    classifier.
    """

    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[0]
        stem = [
            nn.Conv2d(3, width // 2, 3, 2, 1),
            ChannelNorm(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, 2, 1),
            ChannelNorm(width),
        ]
        steps = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), ChannelNorm(b)) for a, b in itertools.pairwise(WIDTHS)]
        self.downsample_layers = nn.ModuleList([nn.Sequential(*stem), *steps])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(width, kernel) for _ in range(depth)))
            for depth, width, kernel in zip(DEPTHS, WIDTHS, KERNELS, strict=True)
        )
        self.norm = ChannelNorm(WIDTHS[-1])

    def forward(self, x: Tensor) -> Tensor:
        """Map of normalised images."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        return self.norm(x)


@torch.no_grad()
def merge(network: nn.Module) -> nn.Module:
    """Bring a loaded network to its inference structure: one convolution for all branches of a block."""
    for module in network.modules():
        if isinstance(module, Block):
            module.merge()
    return network


def _depthwise(channels: int, kernel: int, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel - 1) // 2
    return nn.Conv2d(channels, channels, kernel, 1, padding, dilation, channels, bias=False)


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Kernel and bias of a convolution with the batch norm behind it."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return conv.weight * scale[:, None, None, None], shift if conv.bias is None else shift + conv.bias * scale


def _undilated(kernel: Tensor, dilation: int) -> Tensor:
    """The kernel with zeros where dilation skips pixels."""
    side = dilation * (kernel.shape[-1] - 1) + 1
    spread = kernel.new_zeros((*kernel.shape[:2], side, side))
    spread[..., ::dilation, ::dilation] = kernel
    return spread


def _convolution(like: nn.Conv2d, kernel: Tensor, bias: Tensor) -> nn.Conv2d:
    channels, side = kernel.shape[0], kernel.shape[-1]
    conv = nn.Conv2d(channels, channels, side, like.stride, side // 2, groups=like.groups, device="meta")
    conv.weight, conv.bias = nn.Parameter(kernel), nn.Parameter(bias)
    return conv

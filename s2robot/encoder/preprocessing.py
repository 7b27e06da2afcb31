"""Preprocessing of camera images for a backbone: the only place where images are normalised."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from s2robot.interfaces import EncoderError


class Normalize(nn.Module):
    """Checks images and converts them to normalised floats on the module's device.

    Args:
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation of images in [0, 1].
    """

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        centre = torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1)
        spread = torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1)
        self.scale = nn.Buffer(1 / spread, persistent=False)
        self.shift = nn.Buffer(-centre / spread, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 [B, H, W, 3] or [B, 3, H, W], or float [B, 3, H, W] in [0, 1], to float32 [B, 3, H, W].

        Raises:
            EncoderError: images have the wrong type, shape or range, or contain NaN.
        """
        check_images(images)
        images = images.to(self.scale.device, non_blocking=True)
        if images.dtype == torch.uint8:
            planar = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
            # Copy once to planar floats, then work in place: at 448 pixels each pass is a noticeable cost.
            floats = planar.to(torch.float32, memory_format=torch.contiguous_format)
            return floats.mul_(self.scale / 255).add_(self.shift)
        return images.float() * self.scale + self.shift


def check_images(images: Tensor) -> None:
    """Refuse anything that is not a batch of images.

    Raises:
        EncoderError: type, shape or range is wrong; the message names what was expected and what was given.
    """
    expected = "expected uint8 [B, H, W, 3] or [B, 3, H, W], or float [B, 3, H, W] in [0, 1]"
    if not isinstance(images, Tensor):
        raise EncoderError(f"{expected}, got {type(images).__name__}")
    got = f"{images.dtype} of shape {tuple(images.shape)}"
    is_bytes = images.dtype == torch.uint8
    if images.dim() != 4 or 0 in images.shape or not (is_bytes or images.is_floating_point()):
        raise EncoderError(f"{expected}, got {got}")
    if images.shape[1] != 3 and not (is_bytes and images.shape[-1] == 3):
        raise EncoderError(f"{expected}, got {got}")
    if not is_bytes:
        low, high = (bound.item() for bound in torch.aminmax(images))
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # `not (…)` refuses NaN too
            raise EncoderError(f"float images must lie in [0, 1] without NaN, got values from {low} to {high}")

"""The class of all backbones: a frozen model together with what S² has to know about it."""

from __future__ import annotations

import copy
import hashlib
import inspect
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from s2robot.backbones.network import structure_hash
from s2robot.interfaces import EncoderError
from s2robot.s2 import TileOutput, as_map_and_prefix


class FrozenBackbone(nn.Module):
    """A single-scale vision model that never trains; implements `interfaces.Backbone`.

    Args:
        model: the network; it is frozen in place.
        extract: function from `(model, normalised images [B, 3, H, W])` to a map [B, C, h, w], tokens [B, P+N, C] with
            the prefix tokens first, or the pair (map, prefix [B, P, C]).
        name: name that the user gave.
        architecture: description of the computation that the weights alone do not determine; part of the fingerprint.
        size: native image height = width [pixels].
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation of images in [0, 1].
        num_prefix_tokens: P, the number of class and register tokens.
        patch_size: side of a patch [pixels]; tile sizes must be multiples of it; 1 if any size works.
        minimum_size: smallest tile that the model can process [pixels].
        weights_hash: identity of the weights, if the caller knows a narrower one than `hash_tensors(model)`.
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
        weights_hash: str | None = None,
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
        # Hash before casting or resampling position embeddings, because their rounding differs between machines.
        self._weights_hash = weights_hash or hash_tensors(model)
        self._positions: tuple[int, int] | None = None  # tile size that position embeddings were resampled to

    def forward_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map normalised images [B, 3, H, W] to (map [B, C, h, w], prefix [B, P, C])."""
        return as_map_and_prefix(self._extract(self.model, images), images, self.num_prefix_tokens)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Same as `forward_features`."""
        return self.forward_features(images)

    def resample_positions(self, height: int, width: int) -> None:
        """Resample the position embeddings to one tile size, in place; do nothing if there are none.

        Without this, models of the ViT family resample them in every call. That costs time, and in a traced graph it
        leaves the resampling to another library's kernel. Only this method makes Swin's windows grow with the tile.
        """
        divisible = height % self.patch_size == 0 and width % self.patch_size == 0
        if divisible and self._has_positions():
            model: Any = self.model
            model.set_input_size(img_size=(height, width))
            model.requires_grad_(False)
            self._positions = (height, width)

    def for_tiles(self, tile: int) -> FrozenBackbone:
        """Return this backbone as `load_backbone(…, size=tile)` gives it: itself, or a copy sharing all other tensors.

        Raises:
            EncoderError: the positions were already resampled to another size, which cannot be undone.
        """
        if not self._has_positions() or self._positions == (tile, tile) or tile % self.patch_size:
            return self
        if self._positions is not None:
            raise EncoderError(
                f"{self.name} was loaded for tiles of {self._positions[0]}x{self._positions[1]} pixels; for tiles of "
                f"{tile} load it with size={tile}, or without a size"
            )
        shared = {id(tensor): tensor for tensor in itertools.chain(self.parameters(), self.buffers())}
        resampled = copy.deepcopy(self, shared)
        resampled.resample_positions(tile, tile)
        return resampled

    @property
    def has_windows(self) -> bool:
        """Whether `resample_positions` changes more than positions: the windows within which the model attends."""
        resize = getattr(self.model, "set_input_size", None)
        return resize is not None and "window_size" in inspect.signature(resize).parameters

    def _has_positions(self) -> bool:
        return hasattr(self.model, "set_input_size") and hasattr(self.model, "patch_embed")

    def weights_hash(self) -> str:
        """Sha256 over names, shapes, dtypes and bytes of all parameters and buffers as they were loaded."""
        return self._weights_hash

    def train(self, mode: bool = True) -> FrozenBackbone:
        """Stay in evaluation mode, ignoring `mode`: batch-norm statistics must never change."""
        return super().train(False)


def hash_tensors(module: nn.Module) -> str:
    """Sha256 over the names, shapes, dtypes and bytes of all of a module's parameters and buffers.

    A tensor with several names counts once per name. Extra state (`nn.Module.get_extra_state`) is included.

    Raises:
        EncoderError: extra state cannot be hashed, such as an object of some class.
    """
    tensors = dict(module.state_dict())
    named = (module.named_parameters, module.named_buffers)
    # Add what `state_dict` lacks: non-persistent buffers, and tensors that a module's own `state_dict` leaves out.
    tensors.update(
        (name, value) for each in named for name, value in each(remove_duplicate=False) if name not in tensors
    )
    return _hash(tensors)


def hash_state(module: nn.Module) -> str:
    """Hash like `hash_tensors` but without non-persistent buffers, if architecture and settings determine those."""
    return _hash(module.state_dict())


def _hash(tensors: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        _update(digest, name, value)
    return digest.hexdigest()


def _update(digest: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        if not value.is_meta:  # a model that is only counted has no bytes
            digest.update(_plain(value).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        digest.update(f"{name} of {len(value)}".encode())
        for key in sorted(value, key=repr):
            _update(digest, f"{name}[{key!r}]", value[key])
    elif isinstance(value, list | tuple):
        digest.update(f"{name} of {len(value)}".encode())
        for index, item in enumerate(value):
            _update(digest, f"{name}[{index}]", item)
    elif value is None or isinstance(value, bool | int | float | str | bytes):
        digest.update(f"{name} {value!r}".encode())
    else:
        raise EncoderError(
            f"extra state {name!r} of the network is of type {type(value).__name__}, which leaves no fixed bytes; "
            "return tensors, numbers, strings, lists or dictionaries from get_extra_state"
        )


def _plain(tensor: Tensor) -> Tensor:
    """Return the tensor's values in one row, as one dense block of memory on the CPU."""
    values = tensor.detach().cpu()
    if values.is_quantized:  # its bytes mean nothing without scale and zero point, which `dtype` does not tell
        values = values.dequantize()
    values = values.to_dense().resolve_conj().resolve_neg().contiguous()
    return values.as_strided((values.numel(),), (1,))  # `reshape` keeps the stride of what has one element


def wrap_module(
    module: nn.Module,
    size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    num_prefix_tokens: int = 0,
    name: str | None = None,
    version: str = "",
) -> FrozenBackbone:
    """Freeze any network and test it on one image; see `S2Encoder.from_module`.

    Raises:
        EncoderError: the network fails on one image, or does not return features.
    """
    structure = structure_hash(module)
    backbone = FrozenBackbone(
        module,
        lambda network, images: network(images),
        name=name or type(module).__name__,
        architecture=f"{type(module).__module__}.{type(module).__qualname__} {structure} {version}".rstrip(),
        size=size,
        mean=mean,
        std=std,
        num_prefix_tokens=num_prefix_tokens,
    )
    first = next(itertools.chain(module.parameters(), module.buffers()), torch.empty(0))
    grey = torch.zeros((1, 3, size, size), dtype=first.dtype, device=first.device)
    try:
        with torch.no_grad():
            tile_map, prefix = backbone.forward_features(grey)
    except EncoderError:
        raise
    except Exception as error:  # whatever foreign code may raise
        raise EncoderError(f"{backbone.name} failed on one image [1, 3, {size}, {size}]: {error}") from error
    if tile_map.dim() != 4 or prefix.dim() != 3 or prefix.shape[1:] != (num_prefix_tokens, tile_map.shape[1]):
        raise EncoderError(
            f"{backbone.name} returned a map of shape {tuple(tile_map.shape)} and prefix tokens of shape "
            f"{tuple(prefix.shape)}; expected [1, C, h, w] and [1, {num_prefix_tokens}, C]"
        )
    if tile_map.shape[2] != tile_map.shape[3]:
        raise EncoderError(
            f"{backbone.name} returned a map of shape {tuple(tile_map.shape)} for a square image; expected "
            "[1, C, h, w] with h = w: channels first"
        )
    if not (torch.isfinite(tile_map).all() and torch.isfinite(prefix).all()):
        raise EncoderError(f"{backbone.name} returned NaN or infinite features for a grey image")
    return backbone

"""A TorchRL transform that replaces camera images with frozen S² features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Size

from s2robot.encoder import S2Encoder
from s2robot.integrations.images import ImageFeatures, ImageLayout
from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import ConfigError
from s2robot.system.extras import missing

try:
    from tensordict import TensorDictBase
    from torchrl.data import Composite, TensorSpec, Unbounded
    from torchrl.envs.transforms import Transform
except ModuleNotFoundError as error:
    raise missing("torchrl", "torchrl", error) from error

Key = str | tuple[str, ...]


class S2Transform(Transform):
    """Writes the features of images, float32, and removes the images.

    All cameras and environments are encoded in one call. The encoder is not a submodule: it is neither trained nor
    stored with the transform, and a pickled transform holds only the encoder's settings.

    Args:
        encoder: a dict of the encoder's settings, a `SharedEncoder`, or an `S2Encoder` (which cannot be sent to other
            processes).
        in_keys: keys of the images: uint8 […, H, W, 3] or […, 3, H, W], or float in [0, 1] (after `ToTensorImage`).
        out_keys: keys of the features; the same keys when None.
        output: form of the features: `mean` (the map's mean, [S·C]), `cls`, `map` ([S·C, h, w]) or `rows` (everything
            packed into one vector by `FeatureShape.flatten`).
        del_keys: whether to remove images whose features have a different key.

    Raises:
        ConfigError: the output is unknown, or in_keys and out_keys have different lengths.
    """

    def __init__(
        self,
        encoder: SharedEncoder | S2Encoder | Mapping[str, Any],
        in_keys: Sequence[Key] = ("pixels",),
        out_keys: Sequence[Key] | None = None,
        output: str = "mean",
        del_keys: bool = True,
    ) -> None:
        out_keys = list(in_keys) if out_keys is None else list(out_keys)
        if len(in_keys) != len(out_keys):
            raise ConfigError(f"in_keys={list(in_keys)} and out_keys={out_keys} must have equal lengths")
        super().__init__(in_keys=list(in_keys), out_keys=out_keys)
        self._shared = SharedEncoder.of(encoder)
        self._output = output
        self._removed = [key for key in self.in_keys if del_keys and key not in self.out_keys]
        self._features = ImageFeatures(self._shared, {}, output)  # refuses an unknown output before the first image

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Encode a sample from a replay buffer; see `_call`."""
        return self._call(tensordict)

    def _call(self, next_tensordict: TensorDictBase) -> TensorDictBase:
        """Encode the images of a step or a reset."""
        images = {key: next_tensordict.get(key, None) for key in self.in_keys}
        absent = [key for key, value in images.items() if value is None]
        if absent and not self.missing_tolerance:
            raise KeyError(f"{self}: {absent} not found in tensordict {next_tensordict}")
        present = {key: value for key, value in images.items() if value is not None}
        if present:
            features = self._for({key: value.shape for key, value in present.items()})(present)
            for in_key, out_key in zip(self.in_keys, self.out_keys, strict=True):
                if in_key in features:
                    next_tensordict.set(out_key, features[in_key])
        return next_tensordict.exclude(*self._removed, inplace=True)

    def _reset(self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase) -> TensorDictBase:
        return self._call(tensordict_reset)

    def transform_observation_spec(self, observation_spec: TensorSpec) -> TensorSpec:
        """Replace the images' shapes with the features' shapes."""
        if not isinstance(observation_spec, Composite):
            raise ConfigError(
                f"the environment's observations are {observation_spec}; S2Transform needs a Composite of named tensors"
            )
        spec = observation_spec.clone()
        shapes = {}
        for key in self.in_keys:
            if key not in spec.keys(True, True):
                raise ConfigError(f"the environment has no observation {key!r}; it has {list(spec.keys(True, True))}")
            shapes[key] = spec[key].shape
        features = self._for(shapes)
        for in_key, out_key in zip(self.in_keys, self.out_keys, strict=True):
            shape = Size([*shapes[in_key][:-3], *features.frame_shape(in_key)])
            spec[out_key] = Unbounded(shape=shape, device=spec[in_key].device)
        for key in self._removed:
            del spec[key]
        return spec

    def _for(self, shapes: Mapping[Key, Sequence[int]]) -> ImageFeatures:
        """Return the `ImageFeatures` for images of these shapes.

        Raises:
            ConfigError: a shape is not a shape of images.
        """
        layouts = {key: ImageLayout.of(shape) for key, shape in shapes.items()}
        for key, layout in layouts.items():
            if layout is None:
                raise ConfigError(f"{key!r} has shape {tuple(shapes[key])}, not images […, H, W, 3] or […, 3, H, W]")
        if self._features.layouts != layouts:
            known = {key: layout for key, layout in layouts.items() if layout is not None}
            self._features = ImageFeatures(self._shared, known, self._output)
        return self._features

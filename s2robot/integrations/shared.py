"""An encoder that networks of other libraries can use without owning it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from s2robot.encoder import S2Encoder
from s2robot.interfaces import ConfigError, Features


class SharedEncoder:
    """One frozen encoder for all networks of another library, which neither train, move, copy nor save it.

    - It is not an `nn.Module`, so it stays out of their parameters, optimizers, `train()` and checkpoints.
    - Copies are the same object.
    - A pickle holds the settings and the fingerprint instead of the backbone. The unpickled object builds the encoder
      on first use and refuses an encoder with a different fingerprint.
    - The setting `device` applies to direct calls; networks that move to another device use `on`.

    Args:
        settings: arguments of `S2Encoder`, by name.

    >>> SharedEncoder(backbone="efficientnet_lite0", scales=(224, 448))
    SharedEncoder(backbone='efficientnet_lite0', scales=(224, 448))
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self._encoder: S2Encoder | None = None
        self._fingerprint: str | None = None
        self._variants: dict[str, SharedEncoder] = {}

    @classmethod
    def of(cls, encoder: SharedEncoder | S2Encoder | Mapping[str, Any]) -> SharedEncoder:
        """Convert what users give as an encoder: a `SharedEncoder`, an `S2Encoder`, or a mapping of settings.

        Raises:
            ConfigError: anything else.
        """
        match encoder:
            case SharedEncoder():
                return encoder
            case S2Encoder():
                shared = cls()
                shared._encoder = encoder
                return shared
            case Mapping():
                return cls(**encoder)
        raise ConfigError(
            f"encoder={encoder!r} is not possible; give a SharedEncoder, an S2Encoder, or a dict of its settings"
        )

    @property
    def encoder(self) -> S2Encoder:
        """The encoder, built on first use.

        Raises:
            ConfigError: a setting is unknown, or the encoder is not the one that was pickled.
        """
        if self._encoder is None:
            try:
                encoder = S2Encoder(**self.settings)
            except TypeError as error:  # a setting that is not an argument of S2Encoder
                raise ConfigError(f"{self} is not possible: {error}") from error
            if self._fingerprint not in (None, encoder.fingerprint()):
                raise ConfigError(
                    f"saved with encoder {str(self._fingerprint)[:12]}, but {self} gives {encoder.fingerprint()[:12]} "
                    "here: the backbone weights or the code version differ"
                )
            self._encoder = encoder
        return self._encoder

    def __call__(self, images: Mapping[str, Tensor]) -> dict[str, Features]:
        """Encode several cameras' images, in one call per group of cameras with the same number of images.

        See `S2Encoder.encode_cameras`.
        """
        groups: dict[int, dict[str, Tensor]] = {}
        for camera, frames in images.items():
            groups.setdefault(len(frames), {})[camera] = frames
        features: dict[str, Features] = {}
        for group in groups.values():
            features |= self.encoder.encode_cameras(group)
        return features

    def on(self, device: torch.device) -> SharedEncoder:
        """Return this encoder on `device`, always the same object.

        Raises:
            ConfigError: the encoder was passed as an `S2Encoder` object and is on a different device.
        """
        if not self.settings and self.encoder.device != device:
            raise ConfigError(
                f"the images are on {device}, but the S2Encoder that was passed as an object is on "
                f"{self.encoder.device}; pass its settings instead, SharedEncoder(backbone=…, scales=…), or move the "
                "images or the encoder"
            )
        return self._variant(device=str(device))

    def on_cpu(self) -> SharedEncoder:
        """Return a variant that any machine can build; device and engine change neither shapes nor fingerprint."""
        engine = self.settings.get("engine", "eager")
        return self._variant(device="cpu", engine="eager" if engine == "cuda_graph" else engine)

    def _variant(self, **changes: str) -> SharedEncoder:
        usual = {"device": "cpu", "engine": "eager", **self.settings}
        if not self.settings or {**usual, **changes} == usual:
            return self
        key = repr(changes)
        if key not in self._variants:
            self._variants[key] = SharedEncoder(**{**self.settings, **changes})
            self._variants[key]._fingerprint = self._known_fingerprint()
        return self._variants[key]

    def _known_fingerprint(self) -> str | None:
        built = [shared._encoder for shared in (self, *self._variants.values()) if shared._encoder is not None]
        return built[0].fingerprint() if built else self._fingerprint

    def __getstate__(self) -> dict[str, Any]:
        if not self.settings:
            raise ConfigError(
                "an S2Encoder that was passed as an object cannot be saved; pass its settings instead: "
                "SharedEncoder(backbone=…, scales=…)"
            )
        return {"settings": self.settings, "_encoder": None, "_fingerprint": self._known_fingerprint()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _variants={})

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedEncoder:
        return self  # a frozen encoder can be shared

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SharedEncoder):
            return NotImplemented
        return self is other or (bool(self.settings) and self.settings == other.settings)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"SharedEncoder({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

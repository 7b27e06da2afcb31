"""An encoder that networks of other libraries hold without owning it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from s2robot.encoder import S2Encoder
from s2robot.interfaces import ConfigError, Features


class SharedEncoder:
    """One frozen encoder for all networks of another library, which neither train, move, copy nor save it.

    It is no `nn.Module`, so that it stays out of their parameters, optimizers, `train()` and checkpoints. Copies are
    the same object. A pickle holds settings and fingerprint instead of the backbone; what comes out of it builds the
    encoder again when it is first used, and refuses to be another one.

    Args:
        settings: the arguments of `S2Encoder`, by name.

    >>> SharedEncoder(backbone="efficientnet_lite0", scales=(224, 448))
    SharedEncoder(backbone='efficientnet_lite0', scales=(224, 448))
    """

    def __init__(self, **settings: Any) -> None:
        self.settings = settings
        self._encoder: S2Encoder | None = None
        self._fingerprint: str | None = None

    @classmethod
    def of(cls, encoder: SharedEncoder | S2Encoder | Mapping[str, Any]) -> SharedEncoder:
        """An encoder as users give it: shared already, an `S2Encoder`, or the settings of one.

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
        """The encoder, built when it is first asked for.

        Raises:
            ConfigError: unknown settings, or it is not the one that was pickled.
        """
        if self._encoder is None:
            try:
                encoder = S2Encoder(**self.settings)
            except TypeError as error:  # a name that is no argument
                raise ConfigError(f"{self} is not possible: {error}") from error
            if self._fingerprint not in (None, encoder.fingerprint()):
                raise ConfigError(
                    f"saved with encoder {str(self._fingerprint)[:12]}, but {self} gives {encoder.fingerprint()[:12]} "
                    "here: other backbone weights or code version"
                )
            self._encoder = encoder
        return self._encoder

    def __call__(self, images: dict[str, Tensor]) -> dict[str, Features]:
        """Encode several cameras' images in one call; see `S2Encoder.encode_cameras`."""
        return self.encoder.encode_cameras(images)

    def __getstate__(self) -> dict[str, Any]:
        if not self.settings:
            raise ConfigError(
                "an S2Encoder that was passed as an object cannot be saved; pass its settings instead: "
                "SharedEncoder(backbone=…, scales=…)"
            )
        fingerprint = self._fingerprint if self._encoder is None else self._encoder.fingerprint()
        return {"settings": self.settings, "_encoder": None, "_fingerprint": fingerprint}

    def __deepcopy__(self, memo: dict[int, Any]) -> SharedEncoder:
        return self  # what is frozen can be shared

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SharedEncoder):
            return NotImplemented
        return self is other or (bool(self.settings) and self.settings == other.settings)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        return f"SharedEncoder({', '.join(f'{name}={value!r}' for name, value in self.settings.items())})"

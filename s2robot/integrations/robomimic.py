"""The S² encoder as a robomimic observation core, set by `core_class` and `core_kwargs` in its JSON configuration.

robomimic finds a core by name only after the core's class has been imported. To import it, start robomimic's own
scripts through this module, with their usual arguments:

    python -m s2robot.integrations.robomimic train --config config.json
    python -m s2robot.integrations.robomimic run_trained_agent --agent model.pth --n_rollouts 10

Tested with robomimic 0.5.0. docs/integrations.md lists the behaviour of robomimic that this module guards against.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from s2robot.config import EncoderConfig
from s2robot.integrations.vision import FrozenVision, read_readout, read_settings
from s2robot.interfaces import ConfigError
from s2robot.system.extras import MissingLibraryError

try:
    from robomimic.models.obs_core import EncoderCore
except ModuleNotFoundError as error:
    raise MissingLibraryError(
        f"robomimic is not installed ({error}); `make test-robomimic` installs it as docs/integrations.md describes"
    ) from error


class S2Core(EncoderCore):
    """Maps one camera's images to frozen multi-scale features and reads them with a trainable readout.

    robomimic applies a ReLU after every core. The core therefore returns the readout's vector y as (y, -y): what the
    ReLU removes from one half remains in the other, so the policy can recover y.

    Args:
        input_shape: [3, H, W] of the images, given by robomimic (after its randomizer, if there is one).
        encoder: settings of the encoder, see `s2robot.config.EncoderConfig`.
        readout: settings of the readout, see `s2robot.config.ReadoutConfig`; D is twice its width.

    Raises:
        ConfigError: a setting is unknown or impossible, or images do not have exactly 3 channels.
    """

    def __init__(
        self,
        input_shape: Sequence[int],
        encoder: Mapping[str, Any] | None = None,
        readout: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(input_shape=input_shape)
        if encoder is None:  # no default: robomimic silently drops misspelt core_kwargs, so a typo would go unnoticed
            raise ConfigError(
                "core_kwargs of S2Core lack 'encoder'; give its settings, such as {'backbone': 'efficientnet_lite0'}"
            )
        if len(input_shape) != 3 or input_shape[0] != 3:
            raise ConfigError(f"S2Core reads RGB images [3, H, W], but the observations have shape {list(input_shape)}")
        settings = read_readout(readout)
        self._width = settings.width
        size = (int(input_shape[1]), int(input_shape[2]))
        self.vision = FrozenVision({"image": size}, read_settings(EncoderConfig, "encoder setting", encoder), settings)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to [B, D], (y, -y)."""
        vector = self.vision({"image": inputs})
        return torch.cat([vector, -vector], dim=-1)

    def output_shape(self, input_shape: Iterable[int] | None = None) -> list[int]:
        """Return [D]."""
        return [2 * self._width]

    def __repr__(self) -> str:
        return f"S2Core({self.vision.encoder.backbone.name}, scales={self.vision.encoder.scales}, D={2 * self._width})"


def main(arguments: Sequence[str]) -> None:
    """Run one of robomimic's scripts: the first argument is its name, the others are its arguments.

    Raises:
        ConfigError: robomimic has no such script.
    """
    name, *rest = arguments or [""]
    script = f"robomimic.scripts.{name}"
    if not name.isidentifier() or importlib.util.find_spec(script) is None:
        raise ConfigError(
            f"robomimic has no script {name!r}; give a module of robomimic.scripts, such as train or run_trained_agent"
        )
    sys.argv = [script, *rest]
    runpy.run_module(script, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""The exponential moving average of a policy's weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average of a policy's parameters whose decay after step n is 1 - n**-power, at most `max_decay`.

    This is the average of Diffusion Policy (arXiv 2303.04137) and gives the bits of `EMAModel` of diffusers, whose
    import takes seconds.

    Args:
        parameters: the parameters; the average starts at their values.
        power: exponent of the warm-up.
        max_decay: largest decay; 0 = no averaging.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], power: float, max_decay: float) -> None:
        self._power, self._max_decay = power, max_decay
        self._steps = 0
        self._averages = [parameter.detach().clone() for parameter in parameters]

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter]) -> None:
        """Move the average towards the parameters after one step of the optimizer."""
        self._steps += 1
        rest = 1 - min(1 - self._steps**-self._power, self._max_decay)
        for average, parameter in zip(self._averages, parameters, strict=True):
            if parameter.requires_grad:
                average.sub_(rest * (average - parameter))
            else:
                average.copy_(parameter)

    @contextmanager
    def swapped_in(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Put the average into the parameters during the block."""
        # With decay 0, the average is average - (average - weights), which differs from the weights by rounding.
        if not self._max_decay:
            yield
            return
        pairs = list(zip(self._averages, parameters, strict=True))
        weights = [parameter.detach().clone() for _, parameter in pairs]
        for average, parameter in pairs:
            parameter.data.copy_(average)
        try:
            yield
        finally:
            for (_, parameter), weight in zip(pairs, weights, strict=True):
                parameter.data.copy_(weight)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, under the names that `EMAModel` gave it in earlier versions."""
        return {"optimization_step": self._steps, "shadow_params": self._averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state; its tensors are moved to the device of the parameters."""
        self._steps = state["optimization_step"]
        saved: list[Tensor] = state["shadow_params"]
        self._averages = [tensor.to(mine.device) for tensor, mine in zip(saved, self._averages, strict=True)]

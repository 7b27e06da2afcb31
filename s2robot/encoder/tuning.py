"""Find the settings that run an encoder fastest on this machine while its features stay close to float32."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from s2robot.backbones import load_backbone
from s2robot.encoder import S2Encoder
from s2robot.encoder.engines import openvino_precisions
from s2robot.interfaces import Backbone, Features
from s2robot.s2.tiling import Size
from s2robot.system.precision import PRECISIONS

_REFERENCE = ("eager", "fp32", False)  # engine, precision, channels_last


@dataclass(frozen=True)
class MeasuredSettings:
    """Settings of an encoder with the error and the times that were measured on this machine.

    Attributes:
        engine, precision, channels_last: arguments of `S2Encoder`.
        error: relative error of the features against eager float32, |f - f₃₂| / |f₃₂|, map and prefix tokens together.
        milliseconds: median time per frame [ms].
        slowest, fastest: largest and smallest time per frame among the repeats [ms].
    """

    engine: str
    precision: str
    channels_last: bool
    error: float
    milliseconds: float
    slowest: float
    fastest: float

    @property
    def settings(self) -> dict[str, Any]:
        """Arguments for `S2Encoder`, or values for the `encoder` group of a configuration."""
        return {"engine": self.engine, "precision": self.precision, "channels_last": self.channels_last}


def recommend_settings(
    backbone: str | Backbone,
    images: Tensor,
    scales: Sequence[Size | float] = (224, 448),
    tolerance: float = 0.01,
    **rest: Any,
) -> MeasuredSettings:
    """Return the fastest settings on this machine whose features of `images` are within `tolerance` of float32.

    They are not applied automatically: write them into the configuration, where the fingerprint records the precision.

    Args:
        backbone: a name or a `Backbone`.
        images: a batch of real frames as `S2Encoder` takes them; the errors on random pixels are different.
        scales: see `S2Encoder`.
        tolerance: largest relative error of the features.
        rest: other arguments of `measure_settings`.
    """
    measured = measure_settings(backbone, images, scales, **rest)
    return next(row for row in measured if row.error <= tolerance)  # eager float32 is among them, with no error


def measure_settings(
    backbone: str | Backbone,
    images: Tensor,
    scales: Sequence[Size | float] = (224, 448),
    *,
    weights: str | Sequence[str] = "default",
    engines: Sequence[str] | None = None,
    repeats: int = 5,
    device: str = "cpu",
    **settings: Any,
) -> list[MeasuredSettings]:
    """Measure every combination of engine, precision and memory layout that this machine has on `images`.

    Args:
        backbone: a name or a `Backbone`.
        images: a batch of real frames.
        scales: see `S2Encoder`.
        weights: see `S2Encoder`.
        engines: engines to try; by default all except `compile`, which takes minutes to start.
        repeats: runs of each combination. Combinations take turns, so that a busy moment affects all of them.
        device: see `S2Encoder`.
        settings: other arguments of `S2Encoder`.

    Returns:
        All combinations, fastest first.
    """
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, weights)
    keys = _combinations(engines or (["eager", "cuda_graph"] if device.startswith("cuda") else ["eager", "openvino"]))
    encoders = [
        S2Encoder(
            backbone, scales, engine=engine, precision=precision, channels_last=channels_last, device=device, **settings
        )
        for engine, precision, channels_last in keys
    ]
    expected = S2Encoder(backbone, scales, device=device, **settings)(images)
    # Eager float32 is the reference: its error is 0 by definition, even if it does not repeat bit for bit.
    errors = [
        0.0 if key == _REFERENCE else relative_error(encoder(images), expected)
        for key, encoder in zip(keys, encoders, strict=True)
    ]
    times = time_in_turn([partial(encoder, images) for encoder in encoders], repeats)
    frame_times = [[1000 * seconds / len(images) for seconds in row] for row in times]
    rows = [
        MeasuredSettings(*key, error, statistics.median(row), max(row), min(row))
        for key, error, row in zip(keys, errors, frame_times, strict=True)
    ]
    return sorted(rows, key=lambda row: row.milliseconds)


def relative_error(features: Features, expected: Features) -> float:
    """Return |f - e| / |e| over map and prefix tokens together."""
    difference = sum(float((a - b).double().square().sum()) for a, b in zip(features, expected, strict=True))
    return (difference / sum(float(b.double().square().sum()) for b in expected)) ** 0.5


def time_in_turn(
    functions: Sequence[Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Measure the seconds that each function takes in each of `repeats` rounds, after one warm-up round.

    Every round calls all functions once, so that the times of one round can be compared in pairs. On a shared machine,
    `clock=time.process_time` with one thread counts only this process's computing time.
    """
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, row in zip(functions, times, strict=True):
            _wait()
            start = clock()
            function()
            _wait()
            if repeat:
                row.append(clock() - start)
    return times


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _combinations(engines: Sequence[str]) -> list[tuple[str, str, bool]]:
    keys = []
    for engine in engines:
        if engine == "openvino":  # chooses its own memory layout
            keys += [(engine, precision, False) for precision in openvino_precisions()]
        else:
            keys += [(engine, precision, layout) for precision in PRECISIONS for layout in (False, True)]
    if _REFERENCE not in keys:
        keys.append(_REFERENCE)
    return keys

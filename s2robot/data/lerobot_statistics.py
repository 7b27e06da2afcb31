"""Statistics of episodes and datasets, as LeRobot defines them in its `datasets/compute_stats.py`.

LeRobot's own quantiles are approximate (histograms of 5000 bins); the quantiles of an episode here are exact.
"""

from __future__ import annotations

import numpy as np

# `min`, `max`, `mean`, `std`, `q01` … `q99` per channel: [d]; for images [3, 1, 1] in [0, 1]. And `count`, [1].
Statistics = dict[str, np.ndarray]

_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
_LEVELS = np.arange(256)[:, None] / 255  # the values that a uint8 pixel can have


def episode_statistics(values: np.ndarray) -> Statistics:
    """Compute the statistics of one episode's numbers [T, d] or images, uint8 [T, H, W, 3]."""
    count = {"count": np.array([len(values)])}
    if values.ndim == 4:
        return {name: found.reshape(-1, 1, 1) for name, found in _of_pixels(values).items()} | count
    values = values.astype(np.float64)
    found = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0), "std": values.std(0)}
    quantiles = np.quantile(values, list(_QUANTILES.values()), axis=0, method="inverted_cdf")
    return found | dict(zip(_QUANTILES, quantiles, strict=True)) | count


def _of_pixels(images: np.ndarray) -> Statistics:
    # The counts of the 256 levels determine all statistics. Images as float64 would take eight times their memory.
    counts = np.zeros((256, 3), np.int64)
    for image in images:
        for channel in range(3):
            counts[:, channel] += np.bincount(image[..., channel].ravel(), minlength=256)
    weights, present = counts / counts.sum(0), counts > 0
    mean = (weights * _LEVELS).sum(0)
    reached = counts.cumsum(0)
    return {
        "min": _LEVELS[present.argmax(0), 0],
        "max": _LEVELS[255 - present[::-1].argmax(0), 0],
        "mean": mean,
        "std": np.sqrt((weights * np.square(_LEVELS - mean)).sum(0)),
        **{name: _LEVELS[(reached < q * reached[-1]).sum(0), 0] for name, q in _QUANTILES.items()},
    }


def combine(first: Statistics, second: Statistics) -> Statistics:
    """Combine the statistics of two recordings; quantiles become means weighted by length, as in LeRobot."""
    count = first["count"] + second["count"]
    share = second["count"] / count
    mean_like = {name: first[name] + share * (second[name] - first[name]) for name in ("mean", *_QUANTILES)}
    within = (1 - share) * np.square(first["std"]) + share * np.square(second["std"])
    between = share * (1 - share) * np.square(second["mean"] - first["mean"])
    return mean_like | {
        "min": np.minimum(first["min"], second["min"]),
        "max": np.maximum(first["max"], second["max"]),
        "std": np.sqrt(within + between),
        "count": count,
    }

"""Speed and memory of the S² encoder, its naive form and the bare backbone: the tables of docs/encoders.md.

Run: python benchmarks/encoder.py [BACKBONE …] [--batch 8] [--repeats 9] [--threads 2] [--cpu-time] [--device cpu]
     python benchmarks/encoder.py [BACKBONE …] --memory
Writes benchmarks/results/encoder_<device>.md. Takes about 2 minutes per backbone on two cores.

(a) is the form that users of the reference implementation run: one call per scale, float32, contiguous.
(b) is the lower bound: the bare backbone with the same settings on the same number of ready-made tiles.
All three take turns within each round. A ratio is the median over rounds of the ratio within one round, so that other
load on the machine affects both of its sides. --cpu-time computes on one thread and counts only the thread's processor
time, for a machine that others use at the same time.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

# PyTorch's and OpenVINO's thread pools take turns here: threads of one that spin while waiting slow down the other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from s2robot.backbones import FrozenBackbone, load_backbone
from s2robot.encoder import S2Encoder
from s2robot.encoder.tuning import measure_settings, relative_error, time_in_turn
from s2robot.interfaces import WeightsError
from s2robot.s2 import merge_tiles, split_tiles

ROOT = Path(__file__).parents[1]
SCALES = (224, 448)
Clock = Callable[[], float]
BACKBONES = [
    "efficientnet_lite0",
    "mobilenetv2",
    "resnet50_keras",
    "mobilesam_tiny_vit",
    "sam2_hiera_tiny",
    "vit_small",
]
CUDA_BACKBONES = ["efficientnet_lite0", "vit_small", "vit_base", "vit_large_patch16_224", "siglip_so400m"]
HEADER = ["backbone", "batch", "settings", "error", "(a) ms", "ours ms", "(b) ms", "speed over (a)", "share of (b)"]


def frames(batch: int) -> Tensor:
    """Return camera frames of the Lift task, uint8 [batch, 448, 448, 3]: two stored ones, then shifted copies."""
    stored = [
        np.asarray(Image.open(ROOT / "docs/images" / name)) for name in ("lift_agentview_448.png", "lift_wrist_448.png")
    ]
    return torch.stack([torch.from_numpy(np.roll(stored[i % 2], 31 * (i // 2), axis=1)) for i in range(batch)])


@torch.no_grad()
def naive(backbone: FrozenBackbone, images: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Form (a): one call per scale, float32, contiguous."""
    mean, std = (torch.tensor(values, device=device)[:, None, None] for values in (backbone.mean, backbone.std))
    normalised = (images.to(device).permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
    maps, prefixes = [], []
    for size in SCALES:
        scaled = F.interpolate(normalised, size=(size, size), mode="bicubic")
        tile_map, prefix = backbone.forward_features(split_tiles(scaled, SCALES[0]))
        tiles = (size // SCALES[0]) ** 2
        maps.append(merge_tiles(tile_map, size // SCALES[0]))
        prefixes.append(prefix.unflatten(0, (tiles, -1)).mean(0))
    pooled = [F.interpolate(scale_map, maps[0].shape[-2:], mode="area") for scale_map in maps]
    return torch.cat(pooled, dim=1), torch.cat(prefixes, dim=2)


@torch.no_grad()
def floor(encoder: S2Encoder, tiles: Tensor) -> None:
    """Form (b): the bare backbone on ready-made tiles."""
    for part in tiles.split(encoder.max_tiles):
        encoder.run_backbone(part)


def compare(name: str, batch: int, repeats: int, device: str, clock: Clock) -> list[list[str]]:
    """Return one line per configuration: the default, channels-last, and the fastest within 1% of float32."""
    backbone, note = load(name)
    images = frames(batch)
    ways: dict[str, dict[str, Any]] = {"default": {}, "channels last": {"channels_last": True}}
    measured = measure_settings(backbone, images, SCALES, repeats=1, device=device)
    within = [row for row in measured if row.error <= 0.01]
    ways["recommended: {engine} {precision}".format(**within[0].settings)] = within[0].settings
    encoders = {way: S2Encoder(backbone, SCALES, device=device, **settings) for way, settings in ways.items()}
    tiles = torch.cat([split_tiles(scale, SCALES[0]) for scale in pyramid(encoders["default"], images)])
    naive_backbone = encoders["default"].backbone
    expected = encoders["default"](images)
    functions: list[Any] = [partial(naive, naive_backbone, images, tiles.device)]
    for encoder in encoders.values():
        functions += [partial(encoder, images), partial(floor, encoder, tiles)]
    times = time_in_turn(functions, repeats, clock)
    lines = []
    for index, (way, encoder) in enumerate(encoders.items()):
        ours, bare = times[1 + 2 * index], times[2 + 2 * index]
        speed, share = median_ratio(times[0], ours), median_ratio(bare, ours)
        error = relative_error(encoder(images), expected)
        cells = [f"{1000 * statistics.median(row) / batch:.1f}" for row in (times[0], ours, bare)]
        lines.append([f"{name}{note}", str(batch), way, f"{error:.2%}", *cells, f"{speed:.2f}×", f"{share:.2f}"])
    return lines


def load(name: str) -> tuple[FrozenBackbone, str]:
    """Load the backbone with its own weights if they are installed, else with random ones, which run as fast."""
    try:
        return load_backbone(name, size=SCALES[0]), ""
    except WeightsError:
        return load_backbone(name, weights="none", size=SCALES[0]), " (random weights)"


def pyramid(encoder: S2Encoder, images: Tensor) -> list[Tensor]:
    """Return the images at every scale, as the encoder makes them."""
    return encoder.scale_set.pyramid(encoder.normalize(images))


def median_ratio(above: list[float], below: list[float]) -> float:
    """Return the median over rounds of the ratio within one round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def peak_memory(name: str, scales: tuple[int, ...], batch: int) -> float:
    """Return the peak resident memory of one encoding, in a process of its own [MiB]."""
    code = (
        "import resource, sys; sys.path.insert(0, 'benchmarks'); from encoder import frames, load, S2Encoder;"
        f"encoder = S2Encoder(load({name!r})[0], {scales!r}); encoder(frames({batch}));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    return float(
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def memory_lines(name: str, batch: int = 64) -> list[list[str]]:
    """Return lines with the peak memory for more and more scales."""
    sets = [(224,), (224, 448), (224, 448, 672)]
    return [[name, str(batch), str(scales), f"{peak_memory(name, scales, batch):.0f}"] for scales in sets]


def markdown(header: list[str], lines: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, ["---"] * len(header), *lines])


def machine(device: str) -> str:
    model = next(
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    )
    chip = torch.cuda.get_device_name() if device.startswith("cuda") else f"{model}, {torch.get_num_threads()} threads"
    return f"{chip}; Python {platform.python_version()}, torch {torch.__version__}, timm {timm.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbones", nargs="*")
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cpu-time", action="store_true", help="one thread, its processor time only")
    parser.add_argument("--memory", action="store_true", help="measure peak memory instead of speed")
    options = parser.parse_args()
    torch.set_num_threads(1 if options.cpu_time else options.threads)
    clock: Clock = time.process_time if options.cpu_time else time.perf_counter
    names = options.backbones or (CUDA_BACKBONES if options.device.startswith("cuda") else BACKBONES)
    if options.memory:
        header = ["backbone", "batch", "scales", "peak memory [MiB]"]
        lines = [line for name in names for line in memory_lines(name)]
    else:
        header = HEADER
        lines = [
            line
            for name in names
            for batch in options.batch
            for line in compare(name, batch, options.repeats, options.device, clock)
        ]
    unit = "processor time per frame" if options.cpu_time else "time per frame"
    conditions = "" if options.memory else f"scales {SCALES}, {unit}; "
    report = f"{markdown(header, lines)}\n\n{conditions}{machine(options.device)}\n"
    path = ROOT / "benchmarks/results" / f"encoder_{'memory' if options.memory else options.device}.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"`python {' '.join(sys.argv)}`\n\n{report}")
    print(report)


if __name__ == "__main__":
    main()

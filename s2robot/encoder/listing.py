"""Printed tables of the named backbones: which exist, which are available offline, and what each costs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from s2robot.backbones.availability import is_available
from s2robot.backbones.frozen import FrozenBackbone
from s2robot.backbones.loading import create, freeze
from s2robot.backbones.spec import BackboneSpec
from s2robot.backbones.table import BACKBONES, find_spec, known_specs
from s2robot.encoder.cost import count_parameters, feature_shape, largest_size, measure_tile, scale_costs
from s2robot.s2 import ScaleSet


def encoders_table(markdown: bool = False) -> str:
    """Return a table of all named backbones, one per line, and whether each is available offline now.

    Args:
        markdown: whether to return Markdown with only this package's own backbones and without the column that depends
            on this machine.
    """
    specs = [spec for spec in known_specs() if not markdown or BACKBONES.provider(spec.name) is None]
    header = ["name", "family", "size", "width", "prefix", "params", "licence", "source"]
    rows = [
        [
            spec.name,
            spec.family,
            str(spec.size),
            str(spec.width),
            str(spec.num_prefix_tokens),
            f"{spec.parameters:.1f} M",
            spec.licence,
            _origin(spec),
        ]
        for spec in specs
    ]
    if markdown:
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    offline = ["yes" if is_available(spec) else "-" for spec in specs]
    table = _aligned([[*header, "offline now"], *([*row, here] for row, here in zip(rows, offline, strict=True))])
    return (
        f"{table}\n\nsize: native pixels; width: channels of the feature map; prefix: CLS and register tokens.\n"
        "Any other model name of timm works too. `s2robot encoders fetch NAME` makes weights available offline."
    )


def encoder_text(name: str, scale_sets: Sequence[Sequence[int]] = ()) -> str:
    """Describe one backbone and the cost of several scale sets per frame, without loading weights.

    Args:
        name: a name in the table, or any timm model name.
        scale_sets: image sizes [pixels]; when empty {1}, {1, 2} and {1, 2, 3} times 224, or times the next multiple of
            the patch size.

    Raises:
        EncoderError: the name is unknown, or the backbone cannot process the scales.
    """
    spec = find_spec(name)
    base = 224
    if not scale_sets:
        patch = meta_backbone(spec, None).patch_size
        base = -(-224 // patch) * patch
        scale_sets = [[base], [base, 2 * base], [base, 2 * base, 3 * base]]
    rows = [["scales", "tiles", "GMACs per scale", "GMACs", "features", "prefix", "cache per frame"]]
    for sizes in scale_sets:
        scale_set = ScaleSet(tuple(sizes), tile=sizes[0])
        backbone = meta_backbone(spec, sizes[0])
        height, width = largest_size(scale_set.sizes)
        tiles = [
            measure_tile(backbone, torch.empty((1, 3, *tiling.tile), device="meta"))
            for tiling in scale_set.tilings(height, width)
        ]
        scales = scale_costs(scale_set, tiles, height, width)
        shape = feature_shape(scale_set, tiles, height, width)
        rows.append(
            [
                ",".join(map(str, sizes)),
                str(sum(scale.tiles for scale in scales)),
                " + ".join(f"{scale.gmacs:.2f}" for scale in scales),
                f"{sum(scale.gmacs for scale in scales):.2f}",
                f"{shape.channels} x {shape.height} x {shape.width}",
                f"{shape.num_prefix} x {shape.channels}",
                f"{2 * shape.numel / 1024:.0f} KiB",
            ]
        )
    made_by = f"timm model {spec.timm_name}" if spec.timm_name else f"network of {BACKBONES.provider(name)}"
    state = "available offline" if is_available(spec) else f"not here; run `s2robot encoders fetch {name}`"
    return (
        f"{name}: {spec.family}, {count_parameters(backbone) / 1e6:.1f} M parameters, native size {backbone.size}, "
        f"{spec.licence}\n{made_by}; weights from {_origin(spec)}: {state}\n\n{_aligned(rows)}"
    )


def meta_backbone(spec: BackboneSpec, size: int | None) -> FrozenBackbone:
    """Make the row's backbone with shapes but without weights: its cost can be counted, but it cannot run."""
    with torch.device("meta"):
        return freeze(create(spec), spec, size)


def _origin(spec: BackboneSpec) -> str:
    if spec.archive:
        return f"{spec.archive.registry}: {spec.archive.package}"
    if spec.source == "package":
        return f"pypi: {spec.package}"
    return "authors' download" if spec.url else "timm's hub"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)

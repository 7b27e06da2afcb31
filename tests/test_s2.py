"""S² as pure functions: tiling, the order of tiles, pooling, and agreement with a naive implementation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from s2robot.config import EncoderConfig
from s2robot.encoder import S2Encoder
from s2robot.interfaces import EncoderError
from s2robot.s2 import ScaleOptions, ScaleSet, merge_tiles, multiscale_forward, multiview_forward, split_tiles
from s2robot.s2.tiling import Tiling


def naive_s2(fn, image: Tensor, sizes, tile: int) -> tuple[Tensor, Tensor]:
    """The paper's algorithm for one image [3, H, W], one tile at a time; `fn`: [1, 3, t, t] -> (map, prefix)."""
    maps, prefixes = [], []
    for size in sizes:
        scaled = image[None]
        if size != image.shape[-1] or size != image.shape[-2]:
            scaled = F.interpolate(scaled, size=(size, size), mode="bicubic", align_corners=False)
        rows, tile_prefixes = [], []
        for top in range(0, size, tile):
            row = []
            for left in range(0, size, tile):
                tile_map, prefix = fn(scaled[:, :, top : top + tile, left : left + tile])
                row.append(tile_map)
                tile_prefixes.append(prefix)
            rows.append(torch.cat(row, dim=3))
        maps.append(torch.cat(rows, dim=2))
        prefixes.append(sum(tile_prefixes) / len(tile_prefixes))
    pooled = [F.adaptive_avg_pool2d(scale_map, maps[0].shape[-2:]) for scale_map in maps]
    return torch.cat(pooled, dim=1)[0], torch.cat(prefixes, dim=2)[0]


class Patches(nn.Module):
    """A one-layer token model with one prefix token, which depends on the whole tile."""

    def __init__(self, patch: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, 5, patch, patch).requires_grad_(False)
        self.calls: list[int] = []

    def forward(self, tiles: Tensor) -> Tensor:
        self.calls.append(len(tiles))
        tokens = self.embed(tiles).flatten(2).transpose(1, 2)
        return torch.cat([tokens.amax(1, keepdim=True), tokens], dim=1)


def as_pair(tokens: Tensor, side: int) -> tuple[Tensor, Tensor]:
    return tokens[:, 1:].transpose(1, 2).unflatten(2, (side, side)), tokens[:, :1]


@settings(deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 3),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    tile=st.integers(1, 5),
)
def test_merging_split_tiles_is_the_identity(batch, channels, rows, columns, tile):
    images = torch.rand(batch, channels, rows * tile, columns * tile)
    tiles = split_tiles(images, tile)
    assert tiles.shape == (batch * rows * columns, channels, tile, tile)
    torch.testing.assert_close(merge_tiles(tiles, (rows, columns)), images, rtol=0, atol=0)


@settings(deadline=None)
@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    tile=st.integers(1, 9),
    cover=st.sampled_from(["pad", "overlap"]),
)
def test_merging_is_the_identity_for_any_size_under_pad_and_overlap(height, width, tile, cover):
    images = torch.rand(2, 3, height, width)
    tiling = Tiling.of(height, width, tile, cover)
    tiles = tiling.split(images)
    assert tiles.shape == (2 * tiling.count, 3, *tiling.tile)
    torch.testing.assert_close(tiling.merge(tiles), images)


def test_the_tiles_of_a_448_image_are_ordered_in_rows_for_all_images_at_once():
    images = torch.zeros(2, 3, 448, 448)
    images[0, :, :224, :224], images[0, :, :224, 224:] = 1, 2
    images[0, :, 224:, :224], images[0, :, 224:, 224:] = 3, 4
    images[1] = 5
    tiles = split_tiles(images, 224)
    assert tiles.mean(dim=(1, 2, 3)).tolist() == [1, 5, 2, 5, 3, 5, 4, 5]


def test_features_agree_with_the_naive_algorithm():
    model = Patches()
    images = torch.rand(3, 3, 40, 40)
    for sizes in [(16,), (16, 32), (16, 32, 48), (8, 16, 32)]:
        features, prefix = multiscale_forward(model, images, sizes, tile=sizes[0], num_prefix_tokens=1)
        for index, image in enumerate(images):
            expected = naive_s2(lambda tile: as_pair(model(tile), tile.shape[-1] // 4), image, sizes, sizes[0])
            torch.testing.assert_close(features[index], expected[0], rtol=0, atol=1e-5)
            torch.testing.assert_close(prefix[index], expected[1], rtol=0, atol=1e-5)


def test_a_scale_below_the_tile_is_one_small_tile():
    images = torch.rand(1, 3, 32, 32)
    small, _ = multiscale_forward(Patches(), images, (8, 16, 32), tile=16, num_prefix_tokens=1)
    expected, _ = naive_s2(lambda tile: as_pair(Patches()(tile), tile.shape[-1] // 4), images[0], (8, 16, 32), 16)
    torch.testing.assert_close(small[0], expected, rtol=0, atol=1e-5)


def test_all_tiles_of_all_scales_go_through_the_model_in_one_call():
    model = Patches()
    multiscale_forward(model, torch.rand(2, 3, 48, 48), (16, 32, 48), tile=16, num_prefix_tokens=1)
    assert model.calls == [2 * (1 + 4 + 9)]


@pytest.mark.parametrize("max_tiles", [1, 3, 5, 12, 100])
def test_micro_batches_respect_the_limit_and_do_not_change_the_features(max_tiles):
    images = torch.rand(5, 3, 32, 32)
    model = Patches()
    whole = multiscale_forward(Patches(), images, (16, 32), tile=16, num_prefix_tokens=1)
    parts = multiscale_forward(model, images, (16, 32), tile=16, num_prefix_tokens=1, max_tiles=max_tiles)
    assert max(model.calls) <= max_tiles
    assert sum(model.calls) == 5 * 5
    for part, expected in zip(parts, whole, strict=True):
        torch.testing.assert_close(part, expected)


def test_views_of_different_sizes_share_the_calls_of_the_model():
    model = Patches()
    views = [torch.rand(2, 3, 32, 32), torch.rand(2, 3, 20, 28)]
    together = multiview_forward(model, views, ScaleSet((16, 32), tile=16), num_prefix_tokens=1)
    assert model.calls == [2 * 2 * 5]
    for view, (features, prefix) in zip(views, together, strict=True):
        alone = multiscale_forward(Patches(), view, (16, 32), tile=16, num_prefix_tokens=1)
        torch.testing.assert_close(features, alone[0])
        torch.testing.assert_close(prefix, alone[1])


def test_views_of_different_batch_sizes_are_refused():
    with pytest.raises(EncoderError, match=r"share one batch size, got \[1, 2\]"):
        multiview_forward(Patches(), [torch.rand(1, 3, 8, 8), torch.rand(2, 3, 8, 8)], ScaleSet((8,), tile=8))


def pixels(tiles: Tensor) -> Tensor:
    return F.avg_pool2d(tiles, 4)


def test_pooling_to_the_largest_grid_keeps_the_finest_map():
    images = torch.rand(1, 3, 32, 32)
    features, _ = multiscale_forward(pixels, images, (16, 32), tile=16, pool_to="largest")
    assert features.shape == (1, 6, 8, 8)
    torch.testing.assert_close(features[:, 3:], pixels(images))


def test_pad_crops_the_cells_that_hold_none_of_the_image():
    images = torch.rand(1, 3, 24, 40)
    features, _ = multiscale_forward(pixels, images, ((24, 40),), tile=16, cover="pad")
    torch.testing.assert_close(features, pixels(images))


def test_overlap_places_tiles_at_their_cells():
    images = torch.rand(1, 3, 24, 40)
    features, _ = multiscale_forward(pixels, images, ((24, 40),), tile=16, cover="overlap")
    torch.testing.assert_close(features, pixels(images))


def test_kept_aspect_makes_the_size_the_shorter_side():
    tilings = ScaleSet((16, 32), tile=16, keep_aspect=True).tilings(240, 480)
    assert [(tiling.height, tiling.width) for tiling in tilings] == [(16, 32), (32, 64)]


def test_a_whole_number_size_is_a_square_by_default():
    features, _ = multiscale_forward(pixels, torch.rand(1, 3, 24, 40), (16, 32), tile=16)
    assert features.shape == (1, 6, 4, 4)


def test_the_upsampled_arm_sees_no_more_than_the_base_image():
    images = torch.rand(1, 3, 32, 32)
    base = F.interpolate(images, size=(16, 16), mode="bicubic")
    upsampled, _ = multiscale_forward(pixels, images, (16, 32), tile=16, upsampled=True)
    expected, _ = multiscale_forward(pixels, base, (16, 32), tile=16)
    high_resolution, _ = multiscale_forward(pixels, images, (16, 32), tile=16)
    torch.testing.assert_close(upsampled, expected)
    assert not torch.allclose(upsampled, high_resolution)


def test_antialiasing_filters_what_shrinking_would_alias():
    stripes = torch.zeros(1, 3, 64, 64)
    stripes[..., ::4] = 1  # a quarter of the light, at a frequency that 16 pixels cannot hold
    plain, _ = multiscale_forward(lambda tiles: tiles, stripes, (16,), tile=16)
    smooth, _ = multiscale_forward(lambda tiles: tiles, stripes, (16,), tile=16, antialias=True)
    assert abs(smooth.mean() - 0.25) < 0.02
    assert abs(plain.mean() - 0.25) > 0.1
    enlarged = [multiscale_forward(pixels, stripes[..., :8, :8], (16,), tile=16, antialias=a)[0] for a in (False, True)]
    torch.testing.assert_close(*enlarged)


def test_tokens_of_a_non_square_tile_keep_their_grid():
    features, prefix = multiscale_forward(Patches(), torch.rand(1, 3, 8, 16), ((8, 16),), tile=16, num_prefix_tokens=1)
    assert features.shape == (1, 5, 2, 4)
    assert prefix.shape == (1, 1, 5)


def test_half_precision_maps_are_pooled_in_float32():
    features, prefix = multiscale_forward(lambda tiles: pixels(tiles.half()), torch.rand(1, 3, 32, 32), (16, 32), 16)
    assert features.dtype == prefix.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_overlapping_half_precision_tiles_are_averaged_in_float32(dtype):
    tiling = Tiling.of(24, 24, 16, "overlap")
    tiles = torch.rand(4 * 2, 3, 4, 4).to(dtype)
    torch.testing.assert_close(tiling.merge(tiles), tiling.merge(tiles.float()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sizes": (16, 40)}, "40 is not a multiple of the tile size 16; use 32 or 48, or cover='pad' or 'overlap'"),
        ({"sizes": ()}, "scale set is empty"),
        ({"sizes": (16, 0)}, "scale 0 is not an image size"),
        ({"sizes": (16, 32.0)}, "scale 32.0 is not an image size"),
        ({"pool_to": "larger"}, "unknown pool_to 'larger'; did you mean 'largest'"),
        ({"cover": "crop"}, "unknown cover 'crop'.*exact, overlap, pad"),
        ({"max_tiles": 0}, "max_tiles=0 is not possible"),
        ({"x": torch.zeros(3, 16, 16)}, r"expected non-empty float images \[B, C, H, W\]"),
        ({"x": torch.zeros(0, 3, 16, 16)}, r"expected non-empty float images \[B, C, H, W\]"),
        ({"x": torch.zeros(1, 3, 16, 16, dtype=torch.uint8)}, "got torch.uint8"),
        ({"num_prefix_tokens": 0}, "17 tokens minus num_prefix_tokens=0 do not fill a grid"),
        ({"fn": lambda tiles: tiles.mean(dim=(2, 3))}, r"returned a tensor of shape \(5, 3\) for 5 tiles"),
    ],
)
def test_impossible_arguments_are_named(arguments, message):
    valid = {"fn": Patches(), "x": torch.zeros(1, 3, 16, 16), "sizes": (16, 32), "tile": 16, "num_prefix_tokens": 1}
    with pytest.raises(EncoderError, match=message):
        multiscale_forward(**{**valid, **arguments})


def test_merging_a_wrong_number_of_tiles_is_refused():
    with pytest.raises(EncoderError, match="5 tiles do not fill whole images of 2x2 tiles"):
        merge_tiles(torch.zeros(5, 3, 2, 2), 2)


def defaults(settings: type) -> dict[str, object]:
    return {field.name: field.default for field in dataclasses.fields(settings)}


def test_scale_set_and_configuration_have_the_documented_options_with_the_same_defaults():
    options = {name: value for name, value in defaults(ScaleSet).items() if name not in ("sizes", "tile")}
    assert list(options) == list(ScaleOptions.__annotations__)
    assert options.items() <= defaults(EncoderConfig).items()
    assert all(f" {name}: " in ScaleOptions.__doc__ for name in options)


OTHER = {"antialias": True, "pool_to": "largest", "cover": "pad", "keep_aspect": True, "upsampled": True}


@pytest.mark.parametrize("name", ScaleOptions.__annotations__)
def test_every_option_reaches_the_scale_set_from_both_doors(name):
    option = {name: OTHER[name]}
    torch.manual_seed(0)
    images, factor = torch.rand(1, 3, 24, 48), 1.75 if name == "cover" else 2
    sizes = (16, int(16 * factor))
    expected = multiview_forward(Patches(), [images], ScaleSet(sizes, 16, **option), 1)[0][0]
    assert torch.equal(multiscale_forward(Patches(), images, sizes, 16, 1, **option)[0], expected)
    encoder = S2Encoder("test_convnext", (64, int(64 * factor)), weights="none", **option)
    assert option.items() <= dataclasses.asdict(encoder.scale_set).items()


def test_a_mistyped_option_names_the_valid_ones():
    message = "unknown option 'antialiased'; did you mean 'antialias'.*: .*cover.*keep_aspect.*pool_to.*{}"
    with pytest.raises(EncoderError, match=message.format("upsampled")):
        multiscale_forward(Patches(), torch.rand(1, 3, 16, 16), (16,), 16, 1, antialiased=True)
    with pytest.raises(EncoderError, match=message.format("precision.*tile.*upsampled.*weights")):
        S2Encoder("test_vit", (64, 128), weights="none", antialiased=True)

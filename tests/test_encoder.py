"""The S² encoder over real networks: parity with the paper's algorithm, frozen-ness, fingerprint, options, errors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from test_s2 import naive_s2
from torch import Tensor, nn

from s2robot.backbones import load_backbone
from s2robot.backbones.frozen import hash_tensors
from s2robot.benchmark.controls import encoder_cost
from s2robot.config import EncoderConfig
from s2robot.encoder import S2Encoder
from s2robot.interfaces import ConfigError, EncoderError, FeatureShape
from s2robot.policies.readouts.resnet18 import with_reader

SMALL = {"weights": "none", "scales": (64, 128)}
# The same numbers by another path: kernels add in another order on another processor. What a wrong order of tiles, a
# wrong norm or a wrong channel makes of them is a tenth of their size and more.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def difference(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference relative to that of what was expected, whatever the size of the features."""
    return float((found - expected).norm() / expected.norm())


def random_pixels(*shape: int) -> Tensor:
    torch.manual_seed(2)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def tokens_of(model: nn.Module, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Final tokens straight from timm's plain forward pass, which applies the last norm."""
    tokens = model.forward_features(tile)
    side = round((tokens.shape[1] - model.num_prefix_tokens) ** 0.5)
    spatial = tokens[:, model.num_prefix_tokens :].transpose(1, 2).unflatten(2, (side, side))
    return spatial, tokens[:, : model.num_prefix_tokens]


def convnext_map(model: nn.Module, tile: Tensor) -> tuple[Tensor, Tensor]:
    tile_map = model.head.norm(model.forward_features(tile))
    return tile_map, tile_map.new_empty(1, 0, tile_map.shape[1])


def efficientnet_map(model: nn.Module, tile: Tensor) -> tuple[Tensor, Tensor]:
    tile_map = model.blocks(model.bn1(model.conv_stem(tile)))
    return tile_map, tile_map.new_empty(1, 0, tile_map.shape[1])


FAMILIES = {
    "ViT with CLS": ("test_vit", 64, tokens_of),
    "ViT with registers": ("vit_small_patch14_reg4_dinov2", 56, tokens_of),
    "ViT without prefix tokens": ("vit_base_patch16_siglip_224", 32, tokens_of),
    "ConvNeXt": ("test_convnext", 64, convnext_map),
    "EfficientNet": ("test_efficientnet", 64, efficientnet_map),
}
PREFIX_TOKENS = {"ViT with CLS": 1, "ViT with registers": 5}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    name, base, forward = FAMILIES[request.param]
    return request.param, load_backbone(name, weights="none"), base, forward


@pytest.mark.parametrize("factors", [(1,), (1, 2), (1, 2, 3), (0.5, 1, 2)])
def test_features_agree_with_the_naive_algorithm(family, factors):
    kind, backbone, base, forward = family
    sizes = tuple(round(base * factor) for factor in factors)
    if sizes[0] < backbone.minimum_size or sizes[0] % backbone.patch_size:
        sizes = tuple(2 * size for size in sizes)
    torch.manual_seed(1)
    images = torch.rand(2, 3, 150, 150)
    encoder = S2Encoder(backbone, scales=sizes)
    features = encoder(images)
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.no_grad():
        for index, image in enumerate(images):
            expected = naive_s2(lambda t: forward(backbone.model, t), (image - mean) / std, sizes, sizes[0])
            torch.testing.assert_close(features.map[index], expected[0], **CLOSE)
            torch.testing.assert_close(features.prefix[index], expected[1], **CLOSE)
    assert features.prefix.shape[1] == PREFIX_TOKENS.get(kind, 0)
    shape = encoder.feature_shape(150, 150)
    assert features.map.shape[1:] == (shape.channels, shape.height, shape.width)
    assert features.prefix.shape[1:] == (shape.num_prefix, shape.channels)


def test_default_encoder_gives_the_promised_features():
    encoder = S2Encoder("efficientnet_lite0", scales=(224, 448))
    images = random_pixels(2, 448, 448, 3)
    features = encoder(images)
    assert features.map.shape == (2, 640, 7, 7)
    assert features.prefix.shape == (2, 0, 640)
    assert features.map.dtype == torch.float32
    assert encoder.feature_shape(448, 448) == FeatureShape(channels=640, height=7, width=7, num_prefix=0)


def test_all_image_layouts_give_the_same_features():
    encoder = S2Encoder("test_efficientnet", **SMALL)
    images = random_pixels(2, 128, 128, 3)
    channels_first = images.permute(0, 3, 1, 2).contiguous()
    expected = encoder(images).map
    assert difference(encoder(channels_first).map, expected) < 1e-4
    assert difference(encoder(channels_first.float() / 255).map, expected) < 1e-4
    assert difference(encoder(images.flip(1)).map, expected) > 1e-2  # the features depend on the image at all


def test_training_a_policy_leaves_the_encoder_bit_identical():
    encoder = S2Encoder("test_efficientnet", **SMALL)
    policy = nn.Sequential(encoder, nn.ModuleDict({"head": nn.Linear(128, 3)}))
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    fingerprint, tensors = encoder.fingerprint(), encoder.tensors_hash()
    images = random_pixels(4, 128, 128, 3)
    outputs = encoder(images).map
    optimizer = torch.optim.AdamW(policy.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        policy.train()
        features = encoder(images[:2])
        assert not features.map.requires_grad
        loss = policy[1]["head"](features.map.mean(dim=(2, 3))).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert encoder.tensors_hash() == tensors
    assert encoder.fingerprint() == fingerprint
    assert difference(encoder(images).map, outputs) < 1e-4


def test_a_changed_tensor_changes_the_tensors_hash():
    encoder = S2Encoder("test_efficientnet", **SMALL)
    before = encoder.tensors_hash()
    encoder.backbone.model.bn1.running_mean[0] += 1e-6
    assert encoder.tensors_hash() != before


def test_train_mode_does_not_reach_the_backbone():
    encoder = S2Encoder("test_efficientnet", **SMALL)
    nn.Sequential(encoder).train()
    assert not any(module.training for module in encoder.modules())


def test_fingerprint_is_equal_in_another_process():
    code = (
        "from s2robot.encoder import S2Encoder;"
        "print(S2Encoder('test_vit', scales=(64, 128), weights='none').fingerprint())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == S2Encoder("test_vit", **SMALL).fingerprint()


def test_fingerprint_of_the_default_encoder_is_pinned():
    # A change here invalidates every feature cache and checkpoint: only together with FEATURES_VERSION.
    encoder = S2Encoder("efficientnet_lite0", scales=(224, 448))
    assert encoder.fingerprint() == "74d0bb91188c46f78fb49c42d10a029bb3efe710fd6bfb130c25bcd18b850b66", (
        "The identity of the default encoder has changed. It rests on this package's settings and on the names and "
        "values of timm's tensors: has a new timm renamed them?"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"scales": (64,)},
        {"scales": (64, 192)},
        {"tile": 32},
        {"antialias": True},
        {"pool_to": "largest"},
        {"upsampled": True},
        {"precision": "bf16"},
        {"backbone": "test_vit2"},
    ],
)
def test_fingerprint_depends_on_what_changes_features(change):
    base = S2Encoder("test_vit", **SMALL).fingerprint()
    settings = {"backbone": "test_vit", **SMALL, **change}
    assert S2Encoder(**settings).fingerprint() != base


@pytest.mark.parametrize("change", [{"channels_last": True}, {"max_tiles": 3}])
def test_fingerprint_ignores_what_changes_features_by_rounding_only(change):
    torch.manual_seed(2)
    images = torch.rand(2, 3, 128, 128)
    base, other = S2Encoder("test_efficientnet", **SMALL), S2Encoder("test_efficientnet", **SMALL, **change)
    assert other.fingerprint() == base.fingerprint()
    assert difference(other(images).map, base(images).map) < 1e-4


def test_the_tile_size_of_a_backbone_does_not_change_its_identity():
    # Position embeddings are resampled to the tile size; the hash is of the weights before that.
    assert load_backbone("test_vit", "none", size=64).weights_hash() == load_backbone("test_vit", "none").weights_hash()


def test_scales_can_be_factors_of_the_native_size():
    assert S2Encoder("test_vit", scales=(1.0, 2.0), weights="none").scales == (160, 320)


def test_non_square_scales_cover_a_wide_camera():
    encoder = S2Encoder("test_efficientnet", scales=((64, 128), (128, 256)), tile=64, weights="none")
    features = encoder(torch.rand(1, 3, 120, 240))
    assert features.map.shape == (1, 128, 2, 4)
    assert encoder.feature_shape(120, 240) == FeatureShape(128, 2, 4)


def test_cameras_of_different_sizes_are_encoded_together():
    encoder = S2Encoder("test_vit", **SMALL)
    cameras = {"wrist": random_pixels(2, 64, 80, 3), "front": torch.rand(2, 3, 100, 100)}
    together = encoder.encode_cameras(cameras)
    assert list(together) == ["wrist", "front"]
    for name, images in cameras.items():
        torch.testing.assert_close(together[name].map, encoder(images).map, **CLOSE)


def test_reduced_precision_is_close_and_returns_float32():
    torch.manual_seed(2)
    images = torch.rand(2, 3, 128, 128)
    expected = S2Encoder("test_vit", **SMALL)(images).map
    for precision in ("bf16", "fp16"):
        features = S2Encoder("test_vit", **SMALL, precision=precision)(images).map
        assert features.dtype == torch.float32
        # bf16 keeps 8 bits: 0.4% an operation, about 1% of the result. How sums are kept is for each processor to say.
        assert 0 < difference(features, expected) < 0.05


def test_reduced_precision_leaves_the_callers_backbone_alone():
    backbone = load_backbone("test_vit", weights="none")
    before = hash_tensors(backbone.model)
    S2Encoder(backbone, scales=(64,), precision="bf16")
    assert hash_tensors(backbone.model) == before


def test_cost_of_the_paper_scale_sets():
    backbone = load_backbone("test_vit", weights="none")
    single, double, triple = (S2Encoder(backbone, scales=sizes).cost() for sizes in [(64,), (64, 128), (64, 128, 192)])
    assert (single.tiles, double.tiles, triple.tiles) == (1, 5, 14)
    assert double.gmacs == pytest.approx(5 * single.gmacs)
    assert triple.gmacs == pytest.approx(14 * single.gmacs)
    sized = load_backbone("test_vit", weights="none", size=64)  # positions of its tiles, fewer than at its native size
    assert single.parameters == double.parameters == sum(p.numel() for p in sized.parameters())
    assert (single.feature_width, triple.feature_width) == (64, 192)
    assert triple.bytes_per_frame == 2 * 192 * (4 * 4 + 1)


def test_gmacs_agree_with_the_paper():
    # Table 10: ViT-B/16 at 224 costs 17.5 GMACs, with {224, 448} 87.9.
    cost = encoder_cost(EncoderConfig(backbone="vit_base_patch16_224", scales=[224, 448], weights="none"))
    assert [scale.tiles for scale in cost.scales] == [1, 4]
    assert cost.gmacs == pytest.approx(87.9, rel=0.01)


def test_latency_is_measured_on_request():
    assert S2Encoder("test_vit", **SMALL).cost(latency_batch=2).latency_ms > 0


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 64, 64, 3, dtype=torch.int32), "got torch.int32"),
        (torch.zeros(2, 64, 64, 4, dtype=torch.uint8), r"of shape \(2, 64, 64, 4\)"),
        (torch.zeros(2, 1, 64, 64), r"of shape \(2, 1, 64, 64\)"),
        (torch.zeros(2, 64, 64, 3), r"of shape \(2, 64, 64, 3\)"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), r"of shape \(64, 64, 3\)"),
        (torch.zeros(0, 64, 64, 3, dtype=torch.uint8), r"of shape \(0, 64, 64, 3\)"),
        (torch.zeros(1, 3, 0, 64), r"of shape \(1, 3, 0, 64\)"),
        (torch.full((1, 3, 64, 64), float("nan")), "without NaN"),
        (torch.full((1, 3, 64, 64), 255.0), r"must lie in \[0, 1\] without NaN, got values from 255.0"),
        ([[0, 1], [2, 3]], "got list"),
    ],
)
def test_images_the_encoder_cannot_read_are_refused(images, message):
    encoder = S2Encoder("test_vit", **SMALL)
    with pytest.raises(EncoderError, match=message):
        encoder(images)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backbone": "efficientnet_light0"},
            "unknown backbone 'efficientnet_light0'; did you mean 'efficientnet_lite0'",
        ),
        ({"scales": ()}, "scale set is empty"),
        ({"scales": 64}, r"scales=64 is not a list of image sizes; write scales=\(64,\)"),
        ({"scales": "224"}, r"scales='224' is not a list of image sizes; write scales=\(224,\)"),
        ({"scales": (8, 16)}, "scale 8 is smaller than test_vit can process; the smallest size is 16 pixels"),
        ({"scales": (1, 2)}, "write 1.0, 2.0 for multiples"),
        ({"scales": (72, 144)}, "not a multiple of test_vit's patch size, 16 pixels; use multiples of 16"),
        ({"scales": (64, 100)}, "100 is not a multiple of the tile size 64"),
        ({"scales": ("a",)}, "scale 'a'"),
        ({"pool_to": "finest"}, "unknown pool_to 'finest'"),
        ({"max_tiles": 0}, "max_tiles=0"),
    ],
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(EncoderError, match=message):
        S2Encoder(**{"backbone": "test_vit", **SMALL, **settings})


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, ValueError])
def test_a_tile_size_that_the_network_cannot_take_is_named(error):
    class OneSize(Downsample):
        """As a Hiera, whose positions fit one size only."""

        def forward(self, images: Tensor) -> object:
            if images.shape[-1] != 32:
                raise error("another size")
            return super().forward(images)

    encoder = S2Encoder.from_module(OneSize(), size=32, **NORMALIZATION, tile=160, scales=(160,))
    with pytest.raises(
        EncoderError, match=r"OneSize cannot process tiles of 160x160 pixels; sizes that fit: 32 \(another size\)"
    ):
        encoder.feature_shape(160, 160)


def test_unknown_precision_and_device_name_the_choices():
    with pytest.raises(ConfigError, match="unknown precision 'bf8'.*bf16, fp16, fp32"):
        S2Encoder("test_vit", **SMALL, precision="bf8")
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        S2Encoder("test_vit", **SMALL, device="gpu")


class Downsample(nn.Module):
    """A colleague's network, of a kind that timm does not know."""

    def __init__(self, output: str = "map") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 8, 8)
        self.norm = nn.BatchNorm2d(4)
        self.output = output

    def forward(self, images: Tensor) -> object:
        features = self.norm(self.conv(images))
        tokens = features.flatten(2).transpose(1, 2)
        choices = {
            "map": features,
            "tokens": torch.cat([tokens.mean(1, keepdim=True), tokens], dim=1),
            "pair": (features, features.mean((2, 3))[:, None]),
            "vector": features.mean((2, 3)),
            "nan": features * float("nan"),
        }
        return choices[self.output]


class ChannelsLast(nn.Module):
    """A map as TensorFlow's networks give it."""

    def forward(self, images: Tensor) -> Tensor:
        return images.new_zeros(len(images), 4, 4, 5)


NORMALIZATION = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.mark.parametrize(("output", "prefix"), [("map", 0), ("tokens", 1), ("pair", 1)])
def test_any_module_can_be_wrapped(output, prefix):
    module = Downsample(output)
    encoder = S2Encoder.from_module(module, size=32, **NORMALIZATION, num_prefix_tokens=prefix)
    torch.manual_seed(2)
    images = torch.rand(2, 3, 64, 64)
    features = encoder(images)
    assert encoder.scales == (32, 64)
    assert features.map.shape == (2, 8, 4, 4)
    assert features.prefix.shape == (2, prefix, 8)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert not module.training
    expected, _ = naive_s2(
        lambda tile: (module.norm(module.conv(tile)), torch.zeros(1, 0, 4)), (images[0] - 0.5) / 0.25, (32, 64), 32
    )
    torch.testing.assert_close(features.map[0], expected, **CLOSE)


def fingerprint_of(module: nn.Module, **settings) -> str:
    return S2Encoder.from_module(module, size=32, **NORMALIZATION, **settings).fingerprint()


def strided(kernel: int = 4, stride: int = 4, activation: nn.Module | None = None) -> nn.Module:
    """A network whose tensors are always the same."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, kernel, stride), activation or nn.ReLU())


def test_fingerprint_of_a_module_sees_what_leaves_no_trace_in_its_tensors():
    variants = [strided(), strided(stride=2), strided(activation=nn.GELU())]
    assert len({hash_tensors(module) for module in variants}) == 1
    assert len({fingerprint_of(module) for module in variants}) == 3
    assert fingerprint_of(strided()) == fingerprint_of(strided())
    assert fingerprint_of(strided(), version="2") not in {fingerprint_of(module) for module in variants}


def test_fingerprint_of_a_module_does_not_see_addresses():
    class Calls(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda images: images

        def extra_repr(self) -> str:
            return f"function={self.function}"

        def forward(self, images: Tensor) -> Tensor:
            return self.function(images)

    first, second = Calls(), Calls()
    assert repr(first) != repr(second)
    assert fingerprint_of(first) == fingerprint_of(second)


def test_the_size_of_a_module_is_the_tile_size_of_every_scale():
    encoder = S2Encoder.from_module(Downsample(), size=32, **NORMALIZATION, scales=(64,))
    assert [scale.tiles for scale in encoder.cost().scales] == [4]


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        (ChannelsLast(), {}, r"shape \(1, 4, 4, 5\) for a square image; expected \[1, C, h, w\].*channels first"),
        (Downsample("vector"), {}, r"returned a tensor of shape \(1, 4\)"),
        (Downsample("map"), {"num_prefix_tokens": 1}, r"prefix tokens of shape \(1, 0, 4\); expected .* \[1, 1, C\]"),
        (Downsample("tokens"), {}, "17 tokens minus num_prefix_tokens=0 do not fill a grid"),
        (Downsample("nan"), {}, "returned NaN or infinite features for a grey image"),
        (nn.Linear(7, 3), {}, r"Linear failed on one image \[1, 3, 32, 32\]"),
    ],
)
def test_modules_that_give_no_features_are_refused(module, settings, message):
    with pytest.raises(EncoderError, match=message):
        S2Encoder.from_module(module, size=32, **NORMALIZATION, **settings)


def test_random_weights_are_announced(caplog):
    S2Encoder("test_vit", **SMALL)
    assert "RANDOM weights" in caplog.text


# One of each kind of timm's small models; a fixed list, to which a new timm adds nothing that was not looked at.
WRAPPED = ["byobnet", "coatnet", "convnext", "convnext2", "convnext3", "efficientnet", "efficientnet_evos"]
WRAPPED += ["efficientnet_gn", "efficientnet_ln", "mambaout", "maxvit", "nfnet", "resnet"]
WRAPPED += ["vit", "vit2", "vit3", "vit4", "vit_relpos"]


@pytest.mark.parametrize("name", [f"test_{name}" for name in WRAPPED])
def test_any_timm_model_can_be_wrapped(name):
    if not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    encoder = S2Encoder(name, scales=(160, 320), weights="none")
    features = encoder(torch.rand(1, 3, 160, 160))
    shape = encoder.feature_shape(160, 160)
    assert features.map.shape == (1, shape.channels, shape.height, shape.width)
    assert features.prefix.shape == (1, shape.num_prefix, shape.channels)
    assert torch.isfinite(features.map).all()


def test_duplicated_channels_are_as_wide_as_more_scales_and_hold_no_more():
    torch.manual_seed(2)
    images = torch.rand(2, 3, 128, 128)
    single = S2Encoder("test_vit", scales=(64,), weights="none")
    twice = S2Encoder("test_vit", scales=(64,), weights="none", duplicate=2)
    double = S2Encoder("test_vit", scales=(64, 128), weights="none")
    features, expected = twice(images), single(images)
    for found, once, axis in ((features.map, expected.map, 1), (features.prefix, expected.prefix, 2)):
        first, second = found.chunk(2, dim=axis)
        assert torch.equal(first, second)
        torch.testing.assert_close(first, once, **CLOSE)
    assert twice.feature_shape(128, 128) == double.feature_shape(128, 128)
    assert twice.cost().gmacs == single.cost().gmacs
    assert twice.cost().feature_width == double.cost().feature_width
    assert twice.fingerprint() != single.fingerprint()


@pytest.mark.parametrize(("scales", "duplicate"), [((64, 128), 2), ((64,), 0)])
def test_duplicating_more_than_one_scale_is_refused(scales, duplicate):
    with pytest.raises(
        EncoderError, match=f"duplicate={duplicate} is not possible with scales .*; valid: 1, or more with a single"
    ):
        S2Encoder("test_vit", scales=scales, weights="none", duplicate=duplicate)


def test_description_names_what_is_not_the_default():
    assert S2Encoder("test_vit", **SMALL).describe() == "test_vit {64, 128}"
    changed = S2Encoder("test_vit", scales=(64,), weights="none", tile=32, upsampled=True, duplicate=3)
    assert changed.describe() == "test_vit {64} tile=32 upsampled=True duplicate=3"


def test_pixels_are_the_image_itself():
    images = random_pixels(2, 84, 84, 3)
    encoder = S2Encoder("pixels", scales=(84,))
    features = encoder(images)
    assert encoder.feature_shape(84, 84) == FeatureShape(3, 84, 84)
    assert features.prefix.shape == (2, 0, 3)
    assert torch.equal(features.map, images.permute(0, 3, 1, 2).float())
    assert torch.equal(encoder.encode_cameras({"front": images})["front"].map.half().byte(), images.permute(0, 3, 1, 2))
    assert torch.equal(S2Encoder("pixels", scales=(84,), engine="openvino")(images).map, features.map)


def test_resized_pixels_are_what_a_camera_of_that_size_could_give():
    images = random_pixels(2, 128, 128, 3)
    features = S2Encoder("pixels", scales=(84,), antialias=True)(images)
    assert features.map.shape == (2, 3, 84, 84)
    assert torch.equal(features.map, features.map.half().byte().float())
    planar = images.permute(0, 3, 1, 2).contiguous().float()
    expected = torch.nn.functional.interpolate(planar, (84, 84), mode="bicubic", antialias=True)
    # Rounding, and what the order of additions may change of numbers up to 255.
    assert (features.map - expected.clamp(0, 255)).abs().max() <= 0.5 + 1e-3


def test_cost_of_pixels_is_that_of_the_network_trained_on_them():
    encoder = S2Encoder("pixels", scales=(248,))  # whose crop is 224 pixels
    cost = with_reader(encoder.cost(), "pixels")
    assert encoder.cost().gmacs == encoder.cost().parameters == 0
    assert cost.gmacs == pytest.approx(1.81, rel=0.01)  # ResNet-18 without its classes (torchvision: 1.81)
    assert cost.parameters == pytest.approx(11.18e6, rel=0.01)
    assert cost.bytes_per_frame == 2 * 3 * 248 * 248
    assert S2Encoder("pixels", scales=(84,)).fingerprint() != S2Encoder("pixels", scales=(96,)).fingerprint()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (84, 168)}, "one square scale in fp32.*got pixels .84, 168."),
        ({"scales": (84,), "tile": 42}, "got pixels .84. tile=42"),
        ({"scales": (84,), "precision": "bf16"}, "got pixels .84. precision=bf16"),
        ({"scales": (84,), "duplicate": 2}, "got pixels .84. duplicate=2"),
        ({"scales": (16,)}, "the smallest size is 32 pixels"),
    ],
)
def test_pixels_that_are_no_image_are_refused(settings, message):
    with pytest.raises(EncoderError, match=message):
        S2Encoder("pixels", **settings)

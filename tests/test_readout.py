"""Readouts: one common width, gradients to every parameter, and what each of them is for."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import resnet18
from trained_toys import TOYS

from s2robot.interfaces import ConfigError, Features, FeatureShape
from s2robot.policies.readouts import READOUTS, count_parameters, make_readout
from s2robot.policies.resnet import crop

SHAPE = FeatureShape(channels=6, height=3, width=5, num_prefix=2)
PIXELS = FeatureShape(channels=3, height=42, width=42)
SHAPES = {name: PIXELS if name == "resnet18" else SHAPE for name in READOUTS}
OVER_FEATURES = [name for name in READOUTS if name != "resnet18"]


def random_features(shape: FeatureShape = SHAPE, batch: int = 4) -> Features:
    torch.manual_seed(0)
    return Features(
        torch.randn(batch, shape.channels, shape.height, shape.width),
        torch.randn(batch, shape.num_prefix, shape.channels),
    )


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_gives_the_common_width_and_trains_all_its_parameters(name):
    readout = make_readout(name, SHAPES[name], width=8)
    result = readout(random_features(SHAPES[name]))
    assert result.shape == (4, 8)
    (result * torch.randn(4, 8)).sum().backward()
    for parameter_name, parameter in readout.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_is_deterministic_and_treats_frames_alone(name):
    readout = make_readout(name, SHAPES[name], width=8).eval()
    features = random_features(SHAPES[name])
    alone = Features(features.map[:1], features.prefix[:1])
    # Kernels round otherwise for other batch sizes; another frame that leaks in shows by about 0.01.
    torch.testing.assert_close(readout(features)[:1], readout(alone), rtol=1e-3, atol=1e-4)


def test_cls_reads_the_first_prefix_token_only():
    readout = make_readout("cls", SHAPE, width=8)
    features = random_features()
    changed = Features(torch.zeros_like(features.map), features.prefix.clone())
    changed.prefix[:, 1:] = 0
    torch.testing.assert_close(readout(features), readout(changed))


def test_cls_without_prefix_tokens_is_refused():
    with pytest.raises(ConfigError, match="needs a backbone with a CLS token"):
        make_readout("cls", FeatureShape(6, 3, 5, num_prefix=0), width=8)


def test_mean_does_not_depend_on_where_things_are():
    readout = make_readout("mean", SHAPE, width=8)
    features = random_features()
    torch.testing.assert_close(readout(features), readout(features._replace(map=features.map.flip(2, 3))))


def test_conv_depends_on_where_things_are():
    readout = make_readout("conv", SHAPE, width=8)
    features = random_features()
    assert not torch.allclose(readout(features), readout(features._replace(map=features.map.flip(2, 3))))


def test_spatial_softmax_finds_the_position_of_a_peak():
    readout = make_readout("spatial_softmax", FeatureShape(1, 5, 5), width=8, channels=1)
    torch.nn.init.constant_(readout.heat.weight, 1.0)
    peak = torch.zeros(1, 1, 5, 5)
    peak[0, 0, 0, 4] = 100.0  # upper right corner
    positions = []
    readout.project.register_forward_hook(lambda module, inputs, output: positions.append(inputs[0]))
    readout(Features(peak, torch.zeros(1, 0, 1)))
    torch.testing.assert_close(positions[0], torch.tensor([[1.0, -1.0]]))


def test_one_set_of_options_serves_all_readouts():
    sizes = {name: count_parameters(make_readout(name, SHAPE, 8, channels=4, queries=2)) for name in OVER_FEATURES}
    assert sizes["mean"] == 6 + 6 + 6 * 8 + 8
    assert sizes["conv"] == (6 * 4 + 4) + 2 * 60 + 60 * 8 + 8


def test_unknown_readout_names_the_choices():
    with pytest.raises(
        ConfigError, match="unknown readout 'con'; did you mean 'conv'.*attention, cls, conv, mean, resnet18"
    ):
        make_readout("con", SHAPE, width=8)


def test_unknown_option_names_the_choices():
    with pytest.raises(ConfigError, match="unknown readout option 'chanels'; did you mean 'channels'"):
        make_readout("conv", SHAPE, width=8, chanels=3)


def test_attention_needs_a_width_its_heads_divide():
    with pytest.raises(ConfigError, match="width=10 is no multiple of heads=4"):
        make_readout("attention", SHAPE, width=10)


def pictures(batch: int = 4) -> Features:
    """Uniform noise, whole numbers 0 … 255."""
    torch.manual_seed(0)
    return Features(torch.randint(0, 256, (batch, 3, 42, 42)).float(), torch.zeros(batch, 0, 3))


def test_network_from_scratch_crops_at_random_in_training_and_the_centre_otherwise():
    seen = []
    readout = make_readout("resnet18", PIXELS, width=8)
    readout.trunk.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    features = pictures()
    for _ in range(2):
        readout.train()(features)
        readout.eval()(features)
    assert not torch.equal(seen[0], seen[2])
    assert torch.equal(seen[1], seen[3])
    assert torch.equal(seen[1], features.map[:, :, 2:40, 2:40] / 127.5 - 1)


def test_every_random_crop_is_a_piece_of_its_own_frame_and_frames_are_cropped_apart():
    torch.manual_seed(0)
    ramp = (torch.arange(42)[:, None] * 100 + torch.arange(42)).float()
    images = ramp.expand(300, 3, 42, 42) + 10_000 * torch.arange(300)[:, None, None, None]
    crops = crop(images, random=True)
    corners = crops[:, 0, 0, 0] - 10_000 * torch.arange(300)
    tops, lefts = corners.div(100, rounding_mode="floor").int(), (corners % 100).int()
    assert set(tops.tolist()) == set(lefts.tolist()) == set(range(5))
    for index in (0, 150, 299):
        top, left = int(tops[index]), int(lefts[index])
        assert torch.equal(crops[index], images[index, :, top : top + 38, left : left + 38])


def test_network_from_scratch_has_no_batch_norm_and_the_size_of_a_resnet18():
    readout = make_readout("resnet18", PIXELS, width=8)
    assert not any("BatchNorm" in type(module).__name__ for module in readout.modules())
    published = sum(parameter.numel() for parameter in resnet18(weights=None).parameters()) - (512 * 1000 + 1000)
    assert count_parameters(readout.trunk) == published


def test_network_from_scratch_learns_where_a_spot_is():
    TOYS["resnet18 learns where a spot is"].check()


@pytest.mark.parametrize("name", OVER_FEATURES)
def test_readouts_over_features_refuse_pixels(name):
    with pytest.raises(ConfigError, match=f"readout {name!r} cannot learn from pixels; use readout=resnet18"):
        make_readout(name, PIXELS, width=8)


@pytest.mark.parametrize(
    "shape", [FeatureShape(640, 7, 7), FeatureShape(3, 84, 84, num_prefix=1), FeatureShape(3, 8, 8)]
)
def test_network_from_scratch_refuses_features(shape):
    with pytest.raises(ConfigError, match="trained on images, not on features .*encoder.backbone=pixels"):
        make_readout("resnet18", shape, width=8)

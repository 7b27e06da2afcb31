"""Readouts: one common width, gradients to every parameter, and what each of them is for."""

from __future__ import annotations

import pytest
import torch

from s2robot.interfaces import ConfigError, Features, FeatureShape
from s2robot.readout import READOUTS, count_parameters, make_readout

SHAPE = FeatureShape(channels=6, height=3, width=5, num_prefix=2)


def random_features(shape: FeatureShape = SHAPE, batch: int = 4) -> Features:
    torch.manual_seed(0)
    return Features(
        torch.randn(batch, shape.channels, shape.height, shape.width),
        torch.randn(batch, shape.num_prefix, shape.channels),
    )


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_gives_the_common_width_and_trains_all_its_parameters(name):
    readout = make_readout(name, SHAPE, width=8)
    result = readout(random_features())
    assert result.shape == (4, 8)
    (result * torch.randn(4, 8)).sum().backward()
    for parameter_name, parameter in readout.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", READOUTS)
def test_every_readout_is_deterministic_and_treats_frames_alone(name):
    readout = make_readout(name, SHAPE, width=8).eval()
    features = random_features()
    alone = Features(features.map[:1], features.prefix[:1])
    torch.testing.assert_close(readout(features)[:1], readout(alone))


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
    sizes = {name: count_parameters(make_readout(name, SHAPE, 8, channels=4, queries=2)) for name in READOUTS}
    assert sizes["mean"] == 6 + 6 + 6 * 8 + 8
    assert sizes["conv"] == (6 * 4 + 4) + 2 * 60 + 60 * 8 + 8


def test_unknown_readout_names_the_choices():
    with pytest.raises(ConfigError, match="unknown readout 'con'; did you mean 'conv'.*attention, cls, conv, mean"):
        make_readout("con", SHAPE, width=8)


def test_unknown_option_names_the_choices():
    with pytest.raises(ConfigError, match="unknown readout option 'chanels'; did you mean 'channels'"):
        make_readout("conv", SHAPE, width=8, chanels=3)


def test_attention_needs_a_width_its_heads_divide():
    with pytest.raises(ConfigError, match="width=10 is no multiple of heads=4"):
        make_readout("attention", SHAPE, width=10)

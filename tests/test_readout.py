"""Readouts: one common width, gradients to every parameter, and what each of them is for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torchvision.models import resnet18
from trained_toys import TOYS

from s2robot.config import ReadoutConfig
from s2robot.interfaces import ConfigError, Features, FeatureShape, PolicySpec
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.readouts import READOUTS, change_readout, make_readout, readout_from_dict
from s2robot.policies.readouts.base import Readout
from s2robot.policies.readouts.resnet18 import crop

SHAPE = FeatureShape(channels=6, height=3, width=5, num_prefix=2)
PIXELS = FeatureShape(channels=3, height=42, width=42)
SHAPES = {
    "attention": SHAPE,
    "cls": SHAPE,
    "conv": SHAPE,
    "mean": SHAPE,
    "resnet18": PIXELS,
    "spatial_softmax": SHAPE,
}
OVER_FEATURES = [name for name in SHAPES if name != "resnet18"]


def random_features(shape: FeatureShape = SHAPE, batch: int = 4) -> Features:
    torch.manual_seed(0)
    return Features(
        torch.randn(batch, shape.channels, shape.height, shape.width),
        torch.randn(batch, shape.num_prefix, shape.channels),
    )


def count_parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_every_readout_has_an_example_that_all_these_tests_run():
    assert SHAPES.keys() == READOUTS.keys()


def test_every_readout_names_its_settings_and_is_built_from_them():
    for name, settings in READOUTS.default_settings().items():
        assert settings == ReadoutConfig(name=name)
        assert isinstance(make_readout(settings, SHAPES[name]), READOUTS[name])


@pytest.mark.parametrize("name", SHAPES)
def test_every_readout_gives_the_common_width_and_trains_all_its_parameters(name):
    readout = make_readout(name, SHAPES[name], width=8)
    result = readout(random_features(SHAPES[name]))
    assert result.shape == (4, 8)
    (result * torch.randn(4, 8)).sum().backward()
    for parameter_name, parameter in readout.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert torch.isfinite(parameter.grad).all(), parameter_name


@pytest.mark.parametrize("name", SHAPES)
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


@dataclass
class GridConfig(ReadoutConfig):
    """Settings of a readout from elsewhere, with a field of its own."""

    name: str = "grid"
    side: int = 2


class GridReadout(Readout):
    """A readout from elsewhere: the map pooled to `side` by `side`."""

    settings = GridConfig

    def __init__(self, config: GridConfig, shape: FeatureShape) -> None:
        super().__init__(config, shape)
        self.side = config.side
        self.project = torch.nn.Linear(shape.channels * config.side**2, config.width)

    def forward(self, features: Features) -> torch.Tensor:
        return self.project(torch.nn.functional.adaptive_avg_pool2d(features.map, self.side).flatten(1))


@pytest.fixture
def with_grid(monkeypatch):
    monkeypatch.setitem(READOUTS._own, "grid", GridReadout)


def test_readout_from_elsewhere_gets_every_field_of_its_own_settings(with_grid):
    settings = readout_from_dict({"name": "grid", "width": 8, "side": 3})
    assert settings == GridConfig(width=8, side=3)
    assert make_readout(settings, SHAPE).side == 3
    assert make_readout("grid", SHAPE, 8, side=3).side == 3
    policy = make_policy(BCConfig(hidden=[4]), settings, PolicySpec({"a.b": SHAPE}, 2, 3))
    assert [readout.side for readout in policy.observation.readouts.values()] == [3]
    assert settings.identity() == {"name": "grid", "width": 8, "channels": 32, "queries": 1, "side": 3}


def test_a_file_older_than_a_setting_means_what_the_code_did_then(monkeypatch, with_grid):
    monkeypatch.setattr(GridConfig, "former", {"side": 1}, raising=False)
    assert readout_from_dict({"name": "grid", "width": 8}) == GridConfig(width=8, side=1)
    assert make_readout("grid", SHAPE, 8).side == GridConfig().side == 2
    assert change_readout(ReadoutConfig(width=8), "grid").side == 2
    assert GridConfig(side=1).identity().keys() == {"name", "width", "channels", "queries"}  # nor `heads` of the base
    assert GridConfig(side=2, heads=2).identity().keys() == {"name", "width", "channels", "queries", "side", "heads"}


def test_settings_of_another_readout_or_policy_are_refused(with_grid):
    with pytest.raises(ConfigError, match="readout 'grid' has the settings GridConfig, but ReadoutConfig was given"):
        make_readout(ReadoutConfig(name="grid"), SHAPE)
    with pytest.raises(ConfigError, match="policy 'knn' has the settings KNNConfig, .*choose it as policy=knn"):
        make_policy(BCConfig(name="knn"), ReadoutConfig(), PolicySpec({"a.b": SHAPE}, 2, 3))


def test_another_readout_takes_the_settings_that_it_has_too(with_grid):
    grid = GridConfig(width=8, heads=2, side=3)
    assert change_readout(grid, "attention", queries=5) == ReadoutConfig("attention", width=8, heads=2, queries=5)
    assert change_readout(ReadoutConfig(width=8), "grid", side=4) == GridConfig(width=8, side=4)
    with pytest.raises(ConfigError, match="unknown readout setting 'side'"):
        change_readout(grid, "conv", side=4)


def test_heads_reach_the_attention_of_every_camera():
    settings = ReadoutConfig("attention", width=16, heads=8)
    policy = make_policy(BCConfig(hidden=[4]), settings, PolicySpec({"one": SHAPE, "two": SHAPE}, 2, 3))
    assert [readout.attention.num_heads for readout in policy.observation.readouts.values()] == [8, 8]
    assert make_readout("attention", SHAPE, 16, heads=8).attention.num_heads == 8
    assert make_readout("attention", SHAPE, 16).attention.num_heads == 4


def test_a_setting_that_came_later_leaves_the_identity_of_earlier_runs_alone():
    assert ReadoutConfig().identity() == {"name": "conv", "width": 256, "channels": 32, "queries": 1}
    assert ReadoutConfig(heads=8).identity() == {"heads": 8, **ReadoutConfig().identity()}


def test_settings_beside_options_are_refused():
    with pytest.raises(ConfigError, match="'conv' is a settings object; set width and options as its fields"):
        make_readout(ReadoutConfig(), SHAPE, 8)


@pytest.mark.parametrize("name", ["width", "channels", "queries", "heads"])
def test_impossible_size_names_the_valid_ones(name):
    with pytest.raises(ConfigError, match=f"readout.{name}=0 is not possible; valid: an integer of 1 or more"):
        make_readout("conv", SHAPE, **{name: 0})


def test_listing_the_readouts_imports_no_torch():
    program = (
        "import sys; from s2robot.policies.readouts import READOUTS; list(READOUTS); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "False"


def test_unknown_readout_names_the_choices():
    with pytest.raises(
        ConfigError, match="unknown readout 'con'; did you mean 'conv'.*attention, cls, conv, mean, resnet18"
    ):
        make_readout("con", SHAPE, width=8)


def test_unknown_option_names_the_choices():
    with pytest.raises(ConfigError, match="unknown readout option 'chanels'; did you mean 'channels'"):
        make_readout("conv", SHAPE, width=8, chanels=3)


def test_attention_needs_a_width_its_heads_divide():
    with pytest.raises(ConfigError, match="width=10 is not a multiple of heads=4"):
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
    with pytest.raises(ConfigError, match="'resnet18' reads images, not features of .*encoder.backbone=pixels"):
        make_readout("resnet18", shape, width=8)

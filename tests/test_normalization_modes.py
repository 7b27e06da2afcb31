"""Every number of an action and of proprioception can be normalised in a way of its own."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from policy_toys import READOUT, SMALL, SPEC, generators, make_batch
from test_data_actions import write_file
from training_runs import make_config, make_encoder, make_workspace

from s2robot.benchmark import make_grid
from s2robot.benchmark.stages import training_key
from s2robot.checkpoint import load_checkpoint, load_policy
from s2robot.cli.words import compose
from s2robot.config import BenchmarkConfig
from s2robot.interfaces import ConfigError
from s2robot.policies import make_policy, policy_from_dict
from s2robot.policies.bc import BCConfig
from s2robot.policies.diffusion_unet import DiffusionUNetConfig
from s2robot.policies.knn import KNNConfig
from s2robot.training import train

MODES = ("min_max", "mean_std", "quantile", "none")


def actions(count=1000, seed=0):
    """Three numbers: of any scale, with a few outliers, and an open or closed gripper."""
    rng = np.random.default_rng(seed)
    values = np.c_[rng.normal(3, 0.1, count), rng.normal(0, 1, count), rng.choice([-1.0, 1.0], count)]
    values[:3, 1] = 100
    return values.astype(np.float32)


def fitted(modes, values=None, **settings):
    policy = make_policy(BCConfig(action_normalization=modes, **settings), READOUT, SPEC)
    policy.actions.fit(np.array_split(actions() if values is None else values, 4))
    return policy.actions


def test_each_mode_maps_what_it_says():
    values = torch.from_numpy(actions())
    for mode, low, high in (
        ("min_max", values.amin(0), values.amax(0)),
        ("mean_std", values.mean(0) - values.std(0, correction=0), values.mean(0) + values.std(0, correction=0)),
        ("quantile", values.quantile(0.01, 0), values.quantile(0.99, 0)),
        ("none", -torch.ones(3), torch.ones(3)),
    ):
        normalizer = fitted(mode)
        mapped = normalizer(torch.stack([low, high]))
        torch.testing.assert_close(mapped, torch.tensor([[-1.0], [1.0]]).expand(2, 3), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_inside_comes_back(mode):
    normalizer = fitted(mode)
    values = torch.from_numpy(actions()[3:])
    values = (
        torch.minimum(torch.maximum(values, normalizer.minimum), normalizer.maximum) if mode == "quantile" else values
    )
    torch.testing.assert_close(normalizer.inverse(normalizer(values)), values, rtol=1e-5, atol=1e-5)


def test_what_is_outside_is_clipped_where_it_says_so():
    far = torch.full((1, 3), 50.0)
    for mode in ("min_max", "quantile"):
        normalizer = fitted(mode)
        torch.testing.assert_close(normalizer.inverse(far), normalizer.maximum[None])
        torch.testing.assert_close(normalizer.inverse(-far), normalizer.minimum[None])
    for mode in ("mean_std", "none"):
        normalizer = fitted(mode)
        torch.testing.assert_close(normalizer(normalizer.inverse(far)), far)
    outlier = torch.tensor([[3.0, 100.0, 1.0]])
    assert fitted("quantile")(outlier)[0, 1] == 1
    assert fitted("mean_std")(outlier)[0, 1] > 10


def test_numbers_of_one_action_can_have_different_modes():
    mixed = fitted(["mean_std", "quantile", "none"])
    values = torch.from_numpy(actions())
    for column, mode in enumerate(("mean_std", "quantile", "none")):
        alone = fitted(mode)
        torch.testing.assert_close(mixed(values)[:, column], alone(values)[:, column])
        torch.testing.assert_close(mixed.inverse(values)[:, column], alone.inverse(values)[:, column])


@pytest.mark.parametrize(
    ("setting", "modes"),
    [
        ({"0": "mean_std"}, ["mean_std", "min_max", "min_max"]),
        ({0: "mean_std"}, ["mean_std", "min_max", "min_max"]),
        ({"-1": "none"}, ["min_max", "min_max", "none"]),
        ({"0-1": "quantile", "2": "none"}, ["quantile", "quantile", "none"]),
        ("none", ["none"] * 3),
        (("none", "min_max", "mean_std"), ["none", "min_max", "mean_std"]),
    ],
)
def test_a_setting_names_numbers_one_by_one_in_ranges_or_from_the_end(setting, modes):
    policy = make_policy(BCConfig(action_normalization=setting), READOUT, SPEC)
    assert list(policy.actions.layout.modes) == modes


@pytest.mark.parametrize("mode", ["min_max", "mean_std", "quantile"])
def test_a_constant_stays_its_constant_in_every_mode_that_scales(mode):
    values = actions()
    values[:, 0] = 0.3
    normalizer = fitted(mode, values)
    assert abs(normalizer(torch.from_numpy(values))[:, 0]).max() < 1e-5
    torch.testing.assert_close(normalizer.inverse(torch.full((1, 3), 0.9))[0, 0], torch.tensor(0.3), atol=1e-4, rtol=0)


def test_quantiles_that_would_hold_a_gripper_still_are_refused():
    values = actions()
    values[:, 2] = -1
    values[:5, 2] = 1
    with pytest.raises(ConfigError, match="number 2 spans -1 to 1, but its quantiles .* are equal"):
        fitted("quantile", values)
    fitted({"0-1": "quantile"}, values)


def test_quantiles_can_be_stated():
    normalizer = fitted("quantile", action_quantiles=[0.25, 0.75])
    low, high = np.quantile(actions().astype(np.float64), [0.25, 0.75], axis=0)
    np.testing.assert_allclose(normalizer.minimum, low, rtol=1e-5)
    np.testing.assert_allclose(normalizer.maximum, high, rtol=1e-5)


BOUNDED = ("bc-gmm", "bc_rnn", "diffusion_transformer", "diffusion_unet")


def test_it_is_known_which_policies_give_only_numbers_up_to_one():
    assert [name for name, config in SMALL.items() if config.bounded] == [name for name in SMALL if name in BOUNDED]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("modes", ["mean_std", {"0": "mean_std"}, ["min_max", "mean_std", "min_max"]])
def test_policies_that_clip_refuse_what_would_be_clipped(name, modes):
    if name in BOUNDED:
        with pytest.raises(ConfigError, match="policy.action_normalization=.*only gives normalised numbers"):
            replace(SMALL[name], action_normalization=modes)
    else:
        replace(SMALL[name], action_normalization=modes)


@pytest.mark.parametrize("name", SMALL)
def test_policies_that_clip_refuse_recorded_numbers_beyond_one(name):
    policy = make_policy(replace(SMALL[name], action_normalization={"1": "none"}), READOUT, SPEC)
    if name in BOUNDED:
        with pytest.raises(ConfigError, match="number 1 spans .* to 100"):
            policy.actions.fit([actions()])
        policy = make_policy(replace(SMALL[name], action_normalization={"2": "none"}), READOUT, SPEC)
    policy.actions.fit([actions()])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("modes", [{"-1": "none"}, "quantile", "mean_std", "none"])
def test_every_policy_learns_and_acts_in_every_mode(name, modes):
    if name in BOUNDED and modes == "mean_std":
        pytest.skip("refused")
    torch.manual_seed(0)
    policy = make_policy(replace(SMALL[name], action_normalization=modes), READOUT, SPEC)
    config = SMALL[name]
    batch = make_batch(12, config.observation_steps, config.action_steps)
    batch.actions.clamp_(-1, 1)
    policy.actions.fit([batch.actions.flatten(0, 1).numpy()])
    policy.fit([batch])
    assert policy.loss(batch).isfinite()
    acted = policy.eval().act(batch.observation, generators(12))
    assert acted.shape == batch.actions.shape
    assert acted.isfinite().all()


def test_the_default_holds_what_it_held():
    policy = make_policy(BCConfig(), READOUT, SPEC)
    other = make_policy(BCConfig(action_normalization="mean_std", proprioception_normalization="none"), READOUT, SPEC)
    assert policy.state_dict().keys() == other.state_dict().keys()


# Proprioception ---------------------------------------------------------------------------------------------------


def test_proprioception_has_the_same_modes():
    config = BCConfig(proprioception_normalization={"0": "min_max", "1": "quantile", "2": "none"})
    normalizer = make_policy(config, READOUT, SPEC).observation.proprioception
    values = np.random.default_rng(0).normal(50, 3, (500, 5)).astype(np.float32)
    normalizer.fit([values[:100], values[100:]])
    scaled = normalizer(torch.from_numpy(values))
    assert abs(scaled[:, 0].min() + 1) < 1e-4
    assert abs(scaled[:, 0].max() - 1) < 1e-4
    assert abs(scaled[:, 1].quantile(0.99) - 1) < 1e-3
    torch.testing.assert_close(scaled[:, 2], torch.from_numpy(values[:, 2]))  # not clipped to 10 either
    assert abs(scaled[:, 3].mean()) < 1e-3
    assert abs(scaled[:, 3].std() - 1) < 1e-2


# Settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["action_normalization", "proprioception_normalization"])
@pytest.mark.parametrize(
    "value",
    ["gaussian", [], {}, ["none", "x"], {"a": "none"}, {"1-": "none"}, {"0": "x"}, None, 3, "", [1], [["none"]]],
)
def test_a_wrong_mode_is_one_clear_error(name, value):
    with pytest.raises(ConfigError, match=f"policy.{name}=.*valid: min_max, mean_std, quantile, none"):
        BCConfig(**{name: value})


@pytest.mark.parametrize("modes", [{"3": "none"}, {"1-3": "none"}, {"-4": "none"}, {"2-1": "none"}, ["none"] * 2])
def test_a_number_that_does_not_exist_is_refused(modes):
    with pytest.raises(ConfigError, match="policy.action_normalization"):
        make_policy(BCConfig(action_normalization=modes), READOUT, SPEC)


@pytest.mark.parametrize("quantiles", [[0.5], [0.9, 0.1], [-0.1, 0.5], [0, 1.1], [0.5, 0.5], [0, 0.5, 1]])
def test_wrong_quantiles_are_one_clear_error(quantiles):
    with pytest.raises(ConfigError, match="policy.action_quantiles"):
        BCConfig(action_quantiles=quantiles)


def test_the_command_line_takes_every_form():
    words = ["dataset=a.hdf5", "output=b", "policy=flow_matching"]
    for word, expected in (
        ("policy.action_normalization=mean_std", "mean_std"),
        ("policy.action_normalization=none", "none"),
        ("policy.action_normalization=[min_max,none]", ["min_max", "none"]),
        ("policy.action_normalization={6:none}", {"6": "none"}),
        ("policy.action_normalization={-1:none}", {"-1": "none"}),
        ("policy.action_normalization={0-2:mean_std,-1:none}", {"0-2": "mean_std", "-1": "none"}),
    ):
        assert compose("train_policy", [*words, word]).policy.action_normalization == expected
    config = compose(
        "train_policy", [*words, "policy.action_rotations=[{start:3,form:axis_angle}]", "action_key=[a/b,c]"]
    )
    assert config.policy.action_rotations == [{"start": 3, "form": "axis_angle"}]
    assert config.action_keys == ["a/b", "c"]


def test_a_setting_without_effect_is_not_part_of_the_identity():
    plain = BCConfig().identity()
    assert not {"action_normalization", "action_rotations", "action_quantiles"} & plain.keys()
    assert BCConfig(action_quantiles=[0.1, 0.9]).identity() == plain
    assert BCConfig(action_normalization="quantile").identity() != plain
    first = BCConfig(action_normalization={"0": "quantile"}, action_quantiles=[0.1, 0.9]).identity()
    assert first != BCConfig(action_normalization={"0": "quantile"}).identity()


def test_settings_of_a_file_from_before_mean_what_the_code_did():
    values = {
        key: value for key, value in asdict(DiffusionUNetConfig()).items() if key not in DiffusionUNetConfig.former
    }
    assert policy_from_dict(values) == DiffusionUNetConfig()


def test_arms_of_a_benchmark_that_differ_in_it_are_trained_apart(tmp_path):
    policies = [
        "bc",
        {"name": "bc", "label": "standardised", "action_normalization": "mean_std"},
        {"name": "bc", "label": "gripper", "action_normalization": {"6": "none"}},
    ]
    config = BenchmarkConfig(output=str(tmp_path), policy=BCConfig(), policies=policies)
    cells = make_grid(config).cells
    keys = {training_key(cell) for cell in cells if cell.arm.policy.config.name == "bc"}
    assert len(keys) == len(cells)


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def test_a_checkpoint_acts_as_the_policy_that_was_trained(tmp_path, encoder):
    make_workspace(tmp_path)
    policy = BCConfig(
        hidden=[16], action_normalization={"0": "mean_std", "-1": "quantile"}, proprioception_normalization="min_max"
    )
    folder = train(make_config(tmp_path, tmp_path / "run", policy=policy, training={"epochs": 1}), encoder)
    loaded, _, checkpoint = load_policy(folder, torch.device("cpu"))
    assert checkpoint.config.policy == policy
    _, state = load_checkpoint(folder)
    width = checkpoint.spec.action_width
    modes = ["mean_std", *["min_max"] * (width - 2), "quantile"]
    assert list(loaded.actions.layout.modes) == modes
    far = torch.full((1, width), 9.0)
    given = loaded.actions.inverse(far)[0]
    torch.testing.assert_close(given[1:], state["actions.maximum"][1:])
    assert given[0] > state["actions.maximum"][0]


def test_what_does_not_suit_the_actions_is_refused_before_anything_is_encoded(tmp_path, encoder):
    write_file(tmp_path / "demos.hdf5")  # absolute poses: rotations near π
    policy = DiffusionUNetConfig(
        down_dims=[16], groups=4, train_timesteps=5, inference_steps=5, action_steps=4, execute_steps=2,
        action_normalization="none",
    )  # fmt: skip
    config = make_config(tmp_path, tmp_path / "run", policy=policy, action_key="actions_abs")
    with pytest.raises(ConfigError, match="number 0 spans .* only gives numbers in"):
        train(config, encoder)
    assert not (tmp_path / "cache").exists()


def test_knn_remembers_in_the_mode_that_is_set():
    policy = make_policy(KNNConfig(k=1, action_normalization="mean_std"), READOUT, SPEC)
    batch = make_batch(12, 1, 8)
    policy.actions.fit([batch.actions.flatten(0, 1).numpy()])
    policy.fit([batch])
    torch.testing.assert_close(policy.act(batch.observation, generators(12)), batch.actions, rtol=1e-4, atol=1e-4)

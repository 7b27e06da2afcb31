"""Policies that learn rotations in their 6-D form, from training to rollouts, exported files and the server."""

import dataclasses

import numpy as np
import pytest
import torch
from deployment_toys import BC, make_observation, write_checkpoint
from rollout_toys import make_checkpoint, random_observation
from scipy.spatial.transform import Rotation
from test_data_actions import write_file
from test_export import EVERY, eager, feed
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_policy
from s2robot.config.deployment import ExportConfig
from s2robot.deployment.episode_runner import EpisodeRunner
from s2robot.deployment.export import export_checkpoint
from s2robot.policies import make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.bc_transformer import BCTransformerConfig
from s2robot.rollout import Actor
from s2robot.training import train

CPU = torch.device("cpu")
POSE = {"action_rotations": [{"start": 3, "form": "axis_angle"}], "action_normalization": {"-1": "none"}}
# The toys of deployment have four numbers per action.
FOUR = {"action_rotations": [{"start": 0, "form": "axis_angle"}], "action_normalization": {"3": "none"}}
QUATERNION = {"action_rotations": [{"start": 0, "form": "quaternion_wxyz"}]}
FEW = {name: EVERY[name] for name in ("bc", "bc_transformer", "diffusion_unet", "knn")}


def apart(first, second):
    left, right = (Rotation.from_rotvec(np.asarray(values, float).reshape(-1, 3)) for values in (first, second))
    return (left.inv() * right).magnitude().max()


@pytest.mark.parametrize("policy", [BCConfig(hidden=[32]), BCTransformerConfig(layers=1, width=32, heads=2)])
def test_a_checkpoint_trained_on_absolute_poses_acts_in_absolute_poses(policy, tmp_path):
    write_file(tmp_path / "demos.hdf5")
    policy = dataclasses.replace(policy, observation_steps=2, action_steps=4, execute_steps=2, **POSE)
    config = make_config(tmp_path, tmp_path / "run", policy=policy, training={"epochs": 40}, action_key="actions_abs")
    loaded, _, checkpoint = load_policy(train(config, make_encoder()), CPU)
    assert checkpoint.config.policy == policy
    assert checkpoint.spec.action_width == 7  # as recorded: what environments, servers and exported files see
    row = checkpoint.loss_curve[-1]
    # Both ways to count the error agree: the mean turn of the poses apart is about 0.1 rad.
    assert row["validation_rotation_error_rad"] < 0.5
    assert row["validation_action_error"] < 0.5
    assert loaded.actions.layout.learned_width == 10


def make_actor(**settings):
    checkpoint, encoder, _ = make_checkpoint("bc")
    checkpoint = dataclasses.replace(
        checkpoint,
        config=dataclasses.replace(checkpoint.config, policy=dataclasses.replace(checkpoint.config.policy, **POSE)),
    )
    model = make_policy(checkpoint.config.policy, checkpoint.config.readout, checkpoint.spec).eval()
    return Actor(model, encoder, checkpoint, CPU, execute_steps=1, **settings)


def test_rollouts_average_overlapping_chunks_as_rotations(monkeypatch):
    actor = make_actor(temporal_ensemble=0.0)
    chunks = iter([np.pi - 0.1, -np.pi + 0.1])

    def predict(observation, episodes):
        chunk = np.zeros((1, 4, 7), np.float32)
        chunk[..., 3], chunk[..., 6] = next(chunks), 0.5
        return chunk

    monkeypatch.setattr(actor, "_predict", predict)
    observation = random_observation(np.random.default_rng(0), 1, 3)
    episodes = [actor.start(0)]
    first = actor.act(observation, episodes)
    episodes[0].executed(first[0], None)
    second = actor.act(observation, episodes)
    assert second.shape == (1, 1, 7)
    assert apart(second[0, 0, 3:6], [np.pi, 0, 0]) < 1e-5
    assert second[0, 0, 6] == 0.5


def test_an_ensemble_of_one_chunk_executes_it():
    alone, ensemble = make_actor(), make_actor(temporal_ensemble=0.01)
    ensemble._inference = alone._inference
    observation = random_observation(np.random.default_rng(0), 2, 3)
    first = alone.act(observation, [alone.start(seed) for seed in range(2)])
    second = ensemble.act(observation, [ensemble.start(seed) for seed in range(2)])
    assert apart(first[..., 3:6], second[..., 3:6]) < 1e-5
    np.testing.assert_allclose(second[..., [0, 1, 2, 6]], first[..., [0, 1, 2, 6]], rtol=1e-6)


@pytest.mark.parametrize("format_", ["torch_export", "onnx"])
@pytest.mark.parametrize("rotation", [FOUR, QUATERNION], ids=["axis_angle", "quaternion"])
def test_an_exported_file_acts_as_the_policy(format_, rotation, tmp_path):
    if format_ == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime", reason="run by make test-export")
        pytest.importorskip("onnxscript", reason="run by make test-export")
    checkpoint = write_checkpoint(tmp_path / "checkpoint", dataclasses.replace(BC, **rotation))
    out = tmp_path / ("policy.onnx" if format_ == "onnx" else "policy.pt2")
    document = export_checkpoint(ExportConfig(checkpoint=str(checkpoint), out=str(out), format=format_))
    assert document["largest_difference"] <= document["tolerance"]
    assert document["outputs"][0]["shape"] == (1, BC.action_steps, 4)
    inputs = feed(BC.observation_steps)
    if format_ == "onnx":
        actions = onnxruntime.InferenceSession(out).run(None, inputs)[0]
    else:
        module = torch.export.load(out).module()
        actions = module(*[torch.from_numpy(inputs[port["name"]]) for port in document["inputs"]]).numpy()
    expected = eager(load_policy(checkpoint, CPU), inputs, torch.Generator())
    if rotation is QUATERNION:
        np.testing.assert_allclose(np.abs((actions * expected).sum(-1)), 1, atol=1e-4)
    else:
        assert apart(actions[..., :3], expected[..., :3]) < 1e-2
        np.testing.assert_allclose(actions[..., 3], expected[..., 3], atol=2e-3)


@pytest.mark.parametrize("name", [name if name == "bc" else pytest.param(name, marks=pytest.mark.slow) for name in FEW])
def test_every_kind_of_policy_leaves_with_its_rotations(name, tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", dataclasses.replace(FEW[name], **FOUR))
    config = ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "policy.pt2"), format="torch_export")
    assert export_checkpoint(config)["largest_difference"] <= 1e-3


def test_the_server_takes_and_gives_recorded_numbers(tmp_path):
    folder = write_checkpoint(tmp_path / "checkpoint", dataclasses.replace(BC, **FOUR))
    policy, encoder, checkpoint = load_policy(folder, CPU)
    runner = EpisodeRunner(policy, encoder, checkpoint, CPU)
    assert runner.info["action_width"] == 4
    episode, waiting = runner.reset({"seed": 0})
    request = runner.request(
        episode, waiting, {"observations": [make_observation(0)], "executed": np.zeros((0, 4), np.float32), "steps": 0}
    )
    (actions,) = runner.act([request])
    assert actions.shape == (BC.execute_steps, 4)
    second = runner.request(
        episode, [], {"observations": [make_observation(seed) for seed in (1, 2)], "executed": actions[-2:], "steps": 3}
    )
    assert np.isfinite(runner.act([second])[0]).all()

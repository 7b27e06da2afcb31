import dataclasses
import json
import sys
import types

import numpy as np
import pytest
import torch
from deployment_toys import BC, SIZE, make_observation, write_checkpoint
from policy_toys import SMALL
from snippets import snippet

from s2robot.checkpoint import load_policy
from s2robot.cli import main
from s2robot.config.deployment import ExportConfig
from s2robot.deployment import export as export_module
from s2robot.deployment.export import export_checkpoint
from s2robot.deployment.graph import EncoderGraph, ExportError, NoiseTape
from s2robot.interfaces import CheckpointError, ConfigError, Observation
from s2robot.policies.diffusion_unet import DiffusionUNetConfig

CPU = torch.device("cpu")
# A thousandth of the actions' range [-1, 1]. Features pass through float16, where those that differ in the last bit of
# float32 may become neighbours, 2⁻¹¹ apart.
TOLERANCE = 2e-3
DIFFUSION = DiffusionUNetConfig(
    action_steps=4, execute_steps=2, down_dims=[16], step_embedding=16, train_timesteps=3, inference_steps=3
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("export") / "bc")


@pytest.fixture(scope="module")
def loaded(checkpoint):
    return load_policy(checkpoint, CPU)


@pytest.fixture(scope="module")
def encoder_program(loaded):
    """The traced encoder; tracing takes seconds."""
    return export_module._trace(EncoderGraph(loaded[1], 1, (SIZE, SIZE)))


def feed(steps, seed=0):
    """Inputs of the graph by name, and the same as an observation of the policy, from what a robot sees."""
    seen = [make_observation(seed + step) for step in range(steps)]
    inputs = {
        f"{camera}_image": np.stack([step[f"{camera}_image"] for step in seen])[None]
        for camera in ("agentview", "wrist")
    }
    low_dim = np.stack([np.concatenate([step["position"], step["gripper"]]) for step in seen]).astype(np.float32)[None]
    past = np.random.default_rng(seed).uniform(-1, 1, (1, steps, 4)).astype(np.float32)
    return {**inputs, "proprioception": low_dim, "past_actions": past}


def eager(loaded, inputs, generator):
    """What the policy does, computed without the exported module."""
    policy, encoder, recorded = loaded
    rows = {
        camera: shape.flatten(encoder(torch.from_numpy(inputs[f"{camera}_image"][0]))).half()[None]
        for camera, shape in recorded.spec.features.items()
    }
    observation = Observation(
        rows, torch.from_numpy(inputs["proprioception"]), torch.from_numpy(inputs["past_actions"])
    )
    return policy.act(observation, [generator]).numpy()


def test_exported_program_acts_as_the_policy(checkpoint, loaded, tmp_path):
    out = tmp_path / "policy.pt2"
    document = export_checkpoint(ExportConfig(checkpoint=str(checkpoint), out=str(out), format="torch_export"))
    module = torch.export.load(out).module()
    inputs = feed(BC.observation_steps)
    names = [port["name"] for port in document["inputs"]]
    assert names == ["agentview_image", "wrist_image", "proprioception", "past_actions"]
    actions = module(*[torch.from_numpy(inputs[name]) for name in names]).numpy()
    expected = eager(loaded, inputs, torch.Generator())
    np.testing.assert_allclose(actions, expected, rtol=0, atol=TOLERANCE)
    assert json.loads((tmp_path / "policy.pt2.json").read_text())["inputs"][0]["shape"] == [1, 2, SIZE, SIZE, 3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["policy.pt2", "policy.pt2.json"]


@pytest.mark.parametrize("policy", [BC, DIFFUSION], ids=lambda policy: policy.name)
def test_onnx_acts_as_the_policy(policy, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="run by make test-export")
    pytest.importorskip("onnxscript", reason="run by make test-export")
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint", policy), tmp_path / "policy.onnx"
    document = export_checkpoint(ExportConfig(checkpoint=str(checkpoint), out=str(out)))
    assert document["largest_difference"] <= document["tolerance"]
    session = onnxruntime.InferenceSession(out)
    inputs = feed(policy.observation_steps)
    if policy is DIFFUSION:
        noise = next(port for port in document["inputs"] if port["name"] == "noise")
        # The first sample and one for each step but the last, in the order in which the policy draws them.
        assert noise["shape"] == (1, 3 * 4 * 4)
        generator = torch.Generator().manual_seed(7)
        parts = [torch.randn(4, 4, generator=generator), *(torch.randn(1, 4, 4, generator=generator) for _ in range(2))]
        inputs["noise"] = torch.cat([part.flatten() for part in parts])[None].numpy()
    code = snippet("deployment.md", "python", "onnxruntime").replace("outputs/lift.onnx", str(out))
    exec(code, names := {"inputs": inputs})
    actions = names["actions"]
    expected = eager(load_policy(checkpoint, CPU), inputs, torch.Generator().manual_seed(7))
    np.testing.assert_allclose(actions, expected, rtol=0, atol=TOLERANCE)
    if policy is DIFFUSION:  # other noise, another sample
        assert np.abs(session.run(["actions"], {**inputs, "noise": -inputs["noise"]})[0] - actions).max() > 1e-3


EVERY = {
    **SMALL,
    "diffusion_unet": dataclasses.replace(SMALL["diffusion_unet"], train_timesteps=4, inference_steps=4),
    "diffusion_transformer": dataclasses.replace(SMALL["diffusion_transformer"], train_timesteps=4, inference_steps=4),
    "ddim": dataclasses.replace(SMALL["diffusion_unet"], sampler="ddim", inference_steps=4),
    "dpm_solver": dataclasses.replace(SMALL["diffusion_unet"], sampler="dpm_solver", inference_steps=4),
}


def test_a_policy_that_remembers_its_demonstrations_leaves_with_them(tmp_path):
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint", SMALL["knn"]), tmp_path / "policy.pt2"
    config = ExportConfig(checkpoint=str(checkpoint), out=str(out), format="torch_export")
    assert export_checkpoint(config)["largest_difference"] <= 1e-3


@pytest.mark.parametrize("name", EVERY)
def test_every_policy_leaves_as_onnx(name, tmp_path):
    """The export itself compares the file, run by onnxruntime, with the policy on several examples."""
    pytest.importorskip("onnxruntime", reason="run by make test-export")
    pytest.importorskip("onnxscript", reason="run by make test-export")
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint", EVERY[name]), tmp_path / "policy.onnx"
    assert export_checkpoint(ExportConfig(checkpoint=str(checkpoint), out=str(out)))["largest_difference"] <= 1e-3


@pytest.mark.parametrize(
    "name", [name if name in ("bc-gmm", "bc_rnn") else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_every_policy_leaves_as_a_torch_program(name, tmp_path):
    checkpoint, out = write_checkpoint(tmp_path / "checkpoint", EVERY[name]), tmp_path / "policy.pt2"
    config = ExportConfig(checkpoint=str(checkpoint), out=str(out), format="torch_export")
    assert export_checkpoint(config)["largest_difference"] <= 1e-3


def test_onnx_encoder_gives_the_encoders_features_for_a_batch(checkpoint, loaded, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="run by make test-export")
    pytest.importorskip("onnxscript", reason="run by make test-export")
    out = tmp_path / "encoder.onnx"
    config = ExportConfig(checkpoint=str(checkpoint), out=str(out), part="encoder", batch=2, image_size=[96, 80])
    document = export_checkpoint(config)
    assert [port["name"] for port in document["outputs"]] == ["map"]
    image = np.random.default_rng(0).integers(0, 256, (2, 96, 80, 3), dtype=np.uint8)
    expected = loaded[1](torch.from_numpy(image)).map.numpy()
    features = onnxruntime.InferenceSession(out).run(None, {"image": image})[0]
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_a_file_that_differs_is_not_written(checkpoint, encoder_program, tmp_path, monkeypatch):
    write = export_module._write_torch

    def wrong(program, graph, path):
        run = write(program, graph, path)
        return lambda inputs: [output + 0.01 for output in run(inputs)]

    monkeypatch.setattr(export_module, "_trace", lambda graph: encoder_program)
    monkeypatch.setattr(export_module, "_write_torch", wrong)
    out = tmp_path / "encoder.pt2"
    config = ExportConfig(checkpoint=str(checkpoint), out=str(out), format="torch_export", part="encoder")
    with pytest.raises(ExportError, match="does not compute what the encoder computes"):
        export_checkpoint(config)
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_fails_is_one_error_and_leaves_no_file(checkpoint, encoder_program, tmp_path, monkeypatch):
    for name in ("onnxscript", "onnxruntime"):  # whether they are installed or not
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    def fail(*arguments, **options):
        raise RuntimeError("long report") from ValueError("\nno operator for aten.special\nmore")

    monkeypatch.setattr(export_module, "_trace", lambda graph: encoder_program)
    monkeypatch.setattr(torch.onnx, "export", fail)
    config = ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "encoder.onnx"), part="encoder")
    message = "EncoderGraph cannot be converted to ONNX: no operator for aten.special; format=torch_export needs no"
    with pytest.raises(ExportError, match=message):
        export_checkpoint(config)
    assert list(tmp_path.iterdir()) == []


def test_a_mixture_draws_its_mode_from_the_noise():
    probabilities = torch.tensor([0.2, 0.5, 0.3])
    generators = [torch.Generator().manual_seed(seed) for seed in range(200)]
    drawn = [torch.multinomial(probabilities, 1, generator=generator) for generator in generators]
    again = [torch.Generator().manual_seed(seed) for seed in range(200)]
    with NoiseTape(again) as tape:
        recorded = [torch.multinomial(probabilities, 1, generator=generator) for generator in again]
    assert recorded == drawn  # recording changes nothing
    assert {int(mode) for mode in drawn} == {0, 1, 2}
    with NoiseTape(generators, torch.stack([row[0] for row in tape.drawn])):
        assert [torch.multinomial(probabilities, 1, generator=generator) for generator in generators] == drawn
    noise = torch.special.ndtri((torch.arange(1000) + 0.5) / 1000)[:, None]  # every part of the distribution once
    many = [torch.Generator() for _ in noise]
    with NoiseTape(many, noise):
        modes = torch.cat([torch.multinomial(probabilities, 1, generator=generator) for generator in many])
    torch.testing.assert_close(modes.bincount() / len(modes), probabilities, atol=2e-3, rtol=0)


def test_other_draws_are_refused():
    generator = torch.Generator()
    with NoiseTape([generator]), pytest.raises(ExportError, match=r"draws with torch\.rand,"):
        torch.rand(3, generator=generator)


def test_the_tape_hands_noise_over_row_by_row():
    generators = [torch.Generator(), torch.Generator()]
    noise = torch.arange(12.0).reshape(2, 6)
    with NoiseTape(generators, noise):
        second = torch.randn(2, 2, generator=generators[1])
        first = torch.randn((4,), generator=generators[0])
        more = torch.randn((1, 2), generator=generators[1])
        other = torch.randn(3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(second, torch.tensor([[6.0, 7.0], [8.0, 9.0]]))
    torch.testing.assert_close(first, torch.arange(4.0))
    torch.testing.assert_close(more, torch.tensor([[10.0, 11.0]]))
    torch.testing.assert_close(other, torch.randn(3, generator=torch.Generator().manual_seed(0)))


def test_the_image_size_must_be_known(tmp_path):
    checkpoint = write_checkpoint(tmp_path / "checkpoint", environment={})
    with pytest.raises(CheckpointError, match="records no image size; give image_size"):
        export_checkpoint(ExportConfig(checkpoint=str(checkpoint), out=str(tmp_path / "x.onnx")))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"format": "tflite"}, "onnx, torch_export"), ({"part": "head"}, "policy, encoder"), ({"batch": 0}, "1 or more")],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExportConfig(checkpoint="c", out="o", **settings)


def test_the_command_says_what_goes_in_and_out(checkpoint, encoder_program, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export_module, "_trace", lambda graph: encoder_program)
    out = tmp_path / "encoder.pt2"
    assert main(["export", f"checkpoint={checkpoint}", f"out={out}", "format=torch_export", "part=encoder"]) == 0
    text = capsys.readouterr().out
    assert "matches PyTorch to within" in text
    assert "image" in text
    assert out.exists()

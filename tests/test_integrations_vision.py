"""The frozen encoder that robomimic, diffusion_policy, LeRobot and Stable-Baselines3 are given."""

import contextlib

import pytest
import torch

import s2robot.encoder
from s2robot import S2Encoder
from s2robot.config import EncoderConfig
from s2robot.encoder.engines import make_engine
from s2robot.integrations.shared import SharedEncoder
from s2robot.integrations.vision import FrozenEncoder, shared_encoder
from s2robot.interfaces import ConfigError, EncoderError

SIZE = 64
SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "scales": [32, 64]}
# A device that every machine has, and that is not the CPU: it stands in for a GPU, which these tests do without.
ELSEWHERE = torch.device("meta")


@pytest.fixture(autouse=True)
def _no_autocast(monkeypatch):
    """Autocast, which `FrozenEncoder` switches off, does not know the meta device."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())


def images(batch=1, size=SIZE, device="cpu"):
    return torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8).to(device)


def frozen(**settings):
    return FrozenEncoder({"front": (SIZE, SIZE)}, SharedEncoder(**SETTINGS, **settings))


def test_the_encoder_follows_the_images_whatever_device_its_settings_name():
    encoder = frozen(device="cuda")  # as in an agent that was saved on a machine that has one
    assert encoder({"front": images()})["front"].map.device.type == "cpu"
    assert encoder({"front": images(device=ELSEWHERE)})["front"].map.device == ELSEWHERE
    there = encoder.encoder
    encoder({"front": images()})
    encoder({"front": images(device=ELSEWHERE)})
    assert encoder.encoder is there


def test_all_users_of_one_encoder_find_it_on_their_device():
    shared = SharedEncoder(**SETTINGS)
    first, second = (FrozenEncoder({"front": (SIZE, SIZE)}, shared) for _ in range(2))
    for device in ("cpu", ELSEWHERE):
        for encoder in (first, second):
            encoder({"front": images(device=device)})
        assert first.encoder is second.encoder
    assert first.encoder is not shared.encoder


def test_an_encoder_on_another_device_is_still_the_one_that_was_saved():
    shared = SharedEncoder(**SETTINGS)
    shared.__setstate__({**shared.__getstate__(), "_fingerprint": "0" * 64})
    with pytest.raises(ConfigError, match="saved with encoder 000000000000"):
        _ = shared.on(ELSEWHERE).encoder


def test_an_encoder_that_was_passed_as_an_object_cannot_follow():
    encoder = FrozenEncoder({"front": (SIZE, SIZE)}, SharedEncoder.of(S2Encoder(**SETTINGS)))
    assert encoder({"front": images()})["front"].map.device.type == "cpu"
    with pytest.raises(
        ConfigError, match="images are on meta, but the S2Encoder that was passed as an object is on cpu"
    ):
        encoder({"front": images(device=ELSEWHERE)})


def test_cuda_graphs_are_asked_for_where_the_images_are_and_not_before(monkeypatch):
    asked = []

    def record(name, backbone, precision, channels_last, device):
        asked.append((name, device.type))
        if device == ELSEWHERE:
            name = "eager"
        return make_engine(name, backbone, precision, channels_last, device)

    monkeypatch.setattr(s2robot.encoder.encoder, "make_engine", record)
    config = EncoderConfig(**SETTINGS, engine="cuda_graph")
    encoder = FrozenEncoder({"front": (SIZE, SIZE)}, shared_encoder(config))
    plain = frozen()
    assert encoder.shapes == plain.shapes
    assert torch.equal(encoder.fingerprint, plain.fingerprint)
    assert ("cuda_graph", "cpu") not in asked
    with pytest.raises(ConfigError, match="engine 'cuda_graph' needs a CUDA device, not 'cpu'"):
        encoder({"front": images()})
    encoder({"front": images(device=ELSEWHERE)})
    assert asked[-1] == ("cuda_graph", "meta")


def test_an_engine_of_the_cpu_is_the_one_that_encodes(monkeypatch):
    pytest.importorskip("openvino", reason="an optional engine")
    asked = []
    monkeypatch.setattr(
        s2robot.encoder.encoder, "make_engine", lambda *given: asked.append(given[0]) or make_engine(*given)
    )
    frozen(engine="openvino")({"front": images()})
    assert asked == ["openvino"]


def test_images_of_another_size_than_announced_are_refused():
    with pytest.raises(EncoderError, match="images of 'front' have 48x48 pixels, but the encoder was set up for 64x64"):
        frozen()({"front": images(size=48)})


def test_cameras_with_different_numbers_of_images_are_encoded():
    shared = SharedEncoder(**SETTINGS)
    encoder = FrozenEncoder({"front": (SIZE, SIZE), "wrist": (SIZE, SIZE)}, shared)
    stacked, single = images(4), images(2)
    features = encoder({"front": stacked, "wrist": single})
    for camera, pictures in (("front", stacked), ("wrist", single)):
        expected = shared.encoder(pictures).map
        # Batches of other sizes are added up in another order.
        atol = 1e-5 * float(expected.abs().max())
        torch.testing.assert_close(features[camera].map, expected, rtol=1e-4, atol=atol)

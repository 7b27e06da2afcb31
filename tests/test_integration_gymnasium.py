import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from pictures import SIZE, Pictures
from snippets import snippet

from s2robot import S2Encoder
from s2robot.integrations.gymnasium import EncodeObservation, VectorEncodeObservation
from s2robot.integrations.shared import SharedEncoder
from s2robot.interfaces import ConfigError, EncoderError

SETTINGS = {"backbone": "test_efficientnet", "weights": "none", "scales": (32, 64)}


@pytest.fixture(scope="module")
def encoder():
    return S2Encoder(**SETTINGS)


def assert_close(seen, expected):
    """The same features; batches of other sizes are added up in another order."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("layout", ["dict", "image"])
@pytest.mark.parametrize("output", ["mean", "map", "rows"])
def test_wrapped_environment_passes_gymnasiums_own_check(encoder, layout, output):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about infinite bounds, and that it is wrapped
        check_env(EncodeObservation(Pictures(layout), encoder, output), skip_render_check=True)


def test_features_are_those_of_the_encoder_and_the_rest_stays(encoder):
    plain, _ = Pictures().reset(seed=3)
    seen, _ = EncodeObservation(Pictures(), encoder, "map").reset(seed=3)
    for key in ("front", "wrist"):
        expected = encoder(torch.from_numpy(plain[key])[None]).map[0]
        assert_close(seen[key], expected)
        assert seen[key].std() > 0
    np.testing.assert_array_equal(seen["position"], plain["position"])


def test_packed_rows_unpack_to_map_and_prefix_tokens():
    encoder = S2Encoder("test_vit", weights="none", scales=(64, 128))
    env = EncodeObservation(Pictures("image"), encoder, "rows")
    rows = torch.from_numpy(env.reset(seed=0)[0])[None]
    features = encoder.feature_shape(SIZE, SIZE).unflatten(rows)
    expected = encoder(torch.from_numpy(Pictures("image").reset(seed=0)[0])[None])
    assert_close(features.map, expected.map)
    assert_close(features.prefix, expected.prefix)
    cls = EncodeObservation(Pictures("image"), encoder, "cls").reset(seed=0)[0]
    assert_close(cls, expected.prefix[0, 0])


def test_stacked_steps_stay_in_front(encoder):
    env = EncodeObservation(Pictures("image", steps=(2,)), encoder)
    assert env.observation_space.shape == (2, 128)
    assert env.observation_space.contains(env.reset(seed=0)[0])


def test_cameras_may_stack_different_numbers_of_steps(encoder):
    plain, _ = Pictures("uneven").reset(seed=0)
    env = EncodeObservation(Pictures("uneven"), encoder, "map")
    seen, _ = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    for key, images in (("front", plain["front"]), ("wrist", plain["wrist"][None])):
        expected = encoder(torch.from_numpy(images)).map
        assert_close(seen[key].reshape(expected.shape), expected)


def test_encoding_environments_work_in_forked_processes():
    script = str(Path(__file__).with_name("forked_cameras.py"))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        printed, _ = process.communicate(timeout=600)
    finally:
        with contextlib.suppress(ProcessLookupError):  # the children too, which wait for ever where they hang
            os.killpg(process.pid, signal.SIGKILL)
    assert printed.strip() == "(2, 128)"


# Not forked, as is gymnasium's default: this process has threads by now.
@pytest.mark.parametrize("vector_class", [SyncVectorEnv, functools.partial(AsyncVectorEnv, context="forkserver")])
def test_vector_environments_are_encoded_in_one_call_and_equal_single_ones(vector_class, monkeypatch):
    encoder, calls = S2Encoder(**SETTINGS), []
    encode_cameras = encoder.encode_cameras
    monkeypatch.setattr(encoder, "encode_cameras", lambda images: calls.append(1) or encode_cameras(images))
    envs = VectorEncodeObservation(vector_class([Pictures] * 3), encoder)
    try:
        seen, _ = envs.reset(seed=[0, 1, 2])
        assert len(calls) == 1
        assert envs.observation_space.contains(seen)
        assert envs.single_observation_space["front"].shape == (128,)
        for index in range(3):
            single, _ = EncodeObservation(Pictures(), S2Encoder(**SETTINGS)).reset(seed=index)
            assert_close(seen["front"][index], single["front"])
        seen, *_ = envs.step(envs.action_space.sample())
        assert envs.observation_space.contains(seen)
    finally:
        envs.close()


def test_only_the_keys_asked_for_are_encoded(encoder):
    env = EncodeObservation(Pictures(), encoder, keys=["wrist"])
    assert env.observation_space["front"].shape == (SIZE, SIZE, 3)
    assert env.observation_space["wrist"].shape == (128,)


@pytest.mark.parametrize(
    ("layout", "settings", "message"),
    [
        ("vector", {}, "no uint8 images"),
        ("dict", {"keys": ["frnt"]}, "unknown observation key 'frnt'; did you mean 'front'"),
        ("dict", {"keys": ["position"]}, "'position' is Box.*not images"),
        ("dict", {"output": "men"}, "unknown output 'men'; did you mean 'mean'"),
        ("dict", {"output": "cls"}, "needs a backbone with a CLS token"),
    ],
)
def test_what_cannot_be_encoded_is_refused(encoder, layout, settings, message):
    with pytest.raises(ConfigError, match=message):
        EncodeObservation(Pictures(layout), encoder, **settings)


def test_an_environment_that_breaks_its_word_is_refused(encoder):
    env = EncodeObservation(Pictures("image"), encoder)
    with pytest.raises(EncoderError, match="does not hold images of 64x64 pixels"):
        env.observation(np.zeros((32, 32, 3), np.uint8))


def test_settings_are_as_good_as_an_encoder(encoder):
    seen, _ = EncodeObservation(Pictures("image"), SETTINGS).reset(seed=0)
    expected, _ = EncodeObservation(Pictures("image"), encoder).reset(seed=0)
    assert_close(seen, expected)


def test_shared_encoder_is_pickled_as_its_settings():
    shared = SharedEncoder(**SETTINGS)
    images = {"a": torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8)}
    expected = shared(images)["a"].map
    data = pickle.dumps(shared)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert again == shared
    assert_close(again(images)["a"].map, expected)


def test_shared_encoder_refuses_to_become_another_one():
    shared = SharedEncoder(**SETTINGS)
    assert shared.encoder.scales == (32, 64)
    other = SharedEncoder()
    other.__dict__.update({**shared.__getstate__(), "settings": {**SETTINGS, "scales": (32,)}})
    with pytest.raises(ConfigError, match="saved with encoder"):
        _ = other.encoder


def test_an_encoder_passed_as_an_object_is_not_pickled(encoder):
    with pytest.raises(ConfigError, match="pass its settings"):
        pickle.dumps(SharedEncoder.of(encoder))


@pytest.mark.parametrize(("given", "message"), [(3, "give a SharedEncoder"), ({"scale": (32,)}, "scale")])
def test_what_is_no_encoder_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        EncodeObservation(Pictures("image"), given)


def test_the_documented_snippet_encodes():
    names = {"env": Pictures("image")}
    exec(snippet("integrations.md", "python", "EncodeObservation"), names)
    assert names["observation"].shape == (640,)

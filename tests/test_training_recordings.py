"""Trainings on recordings of other make: names, sizes and values that our own simulator does not give."""

import h5py
import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers import make_episode
from training_runs import make_config, make_encoder

from s2robot.checkpoint import load_checkpoint, load_policy
from s2robot.config.deployment import ExportConfig
from s2robot.data import RobomimicWriter
from s2robot.deployment.episode_runner import EpisodeRunner, RequestError
from s2robot.deployment.export import _image_sizes
from s2robot.deployment.graph import PolicyGraph
from s2robot.interfaces import DatasetError, RolloutError
from s2robot.rollout.spaces import check_spaces
from s2robot.training import train
from s2robot.training.windows import split_episodes

CPU = torch.device("cpu")
COUNT = 5


@pytest.fixture(scope="module")
def encoder():
    return make_encoder()


def record(folder, change):
    """Five demonstrations, each changed by `change(index, episode)`."""
    with RobomimicWriter(folder / "demos.hdf5", {"env_name": "Toy", "type": 1, "env_kwargs": {}}) as writer:
        for index in range(COUNT):
            episode = make_episode(30, index)
            change(index, episode)
            writer.add(episode)


def run(folder, encoder):
    return train(make_config(folder, folder / "run", training={"epochs": 1}), encoder)


def test_cameras_may_have_dots_in_their_names(tmp_path, encoder):
    def rename(index, episode):
        episode.images = dict(zip(("eyes.left", "eyes%2Eleft"), episode.images.values(), strict=True))

    record(tmp_path, rename)
    policy, _, checkpoint = load_policy(run(tmp_path, encoder), CPU)
    assert list(checkpoint.spec.features) == ["eyes%2Eleft", "eyes.left"]
    assert len(policy.observation.readouts) == 2


def test_normalisation_knows_nothing_of_held_out_demonstrations(tmp_path, encoder):
    _, (held_out,) = split_episodes(COUNT, 0.2)

    def stretch(index, episode):
        if index == held_out:
            episode.actions = episode.actions * 100
            episode.proprioception = {key: values + 100 for key, values in episode.proprioception.items()}

    record(tmp_path, stretch)
    policy, _, _ = load_policy(run(tmp_path, encoder), CPU)
    assert policy.actions.maximum.max() <= 1
    assert policy.observation.proprioception.mean.abs().max() < 1


def test_proprioception_of_another_width_names_demonstration_and_key(tmp_path, encoder):
    def widen(index, episode):
        if index == 3:  # together as wide as the others
            episode.proprioception = {
                "position": np.zeros((30, 2), np.float32),
                "extra": np.zeros((30, 3), np.float32),
            }

    record(tmp_path, widen)
    with pytest.raises(DatasetError, match=r"demo_3: observation 'extra' is 3 wide, but in demo_0 it is 2 wide"):
        run(tmp_path, encoder)


@pytest.fixture(scope="module")
def oblong(tmp_path_factory, encoder):
    """A policy trained on images of 32 x 48 pixels, and one observation of it."""
    folder = tmp_path_factory.mktemp("oblong")

    def reshape(index, episode):
        episode.images = {"front": np.full((30, 32, 48, 3), index, np.uint8)}

    record(folder, reshape)
    return run(folder, encoder)


def test_both_sides_of_an_oblong_image_are_recorded_and_expected_of_an_exported_policy(oblong):
    policy, encoder, checkpoint = load_policy(oblong, CPU)
    assert checkpoint.environment["image_size"] == {"front": {"height": 32, "width": 48}}
    sizes = _image_sizes(ExportConfig(checkpoint=str(oblong), out="policy.pt2"), checkpoint)
    graph = PolicyGraph(policy, encoder, checkpoint, batch=1, sizes=sizes)
    (images,) = [port for port in graph.inputs if port.name == "front_image"]
    assert images.shape[2:] == (32, 48, 3)
    assert graph.example(0)[1][0].shape[0] == 1  # it runs on them


def test_images_of_another_size_than_the_recorded_one_are_refused(oblong):
    policy, encoder, checkpoint = load_policy(oblong, CPU)
    seen = {
        "position": spaces.Box(-1, 1, (1, 3)),
        "extra": spaces.Box(-1, 1, (1, 2)),
        "front_image": spaces.Box(0, 255, (1, 32, 32, 3), np.uint8),
    }
    actions = spaces.Box(-1, 1, (4, 4))
    with pytest.raises(RolloutError, match="32 x 32 pixels, but the policy was trained on 32 x 48: .* differ$"):
        check_spaces(checkpoint, encoder, 4, seen, actions)
    check_spaces(checkpoint, encoder, 4, {**seen, "front_image": spaces.Box(0, 255, (1, 32, 48, 3), np.uint8)}, actions)
    runner = EpisodeRunner(policy, encoder, checkpoint, CPU)
    step = {"position": np.zeros(3, np.float32), "extra": np.zeros(2, np.float32)}

    def show(height, width):
        image = np.zeros((height, width, 3), np.uint8)
        return runner.reset({"seed": 0, "observations": [{**step, "front_image": image}]})

    show(32, 48)
    with pytest.raises(RequestError, match="front_image is 64x96 pixels; the policy was trained on 32x48"):
        show(64, 96)


def test_where_the_objects_are_is_seen_only_where_it_is_asked_for(tmp_path, encoder):
    def place(index, episode):
        episode.proprioception = {**episode.proprioception, "object": np.zeros((30, 10), np.float32)}

    record(tmp_path, place)
    assert load_checkpoint(run(tmp_path, encoder))[0].proprioception == ["extra", "position"]
    asked = make_config(tmp_path, tmp_path / "asked", training={"epochs": 1}, proprioception=["object"])
    assert load_checkpoint(train(asked, encoder))[0].proprioception == ["object"]


def test_scales_beyond_the_images_are_warned_about(tmp_path, encoder, caplog):
    record(tmp_path, lambda index, episode: None)
    run(tmp_path, encoder)
    assert "camera agentview: images of 16 x 16 pixels are enlarged to 64, which adds no detail" in caplog.text
    caplog.clear()

    def enlarge(index, episode):
        episode.images = {"front": np.zeros((30, 64, 64, 3), np.uint8)}

    (tmp_path / "large").mkdir()
    record(tmp_path / "large", enlarge)
    run(tmp_path / "large", encoder)
    assert "enlarged" not in caplog.text


def test_training_names_once_what_the_policy_does_not_see(tmp_path, encoder, caplog):
    def add(index, episode):
        episode.proprioception = {**episode.proprioception, "cube_pos": np.zeros((30, 3), np.float32)}

    record(tmp_path, add)
    assert load_checkpoint(run(tmp_path, encoder))[0].proprioception == ["extra", "position"]
    told = [record.getMessage() for record in caplog.records if "cube_pos" in record.getMessage()]
    assert len(told) == 1
    assert "a policy does not see cube_pos (it is the state of an object" in told[0]


def test_discrete_actions_are_refused_before_anything_is_trained(tmp_path, encoder):
    record(tmp_path, lambda index, episode: None)
    with h5py.File(tmp_path / "demos.hdf5", "r+") as file:
        for demo in file["data"].values():
            shape = demo["actions"].shape
            del demo["actions"]
            demo["actions"] = np.zeros(shape, np.int64)
    with pytest.raises(DatasetError, match=r"the actions are discrete \(they are stored as integers from 0 to 0\)"):
        run(tmp_path, encoder)

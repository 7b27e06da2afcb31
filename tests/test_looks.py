"""Training and evaluation see the same pictures, unless someone asks for others."""

import json

import h5py
import pytest
from helpers import make_episode
from rollout_toys import make_checkpoint

from s2robot.checkpoint import save_checkpoint
from s2robot.config import EvaluateConfig, TrainConfig
from s2robot.data import RobomimicWriter, open_dataset
from s2robot.data.appearance import check_look, evaluation_environment, look_of
from s2robot.evaluation import evaluate
from s2robot.interfaces import ConfigError, DatasetError
from s2robot.policies.bc import BCConfig
from s2robot.training import prepare

FAST = {"task": "Lift", "render_profile": "fast", "variant": {"distractors": 3}}


@pytest.fixture
def path(tmp_path):
    with RobomimicWriter(tmp_path / "demos.hdf5", {"env_name": "Lift", "type": 1, "s2robot": FAST}) as writer:
        for seed in range(3):
            episode = make_episode(5, seed)
            episode.attributes["look"] = look_of(FAST)
            writer.add(episode)
    return tmp_path / "demos.hdf5"


@pytest.mark.parametrize("asked", [None, "fast"])
def test_pictures_of_one_look_are_accepted(path, asked):
    with open_dataset(path) as dataset:
        check_look(dataset, asked)


@pytest.mark.parametrize(
    "other", [{"render_profile": "full", "variant": {"distractors": 3}}, {"render_profile": "fast", "variant": {}}]
)
def test_a_dataset_of_mixed_looks_is_refused(path, other):
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["look"] = json.dumps(other)
    with pytest.raises(DatasetError, match=r"demos.hdf5', demo_1: its images have the look .*with one look"):
        prepare(TrainConfig(dataset=str(path), output="", policy=BCConfig()), None)


def test_training_refuses_another_profile_than_asked_for(path):
    config = TrainConfig(dataset=str(path), output="", policy=BCConfig(), render_profile="full")
    with pytest.raises(DatasetError, match=r"profile 'fast', but 'full' was requested; make it with `s2robot render"):
        prepare(config, None)


def test_evaluation_takes_place_where_the_demonstrations_did():
    assert evaluation_environment(FAST) == (FAST, {})
    assert evaluation_environment(FAST, render_profile="fast", variant={"distractors": 3}) == (FAST, {})
    without = {"task": "Lift", "render_profile": "fast"}
    assert evaluation_environment(without, variant={}) == (without, {})


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"render_profile": "full"}, r"render_profile='full', but it was trained on 'fast'"),
        ({"variant": {}}, r"variant=\{\}, but it was trained on \{'distractors': 3\}"),
    ],
)
def test_another_look_is_refused_unless_it_is_asked_for_and_then_recorded(asked, message):
    with pytest.raises(ConfigError, match=message + "; to evaluate that on purpose, give allow_mismatch=true"):
        evaluation_environment(FAST, **asked)
    environment, mismatch = evaluation_environment(FAST, **asked, allow_mismatch=True)
    name, value = next(iter(asked.items()))
    assert environment == {**FAST, name: value}
    assert mismatch == {name: {"trained_on": FAST[name], "evaluated_on": value}}


def test_evaluation_of_a_checkpoint_in_another_profile_is_refused_unless_asked_for(tmp_path):
    checkpoint, _, policy = make_checkpoint("bc")
    checkpoint.environment["render_profile"] = "fast"
    save_checkpoint(tmp_path / "checkpoint", policy.state_dict(), checkpoint)

    def make_vector_env(**kwargs):
        raise KeyError(kwargs["render_profile"])  # far enough: it would look through these pictures

    settings = {"checkpoint": str(tmp_path / "checkpoint"), "episodes": 1, "device": "cpu", "render_profile": "full"}
    with pytest.raises(ConfigError, match="render_profile='full', but it was trained on 'fast'"):
        evaluate(EvaluateConfig(**settings), make_vector_env, 1)
    with pytest.raises(KeyError, match="full"):
        evaluate(EvaluateConfig(**settings, allow_mismatch=True), make_vector_env, 1)


def test_what_drew_the_demonstrations_is_found_as_far_as_they_say(path):
    with open_dataset(path) as dataset:
        assert check_look(dataset) == []
    with h5py.File(path, "r+") as file:
        for demo, renderer in zip(("demo_0", "demo_2"), ("b", "a"), strict=True):
            file[f"data/{demo}"].attrs["renderer"] = renderer
    with open_dataset(path) as dataset:
        assert check_look(dataset) == ["a", "b"]

import contextlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import make_episode

from s2robot.cli import main
from s2robot.data import RobomimicWriter, open_dataset
from s2robot.data.appearance import check_look
from s2robot.data.rerender import Drift, find_drifts, render_dataset
from s2robot.interfaces import DatasetError
from s2robot_envs import make_env

OLD = Path(__file__).parent / "data" / "robosuite_1_4_lift.hdf5"


@pytest.fixture
def path(tmp_path):
    with RobomimicWriter(tmp_path / "demos.hdf5", {"env_name": "Lift"}, fps=50) as writer:
        for seed, length in enumerate((4, 6, 3)):
            episode = make_episode(length, seed)
            episode.states = np.random.default_rng(seed).normal(size=(length, 5))
            writer.add(episode)
    return tmp_path / "demos.hdf5"


def shifted_by(offset):
    """A simulator that sees the first state entry as grey, and the position `offset` off from step 2 on."""

    def replay(episodes):
        for _name, _states, episode in episodes:
            seed = episode.attributes["seed"]
            position = make_episode(len(episode), seed).proprioception["position"].copy()
            position[2:] += offset
            grey = (episode.states[:, :1, None, None] * 20 + 128).astype(np.uint8)
            yield {
                "images": {"front": np.broadcast_to(grey, (len(episode), 24, 24, 3))},
                "proprioception": {"position": position},
            }

    return replay


def test_everything_but_the_observations_is_copied(path, tmp_path):
    with open_dataset(path) as source:
        assert render_dataset(source, tmp_path / "new.hdf5", {"env_name": "Lift"}, shifted_by(0)) == []
        with open_dataset(tmp_path / "new.hdf5") as rendered:
            assert rendered.cameras == ["front"]
            assert rendered.image_size("front") == (24, 24)
            assert (rendered.proprioception, rendered.fps) == (source.proprioception, 50)
            for index in range(3):
                before, after = source.episode(index), rendered.episode(index)
                for name in ("actions", "states"):
                    np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
                assert after.attributes == {**before.attributes, "drifts": "[]"}
                expected = (before.states[:, 0] * 20 + 128).astype(np.uint8)
                np.testing.assert_array_equal(after.images["front"][:, 3, 3, 1], expected)


def test_drift_names_demonstration_observation_and_step(path, tmp_path):
    with open_dataset(path) as source:
        drifts = render_dataset(source, tmp_path / "new.hdf5", {}, shifted_by(0.25))
    assert [(drift.demo, drift.key, drift.step) for drift in drifts] == [(f"demo_{i}", "position", 2) for i in range(3)]
    assert str(drifts[0]) == "demo_0: position drifts from step 2 on, by up to 0.25"


def test_a_quaternion_equals_its_negative():
    quaternion = np.array([[0.5, 0.5, 0.5, 0.5]])
    assert find_drifts("demo_0", {"hand_quat": quaternion}, {"hand_quat": -quaternion}, 1e-6) == []
    assert find_drifts("demo_0", {"hand": quaternion}, {"hand": -quaternion}, 1e-6) == [Drift("demo_0", "hand", 0, 1.0)]


def test_source_is_never_written_to(path):
    before = path.read_bytes()
    with open_dataset(path) as source, pytest.raises(DatasetError, match="is the source dataset"):
        render_dataset(source, path.parent / "." / path.name, {}, shifted_by(0))
    assert path.read_bytes() == before


def test_interrupted_run_goes_on_with_the_same_source_only(path, tmp_path):
    calls = []

    def interrupted(episodes):
        yield next(shifted_by(0.25)(episodes))
        raise KeyboardInterrupt

    def counting(episodes):
        for replayed in shifted_by(0.25)(episodes):
            calls.append(replayed)
            yield replayed

    with open_dataset(path) as source:
        for expected_calls in (2, 3):  # the second time, the source has changed
            with pytest.raises(KeyboardInterrupt):
                render_dataset(source, tmp_path / "new.hdf5", {}, interrupted)
            if expected_calls == 3:
                source._fingerprint = "changed"
            calls.clear()
            assert len(render_dataset(source, tmp_path / "new.hdf5", {}, counting)) == 3
            assert len(calls) == expected_calls


def test_missing_states_are_one_clear_error_and_leave_no_file(path, tmp_path):
    with h5py.File(path, "r+") as file:
        del file["data/demo_0/states"]
    with open_dataset(path) as source, pytest.raises(DatasetError, match="demo_0: field 'states' is missing"):
        render_dataset(source, tmp_path / "new.hdf5", {}, shifted_by(0))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.sim
def test_command_renders_states_of_robosuite_1_4(tmp_path, capsys):
    out = tmp_path / "new.hdf5"
    assert main(["render", f"dataset={OLD}", f"out={out}", "size=48", "cameras=[frontview]", "workers=1"]) == 0
    assert "drifts" not in capsys.readouterr().out
    with open_dataset(out) as rendered, open_dataset(OLD) as source:
        assert rendered.image_size("frontview") == (48, 48)
        assert rendered.env_args["s2robot"]["task"] == "Lift"
        assert "object" in rendered.proprioception
        np.testing.assert_array_equal(rendered.episode(1).states, source.episode(1).states)


def changed(tmp_path, **kwargs):
    """The recording of robosuite 1.4 as if it had been made with other arguments of `robosuite.make`."""
    path = tmp_path / "changed.hdf5"
    path.write_bytes(OLD.read_bytes())
    with h5py.File(path, "r+") as file:
        env_args = json.loads(file["data"].attrs["env_args"])
        controller = {**env_args["env_kwargs"]["controller_configs"], **kwargs.pop("controller", {})}
        env_args["env_kwargs"] |= {"controller_configs": controller, **kwargs}
        file["data"].attrs["env_args"] = json.dumps(env_args)
    return path


@pytest.mark.sim
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"controller": {"type": "IK_POSE"}}, "IK_POSE of robosuite 1.4 differs from IK_POSE of robosuite 1.5"),
        ({"controller": {"type": "NONSENSE"}}, "controller 'NONSENSE' is not a controller of robosuite 1.5"),
        (
            {"controller": {"type": "JOINT_POSITION", "output_max": 0.05, "output_min": -0.05}},
            "action: recorded 7, here 8",
        ),
        ({"robots": ["Kawasaki"]}, "unknown robot 'Kawasaki'. Choices: Baxter, "),
        ({"gripper_types": "Claw"}, "robosuite cannot make Lift with {'robosuite': {'gripper_types': 'Claw'}}"),
        ({"gravity": 0}, "robosuite cannot make Lift with {'robosuite': {'gravity': 0}}"),
    ],
)
def test_what_robosuite_cannot_make_as_recorded_is_refused(tmp_path, capsys, kwargs, message):
    path = changed(tmp_path, **kwargs)
    assert main(["render", f"dataset={path}", f"out={tmp_path}/new.hdf5", "size=32", "workers=1"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "new.hdf5").exists()


@pytest.mark.sim
def test_rendering_keeps_the_recorded_environment_and_adds_cameras(tmp_path):
    out = tmp_path / "new.hdf5"
    assert main(["render", f"dataset={OLD}", f"out={out}", "size=32", "cameras=[agentview]", "workers=1"]) == 0
    with open_dataset(out) as rendered, open_dataset(OLD) as source:
        before, after = source.env_args, rendered.env_args
    assert (after["env_version"], after["env_kwargs"]["camera_names"]) == ("1.4.1", ["agentview"])
    for name in ("robots", "controller_configs", "control_freq"):
        assert after["env_kwargs"][name] == before["env_kwargs"][name]


@pytest.mark.sim
def test_the_control_frequency_of_robosuites_own_recordings_is_told_by_their_states(tmp_path, capsys):
    path = changed(tmp_path, env_name="Lift")
    with h5py.File(path, "r+") as file:
        kwargs = json.loads(file["data"].attrs["env_args"])["env_kwargs"]
        del file["data"].attrs["env_args"]
        file["data"].attrs.update(
            env="Lift",
            repository_version="1.4.1",
            env_info=json.dumps({name: kwargs[name] for name in ("env_name", "robots", "controller_configs")}),
        )
    words = [f"dataset={path}", "size=32", "cameras=[agentview]", "workers=1"]
    assert main(["render", *words, f"out={tmp_path}/new.hdf5"]) == 0
    assert "control_freq is not recorded; the states are 0.05 s apart, so 20 is assumed" in capsys.readouterr().err
    with open_dataset(tmp_path / "new.hdf5") as rendered:
        assert rendered.fps == rendered.env_args["env_kwargs"]["control_freq"] == 20
        assert "env_name" not in rendered.env_args["env_kwargs"]
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo["states"][:, 0] *= 2
    assert main(["render", *words, f"out={tmp_path}/slow.hdf5"]) == 0
    with open_dataset(tmp_path / "slow.hdf5") as rendered:
        assert rendered.fps == rendered.env_args["s2robot"]["control_freq"] == 10


@pytest.mark.parametrize(
    ("env_args", "words", "message"),
    [
        ({}, [], "records no environment"),
        ({"env_name": "Lfit"}, [], "unknown task of robosuite 'Lfit'; did you mean 'Lift'"),
        pytest.param({"env_name": "Lift"}, ["cameras=[frnt]"], "unknown camera of Lift 'frnt'", marks=pytest.mark.sim),
        ({"env_name": "Lift"}, ["size=8"], "size=8 is not possible"),
        pytest.param(
            {"env_name": "Lift"},
            ["workers=1", "size=32"],
            "demo_0 has neither a seed nor a model_file",
            marks=pytest.mark.sim,
        ),
    ],
)
def test_wrong_words_and_datasets_are_one_clear_error(tmp_path, capsys, env_args, words, message):
    with RobomimicWriter(tmp_path / "demos.hdf5", env_args) as writer:
        episode = make_episode(4, 0)
        episode.states, episode.actions = np.zeros((4, 32)), np.zeros((4, 7), np.float32)
        writer.add(episode)
    assert main(["render", f"dataset={tmp_path}/demos.hdf5", f"out={tmp_path}/new.hdf5", *words]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["demos.hdf5"]


def test_existing_output_is_kept_unless_asked(path, capsys):
    assert main(["render", "dataset=anything.hdf5", f"out={path}"]) == 2
    assert "exists; give overwrite=true" in capsys.readouterr().err


@pytest.mark.parametrize("renderer", ["llvmpipe", None])
def test_what_drew_the_source_is_not_taken_over(path, tmp_path, renderer):
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            demo.attrs["renderer"] = "NVIDIA"

    def replay(episodes):
        for replayed in shifted_by(0)(episodes):
            yield {**replayed, "renderer": renderer}

    with open_dataset(path) as source:
        render_dataset(source, tmp_path / "new.hdf5", {"env_name": "Lift"}, replay)
    with open_dataset(tmp_path / "new.hdf5") as rendered:
        assert {rendered.episode(index).attributes.get("renderer") for index in range(3)} == {renderer}


@pytest.mark.sim
def test_collected_and_rendered_demonstrations_name_what_drew_them(tmp_path):
    collected, rendered = tmp_path / "demos.hdf5", tmp_path / "small.hdf5"
    words = ["task=Lift", "num=1", "size=32", "workers=1", "cameras=[agentview]"]
    assert main(["collect", *words, f"out={collected}"]) == 0
    assert main(["render", f"dataset={collected}", f"out={rendered}", "size=16", "workers=1"]) == 0
    with contextlib.closing(make_env("Lift", cameras=("agentview",), image_size=16)) as env:
        env.reset(seed=0)
        for path in (collected, rendered):
            with open_dataset(path) as dataset:
                assert check_look(dataset) == [env.renderer_name]

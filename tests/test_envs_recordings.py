"""Recordings by robosuite's own recorder, of other tasks, robots, controllers and control frequencies than ours."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import ENVIRONMENT, make_episode
from robosuite_recordings import CASES, Case, farthest, part, record, replayed

from s2robot.cli import main
from s2robot.cli.cells import check_collection
from s2robot.cli.closing import train_checked
from s2robot.config import CollectConfig, TrainConfig
from s2robot.data import RobomimicWriter, open_dataset
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot_envs import make_env

pytestmark = pytest.mark.sim

OLD = Path(__file__).parent / "data" / "robosuite_1_4_lift.hdf5"


@pytest.mark.parametrize("name", CASES)
def test_an_environment_is_rebuilt_as_recorded_and_its_arm_goes_where_it_went(tmp_path, name):
    case = CASES[name]
    before, described, episode, apart, moved = replayed(tmp_path, case)
    assert described["env_kwargs"]["controller_configs"] == before["env_kwargs"]["controller_configs"]
    assert described["env_kwargs"]["robots"] == [case.robot]
    assert described["env_kwargs"]["control_freq"] == case.control_freq
    assert described["s2robot"]["horizon"] == 100  # the longest demonstration, rounded up
    assert episode.images["agentview"].std() > 10
    assert moved > 0.02
    assert apart < 1e-3


def test_a_recording_of_a_robot_on_wheels_is_rendered(tmp_path):
    """Its base's controller remembers more than a state: robosuite's own replay ends centimetres from it, too."""
    _, described, episode, apart, moved = replayed(tmp_path, Case("Lift", "PandaOmron", "OSC_POSE", {}, 20))
    assert described["env_kwargs"]["robots"] == ["PandaOmron"]
    assert episode.images["agentview"].std() > 10
    assert moved > 0.5
    assert apart < 0.1 * moved


def test_a_controller_of_robosuite_1_4_is_rebuilt_in_the_words_of_1_5(tmp_path):
    absolute = {"input_type": "absolute", "input_ref_frame": "world"}
    path = record(tmp_path, "Lift", "Panda", part("OSC_POSE", **absolute), 20)
    with h5py.File(path, "r+") as file:
        info = json.loads(file["data"].attrs["env_info"])
        old = {name: value for name, value in part("OSC_POSE", control_delta=False).items() if name not in absolute}
        file["data"].attrs.update(
            env_info=json.dumps({**info, "robots": "Panda", "controller_configs": old}), repository_version="1.4.1"
        )
    words = [f"dataset={path}", f"out={tmp_path}/new.hdf5", "size=32", "cameras=[agentview]", "workers=1"]
    assert main(["render", *words]) == 0
    with open_dataset(tmp_path / "new.hdf5") as rendered:
        described, episode = rendered.env_args, rendered.episode(0)
    assert described["env_kwargs"]["controller_configs"] == old
    env = make_env(**described["s2robot"])
    apart, moved = farthest(env, episode)
    env.close()
    assert moved > 0.02
    assert apart < 1e-3


def test_the_horizon_follows_the_demonstrations_that_are_chosen(tmp_path, capsys):
    path = tmp_path / "old.hdf5"
    path.write_bytes(OLD.read_bytes())
    with h5py.File(path, "r+") as file:  # 125 steps, which are not chosen
        for name in ("actions", "states", "dones", "rewards"):
            values = np.repeat(file[f"data/demo_1/{name}"][:], 25, axis=0)
            del file[f"data/demo_1/{name}"]
            file[f"data/demo_1/{name}"] = values
        del file["data/demo_1/obs"]
        file["data/demo_1"].attrs["num_samples"] = 125
    words = [f"dataset={path}", f"out={tmp_path}/new.hdf5", "size=32", "cameras=[agentview]", "workers=1"]
    assert main(["render", *words, "episodes=[0]"]) == 0
    assert "after 100 steps at the latest, because the longest demonstration takes 5;" in capsys.readouterr().out
    with open_dataset(tmp_path / "new.hdf5") as rendered:
        assert rendered.env_args["s2robot"]["horizon"] == 100


def test_training_refuses_a_dataset_that_would_be_evaluated_with_another_controller(tmp_path, capsys):
    """As `render` wrote them once: our own settings over what was recorded."""
    with h5py.File(OLD) as file:
        recorded = json.loads(file["data"].attrs["env_args"])
    recorded["env_kwargs"]["controller_configs"]["output_max"] = 0.02
    with RobomimicWriter(tmp_path / "demos.hdf5", {**recorded, "s2robot": ENVIRONMENT}) as writer:
        writer.add(make_episode(4, 0))
    assert main(["train", f"dataset={tmp_path}/demos.hdf5", f"output={tmp_path}/run"]) == 2
    assert "right output_max: recorded 0.02, here [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    # `train_policy.py` asks the same, and so do the cells of a benchmark that finds the file in its store.
    with pytest.raises(DatasetError, match="right output_max: recorded 0.02"):
        train_checked(TrainConfig(dataset=str(tmp_path / "demos.hdf5"), output=str(tmp_path), policy=BCConfig()))
    with pytest.raises(DatasetError, match="right output_max: recorded 0.02"):
        check_collection(CollectConfig(task="Lift", out=str(tmp_path / "demos.hdf5")))

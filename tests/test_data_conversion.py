import json
from pathlib import Path

import numpy as np
import pytest
from data.make import frames
from helpers import make_episode, write_dataset

from s2robot.cli import main
from s2robot.data import LeRobotWriter, RobomimicWriter, open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.interfaces import DatasetError

for module in ("pyarrow", "av"):
    pytest.importorskip(module, reason=f"{module} is not installed (pip install -e '.[dev]')")

ENV_ARGS = {"env_name": "Lift", "type": 1, "s2robot": {"task": "Lift"}}
LENGTHS = (6, 1, 9)


def smooth_episode(length, seed):
    """An episode whose pictures a video can show, with everything that an episode can hold."""
    rng = np.random.default_rng(seed)
    episode = make_episode(length, seed)
    episode.images = {"front": np.repeat(np.repeat(frames(length, seed), 4, axis=1), 4, axis=2)}
    episode.states = rng.normal(size=(length, 11))
    episode.rewards = rng.random(length).astype(np.float32)
    episode.success = seed != 1
    episode.attributes["success"] = episode.success
    return episode


def write(folder, **settings):
    with LeRobotWriter(folder, env_args=ENV_ARGS, **settings) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add(smooth_episode(length, seed))
    return folder


@pytest.mark.parametrize("video", [True, False])
def test_lerobot_round_trip_keeps_every_number_bit_for_bit(tmp_path, video):
    with open_dataset(write(tmp_path / "demos", video=video)) as dataset:
        assert dataset.lengths == list(LENGTHS)
        assert dataset.env_args == ENV_ARGS
        for seed, length in enumerate(LENGTHS):
            expected, episode = smooth_episode(length, seed), dataset.episode(seed)
            for name in ("actions", "states", "rewards"):
                np.testing.assert_array_equal(getattr(episode, name), getattr(expected, name))
                assert getattr(episode, name).dtype == getattr(expected, name).dtype
            assert episode.success == expected.success
            for key, values in expected.proprioception.items():
                np.testing.assert_array_equal(episode.proprioception[key], values)


def test_proprioception_is_one_state_vector_whatever_the_order_of_its_keys(tmp_path):
    first, second = make_episode(4, 0), make_episode(4, 1)
    for episode in (first, second):
        episode.proprioception |= {"nothing": np.zeros((4, 0), np.float32), "environment_state": episode.actions}
    second.proprioception = dict(reversed(second.proprioception.items()))
    with LeRobotWriter(tmp_path / "demos", video=False) as writer:
        writer.add(first)
        writer.add(second)
    info = json.loads((tmp_path / "demos" / "meta" / "info.json").read_text())
    assert info["state_parts"] == {"extra": 2, "position": 3}
    assert info["features"]["observation.state"]["names"][:3] == ["extra_0", "extra_1", "position_0"]
    assert info["features"]["observation.environment_state"]["shape"] == [4]
    with open_dataset(tmp_path / "demos") as dataset:
        found = dataset.episode(1).proprioception
    for key in ("extra", "position", "environment_state"):
        np.testing.assert_array_equal(found[key], second.proprioception[key])


def test_episodes_without_proprioception_are_written_and_read(tmp_path):
    episode = make_episode(4, 0)
    episode.proprioception = {}
    with LeRobotWriter(tmp_path / "demos", video=False) as writer:
        writer.add(episode)
    with open_dataset(tmp_path / "demos") as dataset:
        assert dataset.episode(0).proprioception == {}
        np.testing.assert_array_equal(dataset.episode(0).actions, episode.actions)


def test_pictures_come_back_equal_and_videos_above_35_decibels(tmp_path):
    with (
        open_dataset(write(tmp_path / "pictures", video=False)) as lossless,
        open_dataset(write(tmp_path / "video")) as lossy,
    ):
        for seed, length in enumerate(LENGTHS):
            expected = smooth_episode(length, seed).images["front"]
            np.testing.assert_array_equal(lossless.episode(seed).images["front"], expected)
            error = np.square(lossy.episode(seed).images["front"].astype(float) - expected).mean((1, 2, 3))
            assert (10 * np.log10(255**2 / error) > 35).all()


def test_statistics_are_those_of_all_frames(tmp_path):
    found = json.loads((write(tmp_path / "demos") / "meta" / "stats.json").read_text())
    episodes = [smooth_episode(length, seed) for seed, length in enumerate(LENGTHS)]
    actions = np.concatenate([episode.actions for episode in episodes]).astype(float)
    pixels = np.concatenate([episode.images["front"] for episode in episodes]) / 255
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found["action"][name], getattr(actions, name)(0), atol=1e-9)
        expected = getattr(pixels, name)((0, 1, 2)).reshape(3, 1, 1)
        np.testing.assert_allclose(found["observation.images.front"][name], expected, atol=1e-9)
    assert found["action"]["count"] == [sum(LENGTHS)]


def test_interrupted_writing_leaves_nothing_behind(tmp_path):
    with pytest.raises(KeyboardInterrupt), LeRobotWriter(tmp_path / "demos") as writer:
        writer.add(make_episode(4, 0))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_episode_with_other_fields_is_refused(tmp_path):
    other = make_episode(4, 1)
    other.proprioception.pop("extra")
    with pytest.raises(DatasetError, match="episode 1 has the fields .*; the first .*extra \\[2\\]"):  # noqa: SIM117
        with LeRobotWriter(tmp_path / "demos", video=False) as writer:
            writer.add(make_episode(4, 0))
            writer.add(other)


def test_odd_image_sizes_name_the_way_out(tmp_path):
    episode = make_episode(4, 0)
    episode.images = {"front": np.zeros((4, 15, 16, 3), np.uint8)}
    with pytest.raises(DatasetError, match="images are 15 x 16 pixels; give video=false"):  # noqa: SIM117
        with LeRobotWriter(tmp_path / "demos") as writer:
            writer.add(episode)


def test_command_converts_there_and_back(tmp_path, capsys):
    source = write_dataset(tmp_path / "demos.hdf5")
    assert main(["convert", f"dataset={source}", f"out={tmp_path}/folder", "video=false"]) == 0
    assert main(["convert", f"dataset={tmp_path}/folder", f"out={tmp_path}/back.hdf5"]) == 0
    assert "4 demonstrations" in capsys.readouterr().out
    with open_dataset(source) as before, open_dataset(tmp_path / "back.hdf5") as after:
        assert after.env_args == before.env_args
        for index in range(4):
            old, new = before.episode(index), after.episode(index)
            np.testing.assert_array_equal(new.actions, old.actions)
            for camera in before.cameras:
                np.testing.assert_array_equal(new.images[camera], old.images[camera])


def lengths_after_interruption(monkeypatch, tmp_path, resumed_from):
    """Convert one file, killed before its third episode, then `resumed_from` to the same name."""
    source, add = write_dataset(tmp_path / "demos.hdf5"), RobomimicWriter.add

    def killed(self, episode):
        if self.count == 2:
            raise KeyboardInterrupt
        add(self, episode)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RobomimicWriter, "add", killed)
        convert_dataset(source, tmp_path / "out.hdf5")
    written = []
    with monkeypatch.context() as patch:
        patch.setattr(RobomimicWriter, "add", lambda self, episode: (written.append(len(episode)), add(self, episode)))
        convert_dataset(resumed_from, tmp_path / "out.hdf5")
    with open_dataset(tmp_path / "out.hdf5") as dataset:
        return dataset.lengths, written


def test_interrupted_conversion_goes_on_where_it_stopped(monkeypatch, tmp_path):
    found, written = lengths_after_interruption(monkeypatch, tmp_path, tmp_path / "demos.hdf5")
    with open_dataset(tmp_path / "demos.hdf5") as source:
        assert found == source.lengths
        assert written == source.lengths[2:]


def test_interrupted_conversion_is_not_mixed_with_another_source(monkeypatch, tmp_path):
    other = write_dataset(tmp_path / "other.hdf5", lengths=(9, 8, 7, 6, 5))
    found, written = lengths_after_interruption(monkeypatch, tmp_path, other)
    assert found == written == [9, 8, 7, 6, 5]


def test_existing_output_is_kept(tmp_path):
    source = write_dataset(tmp_path / "demos.hdf5")
    with pytest.raises(DatasetError, match="exists; choose another name"):
        convert_dataset(source, source)
    with pytest.raises(DatasetError, match="exists"):
        LeRobotWriter(Path(tmp_path))

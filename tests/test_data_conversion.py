import json
from pathlib import Path

import numpy as np
import pytest
from helpers import make_episode, needs_videos, write_dataset
from moving_square import frames

from s2robot.cli import main
from s2robot.data import LeRobotWriter, RobomimicWriter, lerobot_writer, open_dataset
from s2robot.data.conversion import convert_dataset
from s2robot.data.inspection import inspect_dataset
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
    if settings.get("video", True):
        needs_videos()
    with LeRobotWriter(folder, env_args=ENV_ARGS, **settings) as writer:
        for seed, length in enumerate(LENGTHS):
            writer.add(smooth_episode(length, seed))
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The three episodes with pictures; to be read only."""
    return write(tmp_path_factory.mktemp("pictures") / "demos", video=False)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The three episodes with videos; to be read only."""
    return write(tmp_path_factory.mktemp("videos") / "demos", video=True)


@pytest.fixture(params=["pictures", "videos"])
def demos(request):
    return request.getfixturevalue(request.param)


def test_lerobot_round_trip_keeps_every_number_bit_for_bit(demos):
    with open_dataset(demos) as dataset:
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


def test_pictures_come_back_equal(pictures):
    with open_dataset(pictures) as dataset:
        for seed, length in enumerate(LENGTHS):
            expected = smooth_episode(length, seed).images["front"]
            np.testing.assert_array_equal(dataset.episode(seed).images["front"], expected)


def test_videos_come_back_as_the_right_frames_above_30_decibels(videos):
    with open_dataset(videos) as dataset:
        for seed, length in enumerate(LENGTHS):
            expected = smooth_episode(length, seed).images["front"].astype(float)
            for step, image in enumerate(dataset.episode(seed).images["front"]):
                decibels = 10 * np.log10(255**2 / np.square(image - expected).mean((1, 2, 3)))
                assert decibels.argmax() == step
                # Versions of the encoder differ by a few decibels; a neighbouring frame has 24, swapped channels 16.
                assert decibels[step] > 30


def test_statistics_are_those_of_all_frames(pictures):
    found = json.loads((pictures / "meta" / "stats.json").read_text())
    episodes = [smooth_episode(length, seed) for seed, length in enumerate(LENGTHS)]
    actions = np.concatenate([episode.actions for episode in episodes]).astype(float)
    pixels = np.concatenate([episode.images["front"] for episode in episodes]) / 255
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found["action"][name], getattr(actions, name)(0), atol=1e-9)
        expected = getattr(pixels, name)((0, 1, 2)).reshape(3, 1, 1)
        np.testing.assert_allclose(found["observation.images.front"][name], expected, atol=1e-9)
    assert found["action"]["count"] == [sum(LENGTHS)]
    quantiles = [np.quantile(episode.actions, 0.9, axis=0, method="inverted_cdf") for episode in episodes]
    np.testing.assert_allclose(found["action"]["q90"], np.average(quantiles, axis=0, weights=LENGTHS))


def test_every_episode_has_statistics_of_its_own(demos):
    import pyarrow.parquet as parquet

    rows = parquet.read_table(demos / "meta" / "episodes").to_pylist()
    for seed, row in enumerate(rows):
        episode = smooth_episode(LENGTHS[seed], seed)
        pixels = np.moveaxis(episode.images["front"], -1, 0).reshape(3, -1) / 255
        fields = {"action": episode.actions.T.astype(float), "observation.images.front": pixels}
        for name, values in fields.items():
            found = {
                kind: np.array(row[f"stats/{name}/{kind}"]) for kind in ("min", "max", "mean", "std", "q10", "q50")
            }
            for kind in ("min", "max", "mean", "std"):
                np.testing.assert_allclose(found[kind].ravel(), getattr(values, kind)(1), atol=1e-9)
            for kind, q in (("q10", 0.1), ("q50", 0.5)):
                expected = np.quantile(values, q, axis=1, method="inverted_cdf")
                np.testing.assert_array_equal(found[kind].ravel(), expected)
            assert row[f"stats/{name}/count"] == [LENGTHS[seed]]
            assert found["mean"].shape == ((3, 1, 1) if values is pixels else (4,))


def test_descriptions_of_many_episodes_are_written_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(lerobot_writer, "_EPISODES_PER_CHUNK", 2)
    folder = write(tmp_path / "demos", video=False)
    assert len(list((folder / "meta" / "episodes").rglob("*.parquet"))) == 2
    with open_dataset(folder) as dataset:
        assert dataset.lengths == list(LENGTHS)
        np.testing.assert_array_equal(dataset.episode(2).actions, smooth_episode(LENGTHS[2], 2).actions)


def test_interrupted_writing_leaves_nothing_behind(tmp_path):
    needs_videos()
    with pytest.raises(KeyboardInterrupt), LeRobotWriter(tmp_path / "demos") as writer:
        writer.add(make_episode(4, 0))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_episode_with_other_fields_is_refused(tmp_path):
    other = make_episode(4, 1)
    other.proprioception.pop("extra")
    with pytest.raises(DatasetError, match="episode 1 has the fields .*, but the first episode has .*extra \\[2\\]"):  # noqa: SIM117
        with LeRobotWriter(tmp_path / "demos", video=False) as writer:
            writer.add(make_episode(4, 0))
            writer.add(other)


def test_odd_image_sizes_name_the_way_out(tmp_path):
    episode = make_episode(4, 0)
    episode.images = {"front": np.zeros((4, 15, 16, 3), np.uint8)}
    with pytest.raises(DatasetError, match="images are 15 x 16 pixels, but .*; give video=false"):  # noqa: SIM117
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


def convert(source, out, **settings):
    """Convert, and read the keys of the proprioception, steps per second and the first episode's attributes again."""
    convert_dataset(source, out, video=False, **settings)
    with open_dataset(out) as dataset:
        return dataset.proprioception, dataset.fps, dataset.episode(0).attributes


def write_one(path, env_args=None, **attributes):
    """A file with one short episode, which knows where the objects are."""
    with RobomimicWriter(path, env_args or {}) as writer:
        episode = make_episode(4, 0)
        episode.proprioception["object"] = np.ones((4, 2), np.float32)
        episode.attributes = attributes
        writer.add(episode)
    return path


def test_where_the_objects_are_is_copied_to_lerobot_only_if_asked_for(tmp_path):
    source = write_one(tmp_path / "demos.hdf5")
    assert convert(source, tmp_path / "seen")[0] == ["extra", "position"]
    assert convert(source, tmp_path / "asked", proprioception=["object", "extra"])[0] == ["extra", "object"]
    assert convert(source, tmp_path / "all.hdf5")[0] == ["extra", "object", "position"]
    assert convert(source, tmp_path / "one.hdf5", proprioception=["position"])[0] == ["position"]
    assert convert(tmp_path / "asked", tmp_path / "again")[0] == ["extra"]
    with pytest.raises(DatasetError, match="unknown proprioception key 'objects'.*did you mean 'object'"):
        convert(source, tmp_path / "wrong", proprioception=["objects"])


@pytest.mark.parametrize("words", ["[lift] the cube", "lift"])
def test_tasks_survive_the_way_through_robomimic(tmp_path, words):
    source = write_one(tmp_path / "words.hdf5", tasks=words)  # others write the words as they are
    for name in ("first", "back.hdf5", "second"):
        assert convert(source, tmp_path / name)[2]["tasks"] == [words]
        source = tmp_path / name


def test_steps_per_second_are_those_of_the_source(tmp_path):
    source = write_one(tmp_path / "unknown.hdf5")
    assert convert(source, tmp_path / "assumed")[1] == 20
    assert convert(source, tmp_path / "unknown_too.hdf5")[1] is None
    source = write_one(tmp_path / "robosuite.hdf5", {"env_kwargs": {"control_freq": 10}})
    for name, settings in (("a", {}), ("b.hdf5", {}), ("c", {"fps": 50}), ("d.hdf5", {}), ("e", {})):
        assert convert(source, tmp_path / name, **settings)[1] == (10 if name in ("a", "b.hdf5") else 50)
        source = tmp_path / name


def test_success_that_is_not_recorded_is_not_invented(pictures, tmp_path):
    source = write_one(tmp_path / "demos.hdf5")
    for name in ("first", "back.hdf5", "second"):
        assert "success" not in convert(source, tmp_path / name)[2]
        source = tmp_path / name
    assert inspect_dataset(source).judged == 0
    convert_dataset(pictures, tmp_path / "judged.hdf5")
    found = inspect_dataset(tmp_path / "judged.hdf5")
    assert (found.solved, found.judged) == (2, 3)


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


@pytest.mark.parametrize("ending", [".txt", ".HDF5"])
def test_a_file_of_another_ending_is_no_folder_of_lerobot(tmp_path, ending):
    with pytest.raises(DatasetError, match=rf"{ending}' has the ending of an unknown format; valid: \*.hdf5"):
        convert_dataset(write_dataset(tmp_path / "demos.hdf5"), tmp_path / f"copy{ending}")
    assert not (tmp_path / f"copy{ending}").exists()


def test_existing_output_is_kept(tmp_path):
    source = write_dataset(tmp_path / "demos.hdf5")
    with pytest.raises(DatasetError, match="exists; choose another name"):
        convert_dataset(source, source)
    with pytest.raises(DatasetError, match="exists"):
        LeRobotWriter(Path(tmp_path))

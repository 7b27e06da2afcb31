import json

import h5py
import numpy as np
import pytest

from s2robot.data import RobomimicWriter, open_dataset
from s2robot.interfaces import DatasetError, Episode


def make_episode(length: int = 5, seed: int = 0) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        actions=rng.uniform(-1, 1, (length, 7)).astype(np.float32),
        images={"agentview": rng.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8)},
        proprioception={"robot0_eef_pos": rng.normal(size=(length, 3)).astype(np.float32)},
        rewards=rng.random(length).astype(np.float32),
        states=rng.normal(size=(length, 9)),
        model_file="<mujoco/>",
        attributes={"seed": seed},
    )


@pytest.fixture
def path(tmp_path):
    with RobomimicWriter(tmp_path / "demos.hdf5", {"env_name": "Lift", "type": 1, "env_kwargs": {}}) as writer:
        for seed in range(12):
            writer.add(make_episode(length=3 + seed, seed=seed))
    return tmp_path / "demos.hdf5"


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def test_written_episodes_are_read_back_bit_for_bit(path):
    with open_dataset(path) as dataset:
        assert len(dataset) == 12
        for seed in range(12):  # demo_10 must sort after demo_9, not after demo_1
            expected, episode = make_episode(3 + seed, seed), dataset.episode(seed)
            np.testing.assert_array_equal(episode.actions, expected.actions)
            np.testing.assert_array_equal(episode.images["agentview"], expected.images["agentview"])
            np.testing.assert_array_equal(
                episode.proprioception["robot0_eef_pos"], expected.proprioception["robot0_eef_pos"]
            )
            np.testing.assert_array_equal(episode.states, expected.states)
            np.testing.assert_array_equal(episode.rewards, expected.rewards)
            assert episode.model_file == "<mujoco/>"
            assert episode.attributes["seed"] == seed


@pytest.mark.parametrize("field", ["images", "proprioception"])
def test_names_with_a_slash_are_refused_as_no_reader_would_find_them(tmp_path, field):
    episode = make_episode()
    setattr(episode, field, {"arm/wrist": next(iter(getattr(episode, field).values()))})
    with (
        pytest.raises(DatasetError, match="'arm/wrist' has a slash, which HDF5 names cannot have; write 'arm_wrist'"),
        RobomimicWriter(tmp_path / "demos.hdf5", {}) as writer,
    ):
        writer.add(episode)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("argument", "name"), [("cameras", "agentview"), ("proprioception", "robot0_eef_pos")])
def test_a_name_in_place_of_a_list_is_not_read_letter_by_letter(path, argument, name):
    with open_dataset(path) as dataset, pytest.raises(DatasetError, match=rf"is not a list of .*; write \('{name}',\)"):
        dataset.episode(0, **{argument: name})


def test_frames_read_a_few_at_a_time_are_those_of_the_episodes(path):
    with open_dataset(path) as dataset:
        for index in (4, 0):
            expected = make_episode(3 + index, index).images["agentview"]
            for first, last in ((0, 2), (2, len(expected))):
                out = np.zeros_like(expected[first:last])
                dataset.read_images(index, "agentview", first, out)
                np.testing.assert_array_equal(out, expected[first:last])


@pytest.mark.parametrize(
    "storage",
    [
        {"chunks": (1, 16, 16, 3), "compression": "gzip"},
        {"chunks": (1, 16, 16, 3), "compression": "gzip", "shuffle": True},
        {"chunks": (1, 16, 16, 3), "compression": "gzip", "fletcher32": True},
        {"chunks": (1, 16, 16, 3), "compression": "lzf"},
        {"chunks": (2, 16, 16, 3), "compression": "gzip"},
        {"chunks": (1, 8, 16, 3), "compression": "gzip"},
        {},
    ],
    ids=str,
)
def test_frames_are_read_however_they_are_stored(path, storage):
    images = make_episode(9).images["agentview"]
    edit(path, lambda file: file.__delitem__("data/demo_6/obs/agentview_image"))
    edit(path, lambda file: file.create_dataset("data/demo_6/obs/agentview_image", data=images, **storage))
    out = np.zeros_like(images[2:7])
    with open_dataset(path) as dataset:
        dataset.read_images(6, "agentview", 2, out)
    np.testing.assert_array_equal(out, images[2:7])


def test_a_frame_that_was_never_written_is_black(path):
    def reserve(file):
        del file["data/demo_6/obs/agentview_image"]
        storage = {"chunks": (1, 16, 16, 3), "compression": "gzip"}
        file.create_dataset("data/demo_6/obs/agentview_image", (9, 16, 16, 3), "u1", **storage)[1] = 7

    edit(path, reserve)
    out = np.ones((2, 16, 16, 3), np.uint8)
    with open_dataset(path) as dataset:
        dataset.read_images(6, "agentview", 0, out)
    assert (out[0] == 0).all()
    assert (out[1] == 7).all()


def test_a_frame_whose_bytes_are_damaged_is_refused(path):
    with h5py.File(path) as file:
        chunk = file["data/demo_6/obs/agentview_image"].id.get_chunk_info(3)
    with path.open("r+b") as file:
        file.seek(chunk.byte_offset + chunk.size // 2)
        file.write(b"damaged")
    out = np.zeros((1, 16, 16, 3), np.uint8)
    with open_dataset(path) as dataset:
        dataset.read_images(6, "agentview", 2, out)
        with pytest.raises(DatasetError, match=r"demo_6: cannot be read \(truncated\?\)"):
            dataset.read_images(6, "agentview", 3, out)


def test_frames_that_do_not_fit_the_rest_are_refused_however_they_are_read(path):
    edit(path, lambda file: file.__delitem__("data/demo_3/obs/agentview_image"))
    edit(path, lambda file: file.create_dataset("data/demo_3/obs/agentview_image", data=np.zeros((6, 8, 8, 3), "u1")))
    edit(path, lambda file: file.__delitem__("data/demo_5/obs/agentview_image"))
    out = np.zeros((2, 16, 16, 3), np.uint8)
    with open_dataset(path) as dataset:
        with pytest.raises(DatasetError, match=r"demo_3: images of agentview are uint8 \(6, 8, 8, 3\)"):
            dataset.read_images(3, "agentview", 0, out)
        with pytest.raises(DatasetError, match="demo_5: unknown camera 'agentview'"):
            dataset.read_images(5, "agentview", 0, out)
        with pytest.raises(DatasetError, match="unknown camera 'front'"):
            dataset.read_images(0, "front", 0, out)


def test_file_has_robomimics_layout(path):
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == sum(3 + i for i in range(12))
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "Lift"
        assert file["data/demo_4"].attrs["num_samples"] == 7
        assert file["data/demo_4/obs/agentview_image"].dtype == np.uint8
        masks = set(file["mask/train"][:]) | set(file["mask/valid"][:])
        assert masks == {f"demo_{i}".encode() for i in range(12)}
        assert file["data/demo_4/dones"][:].tolist() == [0, 0, 0, 0, 0, 0, 1]


def write(path, seeds, env_args=None, fail=None):
    with RobomimicWriter(path, env_args or {"env_name": "Lift"}) as writer:
        for seed in seeds[writer.count :]:
            if seed == fail:
                raise KeyboardInterrupt
            writer.add(make_episode(3 + seed, seed))
    return path


def test_interrupted_recording_leaves_no_file_and_goes_on_to_the_same_content(tmp_path):
    seeds = list(range(6))
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.hdf5", seeds, fail=4)
    assert not (tmp_path / "a.hdf5").exists()
    (tmp_path / "a.hdf5.parts" / "demo_4.partial").write_bytes(b"half an episode")
    resumed, straight = write(tmp_path / "a.hdf5", seeds), write(tmp_path / "b.hdf5", seeds)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.hdf5", "b.hdf5"]

    def content(path):
        items = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, node: items.update(
                    {name: (dict(node.attrs), node[()].tolist() if isinstance(node, h5py.Dataset) else None)}
                )
            )
            return items, dict(file["data"].attrs)

    assert repr(content(resumed)) == repr(content(straight))


def test_interrupted_recording_tells_where_it_stopped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.hdf5", list(range(6)), fail=4)
    writer = RobomimicWriter(tmp_path / "a.hdf5", {"env_name": "Lift"})
    assert writer.count == 4
    assert writer.attributes["seed"] == 3


def test_parts_of_another_environment_are_not_mixed_in(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.hdf5", list(range(6)), fail=4)
    assert RobomimicWriter(tmp_path / "a.hdf5", {"env_name": "Stack"}).count == 0
    assert "a.hdf5': 4 demonstrations of an interrupted run are discarded" in (said := capsys.readouterr().err)
    assert "env_args.env_name is 'Stack', was 'Lift'" in said


@pytest.mark.parametrize(("former", "now", "said"), [("a", "b", 1), ("a", "a", 0), (None, "b", 0)])
def test_a_recording_that_goes_on_under_another_renderer_says_so_once(tmp_path, capsys, former, now, said):
    def drawn_by(seed, renderer):
        episode = make_episode(4, seed)
        episode.attributes.update({"renderer": renderer} if renderer else {})
        return episode

    path = tmp_path / "a.hdf5"
    with pytest.raises(KeyboardInterrupt), RobomimicWriter(path, {}) as writer:
        writer.add(drawn_by(0, former))
        raise KeyboardInterrupt
    with RobomimicWriter(path, {}) as writer:
        for seed in (1, 2):
            writer.add(drawn_by(seed, now))
    message = "the demonstrations of an interrupted run were rendered by a, the following ones by b"
    assert capsys.readouterr().err.count(message) == said
    with open_dataset(path) as dataset:
        found = [dataset.episode(index).attributes.get("renderer") for index in range(3)]
    assert found == [former, now, now]


def test_one_process_writes_a_file_at_a_time(tmp_path):
    with RobomimicWriter(tmp_path / "a.hdf5", {}) as writer:
        writer.add(make_episode(4, 0))
        with pytest.raises(DatasetError, match=r"a\.hdf5' is being written by another process; wait for it or choose"):
            RobomimicWriter(tmp_path / "a.hdf5", {})
        writer.add(make_episode(5, 1))
    with open_dataset(tmp_path / "a.hdf5") as dataset:
        assert dataset.lengths == [4, 5]


def test_fingerprint_follows_the_content(path):
    before = open_dataset(path).fingerprint()
    assert before == open_dataset(path).fingerprint()
    edit(path, lambda file: file["data/demo_0/actions"].write_direct(np.zeros((3, 7))))
    assert open_dataset(path).fingerprint() != before


def test_missing_file_says_how_to_record_one(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere\.hdf5.*does not exist.*s2robot collect"):
        open_dataset(tmp_path / "nowhere.hdf5")


def test_unknown_ending_names_the_known_ones(tmp_path):
    (tmp_path / "demos.bag").touch()
    with pytest.raises(DatasetError, match=r"'\.bag'\); known: .*robomimic: a file \*\.hdf5"):
        open_dataset(tmp_path / "demos.bag")


@pytest.mark.parametrize("keep", [0, 100, 0.5])
def test_truncated_file_is_one_clear_error(path, keep):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep != 0.5 else len(content) // 2)])
    with pytest.raises(DatasetError, match=r"demos\.hdf5"), open_dataset(path) as dataset:
        for index in range(len(dataset)):
            dataset.episode(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.pop("data"), "no group 'data'"),
        (lambda f: [f["data"].pop(k) for k in list(f["data"])], "no demonstrations"),
        (lambda f: f["data/demo_2"].pop("actions"), "demo_2: field 'actions' is missing"),
        (lambda f: f["data/demo_2"].pop("obs"), "demo_2: field 'obs' is missing"),
        (lambda f: f["data/demo_2/obs"].pop("agentview_image"), "demo_2: unknown camera 'agentview'"),
        (lambda f: f["data/demo_2/obs"].pop("robot0_eef_pos"), "demo_2: observation 'robot0_eef_pos' is missing"),
        (
            lambda f: f["data/demo_2/actions"].write_direct(np.full((5, 7), np.nan)),
            "demo_2: 'actions' is not finite at step 0",
        ),
        (lambda f: f["data"].attrs.__setitem__("env_args", "{"), "env_args is not JSON"),
    ],
)
def test_damage_names_file_episode_and_field(path, change, message):
    edit(path, change)
    with pytest.raises(DatasetError, match=message), open_dataset(path) as dataset:
        for index in range(len(dataset)):
            dataset.episode(index)


def test_unequal_lengths_are_refused(path):
    def shorten(file):
        del file["data/demo_2/obs/agentview_image"]
        file["data/demo_2/obs/agentview_image"] = np.zeros((4, 16, 16, 3), np.uint8)

    edit(path, shorten)
    with pytest.raises(DatasetError, match="demo_2: 'images of agentview' has 4 steps, but the episode has 5"):
        open_dataset(path).episode(2)


def test_images_of_a_wrong_type_are_refused(path):
    def replace(file):
        del file["data/demo_2/obs/agentview_image"]
        file["data/demo_2/obs/agentview_image"] = np.zeros((5, 16, 16, 3), np.float32)

    edit(path, replace)
    with pytest.raises(DatasetError, match="float32.*valid: uint8"):
        open_dataset(path).episode(2)


def test_unknown_camera_and_key_name_the_choices(path):
    with open_dataset(path) as dataset:
        with pytest.raises(DatasetError, match="unknown camera 'agentvue'; did you mean 'agentview'"):
            dataset.select_cameras(["agentvue"])
        with pytest.raises(DatasetError, match="unknown proprioception key 'eef'.*robot0_eef_pos"):
            dataset.select_proprioception(["eef"])


def replace(name, values):
    def change(file):
        del file[name]
        file[name] = values

    return change


def linked_to_another_file(file):
    del file["data/demo_2/actions"]
    file["data/demo_2/actions"] = h5py.ExternalLink("/etc/passwd", "actions")


def stored_in_another_file(file):
    del file["data/demo_2/states"]
    file["data/demo_2"].create_dataset("states", (5, 9), "f8", external=[("/etc/passwd", 0, 360)])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace("data/demo_2/actions", np.full((5, 7), b"x")), "demo_2: 'actions' is .S1.*valid: numbers"),
        (
            replace("data/demo_2/actions", np.zeros((5, 6))),
            r"demo_2: 'actions' has shape \(5, 6\), but .* demo_0 have width 7",
        ),
        (replace("data/demo_2/actions", np.full((5, 7), 1e300)), "demo_2: 'actions' is not finite at step 0"),
        (
            replace("data/demo_2/obs/agentview_image", np.zeros((5, 8, 8, 3), np.uint8)),
            r"demo_2: images of agentview are uint8 \(5, 8, 8, 3\); valid: uint8 \(5, 16, 16, 3\)",
        ),
        (lambda f: f["data/demo_2"].pop("actions") and f.create_group("data/demo_2/actions"), "'actions' is a group"),
        (linked_to_another_file, "demo_2: 'actions' links to another file, '/etc/passwd'"),
        (stored_in_another_file, "demo_2: 'states' stores its values in other files"),
    ],
)
def test_values_that_cannot_be_right_name_file_episode_and_field(path, change, message):
    edit(path, change)
    with pytest.raises(DatasetError, match=rf"demos\.hdf5.*{message}"), open_dataset(path) as dataset:
        for index in range(len(dataset)):
            dataset.episode(index)


def test_link_out_of_the_folder_is_refused_and_one_within_is_followed(path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.hdf5").symlink_to(path)
    with pytest.raises(DatasetError, match=r"'link\.hdf5' leads to '.*demos\.hdf5', outside the dataset's folder"):
        open_dataset(tmp_path / "elsewhere" / "link.hdf5")
    (tmp_path / "alias.hdf5").symlink_to(path)
    assert len(open_dataset(tmp_path / "alias.hdf5")) == 12


def test_recordings_without_observations_are_read(path):
    edit(path, lambda file: [file[f"data/demo_{i}"].pop("obs") for i in range(12)])
    with open_dataset(path) as dataset:
        assert dataset.cameras == dataset.proprioception == []
        np.testing.assert_array_equal(dataset.episode(3).states, make_episode(6, seed=3).states)
        with pytest.raises(DatasetError, match="no camera images; `s2robot render` makes them"):
            dataset.select_cameras(None)


def test_robosuites_own_recordings_describe_their_environment(path):
    def as_robosuite_writes_it(file):
        del file["data"].attrs["env_args"]
        file["data"].attrs.update(env="Lift", repository_version="1.4.1", env_info='{"robots": "Panda"}')

    edit(path, as_robosuite_writes_it)
    assert open_dataset(path).env_args == {
        "env_name": "Lift",
        "env_version": "1.4.1",
        "type": 1,
        "env_kwargs": {"robots": "Panda"},
    }


def test_depth_images_are_not_taken_for_proprioception(path):
    edit(path, lambda file: file.create_dataset("data/demo_0/obs/agentview_depth", data=np.zeros((3, 16, 16, 1))))
    assert open_dataset(path).proprioception == ["robot0_eef_pos"]


def test_reading_never_writes(path):
    path.chmod(0o444)
    before = path.read_bytes(), path.stat().st_mtime_ns
    with open_dataset(path) as dataset:
        dataset.episode(0)
        assert dataset._file.mode == "r"
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before

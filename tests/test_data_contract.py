"""What every dataset format promises, asked of one example each: a format without an example fails here."""

import hashlib
import itertools
import re
import shutil

import numpy as np
import pytest
from dataset_examples import EXAMPLES, files_of
from helpers import PooledPixels
from installed import install, run_with

from s2robot.data import FORMATS, RobomimicWriter, format_of, open_dataset
from s2robot.data.base import DemonstrationDataset
from s2robot.data.inspection import inspect_dataset
from s2robot.feature_cache import cache_features
from s2robot.interfaces import DatasetError
from s2robot.training.windows import WindowDataset, load_demonstrations


def test_every_format_has_an_example():
    assert EXAMPLES.keys() == FORMATS.keys()
    assert all(issubclass(reader, DemonstrationDataset) for reader in FORMATS.values())


@pytest.fixture(params=EXAMPLES)
def name(request):
    return request.param


@pytest.fixture
def example(name):
    _ = EXAMPLES[name].path  # skips where a library is missing
    return EXAMPLES[name]


def read_all(path):
    with open_dataset(path) as dataset:
        return [dataset.episode(index) for index in range(len(dataset))]


def assert_equal(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        for left, right in ((one.images, other.images), (one.proprioception, other.proprioception)):
            assert left.keys() == right.keys()
            for key in left:
                np.testing.assert_array_equal(left[key], right[key])


def test_it_is_recognised_and_read_by_its_own_reader(name, example):
    assert format_of(example.path) == name
    with open_dataset(example.path) as dataset:
        assert type(dataset) is FORMATS[name]
        assert dataset.layout in {reader.layout for reader in FORMATS.values()}


def test_what_its_maker_stored_comes_back_equal(example):
    key, values = example.proprioception
    episodes = read_all(example.path)
    for episode, actions, numbers in zip(episodes, example.actions(), values(), strict=True):
        np.testing.assert_array_equal(episode.actions, actions)
        np.testing.assert_array_equal(episode.proprioception[key], numbers)
        assert episode.images[example.camera].dtype == np.uint8


def test_frames_read_a_few_at_a_time_are_those_of_the_episodes(example):
    with open_dataset(example.path) as dataset:
        for index in (1, 0):
            expected = dataset.episode(index, cameras=[example.camera]).images[example.camera]
            for first, last in ((0, 2), (2, len(expected)), (1, 3)):
                out = np.zeros_like(expected[first:last])
                dataset.read_images(index, example.camera, first, out)
                np.testing.assert_array_equal(out, expected[first:last])


def test_it_converts_to_robomimic_without_change(example, tmp_path):
    with open_dataset(example.path) as source, RobomimicWriter(tmp_path / "demos.hdf5", source.env_args) as writer:
        for index in range(len(source)):
            writer.add(source.episode(index))
    assert_equal(read_all(tmp_path / "demos.hdf5"), read_all(example.path))


def test_inspecting_it_finds_every_episode_camera_and_key(example):
    found = inspect_dataset(example.path)
    with open_dataset(example.path) as dataset:
        assert found.lengths == dataset.lengths
        assert list(found.image_sizes) == dataset.cameras
        assert sorted(found.proprioception) == sorted(dataset.proprioception)
    assert found.action_range.shape[1] == example.actions()[0].shape[1]
    assert not [problem for problem in found.problems if "cannot be read" in problem]


def test_windows_to_train_on_are_made_of_it(example, tmp_path):
    with open_dataset(example.path) as dataset:
        features = {example.camera: cache_features(dataset, PooledPixels(), example.camera, tmp_path)}
        demonstrations = load_demonstrations(dataset, [example.proprioception[0]])
        episodes = list(range(len(dataset)))
        windows = WindowDataset(demonstrations, features, episodes, observation_steps=2, action_steps=3)
        assert len(windows) == sum(dataset.lengths)
    first = windows[0]
    np.testing.assert_array_equal(first.actions[0], example.actions()[0][:3])
    np.testing.assert_array_equal(first.observation.proprioception[0, 1], example.proprioception[1]()[0][0])
    assert first.observation.features[example.camera].shape[:2] == (1, 2)


def test_each_of_its_files_changes_the_fingerprint_and_its_place_does_not(example, tmp_path):
    moved = example.copy(tmp_path)
    with open_dataset(example.path) as original, open_dataset(moved) as same:
        before = same.fingerprint()
        assert before == original.fingerprint()
    for file in files_of(moved):
        content = file.read_bytes()
        with open_dataset(moved) as dataset:
            file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # of the same size
            assert dataset.fingerprint() != before, file
        file.write_bytes(content)
    (tmp_path / "beside.txt").write_text("not of the dataset")
    with open_dataset(moved) as dataset:
        assert dataset.fingerprint() == before


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def overwrite_start(file):
    content = file.read_bytes()
    file.write_bytes(bytes(byte ^ 0xFF for byte in content[:16]) + content[16:])


def remove(file):
    file.unlink()


def outcome(path):
    """All episodes, or the error."""
    try:
        return read_all(path), ""
    except DatasetError as error:
        return None, str(error)


@pytest.mark.parametrize("damage", [cut, overwrite_start, remove])
def test_a_damaged_or_missing_file_is_one_error_that_names_it_or_it_is_not_needed(damage, example, tmp_path):
    whole, refused = read_all(example.path), 0
    for number, file in enumerate(files_of(example.path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        damaged = example.copy(folder)
        inside = file.relative_to(example.path).as_posix()
        damage(damaged if inside == "." else damaged / inside)
        episodes, error = outcome(damaged)
        if episodes is not None:
            assert_equal(episodes, whole)
            # Parquet and Arrow are read from their end; the letters at their start say nothing more.
            assert inside in example.optional or (damage is overwrite_start and file.suffix in (".parquet", ".arrow"))
            continue
        refused += 1
        assert str(damaged) in error
        assert file.name in error or damage is remove or inside == "."
    assert refused >= 1


def test_flipped_bytes_are_harmless_or_one_clear_error(example, tmp_path):
    refused = 0
    for number, seed in itertools.product(range(len(example.headers)), range(40)):
        rng = np.random.default_rng(seed)
        damaged = example.copy(tmp_path)
        file = damaged / example.headers[number]
        content = np.fromfile(file, np.uint8)
        content[rng.integers(0, min(len(content), 4096), 4)] = rng.integers(0, 256, 4)
        content.tofile(file)
        try:
            with open_dataset(damaged) as dataset:
                dataset.episode(0)
        except DatasetError:
            refused += 1
        shutil.rmtree(damaged) if damaged.is_dir() else damaged.unlink()
    assert refused >= 1  # how many is for the checks of each format's library to say


def test_a_file_linked_from_outside_is_refused(example, tmp_path):
    path = example.copy(tmp_path)
    if path.is_file():
        pytest.skip("a file may be a link to itself: its folder is where it leads")
    file = next(file for file in files_of(path) if file.suffix in (".parquet", ".arrow", ".hdf5"))
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(
        DatasetError, match=re.escape(f"'{file.name}' leads to '{elsewhere}', outside the dataset's folder")
    ):
        open_dataset(path)


@pytest.mark.parametrize(
    "error", [TypeError, AttributeError, IndexError, OverflowError, MemoryError, NotImplementedError, ZeroDivisionError]
)
def test_whatever_a_library_raises_for_damage_is_one_clear_error(error, name, example, monkeypatch):
    def broken(*_):
        raise error("damaged")

    reader = FORMATS[name]
    with open_dataset(example.path) as dataset:
        demo = re.escape(dataset.demos[1])
        with monkeypatch.context() as patch, pytest.raises(DatasetError, match=f"{demo}: cannot be read .*damaged"):
            patch.setattr(reader, "_read", broken)
            dataset.episode(1)
    monkeypatch.setattr(reader, "_read_index", broken)
    with pytest.raises(DatasetError, match="cannot be read .*damaged"):
        open_dataset(example.path)


MODULE = """
import numpy as np
from s2robot.data.base import DemonstrationDataset, Index
from s2robot.interfaces import Episode

class Plain(DemonstrationDataset):
    layout = "Plain: a file *.plain"

    @staticmethod
    def recognises(path):
        return path.suffix in (".plain", ".hdf5")

    def _files(self):
        return [self.path]

    def _open(self):
        self._text = self.path.read_text()

    def close(self):
        pass

    def _read_index(self):
        return Index(["all"], [len(self._text)], 1, {}, [])

    def _read(self, index, cameras, proprioception):
        return Episode(np.frombuffer(self._text.encode(), np.uint8)[:, None].astype(np.float32), {}, {})
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    entries = {"broken": "plain_format:nothing", "plain": "plain_format:Plain", "words": "plain_format:MODULE"}
    install(folder, "plain_format", MODULE + "\nMODULE = 'no reader'\n", {"s2robot.formats": entries})
    return folder


def test_a_format_of_an_installed_package_is_read_after_ours(site, tmp_path):
    (tmp_path / "demos.plain").write_text("abc")
    shutil.copy(EXAMPLES["robomimic"].path, tmp_path / "demos.hdf5")
    program = f"""
from s2robot.data import FORMATS, format_of, open_dataset
with open_dataset({str(tmp_path / "demos.plain")!r}) as dataset:
    print(dataset.episode(0).actions.ravel().tolist(), FORMATS.provider(format_of(dataset.path)))
print(format_of({str(tmp_path / "demos.hdf5")!r}), *FORMATS)
"""
    done = run_with(site, "-c", program)
    assert done.stdout.splitlines() == [
        "[97.0, 98.0, 99.0] plain_format 1.2",
        "robomimic lerobot maniskill minari minari_arrow replay_buffer robomimic broken plain words",
    ], done.stderr


def test_another_version_of_a_packages_reader_is_another_dataset_and_ours_is_the_file_alone(tmp_path):
    (tmp_path / "demos.plain").write_text("abc")
    shutil.copy(EXAMPLES["robomimic"].path, tmp_path / "demos.hdf5")
    program = f"""
from s2robot.data import open_dataset
for name in ("demos.plain", "demos.hdf5"):
    with open_dataset({str(tmp_path)!r} + "/" + name) as dataset:
        print(dataset.fingerprint())
"""
    found = []
    for version in ("1.2", "1.2", "1.3"):
        folder = tmp_path / f"site{len(found)}"
        folder.mkdir()
        install(folder, "plain_format", MODULE, {"s2robot.formats": {"plain": "plain_format:Plain"}}, version)
        found.append(run_with(folder, "-c", program).stdout.split())
    (first, ours), again, (other, ours_then) = found
    assert again == [first, ours]
    assert other != first
    assert ours_then == ours == hashlib.sha256((tmp_path / "demos.hdf5").read_bytes()).hexdigest()


def test_an_unknown_format_lists_those_of_packages_and_which_of_them_are_broken(site, tmp_path):
    (tmp_path / "demos.csv").write_text("abc")
    words = f"""
from s2robot.data import open_dataset
from s2robot.interfaces import DatasetError
try:
    open_dataset({str(tmp_path / "demos.csv")!r})
except DatasetError as error:
    print(error)
"""
    error = run_with(site, "-c", words).stdout
    assert "unknown format (file ending '.csv'); known: LeRobot v3" in error
    assert "robomimic: a file *.hdf5 or *.h5; Plain: a file *.plain. Not tried: " in error
    assert "dataset format 'broken' of plain_format 1.2 cannot be imported from 'plain_format:nothing'" in error
    assert "dataset format 'words' of plain_format 1.2 is 'no reader'; valid: a subclass of" in error

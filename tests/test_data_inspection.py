import h5py
import numpy as np
import pytest
from helpers import make_episode
from PIL import Image

from s2robot.cli import main
from s2robot.data import RobomimicWriter
from s2robot.data.inspection import contact_sheet, inspect_dataset
from s2robot.interfaces import DatasetError

ENV_ARGS = {"env_name": "Lift", "type": 1, "env_kwargs": {}}


@pytest.fixture
def path(tmp_path):
    """Four sound episodes of the lengths 7, 12, 5 and 9."""
    with RobomimicWriter(tmp_path / "demos.hdf5", ENV_ARGS) as writer:
        for seed, length in enumerate((7, 12, 5, 9)):
            episode = make_episode(length, seed)
            episode.proprioception.pop("extra")  # constant by design
            episode.attributes["success"] = True
            writer.add(episode)
    return tmp_path / "demos.hdf5"


def problems_after(path, change):
    with h5py.File(path, "r+") as file:
        change(file)
    return inspect_dataset(path).problems


def test_a_sound_dataset_is_described_without_problems(path):
    found = inspect_dataset(path)
    assert found.lengths == [7, 12, 5, 9]
    assert found.image_sizes == {"agentview": (16, 16), "wrist": (16, 16)}
    assert found.environment == "Lift"
    assert (found.solved, found.judged) == (4, 4)
    assert found.problems == []
    assert found.missing == ["model_file", "rewards", "states"]
    actions = np.concatenate([make_episode(n, seed).actions for seed, n in enumerate((7, 12, 5, 9))])
    np.testing.assert_array_equal(found.action_range, [actions.min(0), actions.max(0)])


def test_text_names_counts_cameras_and_what_is_missing(path):
    text = str(inspect_dataset(path))
    for part in ("4, 33 steps; length 5 to 12", "agentview: 16 x 16", "success         4 of 4", "no problems found"):
        assert part in text


def set_nan(file):
    file["data/demo_1/obs/position"][3, 1] = np.nan


def cut_images(file):
    del file["data/demo_1/obs/wrist_image"]
    file["data/demo_1/obs/wrist_image"] = np.zeros((11, 16, 16, 3), np.uint8)


def repeat_episode(file):
    del file["data/demo_3"]
    file.copy("data/demo_0", file["data"], name="demo_3")


def freeze_channel(file):
    for demo in file["data"].values():
        demo["actions"][:, 2] = 0.5


def freeze_camera(file):
    file["data/demo_2/obs/agentview_image"][:] = 128


def leave_range(file):
    file["data/demo_1/actions"][4, 1] = -1.5


def mix_looks(file):
    for demo, look in zip(file["data"].values(), ("fast", "full", "fast", "fast"), strict=True):
        demo.attrs["look"] = look


def fail(file):
    file["data/demo_1"].attrs["success"] = False


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_nan, "demo_1: 'obs/position' is not finite at step 3"),
        (cut_images, "demo_1: 'images of wrist' has 11 steps, but the episode has 12"),
        (repeat_episode, "duplicate demonstrations: demo_0, demo_3"),
        (freeze_channel, "constant channel: actions[2] never changes"),
        (freeze_camera, "demo_2: camera agentview shows the same image at all 5 steps"),
        (leave_range, "action out of range: actions[1] leave the environment's [-1, 1]"),
        (mix_looks, "images with several looks, which training refuses: fast; full"),
        (fail, "1 of 4 demonstrations did not succeed"),
    ],
)
def test_each_fault_is_found_and_nothing_else(path, change, problem):
    assert problems_after(path, change) == [problem]


def test_contact_sheet_has_a_row_for_each_demonstration_with_its_first_frame(path, tmp_path):
    with h5py.File(path, "r+") as file:
        file["data/demo_3/obs/wrist_image"][0] = (255, 0, 0)
    sheet = np.asarray(Image.open(contact_sheet(path, tmp_path / "pictures" / "sheet.png")))
    height = sheet.shape[0] // 4
    assert sheet.shape[0] % 4 == 0
    is_red = (sheet == (255, 0, 0)).all(-1)
    assert is_red.any()
    assert is_red[3 * height :].sum() == is_red.sum()


def test_contact_sheet_without_images_is_one_clear_error(path, tmp_path):
    with h5py.File(path, "r+") as file:
        for demo in file["data"].values():
            del demo["obs"]
            demo["states"] = np.zeros((len(demo["actions"]), 4))
    assert any("s2robot render" in name for name in inspect_dataset(path).missing)
    with pytest.raises(DatasetError, match="no camera images"):
        contact_sheet(path, tmp_path / "sheet.png")


def test_command_prints_the_findings_and_draws_the_sheet(path, tmp_path, capsys):
    assert main(["inspect", str(path), f"sheet={tmp_path}/sheet.png"]) == 0
    assert "no problems found" in capsys.readouterr().out
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "inspect needs one dataset"),
        (["a.hdf5", "shet=b"], "unknown setting 'shet'; did you mean 'sheet'"),
        (["nowhere.hdf5"], "does not exist"),
    ],
)
def test_wrong_words_are_one_clear_error(words, message, capsys):
    assert main(["inspect", *words]) == 2
    assert message in capsys.readouterr().err

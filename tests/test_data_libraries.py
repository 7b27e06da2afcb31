"""What we write, read by each format's own library.

The libraries' pins exclude ours and each other, so each test runs only in an environment that has its library:
`make test-robomimic`, `make test-lerobot`.
"""

import numpy as np
import pytest
from helpers import make_episode, write_dataset


def test_robomimic_itself_reads_what_we_write(tmp_path):
    pytest.importorskip("robomimic", reason="robomimic is not installed (its pins exclude ours); it needs its own venv")
    import robomimic.utils.file_utils as file_utils
    import robomimic.utils.obs_utils as obs_utils
    from robomimic.utils.dataset import SequenceDataset

    obs_utils.initialize_obs_utils_with_obs_specs(
        {"obs": {"rgb": ["agentview_image"], "low_dim": ["position"], "depth": [], "scan": []}}
    )
    path = write_dataset(tmp_path / "demos.hdf5", lengths=(3, 4, 5, 6))
    assert file_utils.get_env_metadata_from_dataset(str(path))["env_name"] == "Lift"
    shapes = file_utils.get_shape_metadata_from_dataset(
        {"path": str(path)}, action_keys=["actions"], all_obs_keys=["agentview_image", "position"]
    )
    assert shapes["ac_dim"] == 4
    dataset = SequenceDataset(
        str(path),
        obs_keys=("agentview_image", "position"),
        action_keys=("actions",),
        dataset_keys=("dones",),
        action_config={"actions": {"normalization": None}},
        seq_length=3,
        filter_by_attribute="train",
        load_next_obs=False,
    )
    assert dataset.n_demos == 4
    expected, window = make_episode(3, seed=0), dataset[0]
    np.testing.assert_allclose(window["actions"], expected.actions)
    np.testing.assert_allclose(window["obs"]["position"], expected.proprioception["position"])
    np.testing.assert_array_equal(window["obs"]["agentview_image"], expected.images["agentview"])


@pytest.mark.parametrize("video", [True, False])
def test_lerobot_itself_reads_what_we_write(tmp_path, video):
    pytest.importorskip("lerobot.datasets", reason="lerobot is not installed (its pins exclude ours): own venv")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from s2robot.data import LeRobotWriter

    lengths = (6, 9, 4)
    with LeRobotWriter(tmp_path / "toy", fps=20, env_args={"env_name": "Lift"}, video=video) as writer:
        for seed, length in enumerate(lengths):
            writer.add(make_episode(length, seed))
    dataset = LeRobotDataset("s2robot/toy", root=tmp_path / "toy", video_backend="pyav")
    assert (dataset.num_episodes, dataset.num_frames, dataset.fps) == (3, sum(lengths), 20)
    assert set(dataset.meta.camera_keys) == {"observation.images.agentview", "observation.images.wrist"}
    episode, row = make_episode(9, seed=1), dataset.hf_dataset[6 + 5]  # step 5 of the second episode
    np.testing.assert_array_equal(row["action"].numpy(), episode.actions[5].astype(np.float32))
    state = np.concatenate([values[5] for _, values in sorted(episode.proprioception.items())])
    np.testing.assert_array_equal(row["observation.state"].numpy(), state)
    np.testing.assert_allclose(dataset.meta.stats["action"]["max"].max(), 1, atol=1e-6)
    assert dataset.meta.tasks.index.tolist() == ["Lift"]
    if not video:  # the pictures of make_episode are noise, which no video codec keeps
        pixels = np.moveaxis(dataset[6 + 5]["observation.images.wrist"].numpy(), 0, -1) * 255
        np.testing.assert_allclose(pixels, episode.images["wrist"][5], atol=1e-3)

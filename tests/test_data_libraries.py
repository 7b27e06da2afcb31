"""What we write, read by each format's own library.

The libraries' pins exclude ours and each other, so each test runs only in an environment that has its library:
`make test-robomimic`, `make test-lerobot`.
"""

import numpy as np
import pytest
from helpers import make_episode, needs_videos, write_dataset


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

    if video:
        needs_videos()
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


def write_lerobot(folder, lengths=(6, 9, 30), **settings):
    from s2robot.data import LeRobotWriter

    if settings.get("video", True):
        needs_videos()
    with LeRobotWriter(folder, env_args={"env_name": "Lift"}, **settings) as writer:
        for seed, length in enumerate(lengths):
            writer.add(make_episode(length, seed))
    return folder


@pytest.mark.parametrize("video", [True, False])
def test_lerobots_own_tools_find_the_statistics_they_would_compute(tmp_path, video):
    pytest.importorskip("lerobot.datasets", reason="lerobot is not installed (its pins exclude ours): own venv")
    from lerobot.datasets.compute_stats import aggregate_stats, get_feature_stats
    from lerobot.datasets.dataset_tools import delete_episodes
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    lengths = (6, 9, 30)
    folder = write_lerobot(tmp_path / "toy", lengths, video=video)

    def expected(seeds):
        described = []
        for seed in seeds:
            episode = make_episode(lengths[seed], seed)
            pixels = get_feature_stats(np.moveaxis(episode.images["wrist"], -1, 1), axis=(0, 2, 3), keepdims=True)
            described.append(
                {
                    "action": get_feature_stats(episode.actions, axis=0, keepdims=False),
                    "observation.images.wrist": {
                        kind: values if kind == "count" else values[0] / 255 for kind, values in pixels.items()
                    },
                }
            )
        return aggregate_stats(described)

    def check(found, seeds):
        for name, statistics in expected(seeds).items():
            assert found[name].keys() == statistics.keys()
            for kind, values in statistics.items():
                # LeRobot's quantiles are exact to the width of a bin, the range / 5000.
                np.testing.assert_allclose(found[name][kind], values, atol=1e-3 if kind[0] == "q" else 1e-5)

    dataset = LeRobotDataset("s2robot/toy", root=folder, video_backend="pyav")
    check(dataset.meta.stats, (0, 1, 2))
    fewer = delete_episodes(dataset, [1], output_dir=tmp_path / "fewer", repo_id="s2robot/fewer")
    assert fewer.num_episodes == 2
    check(fewer.meta.stats, (0, 2))
    assert fewer.meta.stats.keys() == dataset.meta.stats.keys()


def test_lerobot_normalises_by_our_quantiles(tmp_path):
    pytest.importorskip("lerobot.datasets", reason="lerobot is not installed (its pins exclude ours): own venv")
    import torch
    from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.processor import NormalizerProcessorStep, create_transition

    statistics = LeRobotDataset("s2robot/toy", root=write_lerobot(tmp_path / "toy", video=False)).meta.stats
    step = NormalizerProcessorStep(
        features={"action": PolicyFeature(FeatureType.ACTION, (4,))},
        norm_map={FeatureType.ACTION: NormalizationMode.QUANTILES},
        stats=statistics,
    )
    for kind, value in (("q01", -1), ("q99", 1)):
        action = torch.as_tensor(statistics["action"][kind], dtype=torch.float32)
        normalised = step(create_transition(action=action))["action"]
        np.testing.assert_allclose(normalised, np.full(4, value), atol=1e-5)


def test_depth_cameras_of_lerobot_itself_are_no_colour_cameras(tmp_path):
    pytest.importorskip("lerobot.datasets", reason="lerobot is not installed (its pins exclude ours): own venv")
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from s2robot.data import open_dataset

    names = {"names": ["height", "width", "channels"]}
    features = {
        "observation.images.front": {"dtype": "image", "shape": (64, 64, 3), **names},
        "observation.images.depth": {"dtype": "image", "shape": (64, 64, 1), "info": {"is_depth_map": True}, **names},
        "observation.state": {"dtype": "float32", "shape": (2,), "names": None},
        "action": {"dtype": "float32", "shape": (2,), "names": None},
    }
    dataset = LeRobotDataset.create("s2robot/depth", fps=50, root=tmp_path / "depth", features=features)
    colour = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    for image in colour:
        frame = {"observation.images.front": image, "observation.images.depth": np.ones((64, 64, 1), np.uint16)}
        dataset.add_frame({**frame, "observation.state": np.ones(2, "f4"), "action": np.ones(2, "f4"), "task": "wait"})
    dataset.save_episode()
    dataset.finalize()
    with open_dataset(tmp_path / "depth") as found:
        assert (found.cameras, found.proprioception, found.fps) == (["front"], ["state"], 50)
        np.testing.assert_array_equal(found.episode(0).images["front"], colour)

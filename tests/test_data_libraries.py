"""What we write, read by each format's own library.

The libraries' pins exclude ours and each other, so each test runs only in an environment that has its library.
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
    shapes = file_utils.get_shape_metadata_from_dataset(str(path), all_obs_keys=["agentview_image", "position"])
    assert shapes["ac_dim"] == 4
    dataset = SequenceDataset(
        str(path),
        obs_keys=("agentview_image", "position"),
        dataset_keys=("actions", "dones"),
        seq_length=3,
        filter_by_attribute="train",
        load_next_obs=False,
    )
    assert dataset.n_demos == 4
    expected, window = make_episode(3, seed=0), dataset[0]
    np.testing.assert_allclose(window["actions"], expected.actions)
    np.testing.assert_allclose(window["obs"]["position"], expected.proprioception["position"])
    np.testing.assert_array_equal(window["obs"]["agentview_image"], expected.images["agentview"])

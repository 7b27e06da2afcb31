import numpy as np
import pytest
from helpers import PooledPixels, make_episode, write_dataset

from s2robot.config import TrainConfig
from s2robot.data import open_dataset
from s2robot.feature_cache import cache_features
from s2robot.interfaces import DatasetError
from s2robot.policies.bc import BCConfig
from s2robot.training.episodes import choose_episodes
from s2robot.training.windows import WindowDataset, load_demonstrations, require_long_enough, split_episodes

LENGTHS = (7, 40, 1, 30)


@pytest.fixture
def loaded(tmp_path):
    with open_dataset(write_dataset(tmp_path / "demos.hdf5", LENGTHS)) as dataset:
        cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache")
        yield dataset, load_demonstrations(dataset, ["position"]), {"agentview": cached}


def windows(loaded, episodes, to=2, ta=4):
    _, demonstrations, features = loaded
    return WindowDataset(demonstrations, features, episodes, observation_steps=to, action_steps=ta)


def test_a_window_holds_the_last_observations_and_the_next_actions(loaded):
    dataset = windows(loaded, [1, 3])
    window = dataset[40 + 10]  # step 10 of episode 3
    episode = make_episode(30, seed=3)
    np.testing.assert_array_equal(window.actions[0], episode.actions[10:14])
    np.testing.assert_array_equal(window.observation.proprioception[0], episode.proprioception["position"][9:11])
    rows = loaded[2]["agentview"].rows
    start = sum(LENGTHS[:3])
    np.testing.assert_array_equal(window.observation.features["agentview"][0], rows[start + 9 : start + 11])


def test_past_actions_are_those_before_each_observed_step_and_zero_before_the_first(loaded):
    dataset = windows(loaded, [1, 3], to=3)
    episode = make_episode(30, seed=3)
    np.testing.assert_array_equal(dataset[50].observation.past_actions[0], episode.actions[7:10])
    np.testing.assert_array_equal(dataset[40].observation.past_actions[0], np.zeros((3, 4)))
    second = dataset[41].observation.past_actions[0]
    np.testing.assert_array_equal(second[:2], np.zeros((2, 4)))
    np.testing.assert_array_equal(second[2], episode.actions[0])


def test_edges_repeat_the_first_observation_and_the_last_action(loaded):
    dataset = windows(loaded, [0, 1], to=3)
    episode = make_episode(7, seed=0)
    first, last = dataset[0], dataset[6]
    position = episode.proprioception["position"]
    np.testing.assert_array_equal(first.observation.proprioception[0], position[[0, 0, 0]])
    np.testing.assert_array_equal(last.actions[0], episode.actions[[6, 6, 6, 6]])


def test_every_step_of_the_chosen_episodes_is_one_window(loaded):
    assert len(windows(loaded, [0, 2])) == 8
    single = windows(loaded, [2])
    assert len(single) == 1
    assert single[0].actions.shape == (1, 4, 4)


def test_a_batch_is_its_windows_stacked(loaded):
    dataset = windows(loaded, [0, 1, 2, 3])
    batch = dataset.__getitems__([3, 50, 77])
    for row, index in enumerate([3, 50, 77]):
        np.testing.assert_array_equal(batch.actions[row], dataset[index].actions[0])
        np.testing.assert_array_equal(
            batch.observation.features["agentview"][row], dataset[index].observation.features["agentview"][0]
        )


def test_split_is_by_episode_complete_and_the_same_every_time():
    training, validation = split_episodes(20, 0.1)
    assert sorted(training + validation) == list(range(20))
    assert len(validation) == 2
    assert (training, validation) == split_episodes(20, 0.1)


def test_proprioception_keys_are_concatenated_in_the_order_asked_for(loaded):
    dataset = loaded[0]
    both = load_demonstrations(dataset, ["extra", "position"])
    np.testing.assert_array_equal(both.proprioception[0][:, 2:], make_episode(7, 0).proprioception["position"])
    assert load_demonstrations(dataset, []).proprioception[0].shape == (7, 0)


def test_more_demonstrations_than_recorded_are_refused(loaded):
    with pytest.raises(DatasetError, match="has 4 demonstrations, but 5 were requested"):
        choose_episodes(loaded[0], TrainConfig(num_demonstrations=5, policy=BCConfig()))


def test_windows_are_named_by_demonstration_and_step(loaded):
    dataset = windows(loaded, [1, 3])
    assert dataset.describe([42, 3, 40]) == "demo_1 step 3; demo_3 steps 0, 2"
    assert dataset.describe(range(70), at_most=2) == "demo_1 steps 0, 1; and 68 more"


def test_features_come_from_the_copy_of_the_frames_that_is_asked_for(tmp_path):
    with open_dataset(write_dataset(tmp_path / "demos.hdf5", LENGTHS)) as dataset:
        cached = cache_features(dataset, PooledPixels(), "agentview", tmp_path / "cache", num_shifts=2)
        shown = windows((dataset, load_demonstrations(dataset, []), {"agentview": cached}), [1, 3])
    batch = shown.__getitems__([5, 5, 5], np.array([0, 1, 2]))
    rows = batch.observation.features["agentview"][:, -1]
    for row, source in zip(rows, (cached.rows, *cached.shifted), strict=True):
        np.testing.assert_array_equal(row, source[LENGTHS[0] + 5])
    assert not (rows[0] == rows[1]).all()


@pytest.mark.parametrize(("count", "steps"), [(4, 40), (1, 7)])
def test_a_chunk_may_be_as_long_as_the_longest_demonstration(loaded, count, steps):
    require_long_enough(loaded[0], range(count), steps)
    with pytest.raises(DatasetError, match=f"policy.action_steps={steps + 1} is longer than every demonstration"):
        require_long_enough(loaded[0], range(count), steps + 1)


def test_a_split_that_leaves_nothing_to_train_on_is_refused():
    with pytest.raises(DatasetError, match=r"validation_fraction=0\.9 holds out all 3 demonstrations"):
        split_episodes(3, 0.9)

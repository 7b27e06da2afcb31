import numpy as np
import torch

from s2robot.policies.normalization import ActionNormalizer, ProprioceptionNormalizer

RNG = np.random.default_rng(0)


def test_actions_of_the_training_set_fill_minus_one_to_one_and_come_back():
    arrays = [RNG.normal(size=(n, 3)).astype(np.float32) for n in (4, 9)]
    normalizer = ActionNormalizer(3)
    normalizer.fit(arrays)
    actions = torch.from_numpy(np.concatenate(arrays))
    scaled = normalizer(actions)
    torch.testing.assert_close(scaled.amax(0), torch.ones(3))
    torch.testing.assert_close(scaled.amin(0), -torch.ones(3))
    torch.testing.assert_close(normalizer.inverse(scaled), actions)


def test_constant_action_dimension_stays_its_constant():
    normalizer = ActionNormalizer(2)
    normalizer.fit([np.array([[0.3, -1.0], [0.3, 1.0]], np.float32)])
    assert normalizer(torch.tensor([0.3, 0.0]))[0] == 0
    torch.testing.assert_close(normalizer.inverse(torch.tensor([0.9, 0.5])), torch.tensor([0.3, 0.5]))


def test_actions_never_leave_the_range_seen_in_training():
    normalizer = ActionNormalizer(1)
    normalizer.fit([np.array([[-0.2], [0.4]], np.float32)])
    torch.testing.assert_close(normalizer.inverse(torch.tensor([[5.0], [-5.0]])), torch.tensor([[0.4], [-0.2]]))


def test_proprioception_is_standardised_and_a_constant_is_not_blown_up():
    values = RNG.normal(3.0, 2.0, size=(500, 2)).astype(np.float32)
    values[:, 1] = 7.0
    normalizer = ProprioceptionNormalizer(2)
    normalizer.fit([values[:200], values[200:]])
    scaled = normalizer(torch.from_numpy(values))
    assert abs(scaled[:, 0].mean()) < 1e-4
    assert abs(scaled[:, 0].std() - 1) < 1e-2
    assert scaled[:, 1].abs().max() < 1e-4
    assert normalizer(torch.tensor([1e6, 7.0]))[0] == 10


def test_statistics_travel_with_the_state_dict():
    normalizer = ActionNormalizer(1)
    normalizer.fit([np.array([[-3.0], [5.0]], np.float32)])
    other = ActionNormalizer(1)
    other.load_state_dict(normalizer.state_dict())
    assert other(torch.tensor([1.0])) == 0

import pytest
import torch
from policy_toys import SMALL, build, generators, make_batch
from trained_toys import TOYS

from s2robot.interfaces import Observation
from s2robot.policies.networks import DenoisingTransformer, block_causal_mask, chunks_from_every_step
from s2robot.training.windows import Demonstrations, WindowDataset


def test_every_step_of_a_window_is_given_the_chunk_that_began_there():
    actions = torch.arange(1, 41, dtype=torch.float32).reshape(20, 2)  # step t did (2t + 1, 2t + 2)
    demonstrations = Demonstrations([actions.numpy()], [torch.zeros(20, 0).numpy()], [0], ["demo_0"])
    windows = WindowDataset(demonstrations, {}, [0], observation_steps=4, action_steps=3)
    chunks, valid = chunks_from_every_step(windows.__getitems__([9, 1]))
    assert valid.tolist() == [[True] * 4, [False, False, True, True]]
    for step in range(4):
        torch.testing.assert_close(chunks[0, step], actions[6 + step : 9 + step])
    torch.testing.assert_close(chunks[1, 2], actions[0:3])
    torch.testing.assert_close(chunks[1, 3], actions[1:4])


def test_a_pause_within_an_episode_stays_supervised():
    batch = make_batch(1, 4, 3)
    batch.observation.past_actions[0, 2] = 0
    assert chunks_from_every_step(batch)[1].all()


@pytest.mark.parametrize("name", ["bc_rnn", "bc_transformer"])
def test_steps_before_the_episode_began_do_not_count_in_the_loss(name):
    policy, batch = build(name)
    policy.eval()
    batch.observation.past_actions[:, :3] = 0  # the episode began at the third of four observed steps
    chunks, valid = chunks_from_every_step(batch)
    assert valid.tolist() == [[False, False, True, True]] * 12
    raw = policy.head(policy.states(batch.observation)[:, 2:])
    expected = policy._output.loss(raw, policy.actions(chunks[:, 2:])).mean()
    torch.testing.assert_close(policy.loss(batch), expected)


def test_block_causal_mask_hides_the_later_steps_only():
    mask = block_causal_mask(3, 2)
    assert (~mask).int().tolist() == [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
    ]


@pytest.mark.parametrize("part", ["features", "proprioception", "past_actions"])
def test_bc_transformer_does_not_see_later_steps(part):
    policy, batch = build("bc_transformer")
    policy.eval()
    before = policy.states(batch.observation)
    seen = batch.observation
    if part == "features":
        seen.features["wrist"][:, 2:] += 1
    else:
        getattr(seen, part)[:, 2:] += 0.1
    after = policy.states(seen)
    torch.testing.assert_close(after[:, :2], before[:, :2])
    assert not torch.allclose(after[:, 2], before[:, 2])


def test_layers_of_bc_transformer_do_not_begin_as_copies():
    layers = build("bc_transformer")[0].transformer.layers
    assert not torch.equal(layers[0].self_attn.in_proj_weight, layers[1].self_attn.in_proj_weight)
    assert not torch.equal(layers[0].linear1.weight, layers[1].linear1.weight)


def test_denoising_transformer_does_not_see_later_actions_but_every_observation():
    torch.manual_seed(0)
    network = DenoisingTransformer(
        3, 10, 8, 2, layers=2, heads=4, width=32, embedding_dropout=0.0, attention_dropout=0.3
    ).eval()
    actions, time, condition = torch.randn(2, 8, 3), torch.tensor([3, 90]), torch.randn(2, 2, 10)
    before = network(actions, time, condition)
    later = torch.cat([actions[:, :5], actions[:, 5:] + 1], dim=1)
    after = network(later, time, condition)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5:] - before[:, 5:]).abs().amax((0, 2)).min() > 1e-5
    for step in range(2):
        other = condition.clone()
        other[:, step] += 1
        assert (network(actions, time, other) - before).abs().amax((0, 2)).min() > 1e-6
    assert (network(actions, time + 5, condition) - before).abs().amax((0, 2)).min() > 1e-6


@pytest.mark.parametrize("name", ["goes on as before", "cannot tell without past actions"])
def test_only_past_actions_tell_bc_transformer_which_way_it_was_going(name):
    TOYS[f"bc_transformer {name}"].check()


@pytest.mark.parametrize("name", [name for name in SMALL if name != "bc_transformer"])
def test_other_policies_do_not_look_at_past_actions(name):
    policy, batch = build(name)
    policy.eval()
    seen = batch.observation
    other = Observation(seen.features, seen.proprioception, torch.zeros_like(seen.past_actions))
    torch.testing.assert_close(policy.act(other, generators(12)), policy.act(seen, generators(12)))

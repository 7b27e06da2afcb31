import types

import numpy as np
import pytest
import torch
from gymnasium import spaces
from rollout_toys import CAMERAS, POLICIES, PROPRIOCEPTION, SIZE, make_actor, make_checkpoint, random_observation

from s2robot.data.appearance import recorded_size
from s2robot.encoder.engines import openvino_precisions
from s2robot.interfaces import Observation, RolloutError
from s2robot.rollout import Actor, ChunkEnsemble, RunningEpisode

CASES = [*((name, "eager") for name in POLICIES), *([("bc", "openvino")] if openvino_precisions() else [])]


def advance(history, newest):
    """The observation after `newest` [n, new, …] was observed."""
    return {key: np.concatenate([history[key], newest[key]], axis=1)[:, -history[key].shape[1] :] for key in history}


def play(actor, rows, seed=0, calls=4, executed=2):
    """Act `calls` times on made-up observations; yields observation, episodes and actions."""
    rng = np.random.default_rng(seed)
    steps = actor.start(0).past_actions.shape[0]
    first = random_observation(rng, rows, 1)
    observation = {key: np.repeat(values, steps, axis=1) for key, values in first.items()}
    episodes = [actor.start(index) for index in range(rows)]
    for _ in range(calls):
        actions = actor.act(observation, episodes)
        yield observation, episodes, actions
        for row, episode in enumerate(episodes):
            episode.executed(actions[row, :executed], None)
        observation = advance(observation, random_observation(rng, rows, executed))


class Counting(torch.nn.Module):
    """An encoder that counts frames."""

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder
        self.frames = []

    def encode_cameras(self, images):
        self.frames.append({camera: len(batch) for camera, batch in images.items()})
        return self.encoder.encode_cameras(images)


@pytest.mark.parametrize("name", POLICIES)
def test_each_frame_is_encoded_once_and_the_features_are_those_of_encoding_all(name):
    checkpoint, encoder, model = make_checkpoint(name)
    counting = Counting(encoder)
    actor = Actor(model, counting, checkpoint, torch.device("cpu"))
    steps = checkpoint.config.policy.observation_steps
    for number, (observation, episodes, _) in enumerate(play(actor, rows=2)):
        frames = sum(call[CAMERAS[0]] for call in counting.frames)
        assert frames == 2 * (1 + number * min(2, steps))
        for camera in CAMERAS:
            for row, episode in enumerate(episodes):
                images = torch.from_numpy(observation[f"{camera}_image"][row])
                expected = torch.cat([encoder.feature_shape(SIZE, SIZE).flatten(encoder(i[None])) for i in images])
                torch.testing.assert_close(episode.features[camera], expected.half(), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("name", POLICIES)
def test_actions_are_those_of_the_policy_for_what_each_episode_has_seen_and_done(name):
    checkpoint, encoder, model = make_checkpoint(name)
    steps = checkpoint.config.policy.observation_steps
    past_actions = torch.zeros(2, steps, 7)
    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    for seen, _, actions in play(Actor(model, encoder, checkpoint, torch.device("cpu")), rows=2):
        seen = {key: torch.from_numpy(values) for key, values in seen.items()}
        for row in range(2):
            encoded = [
                encoder.encode_cameras({camera: seen[f"{camera}_image"][row, step, None] for camera in CAMERAS})
                for step in range(steps)
            ]
            observation = Observation(
                {
                    camera: torch.stack([shape.flatten(step[camera]) for step in encoded], dim=1).half()
                    for camera, shape in checkpoint.spec.features.items()
                },
                torch.cat([seen["robot0_gripper_qpos"], seen["robot0_eef_pos"]], dim=-1)[row, None],
                past_actions[row, None],
            )
            expected = model.act(observation, [generators[row]])[0, :2]
            np.testing.assert_array_equal(actions[row], expected)
        past_actions = torch.cat([past_actions, torch.from_numpy(actions)], dim=1)[:, -steps:]


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_reused_features_give_the_same_actions_bit_for_bit_as_encoding_everything(name, engine):
    actor, forgetful = make_actor(name, engine), make_actor(name, engine)
    twins = [forgetful.start(row) for row in range(2)]  # they draw the same noise
    for observation, episodes, actions in play(actor, rows=2, calls=3):
        for twin, episode in zip(twins, episodes, strict=True):
            twin.past_actions, twin.features, twin.unseen = episode.past_actions, {}, 99
        np.testing.assert_array_equal(forgetful.act(observation, twins), actions)


@pytest.mark.parametrize(("name", "engine"), CASES)
def test_a_rows_actions_do_not_depend_on_its_neighbours(name, engine):
    together = [actions for *_, actions in play(make_actor(name, engine), rows=5, calls=2)]
    actor = make_actor(name, engine)
    rng = np.random.default_rng(0)
    steps = actor.start(0).past_actions.shape[0]
    first = random_observation(rng, 5, 1)
    for row in (0, 4):
        alone = {key: np.repeat(values[row : row + 1], steps, axis=1) for key, values in first.items()}
        np.testing.assert_array_equal(actor.act(alone, [actor.start(row)])[0], together[0][row])


@pytest.mark.parametrize("name", POLICIES)
def test_one_batch_for_all_as_on_a_gpu_gives_the_same_actions_to_rounding(name):
    actors, encoders = [], []
    for exact in (True, False):
        checkpoint, encoder, model = make_checkpoint(name)
        encoders.append(Counting(encoder))
        actors.append(Actor(model, encoders[-1], checkpoint, torch.device("cpu")))
        assert actors[-1]._inference._exact
        actors[-1]._inference._exact = exact
    for (*_, expected), (*_, actions) in zip(*(play(actor, 3) for actor in actors), strict=True):
        apart = min(np.abs(expected[i] - expected[j]).max() for i, j in ((0, 1), (0, 2), (1, 2)))
        assert np.abs(actions - expected).max() < apart / 10  # a row that got another's would be further off
    single, batched = (encoder.frames for encoder in encoders)
    assert len(batched) == 4  # one for each time the policy looked
    assert len(single) == sum(call[CAMERAS[0]] for call in batched)


def test_this_encoders_features_do_depend_on_the_batch_which_makes_the_tests_above_mean_something():
    _, encoder, _ = make_checkpoint("bc")
    images = torch.from_numpy(random_observation(np.random.default_rng(0), 1, 8)["agentview_image"][0])
    if torch.equal(encoder(images).map, torch.cat([encoder(image[None]).map for image in images])):
        pytest.skip("on this CPU they do not")


def test_ensemble_averages_what_overlapping_chunks_say_about_a_step():
    ensemble = ChunkEnsemble(m=0.5)
    a, b, c = (np.array([[value], [value + 1], [value + 2]], np.float32) for value in (0.0, 10.0, 20.0))
    assert ensemble.combine(0, a, 1).tolist() == [[0.0]]
    w0, w1, w2 = 1.0, np.exp(-0.5), np.exp(-1.0)
    np.testing.assert_allclose(ensemble.combine(1, b, 1), [[(w0 * 1 + w1 * 10) / (w0 + w1)]], rtol=1e-6)
    # At step 2: the oldest chunk says 2, the next 11, the newest 20. At step 3 the oldest is over.
    np.testing.assert_allclose(
        ensemble.combine(2, c, 2),
        [[(w0 * 2 + w1 * 11 + w2 * 20) / (w0 + w1 + w2)], [(w0 * 12 + w1 * 21) / (w0 + w1)]],
        rtol=1e-6,
    )


def test_ensemble_with_m_0_is_the_mean_and_ends_chunks_that_are_over():
    ensemble = ChunkEnsemble(m=0.0)
    chunk = np.ones((2, 3), np.float32)
    ensemble.combine(0, 7 * chunk, 2)
    result = ensemble.combine(2, chunk, 1)
    np.testing.assert_array_equal(result, chunk[:1])
    assert result.dtype == np.float32
    np.testing.assert_array_equal(ensemble.combine(3, 3 * chunk, 1), 2 * chunk[:1])


def test_actor_executes_the_ensemble_of_its_own_predictions():
    plain = [actions for *_, actions in play(make_actor("bc", execute_steps=4), rows=1, calls=1)]
    ensembled = make_actor("bc", execute_steps=1, temporal_ensemble=0.1)
    history = list(play(ensembled, rows=1, calls=2, executed=1))
    np.testing.assert_array_equal(history[0][2][0], plain[0][0, :1])  # one chunk so far
    second = make_actor("bc", execute_steps=4)
    episode = second.start(0)
    episode.past_actions = np.concatenate([episode.past_actions, history[0][2][0]])[-3:]
    episode.features = dict(history[1][1][0].features)
    episode.unseen = 0
    predicted = second._predict(history[1][0], [episode])[0, 0]
    w = np.exp(-0.1)
    np.testing.assert_allclose(history[1][2][0, 0], (plain[0][0, 1] + w * predicted) / (1 + w), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"execute_steps": 5}, "execute_steps=5 is not possible: the policy predicts 4 actions"),
        ({"execute_steps": 4, "temporal_ensemble": 0.01}, "temporal_ensemble=0.01 has nothing to average"),
    ],
)
def test_execution_that_does_not_fit_the_chunk_is_refused(settings, message):
    with pytest.raises(RolloutError, match=message):
        make_actor("bc", **settings)


def make_spaces(steps=3, size=SIZE, cameras=CAMERAS, low_dim=PROPRIOCEPTION, actions=(2, 7)):
    images = {f"{camera}_image": spaces.Box(0, 255, (steps, size, size, 3), np.uint8) for camera in cameras}
    vectors = {key: spaces.Box(-1, 1, (steps, width), np.float32) for key, width in low_dim.items()}
    return types.SimpleNamespace(
        single_observation_space=spaces.Dict({**images, **vectors}),
        single_action_space=spaces.Box(-1, 1, actions, np.float32),
    )


def test_fitting_environments_are_accepted_and_leave_no_trace():
    actor = make_actor("bc")
    actor.prepare(make_spaces())
    assert actor.times.encode == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": (2, 6)}, r"chunks of shape \(2, 6\), but the policy gives \(2, 7\)"),
        ({"actions": (4, 7)}, r"chunks of shape \(4, 7\), but the policy gives \(2, 7\)"),
        ({"cameras": ("agentview", "frontview")}, "unknown camera 'robot0_eye_in_hand'.*Choices: agentview, frontview"),
        ({"low_dim": {"robot0_eef_pos": 3}}, "unknown proprioception 'robot0_gripper_qpos'"),
        ({"low_dim": PROPRIOCEPTION | {"robot0_eef_pos": 4}}, "has 6 numbers in the environment.*trained on 5"),
        ({"size": 84}, "gives images of 84 x 84 pixels, but the policy was trained on 64 x 64.*image_size=64"),
        ({"steps": 1}, r"gives images of shape \(1, 64, 64, 3\); the policy needs \(3, height, width, 3\)"),
    ],
)
def test_environments_that_do_not_fit_the_policy_are_one_clear_error(changes, message):
    with pytest.raises(RolloutError, match=message):
        make_actor("bc").prepare(make_spaces(**changes))


def test_features_of_another_shape_are_refused_where_no_size_was_recorded():
    checkpoint, encoder, model = make_checkpoint("bc")
    del checkpoint.environment["image_size"]
    checkpoint.spec.features["agentview"] = encoder.feature_shape(SIZE, SIZE).__class__(3, 2, 2)
    with pytest.raises(RolloutError, match="images of 64 x 64 pixels from camera 'agentview' give features of"):
        Actor(model, encoder, checkpoint, torch.device("cpu")).prepare(make_spaces())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (96, (96, 96)),
        ({"agentview": [128, 96]}, (128, 128)),
        ({"agentview": {"height": 48, "width": 64}}, (48, 64)),
        ({}, None),
        (None, None),
    ],
)
def test_image_size_is_read_as_the_environment_records_it(size, expected):
    assert recorded_size({"image_size": size}, "agentview") == expected


def test_running_episode_keeps_the_last_features_and_actions():
    episode = RunningEpisode(3, np.zeros((2, 1), np.float32))
    episode.remember_features([{"wrist": torch.tensor([1.0])}])
    assert episode.features["wrist"].tolist() == [[1.0], [1.0]]
    episode.remember_features([{"wrist": torch.tensor([2.0])}])
    assert episode.features["wrist"].tolist() == [[1.0], [2.0]]
    episode.executed(np.array([[5.0], [6.0], [7.0]], np.float32), None)
    assert episode.past_actions.tolist() == [[6.0], [7.0]]
    assert (episode.steps, episode.unseen) == (3, 4)

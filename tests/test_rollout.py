import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from vectors import InProcess

from s2robot.interfaces import RolloutError
from s2robot.rollout import EpisodeResult, RunningEpisode, Times, rollout

TA, HORIZON = 4, 9


class Countdown(gymnasium.Env):
    """Starts at a height drawn from the seed; actions lower it; below zero is success. Idles once decided.

    The seeds in `solved` start below zero.
    """

    solved = ()
    renderer = None

    def __init__(self):
        self.observation_space = spaces.Dict({"height": spaces.Box(-99, 99, (1, 1), np.float32)})
        self.action_space = spaces.Box(-1, 1, (TA, 1), np.float32)
        self.resets = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.resets.append(seed)
        self.height = -1.0 if seed in self.solved else self.np_random.uniform(2, 12)
        self.steps = 0
        self.over = self.height < 0
        self.record = bool((options or {}).get("record"))
        return self._observation(), self._info(self.over, 0)

    def step(self, actions):
        executed, success, idle = 0, False, self.over
        for action in actions:
            if self.over:
                break
            self.height -= float(action[0])
            self.steps += 1
            executed += 1
            success = self.height < 0
            self.over = success or self.steps == HORIZON
        return self._observation(), 0.0, False, idle or self.steps == HORIZON, self._info(success, executed)

    def _observation(self):
        return {"height": np.full((1, 1), self.height, np.float32)}

    def _info(self, success, executed):
        info = {"is_success": success, "steps": executed}
        if self.renderer is not None and not executed:
            info["renderer"] = self.renderer
        if self.record:
            info["frames"] = np.full((max(executed, 1), 2, 2, 3), self.steps, np.uint8)
        return info


class Vector(InProcess):
    """Also plays a simulator that fails in the second step of some seeds, as often as `crashes` says."""

    def __init__(self, num_envs, crashes=None, solved=()):
        self.crashes = dict(crashes or {})
        super().__init__(Countdown, num_envs)
        for env in self.envs:
            env.unwrapped.resets.clear()
            env.unwrapped.solved = solved

    def step(self, actions):
        *outcome, infos = super().step(actions)
        for index, env in enumerate(self.envs):
            seed = env.unwrapped.resets[-1]
            if self.crashes.get(seed, 0) and env.unwrapped.steps > TA:
                self.crashes[seed] -= 1
                infos.setdefault("error", np.full(self.num_envs, None, dtype=object))[index] = f"seed {seed} exploded"
                env.unwrapped.over = True
                infos["is_success"][index] = True  # what a failed environment says must not count
        return *outcome, infos


class NoisyActor:
    """Lowers by a noisy unit step; the noise comes from the episode's own generator.

    It knows the height that each episode must have come to, and accepts no other's observation.
    """

    def __init__(self, factor=1.0):
        self.factor = factor
        self.rows = []
        self.past = []
        self.unseen = []
        self.heights = {}
        self.times = Times()

    def prepare(self, envs):
        pass

    def start(self, seed, frames=None):
        self.heights[seed] = np.random.default_rng(seed).uniform(2, 12)
        return RunningEpisode(seed, np.zeros((2, 1), np.float32), frames=frames)

    def act(self, observation, episodes):
        self.rows.append(len(episodes))
        self.past.append(np.stack([episode.past_actions for episode in episodes]))
        self.unseen.append([episode.unseen for episode in episodes])
        heights = [[[self.heights[episode.seed]]] for episode in episodes]
        np.testing.assert_allclose(observation["height"], heights, atol=1e-5)
        for episode in episodes:
            episode.unseen = 0
        noise = [torch.rand(TA, 1, generator=episode.generator).numpy() for episode in episodes]
        actions = self.factor * np.stack([0.8 + 0.2 * sample for sample in noise])
        for episode, chunk in zip(episodes, actions, strict=True):
            self.heights[episode.seed] -= chunk.sum()
        return actions


def run(num_envs, seeds=range(10), film=(), actor=None, crashes=None, solved=()):
    envs = Vector(num_envs, crashes, solved)
    outcomes = list(rollout(actor or NoisyActor(), envs, list(seeds), film))
    return outcomes, envs


def test_every_seed_runs_exactly_once():
    outcomes, envs = run(3)
    assert sorted(result.seed for result, _ in outcomes) == list(range(10))
    resets = [seed for env in envs.envs for seed in env.unwrapped.resets]
    assert sorted(resets) == list(range(10))


def by_seed(outcomes):
    return sorted((result for result, _ in outcomes), key=lambda result: result.seed)


@pytest.mark.parametrize("num_envs", [1, 2, 4, 10])
def test_outcomes_do_not_depend_on_how_many_environments_run_side_by_side(num_envs):
    assert by_seed(run(num_envs)[0]) == by_seed(run(3)[0])


def test_success_and_steps_are_those_of_the_episode():
    outcomes, _ = run(2)
    results = [result for result, _ in outcomes]
    assert {result.success for result in results} == {True, False}
    for result in results:
        height = np.random.default_rng(result.seed).uniform(2, 12)
        if result.success:
            assert height <= result.steps <= height / 0.8 + 1
        else:
            assert result == EpisodeResult(result.seed, False, HORIZON)
            assert height > HORIZON * 0.8


@pytest.mark.parametrize("num_envs", [1, 3])
def test_episode_that_is_solved_as_it_begins_is_a_success_of_no_steps(num_envs):
    outcomes, _ = run(num_envs, film=[2], solved=(0, 2, 9))
    results = by_seed(outcomes)
    flawless = by_seed(run(num_envs)[0])
    for seed in (0, 2, 9):
        assert results[seed] == EpisodeResult(seed, True, 0)
        flawless[seed] = results[seed]
    assert results == flawless
    (film,) = [recording for _, recording in outcomes if recording is not None]
    assert (film.seed, film.success, len(film.frames)) == (2, True, 1)


def test_policy_is_asked_only_for_running_episodes():
    actor = NoisyActor()
    run(4, range(5), actor=actor)
    assert actor.rows[0] == 4
    assert actor.rows[-1] == 1


def test_more_environments_than_episodes_are_refused():
    with pytest.raises(RolloutError, match="4 environments for 3 episodes"):
        run(4, range(3))


def test_filmed_seeds_return_every_frame_and_the_others_none():
    outcomes, _ = run(3, film=[1, 4])
    for result, recording in outcomes:
        if result.seed in (1, 4):
            assert recording.seed == result.seed
            assert recording.success == result.success
            assert len(recording.frames) == 1 + result.steps  # the first observation, then one per action
        else:
            assert recording is None


def test_policy_sees_the_actions_it_executed_last():
    actor = NoisyActor()
    run(1, [1], actor=actor)
    assert not actor.past[0].any()
    generator = torch.Generator().manual_seed(1)
    for seen in actor.past[1:]:
        chunk = 0.8 + 0.2 * torch.rand(TA, 1, generator=generator).numpy()
        np.testing.assert_array_equal(seen[0], chunk[-2:])


def test_policy_is_told_how_many_observations_are_new_to_it():
    actor = NoisyActor()
    run(1, [1, 3], actor=actor)
    steps = [count for (count,) in actor.unseen]
    assert steps[0] == 1
    assert steps.count(1) >= 2  # each episode begins with one frame
    assert set(steps) == {1, TA}


@pytest.mark.parametrize("num_envs", [1, 3])
def test_episode_whose_simulator_fails_once_is_run_again_to_the_same_outcome(num_envs):
    failing, _ = run(num_envs, crashes={2: 1, 5: 1})
    flawless, _ = run(num_envs)
    assert by_seed(failing) == by_seed(flawless)


@pytest.mark.parametrize("num_envs", [1, 3])
def test_episode_that_fails_again_is_an_error_and_costs_the_others_nothing(num_envs):
    outcomes, envs = run(num_envs, crashes={2: 9})
    results = {result.seed: result for result, _ in outcomes}
    assert len(outcomes) == len(results) == 10
    assert results.pop(2) == EpisodeResult(2, False, TA, error="seed 2 exploded")
    assert envs.crashes == {2: 7}  # tried twice
    flawless = {result.seed: result for result, _ in run(num_envs)[0]}
    del flawless[2]
    assert results == flawless


def test_policy_that_gives_nan_is_an_error_and_not_a_failed_episode():
    with pytest.raises(RolloutError, match="NaN or infinite actions at step 0 of seed 0"):
        run(1, actor=NoisyActor(factor=np.nan))


def test_time_of_the_simulator_is_recorded():
    actor = NoisyActor()
    run(2, actor=actor)
    assert actor.times.simulate > 0


@pytest.mark.parametrize("renderer", ["llvmpipe", None])
def test_results_say_what_drew_the_images_where_the_environment_does(monkeypatch, renderer):
    monkeypatch.setattr(Countdown, "renderer", renderer)
    outcomes, _ = run(3, solved=(2,), crashes={4: 2})
    assert {result.seed: result.renderer for result, _ in outcomes} == {
        seed: None if seed == 4 else renderer for seed in range(10)
    }

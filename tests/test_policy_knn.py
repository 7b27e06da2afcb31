"""Nearest neighbours: which windows, weighed how, and a policy that is fitted and not trained, from end to end."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from policy_toys import READOUT, SHAPE, SPEC, build, generators, make_batch
from toy_benchmark import run_toys, toy_config, toy_facts
from training_runs import make_config, make_encoder, make_workspace, train_in_processes, visible

from s2robot.benchmark import describe
from s2robot.checkpoint import load_checkpoint
from s2robot.config import ReadoutConfig
from s2robot.interfaces import Batch, ConfigError, FeatureShape, Observation, PolicySpec, TrainingError
from s2robot.policies import POLICIES, make_policy
from s2robot.policies.base import Policy
from s2robot.policies.bc import BCPolicy
from s2robot.policies.knn import KNNConfig, KNNPolicy, _nearest
from s2robot.training import TrainingLoop, train
from s2robot.training.state import STATE_FILE

KNN = KNNConfig(k=3, temperature=0.5, action_steps=4, execute_steps=2)


def fitted(config: KNNConfig = KNN, windows: int = 20, spec: PolicySpec = SPEC) -> tuple[Policy, Batch]:
    policy = make_policy(config, READOUT, spec)
    batch = make_batch(windows, config.observation_steps, config.action_steps)
    actions, proprioception = batch.actions.flatten(0, 1), batch.observation.proprioception.flatten(0, 1)
    policy.fit_normalization([actions.numpy()], [proprioception.numpy()])
    policy.fit([rows(batch, slice(0, 7)), rows(batch, slice(7, None))])
    return policy.eval(), batch


def rows(batch: Batch, chosen: slice | list[int]) -> Batch:
    seen = batch.observation
    features = {camera: values[chosen] for camera, values in seen.features.items()}
    return Batch(Observation(features, seen.proprioception[chosen], seen.past_actions[chosen]), batch.actions[chosen])


def by_hand(batch: Batch, query: Batch, config: KNNConfig) -> np.ndarray:
    """Chunks [B, Ta, A] by the formula, in float64, written without the policy's code."""

    def parts(other: Batch) -> list[np.ndarray]:
        maps = [values.double().numpy()[..., : SHAPE.channels * 16] for values in other.observation.features.values()]
        means = [values.reshape(*values.shape[:2], SHAPE.channels, 16).mean(-1) for values in maps]
        return [*means, other.observation.proprioception.double().numpy()]

    squares = np.zeros((len(query), len(batch)))
    weights = [0.5, 0.5, config.proprioception_weight]
    for mine, theirs, weight in zip(parts(batch), parts(query), weights, strict=True):
        everything = mine.reshape(-1, mine.shape[-1])
        if weight == 0.5:
            spread = np.sqrt(((everything - everything.mean(0)) ** 2).sum(1).mean())
        else:
            spread = everything.std(0) * np.sqrt(everything.shape[1])
        difference = (theirs[:, None] - mine[None]) / spread
        squares += weight * (difference**2).sum(-1).mean(-1)
    distances = np.sqrt(squares)
    nearest = np.argsort(distances, axis=1, kind="stable")[:, : config.k]
    near = np.exp(-np.take_along_axis(distances, nearest, 1) / config.temperature)
    chunks = batch.actions.double().numpy()[nearest]
    return (near[..., None, None] * chunks).sum(1) / near.sum(1)[:, None, None]


@pytest.mark.parametrize("changes", [{}, {"observation_steps": 2}, {"proprioception_weight": 0.0}, {"k": 20}])
def test_action_is_the_mean_of_the_nearest_chunks_weighed_by_the_softmax_of_their_distances(changes):
    config = replace(KNN, **changes)
    policy, batch = fitted(config)
    query = make_batch(5, config.observation_steps, config.action_steps, seed=1)
    expected = by_hand(batch, query, config)
    actions = policy.act(query.observation, generators(5)).numpy()
    np.testing.assert_allclose(actions, expected, atol=2e-2)  # keys have the precision of float16


def test_the_nearest_alone_is_repeated_as_it_was_demonstrated():
    policy, batch = fitted(replace(KNN, k=1))
    torch.testing.assert_close(policy.act(batch.observation, generators(20)), batch.actions)


def test_of_equal_windows_the_first_count():
    policy = make_policy(replace(KNN, k=2), READOUT, SPEC)
    batch = make_batch(1, 1, 4)
    same = rows(batch, [0, 0, 0, 0])
    chunks = torch.arange(4.0)[:, None, None].expand(4, 4, 3) / 4
    policy.fit([Batch(same.observation, chunks)])
    torch.testing.assert_close(policy.act(batch.observation, generators(1)), torch.full((1, 4, 3), 0.125))


def test_an_exported_graph_takes_the_first_of_equal_windows_too():
    class Nearest(torch.nn.Module):
        def forward(self, queries: torch.Tensor, keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return _nearest(queries, keys, 16)

    torch.manual_seed(0)
    for count in (20, 300, 3000):  # so few values that most windows are equal to others
        example = torch.randint(0, 3, (2, 3)).float(), torch.randint(0, 3, (count, 3)).float()
        graph = torch.export.export(Nearest(), example, strict=False).module()
        (distances, index), (expected, first) = graph(*example), _nearest(*example, 16)
        assert torch.equal(index.sort(1).values, first.sort(1).values), count
        torch.testing.assert_close(distances.sort(1).values, expected)


def test_a_camera_counts_alike_whatever_the_scale_of_its_features():
    query = make_batch(5, 1, 4, seed=1)
    actions = []
    for factor in (1, 64):  # powers of two scale float16 exactly
        policy, batch = fitted()
        for one in (batch, query):
            one.observation.features["wrist"] = one.observation.features["wrist"] * factor
        policy.fit([batch])
        actions.append(policy.act(query.observation, generators(5)))
        query = make_batch(5, 1, 4, seed=1)
    torch.testing.assert_close(*actions)


def test_a_camera_that_shows_the_same_in_all_demonstrations_says_nothing():
    policy, batch = fitted()
    batch.observation.features["wrist"] = torch.ones_like(batch.observation.features["wrist"])
    policy.fit([batch])
    assert torch.isfinite(policy.act(batch.observation, generators(20))).all()


def test_a_finer_grid_tells_positions_apart_which_the_mean_does_not():
    batch = make_batch(20, 1, 4)
    moved = rows(batch, slice(None))
    for camera, values in batch.observation.features.items():
        moved.observation.features[camera] = SHAPE.flatten(
            (lambda found: found._replace(map=found.map.flip(3)))(SHAPE.unflatten(values[:, 0]))
        )[:, None]
    for grid, same in ((1, True), (2, False)):
        policy, _ = fitted(replace(KNN, grid=grid))
        actions = [policy.act(one.observation, generators(20)) for one in (batch, moved)]
        assert torch.allclose(*actions, atol=1e-2) is same


def test_a_grid_finer_than_the_map_is_refused():
    with pytest.raises(ConfigError, match="policy.grid=5 is not possible; valid: 1 … 4, the shorter side of"):
        make_policy(replace(KNN, grid=5), READOUT, SPEC)


def test_fewer_windows_than_neighbours_are_refused():
    with pytest.raises(ConfigError, match="policy.k=30 is not possible; valid: 1 … 20, the number of training windows"):
        fitted(replace(KNN, k=30))


def test_acting_before_it_is_fitted_is_an_error_that_says_so():
    batch = make_batch(1, 1, 4)
    with pytest.raises(TrainingError, match="has no demonstrations yet; call `fit`"):
        make_policy(KNN, READOUT, SPEC).act(batch.observation, generators(1))


@pytest.mark.parametrize("changes", [{"k": 0}, {"temperature": 0.0}, {"proprioception_weight": -1.0}, {"grid": 0}])
def test_impossible_settings_name_the_field(changes):
    with pytest.raises(ConfigError, match=f"policy.{next(iter(changes))}="):
        replace(KNN, **changes)


def test_without_proprioception_it_looks_at_the_cameras_alone():
    spec = PolicySpec({"agentview": FeatureShape(6, 4, 4, 1)}, proprioception_width=0, action_width=3)
    policy = make_policy(replace(KNN, k=1), READOUT, spec)
    batch = make_batch(5, 1, 4)
    seen = Observation(batch.observation.features, torch.zeros(5, 1, 0), batch.observation.past_actions)
    policy.actions.fit([batch.actions.flatten(0, 1).numpy()])
    policy.fit([Batch(seen, batch.actions)])
    torch.testing.assert_close(policy.act(seen, generators(5)), batch.actions)


def test_it_has_nothing_to_train_but_is_fitted_and_the_others_the_other_way_round():
    for name in POLICIES:
        policy = build(name)[0]
        assert policy.trainable is not (name == "knn"), name
        assert policy.has_fit is (name == "knn"), name


def test_pixels_whose_network_it_would_never_train_are_refused():
    spec = PolicySpec({"wrist": FeatureShape(3, 84, 84)}, proprioception_width=0, action_width=3)
    with pytest.raises(ConfigError, match="knn trains nothing, so it cannot learn from the pixels of camera 'wrist'"):
        make_policy(KNN, ReadoutConfig(name="resnet18"), spec)


@pytest.mark.parametrize("far", [1e3, 6e4])
def test_what_is_far_from_all_demonstrations_still_gives_an_action(far):
    policy, batch = fitted()
    wrist = torch.ones_like(batch.observation.features["wrist"])
    wrist[0] += 2e-3  # a camera that shows nearly the same in all of them
    batch.observation.features["wrist"] = wrist
    policy.fit([batch])
    batch.observation.features["wrist"] = torch.full_like(wrist, far)
    assert torch.isfinite(policy.act(batch.observation, generators(20))).all()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return make_workspace(tmp_path_factory.mktemp("knn"))


def knn_config(workspace, output, **changes):
    return make_config(workspace, output, policy=replace(KNN), **changes)


def test_a_run_ends_in_a_checkpoint_that_acts_with_one_validated_row(workspace, tmp_path):
    config = knn_config(workspace, tmp_path / "run")
    folder = train(config, make_encoder())
    checkpoint, state = load_checkpoint(folder)
    assert state["keys"].shape[0] == state["chunks"].shape[0] == 120  # 4 of 5 demonstrations of 30 steps
    assert state["keys"].dtype == torch.float16
    (row,) = checkpoint.loss_curve
    assert row["epoch"] == 1
    assert 0 < row["validation_action_error"] < 2
    assert np.isfinite(row["validation_loss"])
    assert (tmp_path / "run/log.csv").read_text().startswith("epoch,step,validation_loss,validation_action_error")
    assert checkpoint.config.policy == KNN


def test_every_training_window_is_seen_once_in_the_order_of_the_dataset(workspace, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(KNNPolicy, "fit", lambda self, batches: seen.extend(batch.actions for batch in batches))
    monkeypatch.setattr("s2robot.training.validation.Validation.__call__", lambda *_: {})
    train(knn_config(workspace, tmp_path / "run"), make_encoder())
    chunks = torch.cat(seen)
    assert len(chunks) == 120
    follows = (chunks[:-1, 1] == chunks[1:, 0]).flatten(1).all(1)  # a window's second action is the next one's first
    assert (~follows).nonzero().flatten().tolist() == [29, 59, 89]  # where a demonstration ends


def test_a_trained_policy_with_something_to_take_is_given_it_once_and_before_the_first_step(
    workspace, tmp_path, monkeypatch
):
    told = []
    monkeypatch.setattr(BCPolicy, "fit", lambda self, batches: told.append(sum(map(len, batches))))
    step = TrainingLoop._train_step
    monkeypatch.setattr(TrainingLoop, "_train_step", lambda self, *rest: (told.append("step"), step(self, *rest))[1])
    train(make_config(workspace, tmp_path / "run", training={"epochs": 1}), make_encoder())
    assert told[0] == 120
    assert set(told[1:]) == {"step"}


def test_a_run_that_is_interrupted_begins_anew_and_one_that_is_finished_is_left_alone(workspace, tmp_path, monkeypatch):
    config = knn_config(workspace, tmp_path / "run")
    whole = load_checkpoint(train(knn_config(workspace, tmp_path / "whole"), make_encoder()))[1]

    def interrupted(self, batches):
        next(iter(batches))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KNNPolicy, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config, make_encoder())
    assert STATE_FILE not in visible(tmp_path / "run")
    state = load_checkpoint(train(config, make_encoder()))[1]
    assert state.keys() == whole.keys()
    assert all(torch.equal(state[name], whole[name]) for name in state)

    monkeypatch.setattr(KNNPolicy, "fit", interrupted)  # nothing is left to do
    (tmp_path / "run/checkpoint/policy.safetensors").unlink()  # but to write what was lost
    again = load_checkpoint(train(config, make_encoder()))[1]
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_a_finished_run_with_other_settings_is_refused(workspace, tmp_path):
    config = knn_config(workspace, tmp_path / "run")
    train(config, make_encoder())
    with pytest.raises(TrainingError, match=r"other settings \(policy.k differ\)"):
        train(replace(config, policy=replace(KNN, k=4)), make_encoder())


def test_two_processes_give_what_one_does(workspace, tmp_path):
    alone, together = (knn_config(workspace, tmp_path / name) for name in ("alone", "together"))
    assert train_in_processes(alone) == [0]
    assert train_in_processes(together, 2) == [0, 0]
    states = [load_checkpoint(tmp_path / name / "checkpoint")[1] for name in ("alone", "together")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_shifted_copies_are_refused_before_anything_is_encoded(workspace, tmp_path):
    config = knn_config(workspace, tmp_path / "run", training={"num_shifts": 2})
    with pytest.raises(ConfigError, match="training.num_shifts=2 is not possible; valid: 0, because policy knn sees"):
        train(config, make_encoder())


def test_a_benchmark_runs_it_beside_trained_ones_and_knows_what_it_takes(tmp_path):
    knn = {"name": "knn", "k": 3, "action_steps": 4, "execute_steps": 4}
    config = toy_config(tmp_path, scale_sets=[[32]], training_seeds=[0], policies=["bc", knn], episodes=2, videos=0)
    assert "knn" in describe(config, toy_facts, 2)
    run_toys(config)
    results = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("cells/*/results.json"))]
    assert sorted(document["policy"] for document in results) == ["bc", "knn"]
    assert all(document["episodes"] == 2 for document in results)

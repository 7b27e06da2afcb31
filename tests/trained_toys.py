"""Trainings that take seconds, with measures of each and the bounds that tests check them against.

A test trains with seed 0. On another machine, or with another release of torch, that is another random draw. So the
bounds are at least four standard deviations from the mean over 20 seeds, as `benchmarks/toy_margins.py` shows.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from policy_toys import READOUT, SMALL, SPEC, build, generators, make_batch, mean_error, repeated, train
from torch import Tensor
from training_runs import make_config, make_encoder, make_workspace

from s2robot.checkpoint import load_checkpoint
from s2robot.interfaces import Batch, Features, FeatureShape, Observation
from s2robot.policies import Policy, make_policy
from s2robot.policies.bc import BCConfig
from s2robot.policies.bc_transformer import BCTransformerConfig
from s2robot.policies.readouts import make_readout
from s2robot.training import train as train_policy

ANY = (-float("inf"), float("inf"))


def at_most(high: float) -> tuple[float, float]:
    """Bounds of an error, whose natural least value, 0, is not a bound that a margin is measured from."""
    return -float("inf"), high


@dataclass(frozen=True)
class Toy:
    """One training and its bounds.

    Attributes:
        measure: function from a seed to the measured values by name.
        bounds: name -> (low, high), between which the value must lie.
    """

    measure: Callable[[int], dict[str, float]]
    bounds: dict[str, tuple[float, float]]

    def check(self, seed: int = 0) -> None:
        """Train with a seed; fail with name and value of the first measure that is out of its bounds."""
        for name, value in self.measure(seed).items():
            low, high = self.bounds.get(name, ANY)
            assert low < value < high, f"{name} is {value:.4g} under seed {seed}; it must lie between {low} and {high}"


def fork_in_the_road(name: str, steps: int, seed: int, size: int = 128, **changes: bool) -> Tensor:
    """Return actions of a policy that was trained on one observation with two actions, all +1 and all -1."""
    torch.manual_seed(seed)
    config = replace(SMALL[name], observation_steps=1, action_steps=2, execute_steps=1, **changes)
    policy = make_policy(config, READOUT, SPEC)
    seen = make_batch(1, 1, 2, seed).observation
    features = {camera: rows.expand(size, -1, -1) for camera, rows in seen.features.items()}
    same = Observation(features, seen.proprioception.expand(size, -1, -1), torch.zeros(size, 1, 3))
    side = torch.where(torch.arange(size) % 2 == 0, 1.0, -1.0)
    chunks = side[:, None, None].expand(size, 2, 3).contiguous()
    train(policy, Batch(same, chunks), steps, 3e-3)
    return policy.act(same, generators(size, 1000 * seed))


def two_ways(name: str, steps: int, seed: int, **changes: bool) -> dict[str, float]:
    """Shares of the numbers that are near a demonstrated one, of the chunks that keep to one side, and of the upper."""
    chunks = fork_in_the_road(name, steps, seed, **changes).flatten(1)
    sides = chunks.sign()
    return {
        "near": (chunks.abs() > 0.6).float().mean().item(),
        "keep": (sides == sides[:, :1]).all(1).float().mean().item(),
        "upper": (sides[:, 0] > 0).float().mean().item(),
    }


@functools.lru_cache(maxsize=len(SMALL))
def learnt_by_heart(name: str, seed: int = 0) -> tuple[Policy, Batch]:
    """Train a policy on four rows; return it and sixteen rows that repeat them."""
    policy, batch = build(name, seed)
    batch = repeated(batch, 4, 4)
    steps, learning_rate = BY_HEART[name]
    return train(policy, batch, steps, learning_rate), batch


def by_heart(name: str, seed: int) -> dict[str, float]:
    """Return the error of the actions as a fraction of the untrained policy's error."""
    policy, batch = learnt_by_heart(name, seed)
    return {"error": (mean_error(policy, batch) / mean_error(build(name, seed)[0].eval(), batch)).item()}


def faster_sampler(sampler: str, seed: int) -> dict[str, float]:
    """The same of a diffusion policy that acts in half as many steps as it was trained with."""
    policy, batch = learnt_by_heart("diffusion_unet", seed)
    config = replace(SMALL["diffusion_unet"], sampler=sampler, inference_steps=10)
    fast = make_policy(config, READOUT, SPEC).eval()
    fast.load_state_dict(policy.state_dict())
    untrained = build("diffusion_unet", seed)[0].eval()
    return {"error": (mean_error(fast, batch) / mean_error(untrained, batch)).item()}


def momentum(seed: int) -> Batch:
    """Make windows whose next action repeats the last one; nothing else determines it."""
    batch = make_batch(64, 4, 8, seed)
    seen = batch.observation
    features = {camera: torch.zeros_like(rows) for camera, rows in seen.features.items()}
    past = seen.past_actions[:, :1].expand(-1, 4, -1).contiguous()
    observation = Observation(features, torch.zeros_like(seen.proprioception), past)
    return Batch(observation, past[:, :1].expand(-1, 8, -1).contiguous())


def goes_on_as_before(past_actions: bool, seed: int) -> dict[str, float]:
    """Return the error on unseen windows, in units of half the actions' range, with and without the past actions."""
    torch.manual_seed(seed)
    small = {"observation_steps": 4, "action_steps": 8, "execute_steps": 4, "width": 32, "layers": 2, "dropout": 0.0}
    policy = make_policy(BCTransformerConfig(**small, past_actions=past_actions), READOUT, SPEC)
    batch, unseen = momentum(2 * seed), momentum(2 * seed + 1)
    policy.actions.fit([batch.actions.flatten(0, 1).numpy()])
    train(policy, batch, 150)
    actions = policy.act(unseen.observation, generators(64))
    return {"error": (policy.actions(actions) - policy.actions(unseen.actions)).abs().mean().item()}


def where_a_spot_is(seed: int) -> dict[str, float]:
    """Return the mean squared error of a ResNet-18 trained from scratch on four spots; a constant scores 0.75."""
    torch.manual_seed(seed)
    readout = make_readout("resnet18", FeatureShape(3, 64, 64), width=2)
    places = torch.tensor([[8, 8], [8, 40], [40, 8], [40, 40]]) + torch.randint(0, 8, (4, 2))
    images = torch.zeros(4, 3, 64, 64)
    for image, (row, column) in zip(images, places.tolist(), strict=True):
        image[:, row : row + 8, column : column + 8] = 255
    features = Features(images, torch.zeros(4, 0, 3))
    targets = (places - places.float().mean(0)) / places.float().std(0)
    optimizer = torch.optim.AdamW(readout.parameters(), lr=1e-4)
    for _ in range(40):
        loss = (readout.train()(features) - targets).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return {"error": (readout.eval()(features) - targets).square().mean().item()}


def train_one_step(folder: Path, seed: int = 0) -> Path:
    """The checkpoint of a run of 60 epochs; its policy predicts one step, since the toy's next positions are noise."""
    one_step = BCConfig(hidden=[32], action_steps=1, execute_steps=1)
    config = make_config(folder, folder / f"run{seed}", policy=one_step, training={"epochs": 60}, seed=seed)
    return train_policy(config, make_encoder())


def falls(checkpoint: Path) -> dict[str, float]:
    """Last losses as shares of the first, and the held-out error: 0.5 for a constant, as actions are uniform in ±1."""
    rows = load_checkpoint(checkpoint)[0].loss_curve
    last = [row for row in rows if "validation_loss" in row][-1]
    return {
        "train loss": rows[-1]["train_loss"] / rows[0]["train_loss"],
        "validation loss": last["validation_loss"] / rows[0]["train_loss"],
        "action error": last["validation_action_error"],
    }


def whole_run(seed: int) -> dict[str, float]:
    """`falls` of a run in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder:
        return falls(train_one_step(make_workspace(Path(folder)), seed))


BY_HEART = {  # training steps, learning rate
    "bc": (300, 3e-3),
    "bc-gmm": (300, 3e-3),
    "bc_rnn": (300, 4e-3),
    "bc_transformer": (150, 3e-3),
    "diffusion_transformer": (250, 2e-3),
    "diffusion_unet": (250, 3e-3),
    "flow_matching": (250, 3e-3),
    "flow_matching-transformer": (250, 3e-3),
    "knn": (0, 0.0),
}
TWO_WAYS = {  # training steps
    "bc-gmm": 100,
    "bc_rnn": 100,
    "diffusion_unet": 200,
    "flow_matching": 200,
    "flow_matching-transformer": 400,
}
WAYS = {"near": (0.8, 2), "keep": (0.9, 2), "upper": (0.1, 0.9)}
RUN_FALLS = {"train loss": at_most(0.5), "validation loss": at_most(0.5), "action error": at_most(0.4)}
TOYS: dict[str, Toy] = {
    **{
        f"{name} takes both of two ways": Toy(functools.partial(two_ways, name, steps), WAYS)
        for name, steps in TWO_WAYS.items()
    },
    **{f"{name} learns by heart": Toy(functools.partial(by_heart, name), {"error": at_most(0.5)}) for name in BY_HEART},
    **{
        f"diffusion_unet with {sampler} repeats what it learnt": Toy(
            functools.partial(faster_sampler, sampler), {"error": at_most(0.5)}
        )
        for sampler in ("ddim", "dpm_solver")
    },
    "bc_transformer goes on as before": Toy(functools.partial(goes_on_as_before, True), {"error": at_most(0.15)}),
    "bc_transformer cannot tell without past actions": Toy(
        functools.partial(goes_on_as_before, False), {"error": (0.35, 2)}
    ),
    "diffusion_transformer that is not causal takes both of two ways": Toy(
        functools.partial(two_ways, "diffusion_transformer", 400, causal=False), WAYS
    ),
    "resnet18 learns where a spot is": Toy(where_a_spot_is, {"error": at_most(0.15)}),
    "a run of 60 epochs falls": Toy(whole_run, RUN_FALLS),
}
FOR_COMPARISON: dict[str, Toy] = {
    f"causal {name} takes both of two ways": Toy(functools.partial(two_ways, name, 400, causal=True), {})
    for name in ("diffusion_transformer", "flow_matching-transformer")
}
"""Measures without bounds: the numbers that docs/policies.md states about the mask."""

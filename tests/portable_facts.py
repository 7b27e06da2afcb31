"""Compute facts as arrays, to compare them between machines (scripts/portable.py).

    python tests/portable_facts.py facts.npz

A name begins with `anywhere` if the fact must be equal on every machine, or with `rounding` if it may differ within a
tolerance (docs/architecture.md).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from policy_toys import READOUT, SMALL, SPEC, generators, make_batch

from s2robot import S2Encoder
from s2robot.benchmark import make_grid
from s2robot.benchmark.stages import rollouts_key, training_key
from s2robot.cli.words import compose
from s2robot.data import open_dataset
from s2robot.policies import make_policy
from s2robot.statistics import paired_bootstrap, paired_power, sign_flip_test, wilson_interval
from s2robot_envs import make_env

DATA = Path(__file__).parent / "data"


def frames(count: int, side: int) -> torch.Tensor:
    """Draw smooth images with edges, uint8 [count, side, side, 3], with integer arithmetic only."""
    row, column = np.indices((side, side))
    pictures = [
        np.stack([(row * (3 + n)) // 4 % 256, (column * 5) // 8 % 256, 90 * ((row // 32 + column // 32 + n) % 2)], -1)
        for n in range(count)
    ]
    return torch.from_numpy(np.stack(pictures).astype(np.uint8))


def identities() -> Iterator[tuple[str, object]]:
    """Return keys and fingerprints, by which machines that share a cache or store find its entries."""
    for scales in ((224,), (224, 448)):
        yield f"encoder {scales}", S2Encoder("efficientnet_lite0", scales=scales).fingerprint()
    for name in ("robomimic_lift.hdf5", "robosuite_1_4_lift.hdf5", "replay.zarr.zip", "lerobot", "minari"):
        with open_dataset(str(DATA / name)) as dataset:
            yield f"data {name}", dataset.fingerprint()
    cells = make_grid(compose("benchmark", ["+experiment=size_or_scales"])).cells
    yield "cells", [cell.name for cell in cells]
    yield "trainings", [training_key(cell) for cell in cells]
    yield "rollouts", [rollouts_key(cell) for cell in cells]


def statistics() -> Iterator[tuple[str, object]]:
    """Return what a report states about given outcomes."""
    outcomes = np.random.default_rng(0).random((2, 3, 50)) < np.array([0.5, 0.65])[:, None, None]
    found = paired_bootstrap(*outcomes)
    yield "paired bootstrap", [found.value, *found.interval, found.pvalue]
    yield "sign flips", sign_flip_test(*outcomes)
    yield "wilson", wilson_interval(40, 50)
    yield "power", paired_power(0.5, 0.65, 100, 3, 0.05)


def features() -> Iterator[tuple[str, object]]:
    """Return features of the real backbone, by both CPU engines, for one frame and for several."""
    for engine in ("eager", "openvino"):
        encoder = S2Encoder("efficientnet_lite0", scales=(224, 448), engine=engine)
        for count in (1, 3):
            yield f"features {engine} {count}", encoder(frames(count, 448)).map.numpy()


def actions() -> Iterator[tuple[str, object]]:
    """Return actions of policies with given weights and no noise."""
    for name in ("bc", "bc_rnn", "bc_transformer"):
        policy = make_policy(SMALL[name], READOUT, SPEC).eval()
        rng = np.random.default_rng(0)
        for parameter in policy.parameters():
            parameter.data = torch.from_numpy(rng.uniform(-0.2, 0.2, tuple(parameter.shape)).astype(np.float32))
        observation = make_batch(4, SMALL[name].observation_steps, 8).observation
        for camera, rows in observation.features.items():
            observation.features[camera] = torch.from_numpy(rng.uniform(-1, 1, tuple(rows.shape)).astype(np.float16))
        observation.proprioception[:], observation.past_actions[:] = 0.5, 0.25
        chunks = policy.act(observation, generators(4))
        yield f"actions {name}", chunks.numpy() if name != "bc_rnn" else chunks.numpy().round(1)


def simulation() -> Iterator[tuple[str, object]]:
    """Return initial states, images, and states after a second of physics."""
    for task in ("Lift", "Door"):
        for profile in ("fast", "full"):
            env = make_env(task, cameras=("agentview",), image_size=224, render_profile=profile)
            observation, _ = env.reset(seed=3)
            yield f"pixels {task} {profile}", observation["agentview_image"]
            yield f"initial state {task} {profile}", env.simulator.sim.get_state().flatten()
            for step in range(20):
                env.step(np.sin(np.arange(env.action_space.shape[0]) + step).astype(np.float32))
            yield f"state after 20 steps {task} {profile}", env.simulator.sim.get_state().flatten()
            env.close()


def main() -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    facts = {f"anywhere {name}": np.array(value) for part in (identities, statistics) for name, value in part()}
    # The encoders first, because loading Mesa's LLVM before Triton's ends in a segmentation fault.
    for part in (features, actions, simulation):
        facts |= {f"rounding {name}": np.asarray(value) for name, value in part()}
    np.savez(sys.argv[1], **facts)


if __name__ == "__main__":
    main()

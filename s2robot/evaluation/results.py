"""The content of `results.json`: the results of one evaluated cell."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from s2robot.backbones import BACKBONES
from s2robot.checkpoint import Checkpoint, package_versions, packages_of
from s2robot.config import EncoderConfig, EvaluateConfig, PolicyConfig, TrainConfig
from s2robot.config.checks import former_of
from s2robot.encoder import S2Encoder
from s2robot.interfaces import RolloutError
from s2robot.policies.readouts.resnet18 import with_reader
from s2robot.rollout import EpisodeResult
from s2robot.statistics import wilson_interval
from s2robot.system.machine import Machine, count_machines, place_of
from s2robot.system.registry import OUTSIDE_TASKS

RESULTS_SCHEMA = 1


def make_results(
    config: EvaluateConfig,
    checkpoint: Checkpoint,
    environment: dict[str, Any],
    encoder: S2Encoder,
    episodes: Sequence[EpisodeResult],
    machines: Mapping[int, Machine],
    policy_sha256: str,
) -> dict[str, Any]:
    """Make the results, except the times and the videos.

    - `successes`, `episodes`, `success_rate` and `interval` count only the episodes that ran.
    - `episode_results` also holds the episodes that ended in an error of the simulator; `errors` counts them.
    - `machines` lists the machines that ran the episodes. `machine` in `episode_results` is an index into that list, or
      None if the log does not record it.

    Raises:
        RolloutError: no episode ran.
    """
    ran = [episode for episode in episodes if episode.error is None]
    if not ran:
        raise RolloutError(
            f"the simulator failed in all {len(episodes)} episodes; the first error: {episodes[0].error}"
        )
    successes = sum(episode.success for episode in ran)
    cost = with_reader(encoder.cost(), encoder.backbone.name)
    kinds = count_machines(machines.get(episode.seed) for episode in ran)
    trained = checkpoint.config
    return {
        "schema": RESULTS_SCHEMA,
        "task": environment["task"],
        "policy": trained.policy.name,
        "backbone": trained.encoder.backbone,
        "variant": _variant(checkpoint, config),
        "scales": list(trained.encoder.scales),
        "readout": trained.readout.name,
        "training_seed": trained.seed,
        "demonstrations": checkpoint.demonstrations,
        "gmacs": cost.gmacs,
        "parameters": cost.parameters,
        "feature_width": next(iter(checkpoint.spec.features.values())).channels,
        "success_rate": successes / len(ran),
        "successes": successes,
        "episodes": len(ran),
        "errors": len(episodes) - len(ran),
        "interval": list(wilson_interval(successes, len(ran))),
        "confidence": 0.95,
        "execute_steps": config.execute_steps or trained.policy.execute_steps,
        "temporal_ensemble": config.temporal_ensemble,
        "episode_results": [_row(episode, machines.get(episode.seed), kinds) for episode in episodes],
        "machines": kinds,
        "loss_curve": checkpoint.loss_curve,
        "environment": environment,
        "fingerprints": {
            **checkpoint.fingerprints,
            "environment": hash_json(environment),
            "policy": policy_sha256,
        },
        "versions": package_versions(),
        "packages": packages_of(
            trained.policy,
            trained.readout,
            (BACKBONES, trained.encoder.backbone),
            (OUTSIDE_TASKS, environment["task"]),
        ),
        "training_packages": checkpoint.packages,
        "command": shlex.join(sys.argv),
        "training_command": checkpoint.command,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def hash_json(document: Any) -> str:
    """Return the sha256 of a JSON document, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def _row(episode: EpisodeResult, machine: Machine | None, kinds: Sequence[Machine]) -> dict[str, Any]:
    """Return an episode's entry in `episode_results`."""
    row = {name: value for name, value in asdict(episode).items() if name != "renderer"}
    return {**row, "machine": None if machine is None else place_of(machine, kinds)}


_TOLD_ELSEWHERE = ("task_texts", "task_vectors", "task_width", "init_from", "init_normalization")


def _variant(checkpoint: Checkpoint, config: EvaluateConfig) -> str:
    """Name the settings that differ from the default encoder, data and start, and from acting as trained."""
    encoder, default = checkpoint.config.encoder, EncoderConfig()
    names = ("tile", "antialias", "pool_to", "cover", "keep_aspect", "upsampled", "duplicate")
    changed = [(name, getattr(encoder, name)) for name in names if getattr(encoder, name) != getattr(default, name)]
    acting = ("execute_steps", "temporal_ensemble")
    changed += [(name, getattr(config, name)) for name in acting if getattr(config, name) is not None]
    for settings, formers in (
        (checkpoint.config, former_of(TrainConfig)),
        (checkpoint.config.policy, PolicyConfig.former),
    ):
        values = {name: getattr(settings, name) for name in formers if name not in _TOLD_ELSEWHERE}
        changed += [(name, value) for name, value in values.items() if value != formers[name]]
    if checkpoint.initial:
        changed.append(("init_from", checkpoint.initial["weights"][:8]))
    return ", ".join(name if value is True else f"{name}={value}" for name, value in changed)

"""Start a run from the weights of a checkpoint, to fine-tune its policy on other demonstrations."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s2robot.checkpoint import load_checkpoint
from s2robot.config import TrainConfig
from s2robot.interfaces import CheckpointError, ConfigError, differences
from s2robot.policies import Policy
from s2robot.training.data import TrainingPlan

_LOGGER = logging.getLogger(__name__)

_ALIKE = ("action_key", "controller_input")
"""Settings that say what an action is, besides those of policy and readout."""

_REACHED = 1e-2  # distance by which an action may be missed before it is worth a warning, in half ranges


@dataclass(frozen=True)
class Initial:
    """The checkpoint that a run starts from.

    Attributes:
        state: its weights, with the statistics that it normalises by.
        record: what the new checkpoint and the run's identity say of it: sha256 of the weights, data, normalisation.
    """

    state: dict[str, Tensor]
    record: dict[str, str]

    @property
    def keeps_normalization(self) -> bool:
        """Whether the statistics stay those of the checkpoint."""
        return self.record["normalization"] == "keep"


def load_initial(config: TrainConfig, policy: Policy, plan: TrainingPlan, encoder_fingerprint: str) -> Initial | None:
    """Load the checkpoint of `config.init_from`; None if the run starts from random weights.

    Raises:
        ConfigError: the policy has no trained weights.
        CheckpointError: the checkpoint is damaged, or its policy differs from the run's; every difference is named.
    """
    if config.init_from is None:
        return None
    if not policy.trainable:
        raise ConfigError(
            f"init_from={config.init_from!r} is not possible; valid: null, because policy {config.policy.name} keeps "
            "its demonstrations and has no trained weights to start from"
        )
    source, state = load_checkpoint(config.init_from)
    there = source.fingerprints["encoder"]
    if there != encoder_fingerprint:
        raise CheckpointError(
            f"init_from={config.init_from!r} was trained on features of encoder {there[:12]}, but {config.encoder} "
            f"gives encoder {encoder_fingerprint[:12]}: backbone weights, settings or code differ"
        )
    saved = _described(source.config, source.spec, source.proprioception)
    found = differences(saved, _described(config, plan.spec, plan.proprioception))
    named = "; ".join(f"{name} is {before!r} there and {now!r} here" for name, before, now in found)
    if not named and not _same_vectors(policy, state):
        named = "the vectors in task_vectors are others there and here"
    if named:
        raise CheckpointError(f"init_from={config.init_from!r} is another policy than this run trains: {named}")
    weights = json.loads((Path(config.init_from) / "config.json").read_text())["sha256"]
    record = {"weights": weights, "data": source.fingerprints["data"], "normalization": config.init_normalization}
    return Initial(state, record)


def warn_of_unreachable(policy: Policy, actions: list[np.ndarray]) -> None:
    """Warn of numbers of the new actions that the policy clips, because they leave the range of the former data."""
    with torch.inference_mode():
        learned = policy.actions(torch.from_numpy(np.concatenate(actions)))
        missed = (policy.actions(policy.actions.inverse(learned)) - learned).abs().amax(0)
    columns = policy.actions.layout.columns
    numbers = sorted({columns[number] for number in torch.nonzero(missed > _REACHED).flatten().tolist()})
    if numbers:
        _LOGGER.warning(
            "init_from: numbers %s of the new actions (counted from 0) leave the range that the checkpoint was trained "
            "on, by up to %.0f%% of it, and will be clipped to it; init_normalization=refit takes the range of the new "
            "data",
            ", ".join(map(str, numbers)),
            50 * float(missed.max()),
        )


def _same_vectors(policy: Policy, state: dict[str, Tensor]) -> bool:
    """Whether the policy's tasks have the vectors of the checkpoint; without vectors they have."""
    if policy.observation.task is None:
        return True
    return torch.equal(policy.observation.task.vectors, state["observation.task.vectors"])


def _described(config: TrainConfig, spec: Any, proprioception: list[str]) -> dict[str, Any]:
    """Everything that must be equal for weights to mean the same."""
    return {
        "policy": config.policy.identity(),
        "readout": config.readout.identity(),
        **{name: vars(config).get(name) for name in _ALIKE},
        "cameras": list(spec.features),  # in the order in which the policy reads them
        "spec": {**asdict(spec), "tasks": list(spec.tasks)},
        "proprioception": list(proprioception),
    }

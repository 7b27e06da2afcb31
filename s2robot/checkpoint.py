"""A trained policy on disk: `policy.safetensors` beside a `config.json`; nothing in it is ever executed.

The frozen backbone is not stored: its name and the hash of its weights are, and loading compares them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from s2robot.config import EncoderConfig, ReadoutConfig, TrainConfig, TrainingConfig, build, policy_from_dict
from s2robot.encoder import S2Encoder
from s2robot.interfaces import CheckpointError, ConfigError, FeatureShape, PolicySpec
from s2robot.policies import Policy, make_policy

_LAYOUT = 1
_WEIGHTS = "policy.safetensors"
_CONFIG = "config.json"
_RECORDED = ("s2robot", "torch", "timm", "diffusers", "numpy", "gymnasium", "robosuite", "mujoco")


def package_versions() -> dict[str, str]:
    """Versions of the packages that can change a result; those not installed are left out."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@dataclass
class Checkpoint:
    """What is stored beside the weights.

    Attributes:
        config: the resolved training configuration.
        spec: measured sizes the policy was built for.
        environment: keyword arguments that recreate the environment of the demonstrations (task, cameras, …).
        proprioception: observation keys, in the order they are concatenated.
        fingerprints: of the encoder, its backbone's weights, the dataset.
        demonstrations: episodes trained on.
        loss_curve: rows of the training log.
        command: the command line that made it.
        versions: of the packages that made it.
    """

    config: TrainConfig
    spec: PolicySpec
    environment: dict[str, Any]
    proprioception: list[str]
    fingerprints: dict[str, str]
    demonstrations: int
    loss_curve: list[dict[str, float]]
    command: str
    versions: dict[str, str] = field(default_factory=package_versions)


def save_checkpoint(folder: str | Path, state: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; one that is there already is replaced only by a complete one."""
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    weights = safetensors.torch.save(tensors)
    document = {"layout": _LAYOUT, "sha256": hashlib.sha256(weights).hexdigest(), **asdict(checkpoint)}
    write_durably(partial / _WEIGHTS, weights)
    write_durably(partial / _CONFIG, json.dumps(document, indent=1).encode())
    if folder.exists():
        old = folder.with_name(folder.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old)
    else:
        partial.rename(folder)


def write_durably(path: Path, content: bytes) -> None:
    """Write `content` under a temporary name, flush it to disk, then rename: never half a file."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def load_checkpoint(folder: str | Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read a checkpoint folder: what is recorded, and the policy's weights.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or was written by another layout version.
    """
    folder = Path(folder)
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise CheckpointError(f"checkpoint {str(folder)!r} has no {name}; give the folder that training wrote")
    try:
        document = json.loads((folder / _CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"checkpoint {str(folder / _CONFIG)!r} is not valid JSON (truncated?): {error}"
        ) from error
    if not isinstance(document, dict) or document.pop("layout", None) != _LAYOUT:
        raise CheckpointError(f"checkpoint {str(folder)!r} was not written by this version (layout {_LAYOUT})")
    weights = (folder / _WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != document.pop("sha256", None):
        raise CheckpointError(f"checkpoint {str(folder / _WEIGHTS)!r} does not match its sha256: truncated or altered")
    try:
        return _checkpoint_from_dict(document), safetensors.torch.load(weights)
    except (KeyError, TypeError, ConfigError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} is damaged: {error!r}") from error


def _checkpoint_from_dict(document: dict[str, Any]) -> Checkpoint:
    config = dict(document["config"])
    config["policy"] = policy_from_dict(config["policy"])
    for name, cls in (("encoder", EncoderConfig), ("readout", ReadoutConfig), ("training", TrainingConfig)):
        config[name] = build(cls, config[name], name)
    spec = document["spec"]
    shapes = {camera: FeatureShape(**shape) for camera, shape in spec["features"].items()}
    return Checkpoint(
        **{
            **document,
            "config": build(TrainConfig, config, "training run"),
            "spec": PolicySpec(shapes, spec["proprioception_width"], spec["action_width"]),
        }
    )


def load_policy(
    folder: str | Path, device: torch.device, engine: str | None = None
) -> tuple[Policy, S2Encoder, Checkpoint]:
    """Rebuild policy and encoder from a checkpoint alone (and the backbone's weights).

    Args:
        folder: the checkpoint.
        device: where both run.
        engine: what runs the backbone instead of the engine it was trained with; the features are the same to rounding.

    Raises:
        CheckpointError: damaged, or the encoder made here is not the one it was trained on.
    """
    checkpoint, state = load_checkpoint(folder)
    settings = asdict(checkpoint.config.encoder)
    if engine is not None:
        settings["engine"] = engine
    encoder = S2Encoder(**settings, device=device)
    trained_on, here = checkpoint.fingerprints["encoder"], encoder.fingerprint()
    if trained_on != here:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} was trained on features of encoder {trained_on[:12]}, but "
            f"{checkpoint.config.encoder} gives {here[:12]} here: other backbone weights, settings or code version"
        )
    policy = make_policy(checkpoint.config.policy, checkpoint.config.readout, checkpoint.spec)
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} does not fit its own configuration: {error}") from error
    return policy.to(device).eval(), encoder, checkpoint

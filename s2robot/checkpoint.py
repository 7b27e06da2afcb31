"""A trained policy on disk: `policy.safetensors` and `config.json`. Loading never executes anything from them.

The frozen backbone is not stored. Its name and the hash of its weights are, and loading compares the hash.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from s2robot.config import EncoderConfig, PolicyConfig, ReadoutConfig, TrainConfig, TrainingConfig, build
from s2robot.interfaces import CheckpointError, ConfigError, FeatureShape, PolicySpec
from s2robot.policies import POLICIES, make_policy, policy_from_dict
from s2robot.policies.readouts import READOUTS, readout_from_dict
from s2robot.system.files import write_durably
from s2robot.system.machine import Machine
from s2robot.system.registry import Registry, providers

if TYPE_CHECKING:  # reading the record must not import torch
    import torch
    from torch import Tensor

    from s2robot.encoder import S2Encoder
    from s2robot.policies import Policy

_LAYOUT = 2
_UNSEALED = 1  # the layout in which `config.json` had no hash of itself
_WEIGHTS = "policy.safetensors"
_CONFIG = "config.json"
_RECORDED = (
    "s2robot",
    "torch",
    "timm",
    "openvino",
    "diffusers",
    "numpy",
    "gymnasium",
    "robosuite",
    "mujoco",
    "metaworld",
    "hf-libero",
)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that can change a result; packages that are not installed are left out."""
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def packages_of(policy: PolicyConfig, readout: ReadoutConfig, *others: tuple[Registry, str]) -> dict[str, str]:
    """Return the installed packages that a run rests on, such as {"policy my_policy": "my-package 1.2"}; ours left out.

    Args:
        policy: settings of the run's policy.
        readout: settings of its readout.
        others: further choices by name, each with its registry.
    """
    return providers([(POLICIES, policy.name), (READOUTS, readout.name), *others])


@dataclass
class Checkpoint:
    """Everything that a checkpoint stores besides the weights.

    Attributes:
        config: the resolved training configuration.
        spec: measured sizes that the policy was built for.
        environment: keyword arguments that recreate the environment of the demonstrations (task, cameras, …).
        proprioception: observation keys, in the order they are concatenated.
        fingerprints: fingerprints of the `encoder`, the weights of its `backbone`, and the `data`.
        demonstrations: number of demonstrations of the run, those held out for validation included.
        loss_curve: rows of the training log.
        command: the command line that trained the policy.
        versions: package versions during training; empty in checkpoints from before they were recorded.
        machines: machines that trained the policy (see `s2robot.system.machine`); more than one if the run was resumed
            on another machine.
        renderers: renderers that drew the images of the demonstrations, if the dataset records them.
        packages: installed packages that brought something chosen by name, see `packages_of`.
        tasks: `text`, `environment` and number of `demonstrations` of each task that the policy is told, in the order
            of `spec.tasks`; empty if it is not told its task.
        initial: the checkpoint that the run started from: sha256 of its `weights`, fingerprint of its `data`, and
            whether its `normalization` was kept; empty for random weights.
        former_epochs: numbers of epochs at whose end the run was finished, and then continued with more.
    """

    config: TrainConfig
    spec: PolicySpec
    environment: dict[str, Any]
    proprioception: list[str]
    fingerprints: dict[str, str]
    demonstrations: int
    loss_curve: list[dict[str, float]]
    command: str
    versions: dict[str, str] = field(default_factory=dict)
    machines: list[Machine] = field(default_factory=list)
    renderers: list[str] = field(default_factory=list)
    packages: dict[str, str] = field(default_factory=dict)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    initial: dict[str, str] = field(default_factory=dict)
    former_epochs: list[int] = field(default_factory=list)


def save_checkpoint(folder: str | Path, state: dict[str, Tensor], checkpoint: Checkpoint) -> None:
    """Write a checkpoint folder; an existing one is replaced only once the new one is complete."""
    import safetensors.torch

    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    weights = safetensors.torch.save(tensors)
    document = {"layout": _LAYOUT, "sha256": hashlib.sha256(weights).hexdigest(), **asdict(checkpoint)}
    document["document_sha256"] = _seal(document)
    write_durably(partial / _WEIGHTS, weights)
    write_durably(partial / _CONFIG, json.dumps(document, indent=1).encode())
    # A folder cannot be renamed onto one with files in it. A kill between the two renames leaves `.old` and `.partial`.
    old = set_checkpoint_aside(folder)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def set_checkpoint_aside(folder: Path) -> Path:
    """Rename an existing checkpoint to `<folder>.old`, which the next `save_checkpoint` removes; return that path."""
    old = folder.with_name(folder.name + ".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    return old


def _seal(document: dict[str, Any]) -> str:
    """Hash the content of `config.json` without its own hash, independent of white space and key order."""
    content = {key: value for key, value in document.items() if key != "document_sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_checkpoint(folder: str | Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """Read a checkpoint folder: its record and the policy's weights.

    Raises:
        CheckpointError: a file is missing, truncated or altered, or was written by another layout version.
    """
    import safetensors.torch

    folder = Path(folder)
    document = _read(folder)
    weights = (folder / _WEIGHTS).read_bytes()
    if hashlib.sha256(weights).hexdigest() != document.get("sha256"):
        raise CheckpointError(f"checkpoint {str(folder / _WEIGHTS)!r} does not match its sha256: truncated or altered")
    try:
        return _checkpoint_from_dict(document), safetensors.torch.load(weights)
    except (KeyError, TypeError, ConfigError, SafetensorError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} is damaged: {error!r}") from error


def load_record(folder: str | Path) -> Checkpoint:
    """Read a checkpoint's record; its weights are not read, and torch is not imported.

    Raises:
        CheckpointError: as for `load_checkpoint`.
    """
    try:
        return _checkpoint_from_dict(_read(Path(folder)))
    except (KeyError, TypeError, ConfigError) as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} is damaged: {error!r}") from error


def _read(folder: Path) -> dict[str, Any]:
    """Read and check `config.json`."""
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            inside = folder / "checkpoint"  # the given folder may be the output of a training run
            hint = (
                f"did you mean {str(inside)!r}?" if (inside / name).is_file() else "give the folder that training wrote"
            )
            raise CheckpointError(f"checkpoint {str(folder)!r} has no {name}; {hint}")
    try:
        document = json.loads((folder / _CONFIG).read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"checkpoint {str(folder / _CONFIG)!r} is not valid JSON (truncated?): {error}"
        ) from error
    layout = document.get("layout") if isinstance(document, dict) else None
    if layout not in (_LAYOUT, _UNSEALED):
        raise CheckpointError(
            f"checkpoint {str(folder)!r} has layout {layout!r}, which this version cannot read; "
            f"valid: {_UNSEALED}, {_LAYOUT}"
        )
    if layout == _LAYOUT and document.get("document_sha256") != _seal(document):
        raise CheckpointError(f"checkpoint {str(folder / _CONFIG)!r} does not match its own sha256: it was altered")
    return document


def _checkpoint_from_dict(document: dict[str, Any]) -> Checkpoint:
    names = ("layout", "sha256", "document_sha256")
    document = {name: value for name, value in document.items() if name not in names}
    config = dict(document["config"])
    config["policy"] = policy_from_dict(config["policy"])
    config["training"].pop("save_every", None)  # a setting that existed in layout 1 only
    config["readout"] = readout_from_dict(config["readout"])
    for name, cls in (("encoder", EncoderConfig), ("training", TrainingConfig)):
        config[name] = build(cls, config[name], name)
    spec = document["spec"]
    shapes = {camera: FeatureShape(**shape) for camera, shape in spec["features"].items()}
    return Checkpoint(
        **{
            **document,
            "config": build(TrainConfig, config, "training run"),
            "spec": PolicySpec(
                shapes,
                spec["proprioception_width"],
                spec["action_width"],
                tuple(spec.get("tasks", ())),
                spec.get("task_width", 0),
                spec.get("task_vector_width", 0),
            ),
        }
    )


def require_task(checkpoint: Checkpoint, task: str | None) -> None:
    """Check that the policy was trained on `task`; None accepts any.

    Raises:
        CheckpointError: the policy was trained on another task; the message names both.
    """
    trained_on = checkpoint.environment.get("task")
    if task is not None and task != trained_on:
        raise CheckpointError(f"the checkpoint's policy was trained on task {trained_on!r}, not on {task!r}")


def _require_cameras(checkpoint: Checkpoint) -> None:
    """Check that the recorded environment has the policy's cameras."""
    offered = checkpoint.environment.get("cameras")
    missing = [camera for camera in checkpoint.spec.features if offered is not None and camera not in offered]
    if missing:
        raise CheckpointError(
            f"the checkpoint's policy uses the cameras {', '.join(checkpoint.spec.features)}, but its environment has "
            f"{', '.join(offered or []) or 'no cameras'}; missing: {', '.join(missing)}"
        )


def _require_text(folder: str | Path, checkpoint: Checkpoint, text: str | None) -> None:
    """Check that a text is given if and only if the policy is told its task, and that it knows it."""
    known = checkpoint.spec.tasks
    if text is not None and not known:
        raise CheckpointError(
            f"task_text={text!r}: the policy of {str(folder)!r} was trained without task_conditioning and is told none"
        )
    if known and text not in known:
        raise CheckpointError(
            f"the policy of {str(folder)!r} is told its task, and task_text={text!r} is not one of those it knows; "
            f"choices: {', '.join(map(repr, known))}"
        )


def load_policy(
    folder: str | Path,
    device: torch.device,
    engine: str | None = None,
    *,
    task_text: str | None = None,
    tells_task: bool = False,
) -> tuple[Policy, S2Encoder, Checkpoint]:
    """Rebuild the policy and its encoder from a checkpoint and the backbone's weights.

    Args:
        folder: the checkpoint folder.
        device: device that both run on.
        engine: engine that runs the backbone; None = the engine of training. Features differ by rounding only.
        task_text: the task of all observations, for a policy that is told its task. The record that is returned then
            names the environment of this task.
        tells_task: whether the caller fills in `Observation.task` for a policy that is told its task.

    Raises:
        CheckpointError: the checkpoint is damaged, the encoder built here is not the one it was trained with, or
            `task_text` is missing or unknown.
    """
    from s2robot.encoder import S2Encoder

    checkpoint, state = load_checkpoint(folder)
    _require_cameras(checkpoint)
    if not tells_task:
        _require_text(folder, checkpoint, task_text)
    settings = asdict(checkpoint.config.encoder)
    if engine is not None:
        settings["engine"] = engine
    encoder = S2Encoder(**settings, device=device)
    trained_on, here = checkpoint.fingerprints["encoder"], encoder.fingerprint()
    if trained_on != here:
        raise CheckpointError(
            f"checkpoint {str(folder)!r} was trained on features of encoder {trained_on[:12]}, but "
            f"{checkpoint.config.encoder} gives encoder {here[:12]} here: backbone weights, settings or code differ"
        )
    policy = make_policy(checkpoint.config.policy, checkpoint.config.readout, checkpoint.spec)
    try:
        policy.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"checkpoint {str(folder)!r} does not fit its own configuration: {error}") from error
    if task_text is not None and policy.observation.task is not None:
        policy.observation.task.chosen = place = checkpoint.spec.tasks.index(task_text)
        checkpoint = replace(checkpoint, environment=checkpoint.tasks[place]["environment"])
    return policy.to(device).eval(), encoder, checkpoint

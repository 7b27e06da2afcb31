"""Demonstrations → frozen features → policy → checkpoint: one way to train every policy, in one process or several."""

from __future__ import annotations

import logging
import shlex
import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from s2robot.backbones import BACKBONES
from s2robot.checkpoint import Checkpoint, load_checkpoint, load_record, package_versions, packages_of, save_checkpoint
from s2robot.config import TrainConfig
from s2robot.config.environment import NO_TASK, EnvironmentSettings
from s2robot.data import FORMATS, format_of
from s2robot.encoder import S2Encoder
from s2robot.interfaces import CheckpointError, ConfigError, TrainingError
from s2robot.policies import make_policy
from s2robot.system.files import claimed
from s2robot.system.machine import Machine
from s2robot.training.data import TrainingData, TrainingPlan, cache_all, plan_training
from s2robot.training.fitting import Fitting, require_fit
from s2robot.training.initial import load_initial, warn_of_unreachable
from s2robot.training.loggers import require_loggers
from s2robot.training.loop import TrainingLoop
from s2robot.training.optimization import require_precision
from s2robot.training.processes import Processes, make_processes
from s2robot.training.several import Environments, cached, opened, plan_all, prepare
from s2robot.training.state import STATE_FILE, identity, require_same_run
from s2robot.training.tasks import vectors_hash

__all__ = [
    "TrainingData",
    "TrainingLoop",
    "TrainingPlan",
    "cache_all",
    "make_processes",
    "plan_training",
    "prepare",
    "train",
]

_LOGGER = logging.getLogger(__name__)


def train(config: TrainConfig, encoder: S2Encoder | None = None, environment: Environments = None) -> Path:
    """Train a policy: demonstrations → features → policy → checkpoint.

    All checks of settings, dataset and saved state run before the first frame is encoded, which can take hours.

    Args:
        config: settings of the run.
        encoder: an encoder that was built from `config.encoder`, to share it between runs; None = build it here.
        environment: the environment that the checkpoint records for evaluation, as arguments of `make_env` without
            cameras; None = the one that the dataset records in the words of this package, if any, or none with
            `task=none`. For several datasets a list with one for each.

    Returns:
        The checkpoint folder, `<output>/checkpoint`.

    Raises:
        S2RobotError: settings, dataset or saved state are not usable, another run trains in the same output, or the
            loss is not finite.
    """
    if environment is None and config.task is not None:
        if config.task != NO_TASK:
            raise ConfigError(
                f"task={config.task!r} needs train(…, environment=…), the arguments of make_env, one for each dataset; "
                "`s2robot train` makes and checks them"
            )
        environment = {}
    processes = make_processes(config.device)
    require_loggers(config.training.loggers)
    require_precision(config.training.precision, config.policy.name, processes.device)
    config = replace(config, output=processes.share(config.output))  # the default output contains the time of day
    try:
        Path(config.output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"output {config.output!r} cannot be written: {error}") from error
    with ExitStack() as stack:
        if processes.main:
            refusal = TrainingError(f"output {config.output!r} is in use by another run; choose another output")
            stack.enter_context(claimed(Path(config.output) / ".training", refusal))
        folder = _train(config, encoder, processes, environment)
    _finish(processes)
    return folder


def _train(config: TrainConfig, encoder: S2Encoder | None, processes: Processes, environment: Environments) -> Path:
    if encoder is None:
        encoder = S2Encoder(**asdict(config.encoder), device=processes.device)
    tensors_before = encoder.tensors_hash()

    with opened(config) as datasets:
        plan = plan_all(datasets, config, encoder, environment)
        for camera in plan.spec.features:
            size = datasets[0].image_size(camera)
            if config.encoder.needed_side > max(size):
                message = "camera %s: images of %s x %s pixels are enlarged to %s, which adds no detail"
                _LOGGER.warning(message, camera, *size, config.encoder.needed_side)
        torch.manual_seed(config.seed)
        policy = make_policy(config.policy, config.readout, plan.spec)
        if plan.task_vectors is not None and policy.observation.task is not None:
            policy.observation.task.set_vectors(plan.task_vectors)
        require_fit(policy, config)
        initial = load_initial(config, policy, plan, encoder.fingerprint())
        actions, proprioception = (
            [arrays[index] for index in plan.training_episodes]
            for arrays in (plan.demonstrations.actions, plan.demonstrations.proprioception)
        )
        if initial:
            policy.load_state_dict(initial.state)
        if initial and initial.keeps_normalization:
            warn_of_unreachable(policy, actions)
        else:  # before anything is encoded: it refuses modes that do not suit the actions
            policy.fit_normalization(actions, proprioception)
        run = identity(config, encoder.fingerprint(), plan.fingerprint, initial.record if initial else None)
        if plan.task_vectors is not None:
            run["task vectors"] = vectors_hash(plan.task_vectors)
        if config.resume:
            require_same_run(Path(config.output) / STATE_FILE, run)
            _require_same_environment(config)
        with processes.main_first():  # the main process encodes; the others then find the features in the cache
            data = cached(datasets, plan, config, encoder)

    formats = [(FORMATS, format_of(path)) for path in config.datasets]
    packages = packages_of(config.policy, config.readout, *formats, (BACKBONES, config.encoder.backbone))
    packages |= plan.env_args.get("packages", {})  # those that brought the task and the expert
    result = _Result(config, plan, encoder, tensors_before, packages, initial.record if initial else {})
    policy = policy.to(processes.device)
    loop = (
        TrainingLoop(policy, data, config, processes, run, result.save)
        if policy.trainable
        else Fitting(policy, data, config, processes, run)
    )
    loop.run()
    folder = Path(config.output) / "checkpoint"
    # A finished run keeps its checkpoint: writing it again would replace the record of what made it.
    if processes.main and not (loop.was_finished and _is_whole(folder)):
        result.save(folder, loop.averaged_state(), loop.rows, loop.machines, loop.former_epochs)
    return folder


def _require_same_environment(config: TrainConfig) -> None:
    """Check that the output holds no finished run for another environment, whose checkpoint the run would keep."""
    folder = Path(config.output) / "checkpoint"
    try:
        former = load_record(folder).config if (Path(config.output) / STATE_FILE).exists() else config
    except CheckpointError:
        return  # there is none, or a damaged one, which is written anew
    names = [
        name for name in EnvironmentSettings.__dataclass_fields__ if getattr(former, name) != getattr(config, name)
    ]
    if names and former.training.epochs == config.training.epochs:
        told = ", ".join(f"{name}: {getattr(former, name)!r} there, {getattr(config, name)!r} here" for name in names)
        raise TrainingError(
            f"{config.output!r} holds the finished run, but for another environment ({told}); choose another output or "
            "give resume=false"
        )


def _is_whole(folder: Path) -> bool:
    try:
        load_checkpoint(folder)
    except CheckpointError:
        return False
    return True


@dataclass
class _Result:
    """What a checkpoint stores beside the weights; the same for intermediate checkpoints and the final one."""

    config: TrainConfig
    plan: TrainingPlan
    encoder: S2Encoder
    tensors_before: str
    packages: dict[str, str]
    initial: dict[str, str]

    def save(
        self,
        folder: Path,
        state: dict[str, torch.Tensor],
        rows: list[dict[str, float]],
        machines: list[Machine],
        former_epochs: list[int],
    ) -> None:
        """Write a checkpoint, after checking that the frozen backbone has not changed."""
        if self.encoder.tensors_hash() != self.tensors_before:
            raise TrainingError(f"backbone {self.encoder.backbone.name!r} changed during training; it must stay frozen")
        checkpoint = Checkpoint(
            config=self.config,
            spec=self.plan.spec,
            environment=self.plan.environment,
            proprioception=self.plan.proprioception,
            fingerprints={
                "encoder": self.encoder.fingerprint(),
                "backbone": self.encoder.backbone.weights_hash(),
                "data": self.plan.fingerprint,
                **{f"data {place}": part.fingerprint for place, part in enumerate(self.plan.parts, 1)},
            },
            demonstrations=len(self.plan.demonstrations.actions),
            loss_curve=rows,
            command=shlex.join(sys.argv),
            versions=package_versions(),
            machines=machines,
            renderers=self.plan.renderers,
            packages=self.packages,
            tasks=self.plan.tasks,
            initial=self.initial,
            former_epochs=former_epochs,
        )
        save_checkpoint(folder, state, checkpoint)


def _finish(processes: Processes) -> None:
    """Hold the other processes until the main process has saved the checkpoint."""
    processes.share("saved")
    processes.close()

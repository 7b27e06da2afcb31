"""Optimizer, learning-rate schedule, moving average and precision, according to the settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from s2robot.config import TrainingConfig
from s2robot.interfaces import ConfigError
from s2robot.policies import Policy
from s2robot.system.precision import dtype_of

if TYPE_CHECKING:  # diffusers takes seconds to import; a run that is refused must not wait for it
    from diffusers.training_utils import EMAModel


def make_optimizer(policy: Policy, settings: TrainingConfig, device: torch.device) -> torch.optim.Optimizer:
    """Make AdamW over the policy's parameters, in the groups that the policy defines."""
    return torch.optim.AdamW(
        policy.parameter_groups(settings.weight_decay),
        lr=settings.learning_rate,
        betas=(settings.betas[0], settings.betas[1]),
        fused=device.type in ("cpu", "cuda"),  # one pass over the weights instead of ten; 3 times as fast on a CPU
    )


def make_schedule(
    optimizer: torch.optim.Optimizer, settings: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Make the schedule: linear warm-up, then cosine decay to zero at `steps`, or a constant rate."""
    from diffusers.optimization import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

    if settings.schedule == "constant":
        return get_constant_schedule_with_warmup(optimizer, settings.warmup_steps)
    return get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, steps)


def make_average(policy: Policy, settings: TrainingConfig) -> EMAModel:
    """Make the moving average of the policy's parameters."""
    from diffusers.training_utils import EMAModel

    return EMAModel(policy.parameters(), decay=settings.ema_max_decay, use_ema_warmup=True, power=settings.ema_power)


def require_precision(precision: str, policy: str, device: torch.device) -> None:
    """Check that the device can compute the policy in a precision.

    Raises:
        ConfigError: it cannot; the message names the device and the valid precisions.
    """
    # GPUs before Ampere only emulate bf16.
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ConfigError(f"training.precision='bf16' is not possible on {device}; valid: fp32, fp16")
    if precision == "fp16" and device.type not in ("cuda", "cpu"):
        raise ConfigError(f"training.precision='fp16' is not possible on {device}; valid: fp32, bf16")
    if policy == "bc_rnn" and precision != "fp32" and device.type == "cpu":
        try:  # a trial, because the half precisions that PyTorch's LSTM supports depend on the CPU
            with autocast(precision, device), torch.no_grad():
                torch.nn.LSTM(1, 1)(torch.zeros(1, 1, 1))
        except RuntimeError as error:
            raise ConfigError(
                f"training.precision={precision!r} is not possible for policy bc_rnn on this CPU, where PyTorch has no "
                "LSTM in that precision; valid: fp32"
            ) from error


def autocast(precision: str, device: torch.device) -> Any:
    """Return the context in which the loss is computed."""
    return torch.autocast(device.type, dtype=dtype_of(precision), enabled=precision != "fp32")


def seed_noise(words: list[int], device: torch.device) -> None:
    """Seed the generators of the CPU and of `device`, from which dropout and diffusion draw, with any number of words.

    `torch.manual_seed` is not used, because it queues a call for every device type that is not initialised yet: called
    at every step, that queue grows without end.
    """
    seed = int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)

"""Settings of the networks that several policies are made of, see `s2robot.policies.networks`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

from s2robot.config.checks import require
from s2robot.config.policy import require_dropout, require_heads, require_positive

HEADS = ("deterministic", "gmm")
SAMPLERS = ("ddpm", "ddim", "dpm_solver")


@dataclass
class HeadSettings:
    """The output of a behaviour-cloning policy: `deterministic` (smooth-L1 loss) or `gmm` (a mixture of Gaussians).

    The mixture's defaults are robomimic's (arXiv 2108.03298, `algo.gmm`).

    Attributes:
        head: `deterministic` or `gmm`.
        modes: number of Gaussians.
        min_std: smallest standard deviation, in units of half the range of the actions.
        low_noise: whether acting draws a mode and executes its mean with noise of `min_std`, instead of the learned
            standard deviation.
    """

    head: str = "deterministic"
    modes: int = 5
    min_std: float = 1e-4
    low_noise: bool = True

    def __post_init__(self) -> None:
        require(self.head in HEADS, "policy.head", self.head, ", ".join(HEADS))
        require(self.modes >= 1, "policy.modes", self.modes, "1 or more")
        require(self.min_std > 0, "policy.min_std", self.min_std, "a positive number")


@dataclass
class DiffusionSettings:
    """Diffusion over chunks as published (arXiv 2303.04137): 100 DDPM steps in training and in acting.

    Attributes:
        train_timesteps: number of diffusion steps in training.
        sampler: `ddpm`, `ddim` or `dpm_solver` (DPM-Solver++, arXiv 2211.01095).
        inference_steps: number of sampling steps; ddim and dpm_solver act well with about 10. With ddim it must divide
            `train_timesteps`.
    """

    train_timesteps: int = 100
    sampler: str = "ddpm"
    inference_steps: int = 100

    def __post_init__(self) -> None:
        require(self.sampler in SAMPLERS, "policy.sampler", self.sampler, ", ".join(SAMPLERS))
        require(
            1 <= self.inference_steps <= self.train_timesteps,
            "policy.inference_steps",
            self.inference_steps,
            f"1 … train_timesteps={self.train_timesteps}",
        )
        total, steps = self.train_timesteps, self.inference_steps
        # diffusers' DDIM steps back by N // n between times that are N / n apart, so n must divide N. The other
        # samplers' times are np.arange(N, 0, -N / n): for some n, rounding adds one more, which lies before time 0.
        exact = total % steps == 0 if self.sampler == "ddim" else math.ceil(total / (total / steps)) == steps
        divisors = [str(n) for n in range(1, total + 1) if total % n == 0]
        require(
            exact,
            "policy.inference_steps",
            steps,
            f"a divisor of train_timesteps ({', '.join(divisors)}); ddpm and dpm_solver accept most other numbers too",
        )


@dataclass
class UNetSettings:
    """Diffusion Policy's temporal U-Net (arXiv 2303.04137)."""

    down_dims: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    kernel_size: int = 5
    groups: int = 8
    step_embedding: int = 128

    def check_unet(self, action_steps: int) -> None:
        """Refuse sizes that are impossible for chunks of `action_steps`."""
        require(
            self.kernel_size >= 1 and self.kernel_size % 2 == 1, "policy.kernel_size", self.kernel_size, "1, 3, 5, …"
        )
        require(
            self.step_embedding >= 4 and self.step_embedding % 2 == 0,
            "policy.step_embedding",
            self.step_embedding,
            "an even number of 4 or more",
        )
        require_positive(self, "groups")
        require(
            len(self.down_dims) >= 1 and min(self.down_dims) >= 1,
            "policy.down_dims",
            self.down_dims,
            "at least one width, each 1 or more",
        )
        require(
            all(d % self.groups == 0 for d in self.down_dims),
            "policy.down_dims",
            self.down_dims,
            f"multiples of groups={self.groups}",
        )
        stride = 2 ** (len(self.down_dims) - 1)
        require(
            action_steps % stride == 0,
            "policy.action_steps",
            action_steps,
            f"a multiple of {stride}, because the U-Net halves the sequence {len(self.down_dims) - 1} times",
        )


@dataclass
class DenoisingTransformerSettings:
    """Diffusion Policy's transformer for images (arXiv 2303.04137); its dropouts and weight decay are published too.

    `causal` hides the later actions of a chunk from the earlier ones, as published. The earlier actions then cannot
    agree with the later ones while all are denoised together: if demonstrations go two ways, one chunk in ten mixes
    both ways (docs/policies.md).
    """

    former: ClassVar[dict[str, Any]] = {"causal": True}

    layers: int = 8
    heads: int = 4
    width: int = 256
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.3
    causal: bool = True

    def check_transformer(self) -> None:
        """Refuse impossible sizes."""
        require_positive(self, "layers", "heads")
        # The embedding of the step consists of sines and cosines, half of the width each.
        require(self.width >= 4 and self.width % 2 == 0, "policy.width", self.width, "an even number of 4 or more")
        require_heads(self.width, self.heads)
        require_dropout(self, "embedding_dropout", "attention_dropout")

"""Settings of the policies; the defaults are the published ones."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from omegaconf import MISSING

from s2robot.config.checks import require

HEADS = ("deterministic", "gmm")
SAMPLERS = ("ddpm", "ddim", "dpm_solver")
NETWORKS = ("unet", "transformer")
TIME_SAMPLINGS = ("beta", "uniform")


@dataclass
class PolicyConfig:
    """What all policies share: how much they see, predict and execute.

    At time t a policy sees the observations t-To+1 … t, predicts the actions t … t+Ta-1 (`action_steps`) and
    executes the first `execute_steps` of them before it looks again.
    """

    name: str = MISSING
    observation_steps: int = 1
    action_steps: int = 8
    execute_steps: int = 4

    def __post_init__(self) -> None:
        require(self.observation_steps >= 1, "policy.observation_steps", self.observation_steps, "1 or more")
        require(
            1 <= self.execute_steps <= self.action_steps,
            "policy.execute_steps",
            self.execute_steps,
            f"1 … action_steps={self.action_steps}",
        )

    def identity(self) -> dict[str, Any]:
        """The settings that a result depends on, in the words of the files that were written first.

        A setting that came later is left out where it does nothing, or says what the code did before it came: those
        files still belong to the same run.
        """
        return asdict(self)


@dataclass
class HeadSettings:
    """How a behaviour-cloning policy puts out its chunk: `deterministic` (smooth-L1) or `gmm`.

    The mixture's defaults are robomimic's (arXiv 2108.03298, `algo.gmm`): 5 modes, `min_std` 1e-4 in units of half
    the range of the actions, and `low_noise` evaluation: a mode is drawn and executed with `min_std` of noise.
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
class BCConfig(HeadSettings, PolicyConfig):
    """Chunked behaviour cloning: an MLP from the observation to Ta actions."""

    name: str = "bc"
    hidden: list[int] = field(default_factory=lambda: [512, 512])
    dropout: float = 0.0

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        _require_dropout(self, "dropout")
        require(all(w >= 1 for w in self.hidden), "policy.hidden", self.hidden, "widths of 1 or more")


@dataclass
class BCRNNConfig(HeadSettings, PolicyConfig):
    """An LSTM over the last To observations: robomimic's BC-RNN-GMM for images (arXiv 2108.03298, App. D).

    2 layers of 1000, sequences of 10 and the mixture are published; chunks are ours, as long as those of `bc`.
    """

    name: str = "bc_rnn"
    head: str = "gmm"
    observation_steps: int = 10
    layers: int = 2
    hidden: int = 1000

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        _require_positive(self, "layers", "hidden")


@dataclass
class BCTransformerConfig(HeadSettings, PolicyConfig):
    """The S² paper's robot policy: a transformer over the last 16 steps that predicts the next 16 actions.

    Its horizons are the paper's (arXiv 2403.13043, §3.2). The paper states no sizes; these are RPT's, whose setting it
    follows (arXiv 2306.10007: 4 blocks, width 192, 4 heads, MLP ratio 2). How many of the 16 actions are executed
    is not stated either: half of them, as Diffusion Policy does. `dropout` is robomimic's BC-Transformer's.

    `past_actions` shows the policy the actions executed before each step, as the paper does. Without them it cannot
    learn to copy its last action instead of looking (arXiv 1905.11979).
    """

    name: str = "bc_transformer"
    observation_steps: int = 16
    action_steps: int = 16
    execute_steps: int = 8
    past_actions: bool = True
    layers: int = 4
    width: int = 192
    heads: int = 4
    mlp_ratio: int = 2
    dropout: float = 0.1

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        _require_positive(self, "layers", "width", "heads", "mlp_ratio")
        _require_heads(self.width, self.heads)
        _require_dropout(self, "dropout")


@dataclass
class DiffusionSettings:
    """Diffusion over chunks as published (arXiv 2303.04137): 100 steps of DDPM in training and in acting.

    `sampler`: ddpm; ddim or dpm_solver (DPM-Solver++, arXiv 2211.01095) act well in `inference_steps` of 10 or so;
    those of ddim must divide `train_timesteps`.
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
        # diffusers' DDIM goes N // n back between times that lie N / n apart. The times of the others are
        # np.arange(N, 0, -N / n): for some n one too many by rounding, which lies before time 0.
        exact = total % steps == 0 if self.sampler == "ddim" else math.ceil(total / (total / steps)) == steps
        divisors = [str(n) for n in range(1, total + 1) if total % n == 0]
        require(
            exact,
            "policy.inference_steps",
            steps,
            f"a divisor of train_timesteps ({', '.join(divisors)}); with ddpm and dpm_solver most other numbers too",
        )


@dataclass
class UNetSettings:
    """Diffusion Policy's temporal U-Net (arXiv 2303.04137)."""

    down_dims: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    kernel_size: int = 5
    groups: int = 8
    step_embedding: int = 128

    def check_unet(self, action_steps: int) -> None:
        """Refuse impossible sizes for chunks of `action_steps`."""
        require(
            self.kernel_size >= 1 and self.kernel_size % 2 == 1, "policy.kernel_size", self.kernel_size, "1, 3, 5, …"
        )
        require(
            self.step_embedding >= 4 and self.step_embedding % 2 == 0,
            "policy.step_embedding",
            self.step_embedding,
            "an even number of 4 or more",
        )
        _require_positive(self, "groups")
        require(
            len(self.down_dims) >= 1 and min(self.down_dims) >= 1,
            "policy.down_dims",
            self.down_dims,
            "one width or more, each 1 or more",
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
    """Diffusion Policy's transformer for images (arXiv 2303.04137): dropouts and weight decay are its own too.

    `causal` hides the later actions of a chunk from the earlier ones, as published. What is denoised first cannot
    follow what is denoised beside it then: where demonstrations go two ways, one chunk in ten takes a step of each
    (docs/policies.md).
    """

    layers: int = 8
    heads: int = 4
    width: int = 256
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.3
    causal: bool = True

    def check_transformer(self) -> None:
        """Refuse impossible sizes."""
        _require_positive(self, "layers", "heads")
        # Sines and cosines of the step, half of the width each.
        require(self.width >= 4 and self.width % 2 == 0, "policy.width", self.width, "an even number of 4 or more")
        _require_heads(self.width, self.heads)
        _require_dropout(self, "embedding_dropout", "attention_dropout")


@dataclass
class DiffusionUNetConfig(UNetSettings, DiffusionSettings, PolicyConfig):
    """Diffusion Policy, CNN form (arXiv 2303.04137); the defaults are the published ones."""

    name: str = "diffusion_unet"
    observation_steps: int = 2
    action_steps: int = 16
    execute_steps: int = 8

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        DiffusionSettings.__post_init__(self)
        self.check_unet(self.action_steps)


@dataclass
class DiffusionTransformerConfig(DenoisingTransformerSettings, DiffusionSettings, PolicyConfig):
    """Diffusion Policy, transformer form (arXiv 2303.04137); the defaults are the published ones.

    `transformer_weight_decay` takes the place of `training.weight_decay` for the transformer's matrices.
    """

    name: str = "diffusion_transformer"
    observation_steps: int = 2
    action_steps: int = 10
    execute_steps: int = 8
    transformer_weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        DiffusionSettings.__post_init__(self)
        self.check_transformer()
        require(
            self.transformer_weight_decay >= 0,
            "policy.transformer_weight_decay",
            self.transformer_weight_decay,
            "0 or more",
        )

    def identity(self) -> dict[str, Any]:
        """Without `causal` where it says what it said before it could be set."""
        return {key: value for key, value in asdict(self).items() if key != "causal" or not self.causal}


@dataclass
class FlowMatchingConfig(UNetSettings, DenoisingTransformerSettings, PolicyConfig):
    """Flow matching with the networks of Diffusion Policy; objective and sampling are π0's (arXiv 2410.24164).

    `network` is unet or transformer; the settings of the other one are not used. In the transformer all actions of a
    chunk see each other, as in π0. `time_sampling` is `beta`, π0's, or `uniform`, that of rectified flow
    (arXiv 2209.03003).
    """

    name: str = "flow_matching"
    observation_steps: int = 2
    action_steps: int = 16
    execute_steps: int = 8
    causal: bool = False
    network: str = "unet"
    time_sampling: str = "beta"
    inference_steps: int = 10

    def __post_init__(self) -> None:
        PolicyConfig.__post_init__(self)
        require(self.network in NETWORKS, "policy.network", self.network, ", ".join(NETWORKS))
        require(
            self.time_sampling in TIME_SAMPLINGS, "policy.time_sampling", self.time_sampling, ", ".join(TIME_SAMPLINGS)
        )
        _require_positive(self, "inference_steps")
        if self.network == "unet":
            self.check_unet(self.action_steps)
        self.check_transformer()

    def identity(self) -> dict[str, Any]:
        """Without `causal` where it does nothing, or says what it said before it could be set."""
        silent = self.causal or self.network == "unet"
        return {key: value for key, value in asdict(self).items() if key != "causal" or not silent}


POLICIES: dict[str, type[PolicyConfig]] = {
    "bc": BCConfig,
    "bc_rnn": BCRNNConfig,
    "bc_transformer": BCTransformerConfig,
    "diffusion_transformer": DiffusionTransformerConfig,
    "diffusion_unet": DiffusionUNetConfig,
    "flow_matching": FlowMatchingConfig,
}


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        require(getattr(config, name) >= 1, f"policy.{name}", getattr(config, name), "an integer of 1 or more")


def _require_dropout(config: object, *names: str) -> None:
    for name in names:
        require(0 <= getattr(config, name) < 1, f"policy.{name}", getattr(config, name), "[0, 1)")


def _require_heads(width: int, heads: int) -> None:
    require(width % heads == 0, "policy.width", width, f"a multiple of heads={heads}")

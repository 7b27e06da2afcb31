"""Settings of the policies; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from s2robot.config.checks import require

HEADS = ("deterministic", "gmm")


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
class DiffusionUNetConfig(PolicyConfig):
    """Diffusion Policy, CNN form (arXiv 2303.04137); the defaults are the published ones."""

    name: str = "diffusion_unet"
    observation_steps: int = 2
    action_steps: int = 16
    execute_steps: int = 8
    down_dims: list[int] = field(default_factory=lambda: [512, 1024, 2048])
    kernel_size: int = 5
    groups: int = 8
    step_embedding: int = 128
    train_timesteps: int = 100
    sampler: str = "ddpm"
    inference_steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        stride = 2 ** (len(self.down_dims) - 1)
        require(len(self.down_dims) >= 1, "policy.down_dims", self.down_dims, "one width or more")
        require(
            all(d % self.groups == 0 for d in self.down_dims),
            "policy.down_dims",
            self.down_dims,
            f"multiples of groups={self.groups}",
        )
        require(
            self.action_steps % stride == 0,
            "policy.action_steps",
            self.action_steps,
            f"a multiple of {stride}, because the U-Net halves the sequence {len(self.down_dims) - 1} times",
        )
        require(self.sampler in ("ddpm", "ddim"), "policy.sampler", self.sampler, "ddpm, ddim")
        require(
            1 <= self.inference_steps <= self.train_timesteps,
            "policy.inference_steps",
            self.inference_steps,
            f"1 … train_timesteps={self.train_timesteps}",
        )


POLICIES: dict[str, type[PolicyConfig]] = {"bc": BCConfig, "diffusion_unet": DiffusionUNetConfig}


def _require_dropout(config: PolicyConfig, *names: str) -> None:
    for name in names:
        require(0 <= getattr(config, name) < 1, f"policy.{name}", getattr(config, name), "[0, 1)")

"""Settings of the policies; the defaults are the published ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import MISSING

from s2robot.config.checks import require


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
class BCConfig(PolicyConfig):
    """Chunked behaviour cloning: an MLP that regresses Ta actions with a smooth-L1 loss."""

    name: str = "bc"
    hidden: list[int] = field(default_factory=lambda: [512, 512])
    dropout: float = 0.0


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

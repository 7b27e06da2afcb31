"""Settings of the package's own policies. They stand apart from the classes, whose files import torch.

So `s2robot train` with a mistyped word or a dataset that does not exist is answered before torch is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from s2robot.config.checks import require
from s2robot.config.networks import DenoisingTransformerSettings, DiffusionSettings, HeadSettings, UNetSettings
from s2robot.config.policy import PolicyConfig, require_dropout, require_heads, require_positive

NETWORKS = ("unet", "transformer")
TIME_SAMPLINGS = ("beta", "uniform")


@dataclass
class BCConfig(HeadSettings, PolicyConfig):
    """Chunked behaviour cloning: an MLP from the observation to Ta actions."""

    name: str = "bc"
    hidden: list[int] = field(default_factory=lambda: [512, 512])
    dropout: float = 0.0

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        require_dropout(self, "dropout")
        require(all(w >= 1 for w in self.hidden), "policy.hidden", self.hidden, "widths of 1 or more")


@dataclass
class BCRNNConfig(HeadSettings, PolicyConfig):
    """An LSTM over the last To observations: robomimic's BC-RNN-GMM for images (arXiv 2108.03298, App. D).

    The 2 layers of width 1000, the sequences of 10 steps and the mixture are published. The chunks are our addition,
    with the length that `bc` has.
    """

    name: str = "bc_rnn"
    head: str = "gmm"
    observation_steps: int = 10
    layers: int = 2
    hidden: int = 1000

    def __post_init__(self) -> None:
        HeadSettings.__post_init__(self)
        PolicyConfig.__post_init__(self)
        require_positive(self, "layers", "hidden")


@dataclass
class BCTransformerConfig(HeadSettings, PolicyConfig):
    """The S² paper's robot policy: a transformer over the last 16 steps that predicts the next 16 actions.

    The horizons are the paper's (arXiv 2403.13043, §3.2). The paper states neither the network's sizes nor how many of
    the 16 actions it executes. The sizes here are those of RPT, whose setting the paper follows (arXiv 2306.10007: 4
    blocks, width 192, 4 heads, MLP ratio 2). Half of the actions are executed, as in Diffusion Policy. `dropout` is
    that of robomimic's BC-Transformer.

    `past_actions` shows the policy the actions executed before each step, as the paper does. Without them the policy
    cannot learn to copy its last action instead of looking (arXiv 1905.11979).
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
        require_positive(self, "layers", "width", "heads", "mlp_ratio")
        require_heads(self.width, self.heads)
        require_dropout(self, "dropout")


@dataclass
class DiffusionTransformerConfig(DenoisingTransformerSettings, DiffusionSettings, PolicyConfig):
    """Diffusion Policy, transformer form (arXiv 2303.04137); the defaults are the published ones.

    `transformer_weight_decay` replaces `training.weight_decay` for the transformer's matrices.
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
class FlowMatchingConfig(UNetSettings, DenoisingTransformerSettings, PolicyConfig):
    """Flow matching with the networks of Diffusion Policy; the objective and sampling are π0's (arXiv 2410.24164).

    Attributes:
        network: `unet` or `transformer`; the settings of the other one are ignored.
        causal: whether the transformer hides later actions of a chunk from earlier ones; off by default, as in π0.
        time_sampling: distribution of the training times: `beta` (π0) or `uniform` (rectified flow, arXiv 2209.03003).
        inference_steps: number of Euler steps from noise to actions.
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
        require_positive(self, "inference_steps")
        if self.network == "unet":
            self.check_unet(self.action_steps)
        self.check_transformer()

    def identity(self) -> dict[str, Any]:
        """Leave out `causal` as well if the network is a U-Net, where it has no effect."""
        return {key: value for key, value in super().identity().items() if key != "causal" or self.network != "unet"}


@dataclass
class KNNConfig(PolicyConfig):
    """Locally weighted regression over the training windows, as in VINN (arXiv 2112.01511, §III).

    The paper weights the k nearest windows by exp(-distance). Here distances are divided by the spread of the
    demonstrations, so that they are comparable across encoders, and `temperature` sets how local the regression is. The
    values of `temperature`, `k` and `proprioception_weight` are ours.

    Attributes:
        k: number of windows that are averaged to an action.
        temperature: divisor of the distances: a window's weight is exp(-distance / temperature).
        proprioception_weight: weight of the squared distance in proprioception, relative to the squared distance over
            all cameras; 0 ignores proprioception.
        grid: side of the grid that each feature map is averaged to; 1 = one mean of the whole map, as in the paper. A
            larger grid keeps positions apart and takes `grid`² times the memory.
    """

    name: str = "knn"
    k: int = 16
    temperature: float = 0.1
    proprioception_weight: float = 1.0
    grid: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "k", "grid")
        require(self.temperature > 0, "policy.temperature", self.temperature, "a positive number")
        require(
            self.proprioception_weight >= 0, "policy.proprioception_weight", self.proprioception_weight, "0 or more"
        )


POLICY_SETTINGS: dict[str, type[PolicyConfig]] = {
    cls.name: cls
    for cls in (
        BCConfig,
        BCRNNConfig,
        BCTransformerConfig,
        DiffusionTransformerConfig,
        DiffusionUNetConfig,
        FlowMatchingConfig,
        KNNConfig,
    )
}
"""Name of a policy -> dataclass of its settings."""

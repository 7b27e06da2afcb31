"""Settings of the policy; LeRobot derives the names of the policy and the processors from this module and class."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig
from lerobot.optim import AdamWConfig, DiffuserSchedulerConfig

from s2robot.config import EncoderConfig, PolicyConfig, ReadoutConfig
from s2robot.integrations.vision import read_settings
from s2robot.interfaces import ConfigError, unknown_name
from s2robot.policies import POLICIES

# The policies return only actions in [-1, 1]. The other modes put more than outliers outside this range.
ACTION_MODES = (NormalizationMode.MIN_MAX, NormalizationMode.QUANTILES)


@PreTrainedConfig.register_subclass("s2robot")
@dataclass
class S2RobotConfig(PreTrainedConfig):
    """Settings of an s2robot policy, which sees all cameras' frozen features and all `observation.*` vectors.

    A policy sees the observations t-To+1 … t (`n_obs_steps` = To), predicts the actions t … t+Ta-1 (`chunk_size` = Ta)
    and executes the first `n_action_steps` of them before it looks again.

    Args:
        network: name of the policy, one of `s2robot.policies.POLICIES`.
        network_settings: further settings of the policy, such as {"down_dims": [64, 128]}.
        encoder: settings of the frozen encoder.
        readout: settings of each camera's readout.

    Raises:
        ConfigError: see `policy_settings`, or actions are not normalised to [-1, 1].
    """

    n_obs_steps: int = 2
    chunk_size: int = 16
    n_action_steps: int = 8
    network: str = "diffusion_unet"
    network_settings: dict[str, Any] = field(default_factory=dict)
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    readout: ReadoutConfig = field(default_factory=ReadoutConfig)
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: {
            "VISUAL": NormalizationMode.IDENTITY,  # the encoder normalises images, once
            "STATE": NormalizationMode.MEAN_STD,
            "ENV": NormalizationMode.MEAN_STD,
            "ACTION": NormalizationMode.MIN_MAX,
        }
    )
    optimizer_lr: float = 1e-4
    optimizer_betas: tuple[float, float] = (0.95, 0.999)
    optimizer_weight_decay: float = 1e-6
    scheduler_name: str = "cosine"
    scheduler_warmup_steps: int = 500

    def __post_init__(self) -> None:
        super().__post_init__()
        self.policy_settings()
        mode = self.normalization_mapping.get("ACTION", NormalizationMode.IDENTITY)  # LeRobot's default
        if mode not in ACTION_MODES:
            raise ConfigError(
                f"policy.normalization_mapping ACTION={NormalizationMode(mode).value} does not map actions to [-1, 1], "
                f"the range of s2robot's policies; choices: {', '.join(ACTION_MODES)}"
            )

    def policy_settings(self) -> PolicyConfig:
        """Return the settings as s2robot's own dataclass.

        Raises:
            ConfigError: the policy or a setting is unknown, or a value is impossible.
        """
        if self.network not in POLICIES:
            raise ConfigError(unknown_name("policy.network", self.network, POLICIES))
        settings = self.network_settings
        if self.network == "flow_matching" and settings.get("network") == "transformer" and "causal" not in settings:
            raise ConfigError(
                'policy.network_settings={"network": "transformer"} must contain "causal": false for a new policy, '
                "true for a policy that was trained before the setting existed"
            )
        own = sorted(PolicyConfig.former.keys() & settings.keys())
        if own:  # they would apply to numbers that LeRobot has normalised already
            raise ConfigError(
                f"policy.network_settings={own[0]!r} is not possible with LeRobot, which normalises actions itself; "
                "use policy.normalization_mapping"
            )
        steps = {
            "observation_steps": self.n_obs_steps,
            "action_steps": self.chunk_size,
            "execute_steps": self.n_action_steps,
        }
        return read_settings(POLICIES.settings(self.network), "network setting", {**settings, **steps})

    def validate_features(self) -> None:
        """Refuse datasets without images or actions.

        Raises:
            ConfigError: images or actions are missing; the message lists what the dataset has.
        """
        if not self.image_features or self.action_feature is None:
            found = ", ".join([*(self.input_features or {}), *(self.output_features or {})]) or "nothing"
            raise ConfigError(f"policy s2robot needs images and 'action', but the dataset has {found}")

    def get_optimizer_preset(self) -> AdamWConfig:
        """Return Diffusion Policy's optimizer."""
        return AdamWConfig(lr=self.optimizer_lr, betas=self.optimizer_betas, weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> DiffuserSchedulerConfig:
        """Return a schedule with warm-up and then a cosine."""
        return DiffuserSchedulerConfig(name=self.scheduler_name, num_warmup_steps=self.scheduler_warmup_steps)

    @property
    def observation_delta_indices(self) -> list[int]:
        """Offsets of the last To steps."""
        return list(range(1 - self.n_obs_steps, 1))

    @property
    def action_delta_indices(self) -> list[int]:
        """Offsets of the action before each observed step, then of the chunk."""
        return list(range(-self.n_obs_steps, self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        """None: rewards are not used."""
        return

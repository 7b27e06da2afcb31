"""s2robot's policies behind LeRobot's interface; LeRobot finds this module and the class by their names."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from lerobot.configs import FeatureType
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.utils.constants import ACTION
from torch import Tensor

from lerobot_policy_s2robot.configuration_s2robot import S2RobotConfig
from s2robot.integrations.vision import FrozenEncoder, shared_encoder
from s2robot.interfaces import Batch, ConfigError, Observation, PolicySpec
from s2robot.policies import make_policy


class S2RobotPolicy(PreTrainedPolicy):
    """An s2robot policy on frozen features; the checkpoint holds the policy and the encoder's fingerprint.

    LeRobot's processors normalise actions and vectors, so the policy's own normalisation stays the identity.

    Args:
        config: settings, with the features that LeRobot found in the dataset.
        kwargs: arguments that LeRobot passes to every policy; not used.
    """

    config_class = S2RobotConfig
    name = "s2robot"

    def __init__(self, config: S2RobotConfig, **kwargs: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self._cameras = sorted(config.image_features)
        vectors = (FeatureType.STATE, FeatureType.ENV)
        self._vectors = sorted(key for key, ft in config.input_features.items() if ft.type in vectors)
        sizes = {key: tuple(config.image_features[key].shape[1:]) for key in self._cameras}
        self.frozen = FrozenEncoder(sizes, shared_encoder(config.encoder))
        spec = PolicySpec(
            features={key: self.frozen.shapes[key] for key in self._cameras},
            proprioception_width=sum(config.input_features[key].shape[0] for key in self._vectors),
            action_width=config.action_feature.shape[0],
        )
        self.network = make_policy(config.policy_settings(), config.readout, spec)
        if self.network.has_fit or not self.network.trainable:
            raise ConfigError(
                f"policy.network={config.network!r} is not possible with LeRobot, whose training loop needs a loss "
                "to minimise; train this policy with `s2robot train`"
            )
        self.reset()

    def get_optim_params(self) -> list[dict[str, Any]]:
        """Return the trainable parameters in the policy's own groups."""
        return self.network.parameter_groups(self.config.optimizer_weight_decay)

    def reset(self) -> None:
        """Forget the episode so far."""
        self._seen: deque[dict[str, Tensor]] = deque(maxlen=self.config.n_obs_steps)
        self._done: deque[Tensor] = deque(maxlen=self.config.n_obs_steps)
        self._planned: deque[Tensor] = deque()

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, None]:
        """Return the loss of a batch: observations [B, To, …] and actions [B, To + Ta, A], the first To are past."""
        steps = self.config.n_obs_steps
        actions = batch[ACTION].reshape(*batch[ACTION].shape[:2], -1)  # LeRobot gives actions of one number as scalars
        before = actions[:, :steps]
        if "action_is_pad" in batch:  # LeRobot pads the steps before an episode, where there is no action
            before = before.masked_fill(batch["action_is_pad"][:, :steps, None], 0)
        observation = self._observation(batch, before)
        return self.network.loss(Batch(observation, actions[:, steps:])), None

    @torch.no_grad()
    def predict_action_chunk(self, batch: Mapping[str, Tensor], **kwargs: Any) -> Tensor:
        """Predict normalised action chunks [B, Ta, A] from observations [B, To, …] and the actions executed so far."""
        rows = len(batch[self._cameras[0]])
        none = torch.zeros(rows, self.config.action_feature.shape[0], device=batch[self._cameras[0]].device)
        before = [none] * (self.config.n_obs_steps - len(self._done)) + list(self._done)
        seeds = torch.randint(2**62, (rows,)).tolist()  # one generator per row, seeded from the global one
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return self.network.act(self._observation(batch, torch.stack(before, dim=1)), generators)

    @torch.no_grad()
    def select_action(self, batch: Mapping[str, Tensor], **kwargs: Any) -> Tensor:
        """Return the next normalised action [B, A], given one step's observations [B, …]."""
        step = {key: batch[key] for key in self._cameras}
        # LeRobot's processor adds the batch dimension of a single observation only to images and some vectors.
        rows = len(batch[self._cameras[0]])
        step |= {key: batch[key].reshape(rows, -1) for key in self._vectors}
        self._seen.extend([step] * (1 if self._seen else self.config.n_obs_steps))
        if not self._planned:
            window = {key: torch.stack([seen[key] for seen in self._seen], dim=1) for key in step}
            chunk = self.predict_action_chunk(window)
            self._planned.extend(chunk[:, : self.config.n_action_steps].unbind(1))
        action = self._planned.popleft()
        self._done.append(action)
        return action

    def _observation(self, batch: Mapping[str, Tensor], before: Tensor) -> Observation:
        images = {key: batch[key] for key in self._cameras}
        steps = next(iter(images.values())).shape[:2]
        features = self.frozen({key: image.flatten(0, 1) for key, image in images.items()})
        rows = {key: self.frozen.shapes[key].flatten(features[key]).unflatten(0, steps) for key in self._cameras}
        # LeRobot's datasets hold vectors of one number as scalars.
        vectors = [batch[key].reshape(*steps, -1) for key in self._vectors]
        return Observation(rows, torch.cat(vectors, dim=-1) if vectors else before.new_zeros(*steps, 0), before)

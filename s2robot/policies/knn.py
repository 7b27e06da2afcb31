"""Nearest neighbours over frozen features (VINN): nothing is trained; the demonstrations themselves are the policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from s2robot.config import PolicyConfig, ReadoutConfig, require
from s2robot.config.policy import require_positive
from s2robot.interfaces import Batch, ConfigError, Observation, PolicySpec, TrainingError
from s2robot.policies.base import Policy
from s2robot.policies.readouts import is_pixels

_STEADY = 1e-6  # a camera whose features spread less than this shows no change; scaling would only amplify noise


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


class KNNPolicy(Policy):
    """The weighted mean of the chunks that followed the k most similar training windows.

    A window is one vector: each camera's mean feature vector (map only), and the standardised proprioception. Each
    camera's vectors are centred and divided by the root of their mean squared norm in training, so that all cameras
    count equally. Mean vectors are compared instead of whole maps, because every demonstrated frame is kept: with 2
    cameras of 2560 channels a frame takes 10 kB as mean vectors and 0.5 MB as maps of 7 x 7. The readout is not used.

    The checkpoint holds `keys` float16 [N, D] and the normalised `chunks` float32 [N, Ta, A]. Of equally distant
    windows the first in training order counts as nearer.
    """

    settings = KNNConfig
    fitted_only = True

    keys: Tensor
    chunks: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, config: KNNConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
        if spec.tasks:
            raise ConfigError("policy knn cannot be told its task; choose another policy, or task_conditioning=none")
        super().__init__(None, spec)
        self._k, self._temperature, self._grid = config.k, config.temperature, config.grid
        self._shapes = spec.features
        self._numbers = [shape.channels * config.grid**2 for shape in spec.features.values()]
        for camera, shape in spec.features.items():
            side = min(shape.height, shape.width)
            if is_pixels(shape):  # the network that would be trained on them is the readout, which is not used
                raise ConfigError(
                    f"policy knn trains nothing, so it cannot learn from the pixels of camera {camera!r}; choose "
                    "another encoder.backbone, or another policy"
                )
            require(
                config.grid <= side, "policy.grid", config.grid, f"1 … {side}, the shorter side of {camera!r}'s map"
            )
        self._weights = (1 / config.observation_steps, config.proprioception_weight / config.observation_steps)
        width = config.observation_steps * (sum(self._numbers) + spec.proprioception_width)
        self.register_buffer("keys", torch.zeros(0, width, dtype=torch.float16))
        self.register_buffer("chunks", torch.zeros(0, config.action_steps, spec.action_width))
        self.register_buffer("center", torch.zeros(sum(self._numbers)))
        self.register_buffer("scale", torch.ones(sum(self._numbers)))

    def fit(self, batches: Iterable[Batch]) -> None:
        """Store every training window.

        Raises:
            ConfigError: there are fewer than k windows.
        """
        pooled, proprioception, chunks = [], [], []
        for batch in batches:
            pooled.append(self._pooled(batch.observation).cpu())
            proprioception.append(self.observation.proprioception(batch.observation.proprioception).cpu())
            chunks.append(self.actions(batch.actions).cpu())
        count = sum(map(len, chunks))
        if count < self._k:
            raise ConfigError(f"policy.k={self._k} is not possible; valid: 1 … {count}, the number of training windows")
        device = self.keys.device
        features = torch.cat(pooled)
        self._take_spread(features.double().flatten(0, 1))
        self.keys = self._vectors(features.to(device), torch.cat(proprioception).to(device)).half()
        self.chunks = torch.cat(chunks).to(device)

    def _take_spread(self, rows: Tensor) -> None:
        """Set each camera's centre and scale from the rows [n, numbers] of all steps of all windows."""
        center = rows.mean(0)
        squares = (rows - center).square().mean(0).split(self._numbers)
        spreads = [part.sum().sqrt() for part in squares]
        spreads = [torch.where(spread < _STEADY, torch.ones_like(spread), spread) for spread in spreads]
        self.center.copy_(center)
        self.scale.copy_(torch.cat([spread.expand(n) for spread, n in zip(spreads, self._numbers, strict=True)]))

    def _pooled(self, observation: Observation) -> Tensor:
        """Concatenate the means of all cameras' maps: [B, To, numbers]."""
        parts = []
        for camera, shape in self._shapes.items():
            rows = observation.features[camera]
            maps = shape.unflatten(rows.flatten(0, 1).float()).map
            means = maps.mean((2, 3)) if self._grid == 1 else F.adaptive_avg_pool2d(maps, self._grid).flatten(1)
            parts.append(means.unflatten(0, rows.shape[:2]))
        return torch.cat(parts, dim=-1)

    def _vectors(self, pooled: Tensor, proprioception: Tensor) -> Tensor:
        """Return the vectors [B, D] that are compared; the mean squared norm of each part is its weight."""
        seen, felt = self._weights
        features = (pooled - self.center) / self.scale * (seen / len(self._numbers)) ** 0.5
        numbers = proprioception * (felt / max(proprioception.shape[-1], 1)) ** 0.5
        return torch.cat([features.flatten(1), numbers.flatten(1)], dim=1)

    def _predict(self, observation: Observation) -> Tensor:
        """Normalised chunks [B, Ta, A]."""
        if not len(self.keys):
            raise TrainingError("policy knn has no demonstrations yet; call `fit` with the training windows first")
        felt = self.observation.proprioception(observation.proprioception)
        # Not rounded to float16: what is far from all demonstrations would be infinite there, and the action NaN.
        queries = self._vectors(self._pooled(observation), felt)
        nearest, index = _nearest(queries, self.keys.float(), self._k)
        weights = (-nearest / self._temperature).softmax(1)
        return (weights[..., None, None] * self.chunks[index]).sum(1)

    def loss(self, batch: Batch) -> Tensor:
        """Smooth-L1 loss of the normalised chunks, comparable with the loss of `bc`; it trains nothing."""
        return F.smooth_l1_loss(self._predict(batch.observation), self.actions(batch.actions), beta=0.1)

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Predict action chunks [B, Ta, A] in environment units; the generators are not used."""
        return self.actions.inverse(self._predict(observation))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("keys", "chunks"):  # their length is known only from the checkpoint
            if (saved := state_dict.get(prefix + name)) is not None:
                mine = getattr(self, name)
                setattr(self, name, mine.new_zeros((len(saved), *mine.shape[1:])))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _nearest(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the distances [B, k] from queries [B, D] to their nearest keys [N, D], and the keys' indices [B, k].

    Of equally distant keys the first is taken. Matrix products are avoided: they round differently for different batch
    sizes, most of all near zero.
    """
    if torch.compiler.is_compiling():  # export needs operators that ONNX has; a stable sort is not one
        distances = torch.stack([(keys - query).square().sum(1) for query in queries]).sqrt()
        farthest = distances.topk(k, largest=False).values[:, -1:]
        # Of equals `topk` takes any, so sort the keys' numbers in three groups: nearer, equally far, farther.
        order = torch.arange(len(keys), device=keys.device) + len(keys) * (distances - farthest).sign().long()
        index = order.topk(k, largest=False).indices
        return distances.gather(1, index), index
    distances = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, index = distances.sort(dim=1, stable=True)
    return nearest[:, :k], index[:, :k]

"""Nearest neighbours over the frozen features: nothing is trained, the demonstrations are the policy (VINN)."""

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

_STEADY = 1e-6  # a camera whose features spread less than this shows nothing, and must not be blown up


@dataclass
class KNNConfig(PolicyConfig):
    """Locally weighted regression over the training windows, as in VINN (arXiv 2112.01511, §III).

    The paper weighs the k nearest by exp(-distance). Here distances are in units of the spread of the demonstrations,
    whatever the encoder, which a `temperature` makes local; its value, k and the weight of the proprioception are ours.

    Attributes:
        k: windows that an action is the weighted mean of.
        temperature: they are weighed by exp(-distance / temperature).
        proprioception_weight: of the squared distance in proprioception beside that in all cameras; 0 = not looked at.
        grid: side of the grid that each feature map is averaged to; 1 = one mean of the whole map, as in the paper.
            More tells positions apart, and takes `grid`² times the memory.
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

    A window is one vector: of each camera the mean feature vector (map only), centred and divided by the root of its
    mean squared norm in training, so that cameras count alike; and the standardised proprioception. Mean vectors rather
    than whole maps are compared, because every demonstrated frame is kept: at 2 cameras of 2560 channels a frame takes
    10 kB this way, 0.5 MB as maps of 7 x 7. The readout is not used.

    `keys` float16 [N, D] and `chunks` float32 [N, Ta, A], normalised, are in the checkpoint. The order of the training
    windows breaks ties.
    """

    settings = KNNConfig

    keys: Tensor
    chunks: Tensor
    center: Tensor
    scale: Tensor

    def __init__(self, config: KNNConfig, readout: ReadoutConfig, spec: PolicySpec) -> None:
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
        """Remember every window.

        Raises:
            ConfigError: there are fewer than k.
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
        """Centre and scale of each camera, from all steps of all windows [n, numbers]."""
        center = rows.mean(0)
        squares = (rows - center).square().mean(0).split(self._numbers)
        spreads = [part.sum().sqrt() for part in squares]
        spreads = [torch.where(spread < _STEADY, torch.ones_like(spread), spread) for spread in spreads]
        self.center.copy_(center)
        self.scale.copy_(torch.cat([spread.expand(n) for spread, n in zip(spreads, self._numbers, strict=True)]))

    def _pooled(self, observation: Observation) -> Tensor:
        """[B, To, numbers]: the means of all cameras' maps, one after the other."""
        parts = []
        for camera, shape in self._shapes.items():
            rows = observation.features[camera]
            maps = shape.unflatten(rows.flatten(0, 1).float()).map
            means = maps.mean((2, 3)) if self._grid == 1 else F.adaptive_avg_pool2d(maps, self._grid).flatten(1)
            parts.append(means.unflatten(0, rows.shape[:2]))
        return torch.cat(parts, dim=-1)

    def _vectors(self, pooled: Tensor, proprioception: Tensor) -> Tensor:
        """[B, D]: what distances are measured between; the mean squared norm of either part is its weight."""
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
        """Smooth-L1 loss of the predicted chunks, both normalised: that of `bc`. There is nothing to learn from it."""
        return F.smooth_l1_loss(self._predict(batch.observation), self.actions(batch.actions), beta=0.1)

    @torch.inference_mode()
    def act(self, observation: Observation, generators: Sequence[torch.Generator]) -> Tensor:
        """Action chunks [B, Ta, A] in environment units; the generators are not used."""
        return self.actions.inverse(self._predict(observation))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("keys", "chunks"):  # as many as were remembered
            if (saved := state_dict.get(prefix + name)) is not None:
                mine = getattr(self, name)
                setattr(self, name, mine.new_zeros((len(saved), *mine.shape[1:])))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _nearest(queries: Tensor, keys: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Distances [B, k] from queries [B, D] to the nearest of keys [N, D], and which these are; of equals the first.

    Not by matrix products, which round differently for other batch sizes, most of all near zero.
    """
    if torch.compiler.is_compiling():  # for export, in operators that ONNX has, of which a stable sort is none
        distances = torch.stack([(keys - query).square().sum(1) for query in queries]).sqrt()
        farthest = distances.topk(k, largest=False).values[:, -1:]
        # Of equals `topk` takes any. So the numbers of the keys are ordered: nearer ones, equal ones, those beyond.
        order = torch.arange(len(keys), device=keys.device) + len(keys) * (distances - farthest).sign().long()
        index = order.topk(k, largest=False).indices
        return distances.gather(1, index), index
    distances = torch.cdist(queries, keys, compute_mode="donot_use_mm_for_euclid_dist")
    nearest, index = distances.sort(dim=1, stable=True)
    return nearest[:, :k], index[:, :k]

"""Outputs of policies: a network's last numbers as an action chunk, or as a mixture of Gaussians over chunks.

These classes hold no parameters. A policy's network ends in `numbers` values, which they interpret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from s2robot.config import require

HEADS = ("deterministic", "gmm")


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

    @property
    def bounded(self) -> bool:
        """Whether only numbers in [-1, 1] can be given: tanh bounds the means of a mixture."""
        return self.head == "gmm"

    def __post_init__(self) -> None:
        require(self.head in HEADS, "policy.head", self.head, ", ".join(HEADS))
        require(self.modes >= 1, "policy.modes", self.modes, "1 or more")
        require(self.min_std > 0, "policy.min_std", self.min_std, "a positive number")


class DeterministicChunk:
    """Interprets the numbers as the chunk itself, trained with a smooth-L1 loss.

    Args:
        chunk: (Ta, A).
    """

    def __init__(self, chunk: tuple[int, int]) -> None:
        self._chunk = chunk
        self.numbers = chunk[0] * chunk[1]

    def loss(self, raw: Tensor, actions: Tensor) -> Tensor:
        """Return the loss of each chunk […], from […, numbers] and normalised chunks […, Ta, A]."""
        return F.smooth_l1_loss(raw.unflatten(-1, self._chunk), actions, beta=0.1, reduction="none").mean((-2, -1))

    def sample(self, raw: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Map [B, numbers] to normalised chunks [B, Ta, A]; the generators are not used."""
        return raw.unflatten(-1, self._chunk)


class MixtureChunk:
    """A mixture of diagonal Gaussians over whole chunks, trained by its negative log-likelihood.

    The design is that of robomimic's GMM head (arXiv 2108.03298, §C.2; `policy_nets.GMMActorNetwork`):

    - tanh squashes the means into the range of the actions;
    - the standard deviation is softplus + `min_std`;
    - low-noise evaluation draws a mode and executes its mean with noise of `min_std`.

    In robomimic a mode is one action. Here it is a whole chunk, so that all steps of a sampled chunk follow one plan.

    Args:
        chunk: (Ta, A).
        modes: number of Gaussians.
        min_std: smallest standard deviation, in units of half the range of the actions.
        low_noise: whether to sample with `min_std` instead of the learned standard deviation.
    """

    def __init__(self, chunk: tuple[int, int], *, modes: int, min_std: float, low_noise: bool) -> None:
        self._modes = (modes, *chunk)
        self._min_std = min_std
        self._low_noise = low_noise
        self.numbers = modes * (1 + 2 * chunk[0] * chunk[1])

    def _parameters(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the modes' log-probabilities […, modes], and their means and standard deviations […, modes, Ta, A]."""
        modes = self._modes[0]
        logits, gaussians = raw[..., :modes], raw[..., modes:]
        mean, std = gaussians.unflatten(-1, (2, *self._modes)).unbind(-4)
        return logits.log_softmax(-1), mean.tanh(), F.softplus(std) + self._min_std

    def loss(self, raw: Tensor, actions: Tensor) -> Tensor:
        """Return each chunk's negative log-likelihood per number […], from […, numbers] and chunks […, Ta, A]."""
        log_modes, mean, std = self._parameters(raw)
        density = torch.distributions.Normal(mean, std, validate_args=False).log_prob(actions.unsqueeze(-3))
        return -(log_modes + density.sum((-2, -1))).logsumexp(-1) / (self._modes[1] * self._modes[2])

    def sample(self, raw: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Sample normalised chunks [B, Ta, A] from [B, numbers], row i with `generators[i]`."""
        log_modes, mean, std = (part.cpu() for part in self._parameters(raw))
        chunks = []
        for row, generator in enumerate(generators):
            mode = torch.multinomial(log_modes[row].exp(), 1, generator=generator)
            scale = self._min_std if self._low_noise else std[row, mode].squeeze(0)
            chunks.append(mean[row, mode].squeeze(0) + scale * torch.randn(self._modes[1:], generator=generator))
        return torch.stack(chunks).to(raw.device)


def make_output(head: HeadSettings, chunk: tuple[int, int]) -> DeterministicChunk | MixtureChunk:
    """Make the output that `head` names, for chunks of (Ta, A)."""
    if head.head == "gmm":
        return MixtureChunk(chunk, modes=head.modes, min_std=head.min_std, low_noise=head.low_noise)
    return DeterministicChunk(chunk)

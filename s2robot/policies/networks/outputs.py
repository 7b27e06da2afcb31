"""How the last numbers of a network become action chunks: directly, or as a mixture of Gaussians.

Neither holds parameters: a policy's network ends in `numbers` values, and these classes read them.
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


class DeterministicChunk:
    """The numbers are the chunk, trained with a smooth-L1 loss.

    Args:
        chunk: (Ta, A).
    """

    def __init__(self, chunk: tuple[int, int]) -> None:
        self._chunk = chunk
        self.numbers = chunk[0] * chunk[1]

    def loss(self, raw: Tensor, actions: Tensor) -> Tensor:
        """[…, numbers] and normalised chunks […, Ta, A] -> the loss of each chunk […]."""
        return F.smooth_l1_loss(raw.unflatten(-1, self._chunk), actions, beta=0.1, reduction="none").mean((-2, -1))

    def sample(self, raw: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, numbers] -> normalised chunks [B, Ta, A]; the generators are not used."""
        return raw.unflatten(-1, self._chunk)


class MixtureChunk:
    """A mixture of diagonal Gaussians over whole chunks, trained by its negative log-likelihood.

    As robomimic's GMM head (arXiv 2108.03298, §C.2; `policy_nets.GMMActorNetwork`): means squashed by tanh into the
    range of the actions, standard deviation softplus + `min_std`, and low-noise evaluation, in which a mode is drawn
    and its mean is executed with `min_std` of noise. There a mode is one action; here it is a whole chunk, so that the
    steps of a sampled chunk follow one plan.

    Args:
        chunk: (Ta, A).
        modes: number of Gaussians.
        min_std: smallest standard deviation, in units of half the range of the actions.
        low_noise: sample with `min_std` in place of the learned standard deviation.
    """

    def __init__(self, chunk: tuple[int, int], *, modes: int, min_std: float, low_noise: bool) -> None:
        self._modes = (modes, *chunk)
        self._min_std = min_std
        self._low_noise = low_noise
        self.numbers = modes * (1 + 2 * chunk[0] * chunk[1])

    def _parameters(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the modes […, modes]; means and standard deviations […, modes, Ta, A]."""
        modes = self._modes[0]
        logits, gaussians = raw[..., :modes], raw[..., modes:]
        mean, std = gaussians.unflatten(-1, (2, *self._modes)).unbind(-4)
        return logits.log_softmax(-1), mean.tanh(), F.softplus(std) + self._min_std

    def loss(self, raw: Tensor, actions: Tensor) -> Tensor:
        """[…, numbers] and normalised chunks […, Ta, A] -> negative log-likelihood per number of each chunk […]."""
        log_modes, mean, std = self._parameters(raw)
        density = torch.distributions.Normal(mean, std, validate_args=False).log_prob(actions.unsqueeze(-3))
        return -(log_modes + density.sum((-2, -1))).logsumexp(-1) / (self._modes[1] * self._modes[2])

    def sample(self, raw: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """[B, numbers] -> normalised chunks [B, Ta, A], row i drawn with `generators[i]`."""
        log_modes, mean, std = (part.cpu() for part in self._parameters(raw))
        chunks = []
        for row, generator in enumerate(generators):
            mode = torch.multinomial(log_modes[row].exp(), 1, generator=generator)
            scale = self._min_std if self._low_noise else std[row, mode].squeeze(0)
            chunks.append(mean[row, mode].squeeze(0) + scale * torch.randn(self._modes[1:], generator=generator))
        return torch.stack(chunks).to(raw.device)


def make_output(head: HeadSettings, chunk: tuple[int, int]) -> DeterministicChunk | MixtureChunk:
    """The output that `head` asks for, over chunks of (Ta, A)."""
    if head.head == "gmm":
        return MixtureChunk(chunk, modes=head.modes, min_std=head.min_std, low_noise=head.low_noise)
    return DeterministicChunk(chunk)

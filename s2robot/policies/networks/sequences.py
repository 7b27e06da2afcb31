"""Supervision and attention for policies that read the observations one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from s2robot.interfaces import Batch


def chunks_from_every_step(batch: Batch) -> tuple[Tensor, Tensor]:
    """The chunk that began at each of the To observed steps, in environment units.

    A window knows every action from its first step to the end of its chunk, because `past_actions` holds those before
    the last step. Steps that only repeat an episode's first observation, to fill the window, are followed by no
    action of their own; they are told by the zeros in `past_actions`.

    Returns:
        Chunks [B, To, Ta, A], and bool [B, To]: whether the step is one of the episode. The last step always is.
    """
    past = batch.observation.past_actions
    known = torch.cat([past[:, 1:], batch.actions], dim=1)
    chunks = known.unfold(1, batch.actions.shape[1], 1).transpose(-1, -2)
    begun = past.ne(0).any(-1).cumsum(1) > 0  # an action was executed before this step
    valid = torch.cat([begun[:, 1:], torch.ones_like(begun[:, :1])], dim=1)
    return chunks, valid


def block_causal_mask(steps: int, tokens: int) -> Tensor:
    """Bool [steps·tokens, steps·tokens], True where attention is forbidden.

    The `tokens` of a step see each other and those of all earlier steps.
    """
    step = torch.arange(steps).repeat_interleave(tokens)
    return step[:, None] < step[None, :]

"""Supervision and attention masks for policies that read observations in sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from s2robot.interfaces import Batch


def chunks_from_every_step(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the chunk that began at each of the To observed steps, in environment units.

    A window holds every action from its first step to the end of its chunk: `past_actions` holds the actions before
    the last step. At the start of an episode, a window is padded with copies of the first observation. No action
    belongs to these padding steps; zeros in `past_actions` mark them.

    Returns:
        Chunks [B, To, Ta, A], and bool [B, To]: whether a step belongs to the episode. The last step always does.
    """
    past = batch.observation.past_actions
    known = torch.cat([past[:, 1:], batch.actions], dim=1)
    chunks = known.unfold(1, batch.actions.shape[1], 1).transpose(-1, -2)
    begun = past.ne(0).any(-1).cumsum(1) > 0  # an action was executed before this step
    valid = torch.cat([begun[:, 1:], torch.ones_like(begun[:, :1])], dim=1)
    return chunks, valid


def block_causal_mask(steps: int, tokens: int) -> Tensor:
    """Return a bool mask [steps·tokens, steps·tokens] that is True where attention is forbidden.

    The `tokens` of a step attend to each other and to the tokens of all earlier steps.
    """
    step = torch.arange(steps).repeat_interleave(tokens)
    return step[:, None] < step[None, :]

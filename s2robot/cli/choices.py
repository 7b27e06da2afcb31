"""Choices of the configuration groups `encoder=`, `readout=` and `policy=`."""

from __future__ import annotations

import functools

from s2robot.backbones import BACKBONES
from s2robot.config import register
from s2robot.policies import POLICIES
from s2robot.policies.readouts import READOUTS


@functools.cache  # Hydra's store is global to the process: one call is enough, and packages left out are warned of once
def register_choices() -> None:
    """Make the dataclasses and everything that can be chosen by name known to Hydra."""
    register(BACKBONES, READOUTS.default_settings(), POLICIES.default_settings())


def explain_choice(group: str, name: str) -> None:
    """Raise the reason why a choice is missing from its group, if it exists but could not be loaded.

    Raises:
        ConfigError: the choice could not be loaded; the message names its package.
    """
    for registry in (POLICIES, READOUTS):
        if group == registry.kind and name in registry:
            registry.default(name)

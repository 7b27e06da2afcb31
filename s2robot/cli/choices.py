"""What the groups of a configuration offer: `encoder=`, `readout=` and `policy=`."""

from __future__ import annotations

import functools

from s2robot.backbones import BACKBONES
from s2robot.config import register
from s2robot.policies import POLICIES
from s2robot.policies.readouts import READOUTS


@functools.cache  # Hydra's store is the process's: once is enough, and warns once
def register_choices() -> None:
    """Make the dataclasses and everything that can be chosen by name known to Hydra."""
    register(BACKBONES, READOUTS.default_settings(), POLICIES.default_settings())


def explain_choice(group: str, name: str) -> None:
    """Raise what keeps a choice out of its group, if it is one that could not be loaded.

    Raises:
        ConfigError: names the package.
    """
    for registry in (POLICIES, READOUTS):
        if group == registry.kind and name in registry:
            registry.settings(name)

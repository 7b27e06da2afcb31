"""The one way a setting is refused."""

from __future__ import annotations

from s2robot.interfaces import ConfigError


def require(condition: bool, field_name: str, value: object, valid: str) -> None:
    """Raise `ConfigError` naming the field, the value received and what is valid, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field_name}={value!r} is not possible; valid: {valid}")

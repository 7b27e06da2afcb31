"""The one way a setting is refused, and a dataclass made of a plain mapping."""

from __future__ import annotations

from typing import Any

from s2robot.interfaces import ConfigError, unknown_name


def require(condition: bool, field_name: str, value: object, valid: str) -> None:
    """Raise `ConfigError` naming the field, the value received and what is valid, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field_name}={value!r} is not possible; valid: {valid}")


def build(cls: type[Any], values: dict[str, Any], where: str) -> Any:
    """Make a config dataclass from a plain mapping; unknown keys are an error that lists the valid ones."""
    fields = cls.__dataclass_fields__
    for key in values:
        if key not in fields:
            raise ConfigError(unknown_name(f"{where} setting", key, fields))
    return cls(**values)

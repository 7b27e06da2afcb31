"""Validation of settings, and building a dataclass from a plain mapping."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import asdict
from numbers import Integral, Real
from typing import Any, Union, get_args, get_origin, get_type_hints

from s2robot.interfaces import ConfigError, unknown_name

_WORDS = {
    int: "integer",
    float: "number",
    str: "string",
    bool: "true or false",
    types.NoneType: "null",
    list: "list",
    dict: "mapping",
}


def require(condition: bool, field_name: str, value: object, valid: str) -> None:
    """Raise a `ConfigError` that names the field, its value and the valid values, unless `condition` holds."""
    if not condition:
        raise ConfigError(f"{field_name}={value!r} is not possible; valid: {valid}")


def require_cameras(cameras: Any) -> None:
    """Check that `cameras` is null, a list of names, or a mapping of new names to recorded ones.

    Raises:
        ConfigError: it is anything else, such as one name.
    """
    listed = isinstance(cameras, list | tuple) and all(isinstance(name, str) for name in cameras)
    renamed = isinstance(cameras, dict) and all(isinstance(name, str) for name in (*cameras, *cameras.values()))
    require(
        cameras is None or (bool(cameras) and (listed or renamed)),
        "cameras",
        cameras,
        "null, a list such as '[front]', or a mapping such as '{front: agentview_rgb}' (new name: recorded name)",
    )


def require_types(values: Mapping[str, Any], hints: Mapping[str, Any], where: str) -> None:
    """Check that values have their annotated types; keys without an annotation pass. Nothing is converted.

    This is needed because Hydra checks the fields of a configuration, but not mappings inside a list.

    >>> require_types({"epochs": "5"}, {"epochs": int}, "training")
    Traceback (most recent call last):
    s2robot.interfaces.ConfigError: training setting epochs='5' is not possible; valid: integer
    """
    for key, value in values.items():
        if key in hints:
            require(_fits(value, hints[key]), f"{where} setting {key}", value, type_words(hints[key]))


def build(cls: type[Any], values: dict[str, Any], where: str) -> Any:
    """Build a config dataclass from a plain mapping; errors for unknown keys and wrong types say what is valid."""
    fields = cls.__dataclass_fields__
    for key in values:
        if key not in fields:
            raise ConfigError(unknown_name(f"{where} setting", key, fields))
    require_types(values, get_type_hints(cls), where)
    return cls(**values)


def former_of(cls: type[Any]) -> dict[str, Any]:
    """Return what a dataclass and the classes it is made of say in `former`: a subclass adds to its bases'."""
    former: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        former |= vars(base).get("former", {})
    return former


def without_former(settings: Any) -> dict[str, Any]:
    """Return all settings of a dataclass except those whose value is the one in its `former`.

    `former` holds settings that were added later, with the value that means what the code did before. Leaving them out
    keeps the identity that files from before the setting have.
    """
    former = former_of(type(settings))
    return {key: value for key, value in asdict(settings).items() if key not in former or value != former[key]}


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is list:
        return isinstance(value, list | tuple) and all(_fits(entry, arguments[0]) for entry in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(key, arguments[0]) for key in value)
    if hint in (int, float):  # a bool is an int in Python, but not a valid number here
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    return isinstance(value, hint)


def type_words(hint: Any) -> str:
    """Describe an annotation in the words of an error message, such as "list of integers or null"."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin is list and arguments[0] is not Any:
        return f"list of {type_words(arguments[0])}s"
    return _WORDS.get(origin or hint, getattr(hint, "__name__", str(hint)))

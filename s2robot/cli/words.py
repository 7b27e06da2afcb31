"""From the words of a command line to typed settings."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from s2robot.config import CONFIG_DIR, register, resolve
from s2robot.interfaces import ConfigError, unknown_name


def parse(cls: type[Any], words: list[str]) -> Any:
    """Make a config dataclass from `key=value` words.

    Raises:
        ConfigError: a word is no `key=value`, a key is unknown, a value has the wrong type, or one is missing.
    """
    names = [item.name for item in dataclasses.fields(cls)]
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not of the form key=value; keys: {', '.join(names)}")
        if key.split(".")[0] not in names:
            raise ConfigError(unknown_name("setting", key, names))
    try:
        return resolve(OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.from_dotlist(words)))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def compose(config_name: str, overrides: list[str]) -> Any:
    """Compose a configuration of `configs/` with Hydra and make its dataclass.

    Raises:
        ConfigError: an override does not fit; the message names the choices.
    """
    from s2robot.backbones import BACKBONES

    register(BACKBONES)
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            try:
                return resolve(hydra.compose(config_name, overrides))
            except ConfigCompositionException as error:
                raise _unknown_choice(error) or _unknown_setting(config_name, overrides, error) or error from error
    except ConfigError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(str(error)) from error


def _unknown_choice(error: Exception) -> ConfigError | None:
    """The error for a file that a group of the configuration does not have (`policy=nope`), with those that it has."""
    found = re.search(r"Could not (?:find|load) '(?P<group>[^']+)/(?P<name>[^']+)'", str(error))
    options = re.search(r"Available options in '[^']+':\n((?:\t\S+\n?)+)", str(error))
    return ConfigError(unknown_name(found["group"], found["name"], options[1].split())) if found and options else None


def _unknown_setting(config_name: str, overrides: list[str], error: Exception) -> ConfigError | None:
    """The error for a key that the configuration does not have, with those that it has there; None for other errors.

    Hydra's own advises to append the key with a plus, after which nothing would read it.
    """
    found = re.search(r"Could not override '([^']+)'", str(error))
    if not found:
        return None
    key = found[1]
    others = [word for word in overrides if word.lstrip("+~").partition("=")[0] != key]
    try:
        node = hydra.compose(config_name, others)
    except ConfigCompositionException as another:
        return _unknown_setting(config_name, others, another)
    prefix = ""
    for part in key.split("."):
        if part not in node or not OmegaConf.is_dict(node[part]):
            break
        node, prefix = node[part], f"{prefix}{part}."
    return ConfigError(unknown_name("setting", key, [prefix + str(name) for name in node]))


def split(words: list[str], options: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Divide words into plain ones and `key=value` ones.

    Raises:
        ConfigError: a key is not among `options`.
    """
    values = dict(word.partition("=")[::2] for word in words if "=" in word)
    for key in values:
        if key not in options:
            raise ConfigError(unknown_name("setting", key, options))
    return [word for word in words if "=" not in word], values

"""Turn the words of a command line into typed settings."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any, get_type_hints

import hydra
import yaml
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from s2robot.cli.overrides import SCHEMAS, SCRIPTS, check_words, expand, not_key_value, quote_paths
from s2robot.config import CONFIG_DIR, resolve
from s2robot.config.checks import type_words
from s2robot.interfaces import ConfigError, unknown_name

_PATHS = ("dataset", "out", "output", "checkpoint", "root", "token_file")
"""Settings that `parse` takes literally instead of reading them as YAML."""


def parse(cls: type[Any], words: list[str]) -> Any:
    """Build a config dataclass from `key=value` words.

    Raises:
        ConfigError: a word is not of the form `key=value`, a key is unknown, a value has the wrong type, or a required
            setting is missing.
    """
    names = [item.name for item in dataclasses.fields(cls)]
    settings = OmegaConf.structured(cls)
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(not_key_value(word, names))
        if key.split(".")[0] not in names:
            raise ConfigError(unknown_name("setting", key, names))
        try:
            # As YAML, a path could be a number or a mapping: `out=1`, `out=a: b`.
            if key in _PATHS and value not in ("", "null") and value[0] not in "'\"":
                settings[key] = expand(value)
            else:
                settings = OmegaConf.merge(settings, OmegaConf.from_dotlist([word]))
        except (OmegaConfBaseException, yaml.YAMLError) as error:
            raise _wrong_value(cls, word, error) from error
    try:
        return resolve(settings)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def compose(config_name: str, overrides: list[str]) -> Any:
    """Compose a configuration from `configs/` with Hydra and build its dataclass.

    Raises:
        ConfigError: an override does not fit; the message names the choices.
    """
    settings = compose_unresolved(config_name, overrides)
    try:
        return resolve(settings)
    except (OmegaConfBaseException, ValueError) as error:
        raise ConfigError(str(error)) from error


def compose_unresolved(config_name: str, overrides: list[str]) -> DictConfig:
    """Compose as `compose` does, but stop before the checks: required settings may be missing.

    Raises:
        ConfigError: an override does not fit; the message names the choices.
    """
    from s2robot.cli.choices import register_choices

    check_words(config_name, overrides)
    words = quote_paths(overrides)
    register_choices()
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            try:
                return hydra.compose(config_name, words)
            except ConfigCompositionException as error:  # one type for all of these; only the text tells them apart
                raise (
                    _unknown_choice(error)
                    or _unknown_setting(config_name, words, error)
                    or _wrong_override(config_name, error)
                    or _several_values(config_name, error)
                    or error
                ) from error
    except ConfigError:
        raise
    except OverrideParseException as error:
        key = error.override.partition("=")[0]
        raise ConfigError(
            f"{error.override!r} cannot be parsed: close every bracket, and put text with characters other than "
            f"letters, digits and /.:-_ in two pairs of quotes: '{key}=\"…\"'"
        ) from error
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(str(error)) from error


def prepare_arguments(config_name: str) -> None:
    """Check the command line as `compose` does and quote its paths; call this before `hydra.main` reads it.

    A command line with Hydra's own options or settings, and so every sweep, is left to Hydra unchecked.

    Raises:
        ConfigError: an override does not fit; the message names the choices.
    """
    words = sys.argv[1:]
    if not any(re.match(r"-|[+~]*hydra[./]", word) for word in words):
        compose(config_name, words)
        sys.argv[1:] = quote_paths(words)


def _wrong_value(cls: type[Any], word: str, error: BaseException) -> ConfigError:
    """Error for a value whose type does not fit its setting in `cls`; names the type and shows an example of a list."""
    key, _, value = word.partition("=")
    owner, name = _field(cls, key, error)
    if owner is None:
        return ConfigError(f"{word} is not possible: {str(error).splitlines()[0]}")
    hint = get_type_hints(owner)[name]
    if dataclasses.is_dataclass(hint):
        return ConfigError(
            f"{word} is not possible; set its fields one by one: {key}.{dataclasses.fields(hint)[0].name}=…"
        )
    valid = type_words(hint)
    if valid.startswith("list"):
        make = owner.__dataclass_fields__[name].default_factory
        default = make() if callable(make) else []
        # Without spaces and quotes, so that the example can be pasted into a shell.
        example = re.sub(r"[ ']", "", str(default)) if default else f"[{re.sub(r'[][{}]', '', value)}]"
        valid = f"{valid}, such as '{key}={example}'"
    return ConfigError(f"{word} is not possible; valid: {valid}")


def _field(cls: Any, key: str, error: BaseException) -> tuple[Any, str]:
    """The dataclass that holds a setting, and its name there; None if `cls` does not determine it, as for a policy."""
    owner, name = getattr(error, "object_type", None), getattr(error, "key", None)
    if not (dataclasses.is_dataclass(owner) and name in get_type_hints(owner)):  # the error does not know it
        *parents, name = key.split(".")
        owner = cls
        for parent in parents:
            owner = get_type_hints(owner).get(parent) if dataclasses.is_dataclass(owner) else None
    return (owner if dataclasses.is_dataclass(owner) and name in get_type_hints(owner) else None), str(name)


def _wrong_override(config_name: str, error: Exception) -> ConfigError | None:
    """Error for a value of the wrong type; None for other errors."""
    found = re.match(r"Error merging override \+*(.*)", str(error), re.DOTALL)
    cause = error.__cause__
    if not found or cause is None:
        return None
    word = found[1]
    key = (getattr(cause, "full_key", None) or "").partition("[")[0]
    if key.startswith(f"{word.partition('=')[0]}."):  # the wrong value is inside a mapping
        word = f"{key}={getattr(cause, 'value', None)}"
    return _wrong_value(SCHEMAS[config_name], word, cause)


def _several_values(config_name: str, error: Exception) -> ConfigError | None:
    """Error for a sweep, which only Hydra's own command can run; None for other errors."""
    found = re.match(r"(?:Ambiguous value for argument|Sweep parameters) '(.*)'", str(error))
    if not found:
        return None
    word = found[1]
    key, _, value = word.partition("=")
    owner, name = _field(SCHEMAS[config_name], key, error)
    if owner is not None and type_words(get_type_hints(owner)[name]).startswith("list"):
        return ConfigError(f"{word} is not possible; a list is written '{key}=[{value}]'")
    return ConfigError(f"{word} has more than one value; to run each value: {SCRIPTS[config_name]} -m {word}")


def _unknown_choice(error: Exception) -> ConfigError | None:
    """Error for an unknown choice in a group (`policy=nope`), with the choices that exist; None for other errors."""
    found = re.search(r"Could not (?:find|load) '(?P<group>[^']+)/(?P<name>[^']+)'", str(error))
    options = re.search(r"Available options in '[^']+':\n((?:\t\S+\n?)+)", str(error))
    if not found or not options:
        return None
    from s2robot.cli.choices import explain_choice

    explain_choice(found["group"], found["name"])
    return ConfigError(unknown_name(found["group"], found["name"], options[1].split()))


def _unknown_setting(config_name: str, overrides: list[str], error: Exception) -> ConfigError | None:
    """Error for an unknown key, with the keys that exist at that place; None for other errors.

    Hydra's own message advises adding the key with a plus, but nothing would ever read it.
    """
    found = re.search(r"Could not override '([^']+)'", str(error))
    if not found:
        return None
    key = found[1]
    # Compose again without the key, to see which keys exist at its place. Another key may be unknown as well.
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
    """Divide words into plain words and `key=value` words; all values are paths.

    Raises:
        ConfigError: a key is not among `options`.
    """
    values = dict(word.partition("=")[::2] for word in words if "=" in word)
    for key in values:
        if key not in options:
            raise ConfigError(unknown_name("setting", key, options))
    plain = [expand(word) for word in words if "=" not in word]
    return plain, {key: expand(value) for key, value in values.items()}

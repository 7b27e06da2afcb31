"""Check and quote words before Hydra reads them: Hydra's own errors explain its grammar, not the mistake."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from pathlib import Path
from typing import Any

from s2robot.config import CONFIG_DIR, BenchmarkConfig, TrainConfig
from s2robot.interfaces import ConfigError, unknown_name

SCHEMAS: dict[str, type[Any]] = {"train_policy": TrainConfig, "benchmark": BenchmarkConfig}
"""File in `configs/` -> dataclass of its settings."""

SCRIPTS = {"train_policy": "python train_policy.py", "benchmark": "python -m s2robot.cli.cells"}
"""File in `configs/` -> command that takes its words together with all of Hydra's own options."""

_PATH = re.compile(r"(\+{0,2}(?:dataset|output|init_from|cache_dir|store|encoder\.weights)=)(.+)", re.DOTALL)

_OPEN = re.compile(r"(gym|robosuite|controller)\.[\w.]+=")


def check_words(config_name: str, words: list[str]) -> None:
    """Check that all words are overrides.

    Raises:
        ConfigError: a word is an option, is not of the form `key=value`, or is an experiment without its plus.
    """
    names = [item.name for item in dataclasses.fields(SCHEMAS[config_name])]
    for word in words:
        key, equals, value = word.partition("=")
        if word.startswith("-") and (not equals or word.startswith("--config")):
            command = f"{SCRIPTS[config_name]} {shlex.join(words)}"
            raise ConfigError(f"{word!r} is not a setting; for Hydra's own options, run: {command}")
        if word.startswith("-") or not (equals or re.match(r"~\w", word)):
            raise ConfigError(not_key_value(word, names))
        if key == "experiment":
            choices = [file.stem for file in (CONFIG_DIR / key).glob("*.yaml")]
            if value not in choices:
                raise ConfigError(unknown_name(key, value, choices))
            raise ConfigError(f"{word} needs a leading plus, because it adds to the configuration: +{word}")


def not_key_value(word: str, names: list[str]) -> str:
    """Error text for a word that is not of the form `key=value`."""
    hint = f" (did you mean {word.lstrip('-')!r}?)" if word.startswith("-") and "=" in word else ""
    return f"{word!r} is not of the form key=value{hint}; keys: {', '.join(names)}"


def expand(path: str) -> str:
    """Replace a leading `~` by the home folder, because shells do not expand it after `key=`."""
    return os.path.expanduser(path)  # noqa: PTH111  # Path.expanduser would also drop a trailing slash


def quote_paths(words: list[str]) -> list[str]:
    """Expand `~` and put quotes around paths, because Hydra's grammar reads unquoted paths only if they are plain.

    An entry of an open mapping, such as `gym.success=…`, gets the plus signs that Hydra wants for a new key.
    """
    return [f"++{word}" if _OPEN.match(word) else _quote_path(word) for word in words]


def _quote_path(word: str) -> str:
    found = _PATH.fullmatch(word)
    if not found or found[2] == "null" or found[2][0] in "'\"" or "\\" in word:  # null, or quoted or escaped by hand
        return word
    if found[2].startswith("[") and found[2].endswith("]") and not Path(found[2]).exists():
        return f"{found[1]}[{','.join(_quoted(part.strip()) for part in found[2][1:-1].split(','))}]"
    return found[1] + _quoted(found[2])


def _quoted(path: str) -> str:
    return path if path[:1] in ("", "'", '"') else "'" + expand(path).replace("'", r"\'") + "'"

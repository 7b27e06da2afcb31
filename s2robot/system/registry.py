"""Choices by name: the package's own entries, and those that installed packages add as entry points."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from s2robot.interfaces import ConfigError, unknown_name

_LOGGER = logging.getLogger(__name__)


class Registry(Mapping[str, Any]):
    """A dict from names to objects that are imported when they are looked up, not when they are listed.

    An installed package adds entries under the entry-point group of the same name:

        [project.entry-points."s2robot.policies"]
        my_policy = "my_package.my_policy:MyPolicy"

    The package's own entries are never replaced: an outside entry of the same name is ignored, and a warning names the
    package that provides it.

    Args:
        kind: word for one entry in messages, such as `policy`.
        group: entry-point group of other packages' entries, such as `s2robot.policies`.
        entries: the package's own entries: name -> the object itself, or its location as "module:attribute".
    """

    def __init__(self, kind: str, group: str, entries: Mapping[str, Any]) -> None:
        self.kind = kind
        self.group = group
        self._own = entries

    def __getitem__(self, name: str) -> Any:
        """Return the object called `name`, importing it if necessary.

        Raises:
            KeyError: there is no such object; `find` raises an error for users instead.
            ConfigError: the package that provides it cannot be imported, or two packages provide it.
        """
        if name in self._own:
            return _resolve(self._own[name])
        return self._load(self._added[name])

    def __iter__(self) -> Iterator[str]:
        yield from self._own
        yield from self._added

    def __len__(self) -> int:
        return len(self._own) + len(self._added)

    def __contains__(self, name: object) -> bool:
        return name in self._own or name in self._added

    def find(self, name: str) -> Any:
        """Return the object called `name`.

        Raises:
            ConfigError: there is no such object (the message lists the choices), or as for `registry[name]`.
        """
        if name not in self:
            raise ConfigError(unknown_name(self.kind, name, self))
        return self[name]

    def settings(self, name: str) -> type[Any]:
        """Return the attribute `settings` of the class called `name`: the dataclass of its settings.

        Raises:
            ConfigError: the class has no such attribute, or as for `find`.
        """
        found: Any = getattr(self.find(name), "settings", None)
        if not is_dataclass(found):
            brought = f" of {self.provider(name)}" if self.provider(name) else ""
            raise ConfigError(
                f"{self.kind} {name!r}{brought} has no attribute `settings` (a dataclass of its settings)"
            )
        return found  # type: ignore[return-value]

    def require_settings(self, config: Any) -> None:
        """Check that settings are those of the class that they name: `policy=bc policy.name=knn` has those of bc.

        Raises:
            ConfigError: they are not, or as for `settings`.
        """
        wanted = self.settings(config.name)
        if not isinstance(config, wanted):
            raise ConfigError(
                f"{self.kind} {config.name!r} has the settings {wanted.__name__}, but {type(config).__name__} was "
                f"given; choose it as {self.kind}={config.name}"
            )

    def default(self, name: str) -> Any:
        """Return the default settings of `name`.

        Raises:
            ConfigError: they cannot be made or have types that a configuration cannot hold, or as for `settings`.
        """
        from omegaconf import OmegaConf  # only when the choices of a configuration are made

        settings = self.settings(name)
        try:
            made = settings(name=name)
            OmegaConf.structured(made)
        except Exception as error:  # another package's code can raise anything
            if name in self._own:
                raise
            reason = str(error).partition("\n")[0]
            raise ConfigError(
                f"{self.kind} {name!r} of {self.provider(name)} has no valid default settings {settings.__name__}: "
                f"{type(error).__name__}: {reason}"
            ) from error
        return made

    def default_settings(self) -> dict[str, Any]:
        """Return name -> default settings of everything that can be loaded.

        A broken package, or two packages that provide the same name, must not stop a run that uses neither. They are
        left out with a warning, and become an error only when they are chosen.
        """
        defaults = {}
        for name in self:
            try:
                defaults[name] = self.default(name)
            except ConfigError as error:
                if name in self._own:
                    raise
                _LOGGER.warning("%s; it is left out of the choices", error)
        return defaults

    def provider(self, name: str) -> str | None:
        """Return the package that adds `name`, with its version, such as `my-package 1.2`; None for our own."""
        if name in self._own or name not in self._added:
            return None
        return " and ".join(sorted(map(_provider, self._added[name])))

    @functools.cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        """Entries of other packages, in the order of their names."""
        added: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            same = added.setdefault(point.name, [])
            # A package that is found twice on the path still counts as one.
            if all(_provider(point) != _provider(other) for other in same):
                same.append(point)
        for name in [name for name in added if name in self._own]:
            for point in added.pop(name):
                message = "%s %r of %s is not used: s2robot has its own of that name; rename it"
                _LOGGER.warning(message, self.kind, name, _provider(point))
        return added

    def _load(self, points: list[EntryPoint]) -> Any:
        if len(points) > 1:
            providers = " and ".join(sorted(map(_provider, points)))
            raise ConfigError(f"{self.kind} {points[0].name!r} is provided by {providers}; uninstall all but one")
        try:
            return points[0].load()
        except Exception as error:  # importing another package's code can raise anything
            raise ConfigError(
                f"{self.kind} {points[0].name!r} of {_provider(points[0])} cannot be imported from "
                f"{points[0].value!r}: {type(error).__name__}: {error}"
            ) from error


def providers(chosen: Iterable[tuple[Registry, str]]) -> dict[str, str]:
    """Return which packages provide the choices, such as {"policy my_policy": "my-package 1.2"}, without our own."""
    named = {f"{registry.kind} {name}": registry.provider(name) for registry, name in chosen}
    return {what: provider for what, provider in named.items() if provider is not None}


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _resolve(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)


# s2robot does not import the simulator side. Which package brings a task or an expert is known without that.
OUTSIDE_TASKS = Registry("task", "s2robot.tasks", {})
OUTSIDE_EXPERTS = Registry("expert", "s2robot.experts", {})

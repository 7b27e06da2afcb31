"""What can be chosen by name: the package's own entries, and those that installed packages add as entry points."""

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
    """A dict from names to objects that are imported when they are asked for, not when they are listed.

    An installed package adds entries under the entry-point group of the same name:

        [project.entry-points."s2robot.policies"]
        my_policy = "my_package.my_policy:MyPolicy"

    An entry of the package's own is never replaced: one of the same name from outside is not used, and a warning names
    the package that brings it.

    Args:
        kind: what one entry is called in messages, such as `policy`.
        group: entry-point group of other packages' entries, such as `s2robot.policies`.
        entries: the package's own: name -> the object itself, or "module:attribute", which says where it is.
    """

    def __init__(self, kind: str, group: str, entries: Mapping[str, Any]) -> None:
        self.kind = kind
        self.group = group
        self._own = entries

    def __getitem__(self, name: str) -> Any:
        """The object called `name`.

        Raises:
            KeyError: there is none; `find` says it in words.
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
        """The object called `name`.

        Raises:
            ConfigError: there is none, which names the choices; or as for `registry[name]`.
        """
        if name not in self:
            raise ConfigError(unknown_name(self.kind, name, self))
        return self[name]

    def settings(self, name: str) -> type[Any]:
        """The dataclass of the settings of the class called `name`, which its attribute `settings` is.

        Raises:
            ConfigError: as for `find`; or it names none.
        """
        found: Any = getattr(self.find(name), "settings", None)
        if not is_dataclass(found):
            brought = f" of {self.provider(name)}" if self.provider(name) else ""
            raise ConfigError(f"{self.kind} {name!r}{brought} has no attribute `settings`, a dataclass of its settings")
        return found  # type: ignore[return-value]

    def default_settings(self) -> dict[str, Any]:
        """Name -> settings at their defaults, of all that can be loaded.

        A package that is broken, or two of one name, must not stop a run that asks for neither: a warning says what is
        left out, and asking for it is an error.
        """
        defaults = {}
        for name in self:
            try:
                defaults[name] = self.settings(name)(name=name)
            except ConfigError as error:
                if name in self._own:
                    raise
                _LOGGER.warning("%s; it is left out of the choices", error)
        return defaults

    def provider(self, name: str) -> str | None:
        """The installed package that adds `name`, with its version, such as `my-package 1.2`; None for our own."""
        if name in self._own or name not in self._added:
            return None
        return " and ".join(sorted(map(_provider, self._added[name])))

    @functools.cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        """Entries from outside, in the order of their names."""
        added: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            same = added.setdefault(point.name, [])
            if all(_provider(point) != _provider(other) for other in same):  # found twice on the path, it is still one
                same.append(point)
        for name in [name for name in added if name in self._own]:
            for point in added.pop(name):
                message = "%s %r of %s is not used: s2robot's own has that name; give it another"
                _LOGGER.warning(message, self.kind, name, _provider(point))
        return added

    def _load(self, points: list[EntryPoint]) -> Any:
        if len(points) > 1:
            providers = " and ".join(sorted(map(_provider, points)))
            raise ConfigError(
                f"{self.kind} {points[0].name!r} is provided by {providers}; uninstall all but one of them"
            )
        try:
            return points[0].load()
        except Exception as error:  # whatever the code of another package may raise
            raise ConfigError(
                f"{self.kind} {points[0].name!r} of {_provider(points[0])} cannot be imported from "
                f"{points[0].value!r}: {type(error).__name__}: {error}"
            ) from error


def providers(chosen: Iterable[tuple[Registry, str]]) -> dict[str, str]:
    """Who provides what was chosen, such as {"policy my_policy": "my-package 1.2"}; our own is left out."""
    named = {f"{registry.kind} {name}": registry.provider(name) for registry, name in chosen}
    return {what: provider for what, provider in named.items() if provider is not None}


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _resolve(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)

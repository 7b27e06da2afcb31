"""Registries of things chosen by name: this package's own entries, and entry points of installed packages."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from s2robot_envs.errors import EnvConfigError, unknown_name

_LOGGER = logging.getLogger(__name__)


class Registry(Mapping[str, Any]):
    """A dict from names to objects, which are imported when they are looked up, not when they are listed.

    Args:
        kind: name of one entry in messages, such as `task`.
        group: entry-point group of other packages' entries, such as `s2robot.tasks`.
        entries: this package's own entries: name -> the object itself, or its place as "module:attribute".
    """

    def __init__(self, kind: str, group: str, entries: Mapping[str, Any]) -> None:
        self.kind = kind
        self.group = group
        self._own = entries

    def __getitem__(self, name: str) -> Any:
        """Return the object called `name`.

        Raises:
            KeyError: the name is unknown; `find` raises an error with the choices instead.
            EnvConfigError: the package that provides it cannot be imported, or two packages provide it.
        """
        if name not in self._own:
            return self._load(self._added[name])
        entry = self._own[name]
        return import_from(entry) if isinstance(entry, str) else entry

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
            EnvConfigError: the name is unknown, and the message names the choices; or the same as for `registry[name]`.
        """
        if name not in self:
            raise EnvConfigError(unknown_name(self.kind, name, self))
        return self[name]

    def provider(self, name: str) -> str | None:
        """Return the installed package that adds `name`, such as `my-package 1.2`; None for this package's entries."""
        if name in self._own or name not in self._added:
            return None
        return " and ".join(sorted(map(_provider, self._added[name])))

    @functools.cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        """Entry points of other packages, sorted by name."""
        added: dict[str, list[EntryPoint]] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: point.name):
            same = added.setdefault(point.name, [])
            # A package that is on the path twice is listed twice, but counts once.
            if all(_provider(point) != _provider(other) for other in same):
                same.append(point)
        for name in [name for name in added if name in self._own]:
            for point in added.pop(name):
                message = "%s %r of %s is not used: s2robot_envs has its own of that name; rename it"
                _LOGGER.warning(message, self.kind, name, _provider(point))
        return added

    def _load(self, points: list[EntryPoint]) -> Any:
        if len(points) > 1:
            providers = " and ".join(sorted(map(_provider, points)))
            raise EnvConfigError(f"{self.kind} {points[0].name!r} is provided by {providers}; uninstall all but one")
        try:
            return points[0].load()
        except Exception as error:  # another package's code may raise any type
            raise EnvConfigError(
                f"{self.kind} {points[0].name!r} of {_provider(points[0])} cannot be imported from "
                f"{points[0].value!r}: {type(error).__name__}: {error}"
            ) from error


def import_from(where: str) -> Any:
    """Import the object that "module:attribute" names."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value

"""What can be chosen by name: this package's own entries, and those that installed packages add as entry points."""

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
    """A dict from names to objects that are imported when they are asked for, not when they are listed.

    Args:
        kind: what one entry is called in messages, such as `task`.
        group: entry-point group of other packages' entries, such as `s2robot.tasks`.
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
        """The object called `name`.

        Raises:
            EnvConfigError: there is none, which names the choices; or as for `registry[name]`.
        """
        if name not in self:
            raise EnvConfigError(unknown_name(self.kind, name, self))
        return self[name]

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
                message = "%s %r of %s is not used: s2robot_envs has its own of that name; rename it"
                _LOGGER.warning(message, self.kind, name, _provider(point))
        return added

    def _load(self, points: list[EntryPoint]) -> Any:
        if len(points) > 1:
            providers = " and ".join(sorted(map(_provider, points)))
            raise EnvConfigError(f"{self.kind} {points[0].name!r} is provided by {providers}; uninstall all but one")
        try:
            return points[0].load()
        except Exception as error:  # whatever the code of another package may raise
            raise EnvConfigError(
                f"{self.kind} {points[0].name!r} of {_provider(points[0])} cannot be imported from "
                f"{points[0].value!r}: {type(error).__name__}: {error}"
            ) from error


def import_from(where: str) -> Any:
    """What "module:attribute" names."""
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value

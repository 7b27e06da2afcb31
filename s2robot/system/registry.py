"""What can be chosen by name: the package's own entries, and those that installed packages add as entry points."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from s2robot.interfaces import ConfigError, unknown_name


class Registry(Mapping[str, Any]):
    """A dict from names to objects that are imported when they are asked for, not when they are listed.

    An installed package adds entries under the entry-point group of the same name:

        [project.entry-points."s2robot.policies"]
        my_policy = "my_package.my_policy:MyPolicy"

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
        yield from (name for name in sorted(self._added) if name not in self._own)

    def __len__(self) -> int:
        return len({*self._own, *self._added})

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

    def provider(self, name: str) -> str | None:
        """The installed package that adds `name`, with its version, such as `my-package 1.2`; None for our own."""
        if name in self._own or name not in self._added:
            return None
        return _provider(self._added[name][0])

    @functools.cached_property
    def _added(self) -> dict[str, list[EntryPoint]]:
        added: dict[str, list[EntryPoint]] = {}
        for point in entry_points(group=self.group):
            same = added.setdefault(point.name, [])
            if point not in same:  # a package that is found twice on the path is still one
                same.append(point)
        return added

    def _load(self, points: list[EntryPoint]) -> Any:
        if len(points) > 1:
            providers = " and ".join(sorted(_provider(point) for point in points))
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


def _provider(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else point.value


def _resolve(entry: Any) -> Any:
    if not isinstance(entry, str):
        return entry
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)

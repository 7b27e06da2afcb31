"""Optional libraries: one clear error if one of them is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from s2robot.interfaces import S2RobotError


class MissingLibraryError(S2RobotError, ImportError):
    """The library that a requested feature needs is not installed."""


def missing(library: str, extra: str, error: ModuleNotFoundError) -> MissingLibraryError:
    """Return the error for a failed import, with the extra that installs the library.

    The message quotes `error`, whose module name shows whether the library itself is missing or something it imports.

    >>> missing("msgpack", "server", ModuleNotFoundError("No module named 'msgpack'", name="msgpack"))
    MissingLibraryError("msgpack is not installed (No module named 'msgpack'); run: pip install 's2robot[server]'")
    """
    return MissingLibraryError(f"{library} is not installed ({error}); run: pip install 's2robot[{extra}]'")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module from a library that an extra installs.

    Raises:
        MissingLibraryError: the library is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(module.partition(".")[0], extra, error) from error

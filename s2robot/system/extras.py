"""Libraries that the core does without: one clear error where one of them is missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from s2robot.interfaces import S2RobotError


class MissingLibraryError(S2RobotError, ImportError):
    """A part was asked for whose library is not installed."""


def missing(library: str, extra: str, error: ModuleNotFoundError) -> MissingLibraryError:
    """Error for a failed import that names the extra which installs the library.

    An import that failed inside an installed library is told apart by the module it names.

    >>> missing("msgpack", "server", ModuleNotFoundError("No module named 'msgpack'", name="msgpack"))
    MissingLibraryError("msgpack is not installed (No module named 'msgpack'); run: pip install 's2robot[server]'")
    """
    return MissingLibraryError(f"{library} is not installed ({error}); run: pip install 's2robot[{extra}]'")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module of a library that an extra installs.

    Raises:
        MissingLibraryError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise missing(module.partition(".")[0], extra, error) from error

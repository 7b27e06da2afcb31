"""Files and their fields, or one clear error that names both."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2robot.interfaces import ReportError


def find_files(folders: Sequence[Path], name: str) -> list[Path]:
    """All files called `name` in and below the folders, each once, sorted.

    Raises:
        ReportError: a folder does not exist.
    """
    found: set[Path] = set()
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ReportError(f"{folder} is not a folder")
        found.update(path.resolve() for path in folder.rglob(name))
    return sorted(found)


class Reader:
    """Typed access to one JSON object; every complaint names the file and the field."""

    def __init__(self, path: Path, document: Any) -> None:
        if not isinstance(document, dict):
            raise ReportError(f"{path}: expected a JSON object, got {type(document).__name__}")
        self.path = path
        self.document = document

    def get(self, key: str, kind: type, *default: Any) -> Any:
        """Return a field of type `kind` (float takes integers, never NaN), or the default where it is absent."""
        value = self.document.get(key)
        if value is None and default:
            return default[0]
        if kind is float and type(value) is int:
            value = float(value)
        # `type`, not isinstance: to Python, true is an integer too.
        if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
            got = "nothing" if key not in self.document else repr(value)[:80]
            raise ReportError(f"{self.path}: {key} must be of type {kind.__name__}, got {got}")
        return value

    def objects(self, key: str) -> list[Reader]:
        """Return the JSON objects of a list field; an absent field is an empty list."""
        return [Reader(self.path, item) for item in self.get(key, list, [])]


def read_json(path: Path) -> Any:
    """The JSON document of a file.

    Raises:
        ReportError: it cannot be read.
    """
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ReportError(f"{path} cannot be read as JSON: {error}") from error


def read_scales(reader: Reader) -> tuple[Any, ...]:
    """Image sizes: whole numbers, factors of the native size, or [height, width] pairs, which become tuples.

    Raises:
        ReportError: the field is missing, or anything else.
    """
    scales = tuple(tuple(scale) if isinstance(scale, list) else scale for scale in reader.get("scales", list))
    flat = [side for scale in scales for side in (scale if isinstance(scale, tuple) else (scale,))]
    if not scales or not all(type(side) in (int, float) for side in flat):
        raise ReportError(f"{reader.path}: scales must be a list of numbers or pairs of numbers, got {list(scales)!r}")
    return scales

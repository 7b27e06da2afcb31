"""Which demonstrations of a dataset are used: by position, by name, by a list in the file, by success."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from s2robot.config.selection import Selecting, Selection, range_of
from s2robot.data.base import DemonstrationDataset
from s2robot.interfaces import DatasetError, unknown_name


def select_episodes(dataset: DemonstrationDataset, selection: Selection | None) -> list[int]:
    """Return the positions of the chosen demonstrations in recorded order; all of them if `selection` is None.

    Raises:
        DatasetError: a position, name or filter key does not exist, a demonstration is named twice, success is asked
            for but not recorded, or no demonstration is left.
    """
    chosen = list(range(len(dataset)))
    if selection is None or not selection.chooses:
        return chosen
    if selection.episodes is not None:
        chosen = _listed(dataset, selection.episodes)
    if selection.filter_key is not None:
        kept = set(positions_of(dataset, selection.filter_key))
        chosen = [index for index in chosen if index in kept]
    if selection.successes_only:
        chosen = [index for index in chosen if _succeeded(dataset, index)]
    if not chosen:
        given = {name: getattr(selection, name) for name in Selecting.former}
        told = ", ".join(f"{name}={value}" for name, value in given.items() if value != Selecting.former[name])
        raise dataset.error(f"{told} leaves none of its {len(dataset)} demonstrations")
    return chosen


def filter_keys_of(dataset: DemonstrationDataset) -> dict[str, list[str]]:
    """Return the dataset's filter keys.

    Raises:
        DatasetError: they cannot be read.
    """
    try:
        return dataset.filter_keys()
    except dataset.read_errors as error:
        raise dataset.error(f"its filter keys cannot be read: {type(error).__name__}: {error}") from error


def positions_of(dataset: DemonstrationDataset, filter_key: str, setting: str = "filter_key") -> list[int]:
    """Return the positions that a filter key of the file lists, in recorded order.

    Args:
        dataset: the demonstrations.
        filter_key: name of the list.
        setting: name of the setting that asks for it, for error texts.

    Raises:
        DatasetError: the key does not exist, is empty, or lists a demonstration twice or one that does not exist.
    """
    lists = filter_keys_of(dataset)
    if filter_key not in lists:
        raise dataset.error(f"{setting}: {unknown_name('filter key', filter_key, lists)}")
    if not lists[filter_key]:
        raise dataset.error(f"{setting}={filter_key!r} lists no demonstrations")
    return listed_positions(dataset, filter_key, lists[filter_key])


def listed_positions(dataset: DemonstrationDataset, filter_key: str, names: Sequence[str]) -> list[int]:
    """Return the positions of the demonstrations that a filter key lists, in recorded order.

    Raises:
        DatasetError: one of them does not exist, or is listed twice.
    """
    places, where = _places(dataset), f"filter key {filter_key!r}"
    for name in names:
        if name not in places:
            raise _missing(dataset, name, where)
    return _unique(dataset, [places[name] for name in names], where)


def carried_filter_keys(dataset: DemonstrationDataset, positions: Sequence[int]) -> dict[str, list[int]]:
    """Return the filter keys of a copy that holds only `positions`: key -> positions in the copy.

    A key that cannot be copied, because it lists a demonstration that does not exist, is named on stderr.
    """
    places = {index: place for place, index in enumerate(positions)}
    carried = {}
    for key, names in filter_keys_of(dataset).items():
        try:
            found = listed_positions(dataset, key, names)
        except DatasetError as error:
            print(f"{error}; the copy goes without this filter key", file=sys.stderr)
            continue
        carried[key] = [places[index] for index in found if index in places]
    return carried


def copied_origin(dataset: DemonstrationDataset, positions: Sequence[int]) -> str:
    """Return what tells a copy of some demonstrations from a copy of others; empty for a copy of all."""
    return "" if list(positions) == list(range(len(dataset))) else json.dumps([dataset.demos[i] for i in positions])


def _listed(dataset: DemonstrationDataset, entries: Sequence[Any]) -> list[int]:
    places, found = _places(dataset), list[int]()
    for entry in entries:
        if entry in places:
            found.append(places[entry])
            continue
        span = range(entry, entry + 1) if isinstance(entry, int) else range_of(entry)
        if span is None:
            raise _missing(dataset, entry, "episodes")
        elif span.stop > len(dataset):
            raise dataset.error(f"episodes: {entry!r} is not there; valid: positions 0 … {len(dataset) - 1}")
        else:
            found += span
    return _unique(dataset, found, "episodes")


def _unique(dataset: DemonstrationDataset, positions: list[int], where: str) -> list[int]:
    for index, count in Counter(positions).items():
        if count > 1:
            raise dataset.error(f"{where} lists {dataset.demos[index]} {count} times")
    return sorted(positions)


def _places(dataset: DemonstrationDataset) -> dict[Any, int]:
    return {name: index for index, name in enumerate(dataset.demos)}


def _missing(dataset: DemonstrationDataset, name: str, where: str) -> DatasetError:
    shown = dataset.demos if len(dataset) <= 8 else [*dataset.demos[:3], "…", dataset.demos[-1]]
    return dataset.error(f"{where} lists {name!r}, which does not exist; it has {', '.join(shown)}")


def _succeeded(dataset: DemonstrationDataset, index: int) -> bool:
    attributes: Mapping[str, Any] = dataset.episode(index, cameras=[], proprioception=[]).attributes
    if "success" not in attributes:
        raise dataset.error("successes_only=true, but success is not recorded", dataset.demos[index])
    return bool(attributes["success"])

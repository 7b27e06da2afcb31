"""Careful access to HDF5 files from anywhere: no link or dataset may pull bytes in from other files."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

if TYPE_CHECKING:
    from s2robot.data.base import DemonstrationDataset

# What h5py raises for damaged bytes, found by flipping them; a damaged shape asks for absurd amounts of memory.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, MemoryError)


def child(dataset: DemonstrationDataset, group: h5py.Group, name: str, demo: str | None = None) -> Any:
    """`group[name]`, unless it lives in another file (an external link, external storage, a virtual dataset).

    Raises:
        DatasetError: the member is missing or elsewhere; names it.
    """
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise dataset.error(f"{name!r} is a link into another file, {link.filename!r}; copy it into this one", demo)
    if name not in group:
        raise dataset.error(f"field {name!r} is missing; it has {names(group)}", demo)
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise dataset.error(f"{name!r} stores its values in other files; copy them into this one", demo)
    return member


def names(group: h5py.Group) -> list[str]:
    """Sorted names of a group's members; names that are no text (a damaged file) are left out."""
    return sorted(name for name in group if isinstance(name, str))


def numbered(group: h5py.Group, prefix: str) -> list[str]:
    """Members called `<prefix><number>`, in the order of the numbers."""
    found = [name for name in names(group) if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(found, key=lambda name: int(name.removeprefix(prefix)))


def require_array(dataset: DemonstrationDataset, member: Any, name: str, demo: str | None = None) -> h5py.Dataset:
    """`member`, if it is an HDF5 dataset.

    Raises:
        DatasetError: it is a group.
    """
    if not isinstance(member, h5py.Dataset):
        raise dataset.error(f"{name!r} is a group; valid: an array", demo)
    return member


def plain_attributes(member: h5py.Group | h5py.File) -> dict[str, Any]:
    """Attributes as plain Python values: numbers, strings and lists of them."""
    return {key: _plain(value) for key, value in member.attrs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else value

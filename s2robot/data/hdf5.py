"""Safe access to HDF5 files from untrusted sources: no link or dataset may read bytes from other files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import h5py
import numpy as np
from isal import isal_zlib

from s2robot.data.base import READ_ERRORS, DemonstrationDataset
from s2robot.data.kinds import why_not_vector
from s2robot.data.pictures import Pictures, find_pictures
from s2robot.interfaces import DatasetError

_BAD_CHUNK: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub says an instance
DAMAGE = (*READ_ERRORS, _BAD_CHUNK)

LAST = {"the last observation of each demonstration": "no action follows it"}
"""What formats with T+1 observations of T actions skip."""


def child(dataset: DemonstrationDataset, group: h5py.Group, name: str, demo: str | None = None) -> Any:
    """Return `group[name]`, unless its data is in another file (external link, external storage, virtual dataset).

    Raises:
        DatasetError: the member is missing or in another file; the message names it.
    """
    link = group.get(name, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        raise dataset.error(f"{name!r} links to another file, {link.filename!r}; copy its data into this one", demo)
    if name not in group:
        raise dataset.error(f"field {name!r} is missing; it has {names(group)}", demo)
    member = group[name]
    if isinstance(member, h5py.Dataset) and (member.external or member.is_virtual):
        raise dataset.error(f"{name!r} stores its values in other files; copy them into this one", demo)
    return member


def names(group: h5py.Group) -> list[str]:
    """Return the sorted names of a group's members; names that are not text (a damaged file) are left out."""
    return sorted(name for name in group if isinstance(name, str))


def leaves(dataset: DemonstrationDataset, group: h5py.Group, demo: str) -> Iterator[tuple[str, Any]]:
    """Yield the path below a group, such as `images/front`, and the member of everything in it that is no group."""
    for name in names(group):
        member = child(dataset, group, name, demo)
        if isinstance(member, h5py.Group):
            yield from ((f"{name}/{path}", leaf) for path, leaf in leaves(dataset, member, demo))
        else:
            yield name, member


def leaf(dataset: DemonstrationDataset, group: h5py.Group | Mapping[str, Any], path: str, demo: str) -> h5py.Dataset:
    """Return the array at a path that `leaves` yields, or in a mapping; each step is checked as in `child`.

    Raises:
        DatasetError: it is missing, no array, or in another file.
    """
    member: Any = group
    if isinstance(group, Mapping) and not isinstance(group, h5py.Group):
        return require_array(dataset, group[path], path, demo)
    for name in path.split("/"):
        if not isinstance(member, h5py.Group):
            raise dataset.error(f"{path!r} is missing: {member.name!r} is an array", demo)
        member = child(dataset, member, name, demo)
    return require_array(dataset, member, path, demo)


def numbered(group: h5py.Group, prefix: str) -> list[str]:
    """Return the members named `<prefix><number>`, in the order of the numbers."""
    found = [name for name in names(group) if re.fullmatch(rf"{prefix}\d+", name)]
    return sorted(found, key=lambda name: int(name.removeprefix(prefix)))


def require_flat(names: Iterable[str]) -> None:
    """Check that no name has a slash: HDF5 would store it in a subgroup, where no reader looks.

    Raises:
        DatasetError: a name has one; the message names the first.
    """
    for name in names:
        if "/" in name:
            raise DatasetError(f"{name!r} has a slash, which HDF5 names cannot have; write {name.replace('/', '_')!r}")


def require_array(dataset: DemonstrationDataset, member: Any, name: str, demo: str | None = None) -> h5py.Dataset:
    """Return `member` after checking that it is an HDF5 dataset.

    Raises:
        DatasetError: it is a group.
    """
    if not isinstance(member, h5py.Dataset):
        raise dataset.error(f"{name!r} is a group; valid: an array", demo)
    return member


def pictures_of(key: str, member: Any) -> Pictures | str | None:
    """Return how a member of a group of observations holds pictures, as `find_pictures` does."""
    if not isinstance(member, h5py.Dataset):
        return None
    return find_pictures(key, member.dtype, member.shape or (), lambda: member[:])


def why_not_read(member: Any) -> str | None:
    """Return why a member of a group of observations is not proprioception; None if it is."""
    if not isinstance(member, h5py.Dataset):
        return "it is not an array"
    return why_not_vector(member.dtype, member.shape or ())


def write_rows(group: h5py.Group, name: str, rows: np.ndarray) -> None:
    """Store `rows` compressed with gzip level 1, one chunk per row: lossless, and readable by every HDF5 build.

    ISA-L compresses to the same size in a quarter of the time that HDF5's own zlib takes.
    """
    chunks = (1, *rows.shape[1:])
    stored = group.create_dataset(name, rows.shape, rows.dtype, chunks=chunks, compression="gzip", compression_opts=1)
    for index, row in enumerate(rows):
        packed = isal_zlib.compress(np.ascontiguousarray(row), 1)
        stored.id.write_direct_chunk((index, *(0 for _ in row.shape)), packed)


def read_rows(source: h5py.Dataset, first: int, out: np.ndarray) -> None:
    """Fill `out` with the rows of a dataset from `first` on.

    Rows in the layout of `write_rows` are decompressed here, in half the time that HDF5 takes and outside its global
    lock, so that threads can decompress at the same time.
    """
    one_row = source.chunks == (1, *source.shape[1:]) and source.dtype == out.dtype
    if not one_row or source.compression != "gzip" or source.id.get_create_plist().get_nfilters() > 1:
        source.read_direct(out, np.s_[first : first + len(out)])
        return
    for index, row in enumerate(out, first):
        place = (index, *(0 for _ in row.shape))
        chunk = source.id.get_chunk_info_by_coord(place)
        if chunk.byte_offset is None or chunk.filter_mask:  # chunk never written, or stored uncompressed
            source.read_direct(row[None], np.s_[index : index + 1])
        else:
            packed = source.id.read_direct_chunk(place)[1]
            row[:] = np.frombuffer(isal_zlib.decompress(packed), row.dtype).reshape(row.shape)


def plain_attributes(member: h5py.Group | h5py.File) -> dict[str, Any]:
    """Return the attributes as plain Python values: numbers, strings and lists of them."""
    return {key: plain_value(value) for key, value in member.attrs.items()}


def plain_value(value: Any) -> Any:
    """Convert an attribute's value to a plain Python value."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.decode(errors="replace") if isinstance(value, bytes) else value

"""List the entries of a cache, verify them, and delete those that are not needed."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from s2robot.feature_cache.entry import LAYOUT, Entry, untouched
from s2robot.interfaces import CacheError
from s2robot.system.machine import machine_label

_DELETED = ".deleted-"  # prefix of folders that a prune is deleting; one that remains was left by an interrupted prune


@dataclass(frozen=True)
class EntryInfo:
    """Readable description of one cache entry.

    Attributes:
        folder: folder of the entry.
        size: bytes on disk.
        last_used: time of the last use, in seconds since the epoch.
        encoder: readable name of the encoder; empty if the manifest cannot be read.
        camera: name of the camera.
        dataset: the demonstration file that was encoded.
        augmentation: description of the shifted copy; empty for frames as recorded.
        done: number of frames encoded.
        frames: number of frames in the dataset.
        machines: kinds of machine that encoded it, if recorded.
        problem: why no run of this version can use it; empty for a usable entry.
    """

    folder: Path
    size: int
    last_used: float
    encoder: str = ""
    camera: str = ""
    dataset: str = ""
    augmentation: str = ""
    done: int = 0
    frames: int = 0
    machines: tuple[str, ...] = ()
    problem: str = ""

    def __str__(self) -> str:
        used = datetime.fromtimestamp(self.last_used).strftime("%Y-%m-%d %H:%M")
        head = f"{self.folder.name}  {self.size / 1e6:8.1f} MB  used {used}"
        if not self.encoder:
            return f"{head}  {self.problem}"
        what = f"{self.encoder}, {self.camera}" + (f", {self.augmentation}" if self.augmentation else "")
        gone = "" if Path(self.dataset).exists() else " (no longer there)"
        mixed = f"  encoded on {len(self.machines)} kinds of machine" if len(self.machines) > 1 else ""
        state = f"  {self.problem}" if self.problem else mixed
        return f"{head}  {self.done}/{self.frames} frames  {what}  of {self.dataset}{gone}{state}"


def list_entries(root: str | Path) -> list[EntryInfo]:
    """List all entries of a cache, the most recently used first.

    Raises:
        CacheError: the folder does not exist.
    """
    root = Path(root)
    if not root.is_dir():
        raise CacheError(f"there is no feature cache at {str(root)!r}; set root to the cache_dir of training")
    folders = [path for path in root.iterdir() if (path / "lock").exists() and not path.name.startswith(_DELETED)]
    infos = [info for folder in folders if (info := _describe(folder))]
    return sorted(infos, key=lambda info: info.last_used, reverse=True)


def verify(info: EntryInfo) -> list[int] | None:
    """Hash every block of an entry again; drop the records of damaged ones, so that the next run encodes them again.

    Returns:
        The damaged blocks; None if another process is writing or deleting the entry.
    """
    entry = _entry(info.folder)
    with untouched(info.folder, by_readers=False) as free:
        if not free:
            return None
        good = entry.good_blocks(full_check=True)
        damaged = sorted(entry.recorded().keys() - good)
        if damaged:
            entry.keep_only(set(good))
        if entry.is_whole():
            entry.mark_checked()
    return damaged


def select_entries(
    entries: Sequence[EntryInfo], *, days: float | None = None, gigabytes: float | None = None, missing: bool = False
) -> list[EntryInfo]:
    """Select the entries that any of the rules allows to delete.

    Args:
        entries: all entries of a cache.
        days: select entries last used more than this many days ago.
        gigabytes: select the least recently used entries, until the rest is at most this large [10⁹ bytes].
        missing: select entries whose demonstration file is gone, or that no run of this version can use.
    """
    chosen = []
    if days is not None:
        chosen += [info for info in entries if info.last_used < time.time() - days * 86_400]
    if missing:
        chosen += [info for info in entries if info.problem or not Path(info.dataset).exists()]
    if gigabytes is not None:
        rest = [info for info in entries if info not in chosen]
        total = sum(info.size for info in rest)
        for info in sorted(rest, key=lambda info: info.last_used):
            if total <= gigabytes * 1e9:
                break
            chosen.append(info)
            total -= info.size
    return [info for info in entries if info in chosen]


def prune(root: str | Path, entries: Sequence[EntryInfo]) -> list[EntryInfo]:
    """Delete entries, except those that a running process writes or reads; return the deleted ones."""
    deleted = []
    for info in entries:
        with untouched(info.folder, by_readers=True) as free:
            if free:
                # Renamed first, so that a process waiting for its lock sees that it is gone and makes a new entry.
                # The new name is unique, because an interrupted prune may have left a folder of the same entry.
                info.folder.rename(info.folder.with_name(f"{_DELETED}{info.folder.name}-{uuid.uuid4().hex}"))
                deleted.append(info)
    for folder in Path(root).glob(_DELETED + "*"):
        shutil.rmtree(folder, ignore_errors=True)  # another prune may be deleting it too; the next one deletes the rest
    return deleted


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        if manifest["layout"] != LAYOUT:
            raise CacheError(f"written by another version (layout {manifest['layout']}; this version reads {LAYOUT})")
        shape, about = manifest["shape"], manifest["about"]
        width = shape["channels"] * (shape["height"] * shape["width"] + shape["num_prefix"])
        return {**manifest, "row_bytes": 2 * int(width), **{key: str(about[key]) for key in ("encoder", "dataset")}}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CacheError(f"manifest cannot be read ({type(error).__name__})") from error


def _entry(folder: Path) -> Entry:
    manifest = _read_manifest(folder)
    return Entry(folder, int(manifest["frames"]), manifest["row_bytes"])


def _stats(folder: Path) -> dict[str, os.stat_result]:
    """Return name -> stat of an entry's files; a file that a build renames or a prune deletes meanwhile is left out."""
    found = {}
    with suppress(FileNotFoundError):
        for path in folder.iterdir():
            with suppress(FileNotFoundError):
                found[path.name] = path.stat()
    return found


def _describe(folder: Path) -> EntryInfo | None:
    """Describe an entry; None if another process is just pruning it."""
    stats = _stats(folder)
    used = stats.get("in_use", stats.get("lock"))
    if used is None:
        return None
    size = sum(512 * stat.st_blocks for stat in stats.values())
    info = EntryInfo(folder=folder, size=size, last_used=used.st_mtime)
    try:
        manifest = _read_manifest(folder)
        entry = _entry(folder)
        shift = manifest["augmentation"]
        return replace(
            info,
            encoder=manifest["encoder"],
            camera=str(manifest["camera"]) + (", upside down" if manifest.get("flipped") else ""),
            dataset=manifest["dataset"],
            augmentation=f"shifted by up to {shift['pixels']} pixels, copy {shift['copy']}" if shift else "",
            done=entry.frames_of(entry.recorded()),
            frames=entry.frames,
            machines=tuple(map(machine_label, entry.makers())),
        )
    except FileNotFoundError:
        return None
    except (CacheError, ValueError, TypeError, KeyError) as error:
        return replace(info, problem=str(error))

"""`s2robot cache`: list a feature cache, verify it, and delete what is not needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from s2robot.cli.outcome import Output
from s2robot.cli.words import parse
from s2robot.interfaces import CacheError, ConfigError, unknown_name

if TYPE_CHECKING:
    from s2robot.feature_cache import EntryInfo


@dataclass
class CacheSettings:
    """Where the cache is."""

    root: str = "outputs/feature_cache"


@dataclass
class PruneSettings(CacheSettings):
    """Which entries to delete: those selected by any of the three rules."""

    days: float | None = None  # entries last used more than this many days ago
    gigabytes: float | None = None  # the least recently used entries, until at most this much is left
    missing: bool = False  # entries whose demonstration file is gone, or that this version cannot use
    delete: bool = False  # false = only list them

    def __post_init__(self) -> None:
        for name in ("days", "gigabytes"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ConfigError(f"{name}={value} is not possible; valid: 0 or more")
        if self.days is None and self.gigabytes is None and not self.missing:
            raise ConfigError("cache prune needs at least one rule: days=30, gigabytes=50 or missing=true")


def cache(words: list[str]) -> Output:
    """Run `ls`, `verify` or `prune`.

    Raises:
        ConfigError: the action or one of its settings is unknown.
        CacheError: there is no cache, or `verify` found damage.
    """
    actions = {"ls": _ls, "verify": _verify, "prune": _prune}
    action, *rest = words or [""]
    if action not in actions:
        raise ConfigError(unknown_name("action of s2robot cache", action, actions))
    return actions[action](rest)


def _ls(words: list[str]) -> Output:
    from s2robot.feature_cache import list_entries

    entries = list_entries(parse(CacheSettings, words).root)
    total = f"{len(entries)} entries, {_gigabytes(entries)}"
    return Output("\n".join([*map(str, entries), total]), {"entries": [_plain(info) for info in entries]})


def _verify(words: list[str]) -> Output:
    from s2robot.feature_cache import list_entries, verify

    lines, rows, bad = [], [], 0
    for info in list_entries(parse(CacheSettings, words).root):
        damaged = None if info.problem else verify(info)
        if info.problem:
            state = info.problem
        elif damaged is None:
            state = "not checked: another process is writing it"
        else:
            state = f"damaged blocks {damaged}" if damaged else "good"
            bad += bool(damaged)
        lines.append(f"{info.folder.name}  {state}")
        rows.append({**_plain(info), "damaged_blocks": damaged})
    output = Output("\n".join(lines) or "nothing to verify", {"entries": rows})
    if bad:
        error = CacheError(
            f"{bad} of {len(rows)} entries are damaged; the next run that uses them encodes the damaged blocks again"
        )
        error.output = output  # type: ignore[attr-defined]  # `cli.main` prints it before the error
        raise error
    return output


def _prune(words: list[str]) -> Output:
    from s2robot.feature_cache import list_entries, prune, select_entries

    settings: PruneSettings = parse(PruneSettings, words)
    entries = list_entries(settings.root)
    chosen = select_entries(entries, days=settings.days, gigabytes=settings.gigabytes, missing=settings.missing)
    deleted = prune(settings.root, chosen) if settings.delete else []
    lines = [str(info) for info in chosen]
    if not settings.delete:
        lines.append(
            f"{len(chosen)} of {len(entries)} entries, {_gigabytes(chosen)}, can be deleted; delete=true deletes them"
        )
    else:
        lines.append(f"deleted {len(deleted)} of {len(entries)} entries, {_gigabytes(deleted)}")
        if len(deleted) < len(chosen):
            lines.append(f"kept {len(chosen) - len(deleted)} that running processes are using")
    return Output(
        "\n".join(lines),
        {"chosen": [_plain(info) for info in chosen], "deleted": [str(info.folder) for info in deleted]},
    )


def _plain(info: EntryInfo) -> dict[str, Any]:
    return {**dataclasses.asdict(info), "folder": str(info.folder)}


def _gigabytes(entries: Sequence[EntryInfo]) -> str:
    return f"{sum(info.size for info in entries) / 1e9:.2f} GB"

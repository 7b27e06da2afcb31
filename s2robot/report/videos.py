"""Failures side by side: which videos a page shows."""

from __future__ import annotations

import base64
import mimetypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s2robot.report.arm_results import ArmResult, CellResult, Video, setting_label
from s2robot.report.contrasts import Comparisons, Contrast

MAX_VIDEO_BYTES = 20_000_000  # per page, before base64
MAX_VIDEO_SEEDS = 4  # per task, where nothing is compared
MAX_CONTRAST_SEEDS = 2  # per contrast
MAX_VIDEO_ARMS = 8  # per task


@dataclass(frozen=True)
class VideoRow:
    """Videos of several arms from one initial state: (label, data URI, solved)."""

    title: str
    videos: list[tuple[str, str, bool]]


def choose_videos(arms: Sequence[ArmResult], comparisons: Comparisons) -> tuple[list[VideoRow], int]:
    """Rows of videos from one initial state each, with a failure among them, and how many failures found no place.

    First the two arms of every contrast, then, of tasks that no contrast shows, the states that divide the arms most.
    """
    rows: list[VideoRow] = []
    shown: set[Video] = set()
    budget = MAX_VIDEO_BYTES
    tasks: set[str] = set()
    for task, title, entries in _candidates(arms, comparisons, tasks):
        size = sum(video.path.stat().st_size for _, video in entries)
        if size > budget:
            continue
        budget -= size
        tasks.add(task)
        shown.update(video for _, video in entries)
        rows.append(VideoRow(title, [(label, _data_uri(video), video.success) for label, video in entries]))
    failures = {video for arm in arms for cell in arm.cells for video in cell.videos if not video.success}
    return rows, len(failures - shown)


def _candidates(
    arms: Sequence[ArmResult], comparisons: Comparisons, shown_tasks: set[str]
) -> Iterator[tuple[str, str, list[tuple[str, Video]]]]:
    """(task, title, labelled videos) of every possible row; those of tasks in `shown_tasks` are not repeated."""
    for contrast in comparisons.contrasts:
        yield from _of_contrast(contrast)
    for task in dict.fromkeys(arm.setting.task for arm in arms):
        if task in shown_tasks:
            continue
        filmed = [(arm, arm.cells[0]) for arm in arms if arm.setting.task == task and arm.cells[0].videos]
        filmed = filmed[:MAX_VIDEO_ARMS]
        for seed in _telling_seeds([cell for _, cell in filmed])[:MAX_VIDEO_SEEDS]:
            entries = [(_label(arm), video) for arm, cell in filmed for video in cell.videos if video.seed == seed]
            yield task, f"{task}, evaluation seed {seed}", entries


def _of_contrast(contrast: Contrast) -> Iterator[tuple[str, str, list[tuple[str, Video]]]]:
    baseline, treatment = contrast.baseline.cells[0], contrast.treatment.cells[0]
    shared = {video.seed for video in baseline.videos} & {video.seed for video in treatment.videos}
    telling = [seed for seed in _telling_seeds([baseline, treatment]) if seed in shared]
    for seed in telling[:MAX_CONTRAST_SEEDS]:
        entries = [
            (f"{role}: {_label(arm)}", video)
            for role, arm in (("baseline", contrast.baseline), ("treatment", contrast.treatment))
            for video in arm.cells[0].videos
            if video.seed == seed
        ]
        yield contrast.treatment.setting.task, f"{contrast.name}, evaluation seed {seed}", entries


def _telling_seeds(cells: Sequence[CellResult]) -> list[int]:
    """Seeds with a filmed failure; first those on which the cells are most divided."""
    outcomes: dict[int, list[bool]] = {}
    for cell in cells:
        for video in cell.videos:
            outcomes.setdefault(video.seed, []).append(video.success)
    failed = [seed for seed, solved in outcomes.items() if not all(solved)]
    return sorted(failed, key=lambda seed: (-min(outcomes[seed].count(True), outcomes[seed].count(False)), seed))


def _label(arm: ArmResult) -> str:
    return setting_label(arm.setting, ("policy", "backbone", "scales", "readout", "variant"))


def _data_uri(video: Video) -> str:
    kind = mimetypes.guess_type(video.path.name)[0] or "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(video.path.read_bytes()).decode()}"

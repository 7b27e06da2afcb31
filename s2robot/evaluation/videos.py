"""Videos of the first successes and the first failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import imageio.v3 as iio

from s2robot.rollout import EpisodeFilm, EpisodeResult

_VIDEO_FPS = 20  # robosuite's control frequency: videos play in real time


def choose_seeds(episodes: Sequence[EpisodeResult], count: int) -> list[int]:
    """Choose the seeds to film: half of `count` (rounded up) successes and the rest failures, lowest seeds first.

    If there are too few of one kind, the other kind fills up. Episodes that ended in an error are left out.
    """
    ran = sorted((episode for episode in episodes if episode.error is None), key=lambda episode: episode.seed)
    successes = [episode.seed for episode in ran if episode.success]
    failures = [episode.seed for episode in ran if not episode.success]
    wanted = max((count + 1) // 2, count - len(failures))
    chosen = successes[:wanted]
    return sorted(chosen + failures[: count - len(chosen)])


def write_video(output: Path, recording: EpisodeFilm) -> dict[str, Any]:
    """Write `videos/seed<n>_<outcome>.mp4` below `output`; return its entry in `results.json`."""
    folder = output / "videos"
    folder.mkdir(exist_ok=True)
    path = folder / f"seed{recording.seed}_{'success' if recording.success else 'failure'}.mp4"
    iio.imwrite(path, recording.frames, fps=_VIDEO_FPS, codec="libx264", macro_block_size=8)
    return {"path": str(path.relative_to(output)), "seed": recording.seed, "success": recording.success}


def compare(counted: EpisodeResult, filmed: EpisodeResult) -> str | None:
    """Return a warning if an episode ended differently when it was run again to film it, else None.

    On the same machine episodes repeat, so a warning means another machine or an environment that does not repeat.
    """
    if filmed.error is not None:
        return f"seed {counted.seed} could not be filmed: {filmed.error}"
    if filmed == counted:
        return None
    return (
        f"seed {counted.seed}, run again to film it, ended in {_outcome(filmed)}; the counted episode ended in "
        f"{_outcome(counted)}: episodes are not repeatable here, or it was counted on another kind of machine, and the "
        "video shows another one"
    )


def _outcome(episode: EpisodeResult) -> str:
    return f"{'success' if episode.success else 'failure'} after {episode.steps} steps"

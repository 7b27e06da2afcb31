"""A policy that is told its task: which tasks are evaluated, and the results of all of them together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from s2robot.checkpoint import Checkpoint
from s2robot.interfaces import CheckpointError, unknown_name
from s2robot.statistics import wilson_interval

_TOTALS = ("successes", "episodes", "errors")
_OF_ALL = ("schema", "policy", "backbone", "variant", "scales", "readout", "training_seed", "confidence", "versions")


def choose_tasks(checkpoint: Checkpoint, text: str | None) -> list[int]:
    """Return the places of the chosen tasks in `checkpoint.spec.tasks`: all of them if `text` is None.

    Raises:
        CheckpointError: the policy is not told its task, or knows no such text; the message lists those it knows.
    """
    known = checkpoint.spec.tasks
    if text is None:
        return list(range(len(known)))
    if not known:
        raise CheckpointError(f"task_text={text!r}: the policy was trained without task_conditioning and is told none")
    if text not in known:
        raise CheckpointError(f"task_text: {unknown_name('text', text, [repr(name) for name in known])}")
    return [known.index(text)]


def folder_of(output: Path, checkpoint: Checkpoint, task: int) -> Path:
    """Return the folder of one task's results, named by its place and its text."""
    words = re.sub(r"\W+", "_", checkpoint.spec.tasks[task]).strip("_")[:48]
    return output / "tasks" / f"{task}_{words}"


def describe_task(results: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return what one task's results say of the task: its text, and a name under which reports show it."""
    return {"task": f"{results['task']}: {text}", "task_text": text}


def summarise(output: Path, documents: Sequence[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """Return the results of several tasks together: number, successes and interval of each, and totals.

    Args:
        output: folder of the evaluation.
        documents: folder and results of each task.
    """
    first = documents[0][1]
    totals = {name: sum(document[name] for _, document in documents) for name in _TOTALS}
    row = ("task_text", "task", *_TOTALS, "success_rate", "interval")
    return {
        **{name: first[name] for name in _OF_ALL},
        "tasks": [
            {**{name: document[name] for name in row}, "results": str((folder / "results.json").relative_to(output))}
            for folder, document in documents
        ],
        **totals,
        "success_rate": totals["successes"] / totals["episodes"],
        "interval": list(wilson_interval(totals["successes"], totals["episodes"])),
        "seconds": round(sum(document["seconds"] for _, document in documents), 1),
        **{
            name: list(dict.fromkeys(said for _, one in documents for said in one[name]))
            for name in ("warnings", "notes")
        },
    }

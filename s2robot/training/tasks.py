"""Several tasks in one run: the text of each demonstration, and the vectors of a text encoder."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.config import TrainConfig
from s2robot.data import DemonstrationDataset
from s2robot.interfaces import ConfigError, differences, unknown_name
from s2robot.training.data import TrainingPlan

OF_THE_CAMERAS = ("horizon", "cameras", "image_size")
"""What may differ between datasets of one environment; cameras and sizes are compared by themselves."""


def conditioned(datasets: Sequence[DemonstrationDataset], plan: TrainingPlan, config: TrainConfig) -> TrainingPlan:
    """Return a plan whose policy is told the task of each demonstration; unchanged without `task_conditioning`.

    Raises:
        DatasetError: a demonstration records no text or several.
        ConfigError: one text belongs to two environments, a task has no demonstration to learn its embedding from, or
            the file of vectors is not usable.
    """
    if config.task_conditioning == "none":
        return plan
    parts = plan.parts or (plan,)
    texts, environments = list[str](), list[dict]()
    for place, (dataset, part) in enumerate(zip(datasets, parts, strict=True)):
        given = config.task_texts[place] if config.task_texts else None
        texts += [given or _only_text(dataset, part, index) for index in range(len(part.episodes))]
        environments += [part.environment] * len(part.episodes)
    tasks: dict[str, dict] = {}
    for text, environment in zip(texts, environments, strict=True):
        known = tasks.setdefault(text, {"text": text, "environment": environment, "demonstrations": 0})
        known["environment"] = _of_both(text, known["environment"], environment)
        known["demonstrations"] += 1
    order = list(tasks)
    if config.task_conditioning == "embedding":
        _require_trained(order, {texts[index] for index in plan.training_episodes})
    vectors = None if config.task_vectors is None else read_vectors(config.task_vectors, order)
    spec = replace(
        plan.spec,
        tasks=tuple(order),
        task_width=config.task_width,
        task_vector_width=0 if vectors is None else vectors.shape[1],
    )
    demonstrations = replace(plan.demonstrations, tasks=[order.index(text) for text in texts])
    return replace(plan, spec=spec, demonstrations=demonstrations, tasks=list(tasks.values()), task_vectors=vectors)


def _of_both(text: str, first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return the environment of a text in two datasets, with the longer horizon."""
    here, there = ({name: one[name] for name in one if name not in OF_THE_CAMERAS} for one in (first, second))
    found = differences(here, there)
    if found:
        named = ", ".join(f"{name} {ours!r} and {theirs!r}" for name, ours, theirs in found)
        raise ConfigError(f"task text {text!r} belongs to two environments, {named}; give each a text of its own")
    horizons = [one["horizon"] for one in (first, second) if one.get("horizon") is not None]
    return {**first, "horizon": max(horizons)} if horizons else first


def _require_trained(order: Sequence[str], trained: set[str]) -> None:
    """Check that every task has a demonstration to train on, because its embedding would stay random."""
    left = [text for text in order if text not in trained]
    if left:
        raise ConfigError(
            f"task_conditioning=embedding cannot learn {', '.join(map(repr, left[:4]))}"
            f"{' …' if len(left) > 4 else ''}, because all demonstrations of it are held out for "
            "validation; choose other demonstrations, a smaller training.validation_fraction, or "
            "task_conditioning=vectors"
        )


def _only_text(dataset: DemonstrationDataset, plan: TrainingPlan, index: int) -> str:
    found = plan.demonstrations.texts[index]
    demo = plan.demonstrations.names[index]
    if not found:
        raise dataset.error("records no text of its task; give task_texts=[…], one text for each dataset", demo)
    if len(found) > 1:
        raise dataset.error(f"records several texts, {list(found)}; a policy is told one per demonstration", demo)
    return found[0]


def read_vectors(path: str, texts: Sequence[str]) -> np.ndarray:
    """Read a text encoder's vectors, float32 [texts, width], from an npz or a JSON file: text -> vector.

    Raises:
        ConfigError: the file cannot be read, or a vector is missing, has another width, or is not finite.
    """
    try:
        if Path(path).suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                found = {name: archive[name] for name in archive.files}
        else:
            found = {name: np.asarray(row, np.float32) for name, row in json.loads(Path(path).read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"task_vectors={path!r} cannot be read: {error}; valid: *.npz or JSON, text: vector"
        ) from error
    for text in texts:
        if text not in found:
            raise ConfigError(f"task_vectors={path!r}: {unknown_name('text', text, found)}")
        vector, first = found[text], found[texts[0]]
        if vector.dtype.kind not in "fiu" or vector.ndim != 1 or not len(vector) or not np.isfinite(vector).all():
            raise ConfigError(f"task_vectors={path!r}: {text!r} is not a vector of finite numbers")
        if vector.shape != first.shape:
            raise ConfigError(
                f"task_vectors={path!r}: {text!r} has {len(vector)} numbers, but {texts[0]!r} has {len(first)}"
            )
    return np.stack([found[text].astype(np.float32) for text in texts])


def vectors_hash(vectors: np.ndarray) -> str:
    """Return the sha256 of vectors."""
    return hashlib.sha256(np.ascontiguousarray(vectors).tobytes()).hexdigest()

"""Several tasks in one run: the text of each demonstration, and the vectors of a text encoder."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from s2robot.config import TrainConfig
from s2robot.data import DemonstrationDataset
from s2robot.interfaces import ConfigError, unknown_name
from s2robot.training.data import TrainingPlan


def conditioned(datasets: Sequence[DemonstrationDataset], plan: TrainingPlan, config: TrainConfig) -> TrainingPlan:
    """Return a plan whose policy is told the task of each demonstration; unchanged without `task_conditioning`.

    Raises:
        DatasetError: a demonstration records no text or several, or one text belongs to two environments.
        ConfigError: the file of vectors is not usable.
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
        if known["environment"].get("task") != environment.get("task"):
            found = f"{known['environment'].get('task')!r} and {environment.get('task')!r}"
            raise ConfigError(f"task text {text!r} belongs to two environments, {found}; give each a text of its own")
        known["demonstrations"] += 1
    order = list(tasks)
    vectors = None if config.task_vectors is None else read_vectors(config.task_vectors, order)
    spec = replace(
        plan.spec,
        tasks=tuple(order),
        task_width=config.task_width,
        task_vector_width=0 if vectors is None else vectors.shape[1],
    )
    demonstrations = replace(plan.demonstrations, tasks=[order.index(text) for text in texts])
    return replace(plan, spec=spec, demonstrations=demonstrations, tasks=list(tasks.values()), task_vectors=vectors)


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

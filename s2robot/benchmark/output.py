"""What a benchmark leaves behind: one folder per cell, and `results.parquet` with one row per episode."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from s2robot.benchmark.cells import Cell
from s2robot.benchmark.stages import outcome_settings
from s2robot.statistics import wilson_interval
from s2robot.system.files import locked, write_durably
from s2robot.system.machine import MIXED, mixed_machines, pool_machines

RESULTS_FILE = "results.json"
PARQUET_FILE = "results.parquet"
_ERROR_FILE = "error.json"
_STAGES = ("demonstrations", "encoder", "training", "rollouts")


def cell_folder(output: Path, cell: Cell) -> Path:
    """Folder of one cell's results."""
    return output / "cells" / cell.name


def read_results(output: Path, cell: Cell) -> dict[str, Any] | None:
    """The cell's `results.json`; None where there is none."""
    path = cell_folder(output, cell) / RESULTS_FILE
    return json.loads(path.read_text()) if path.exists() else None


def read_outcomes(output: Path, cell: Cell) -> dict[int, bool]:
    """Evaluation seed → success, of the cell's episodes that did not end in an error of the simulator."""
    rows = (read_results(output, cell) or {}).get("episode_results", [])
    return {row["seed"]: row["success"] for row in rows if row.get("error") is None}


def count_episodes(output: Path, cell: Cell, first_seed: int) -> int:
    """How many episodes the cell has, from the first planned seed on and without a gap."""
    seeds = {row["seed"] for row in (read_results(output, cell) or {}).get("episode_results", [])}
    return next(count for count in itertools.count() if first_seed + count not in seeds)


def set_aside_unplanned(output: Path, cell: Cell, planned: range) -> None:
    """Rename results that hold other evaluation seeds than the planned ones, so that no report mixes the two."""
    results = read_results(output, cell)
    if results and any(row["seed"] not in planned for row in results["episode_results"]):
        path = cell_folder(output, cell) / RESULTS_FILE
        path.rename(path.with_name("results.unplanned.json"))


def read_error(output: Path, cell: Cell) -> str | None:
    """Why the cell failed, if it did."""
    path = cell_folder(output, cell) / _ERROR_FILE
    return str(json.loads(path.read_text())["error"]) if path.exists() else None


def write_error(output: Path, cell: Cell, error: str) -> None:
    """Record why the cell failed; what it had before stays."""
    folder = cell_folder(output, cell)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"cell": cell.name, "error": error, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    write_durably(folder / _ERROR_FILE, json.dumps(document, indent=1).encode())


def drop_error(output: Path, cell: Cell) -> None:
    """Forget that the cell failed."""
    (cell_folder(output, cell) / _ERROR_FILE).unlink(missing_ok=True)


def write_results(
    output: Path, cell: Cell, documents: list[dict[str, Any]], films: list[Path], seconds: dict[str, float]
) -> None:
    """Join the ranges of evaluation seeds of one cell into its `results.json`, with the names that the grid gives.

    Videos are linked into the cell's folder, which thereby can be copied without the store.

    Args:
        output: the benchmark's folder.
        cell: whose results.
        documents: the results of ranges of seeds, ascending.
        films: folders of filmed episodes; those of other seeds are left out.
        seconds: time spent now in each stage [s]; added to what is recorded.
    """
    folder = cell_folder(output, cell)
    with locked(folder / ".results"):  # of several processes that ran the cell, one reads, links and writes at a time
        _write_results(output, cell, documents, films, seconds)


def _write_results(
    output: Path, cell: Cell, documents: list[dict[str, Any]], films: list[Path], seconds: dict[str, float]
) -> None:
    folder = cell_folder(output, cell)
    parts = [(document.get("machines", []), document["episode_results"]) for document in documents]
    machines, episodes = pool_machines(parts)
    policies = _policies(documents)
    successes, ran = (sum(document[key] for document in documents) for key in ("successes", "episodes"))
    earlier = (read_results(output, cell) or {}).get("stage_seconds", {})
    merged = {
        **documents[0],
        "cell": cell.name,
        "task": cell.task.label,
        "policy": cell.arm.policy.label,
        "readout": cell.arm.readout.label,
        "variant": cell.arm.variant,
        "settings": outcome_settings(cell),
        **_selected(cell, documents[0]),
        "successes": successes,
        "episodes": ran,
        "errors": len(episodes) - ran,
        "success_rate": successes / ran,
        "interval": list(wilson_interval(successes, ran)),
        "fingerprints": {
            name: value
            for name, value in documents[0]["fingerprints"].items()
            if name != "policy" or len(policies) == 1
        },
        "episode_results": episodes,
        "machines": machines,
        "warnings": [*_joined(documents, "warnings"), *mixed_machines(machines), *_several(policies)],
        "notes": _joined(documents, "notes"),
        "seconds": round(sum(document["seconds"] for document in documents), 1),
        "videos": list(_link_videos(folder, films, {episode["seed"] for episode in episodes})),
        "ranges": [
            {
                "episodes": len(document["episode_results"]),
                "latency_ms": document["latency_ms"],
                "versions": document["versions"],
                "machines": document.get("machines", []),
                "policy": document["fingerprints"].get("policy"),
            }
            for document in documents
        ],
        "stage_seconds": {key: round(earlier.get(key, 0.0) + seconds.get(key, 0.0), 3) for key in _STAGES},
    }
    write_durably(folder / RESULTS_FILE, json.dumps(merged, indent=1).encode())


def _selected(cell: Cell, document: dict[str, Any]) -> dict[str, int]:
    """Name the number of demonstrations by the plan's, and beside it how many of them were chosen."""
    if not cell.task.chooses:
        return {}
    return {"demonstrations": cell.setting.demonstrations, "chosen_demonstrations": document["demonstrations"]}


def _joined(documents: list[dict[str, Any]], key: str) -> list[str]:
    """What the ranges say, each sentence once; of mixed machines the whole cell speaks."""
    said = (sentence for document in documents for sentence in document.get(key, []))
    return list(dict.fromkeys(sentence for sentence in said if not sentence.startswith(MIXED)))


def _policies(documents: list[dict[str, Any]]) -> list[str]:
    """The different weights that the ranges were run with, as far as they say."""
    found = (document["fingerprints"].get("policy") for document in documents)
    return list(dict.fromkeys(policy for policy in found if policy is not None))


def _several(policies: list[str]) -> list[str]:
    """The warning of a cell whose policy was trained again between its ranges of episodes."""
    if len(policies) < 2:
        return []
    weights = ", ".join(policy[:8] for policy in policies)
    return [
        f"the episodes were run with {len(policies)} policies of the same settings (weights {weights}): the checkpoint "
        "was made anew in between, perhaps on another machine, and the success rate is that of no single one"
    ]


def write_parquet(output: Path, cells: Iterable[Cell]) -> Path | None:
    """Write `results.parquet`: one row per episode of the cells that have results, in the order of the grid.

    Returns:
        The file; None where pyarrow is not installed, which the caller must say.
    """
    if importlib.util.find_spec("pyarrow") is None:
        return None
    import pyarrow
    from pyarrow import parquet

    documents = [document for cell in cells if (document := read_results(output, cell)) is not None]
    rows = [row for document in documents for row in _rows(document)]
    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    columns = {
        **dict.fromkeys(("cell", "task", "policy", "backbone", "scales", "readout", "variant"), text),
        **{"demonstrations": whole, "training_seed": whole, "initial_state": whole},
        **{"success": pyarrow.bool_(), "steps": whole, "latency_ms": real, "error": text, "versions": text},
        **dict.fromkeys(("encoder", "data", "environment", "machine"), text),
    }
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=pyarrow.schema(columns)), buffer)
    write_durably(output / PARQUET_FILE, buffer.getvalue())
    return output / PARQUET_FILE


def _rows(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per episode: its cell's settings, its initial state and outcome, and what made it."""
    fingerprints = document["fingerprints"]
    settings = {
        **{key: document[key] for key in ("cell", "task", "policy", "backbone", "readout", "variant")},
        "scales": json.dumps(document["scales"]),
        "demonstrations": document["demonstrations"],
        "training_seed": document["training_seed"],
        **{key: fingerprints.get(key) for key in ("encoder", "data", "environment")},
    }
    machines = [_as_text(machine) for machine in document.get("machines", [])]
    episodes = iter(document["episode_results"])
    for part in document["ranges"]:
        versions = json.dumps(part["versions"], sort_keys=True)
        for _ in range(part["episodes"]):
            episode = next(episodes)
            yield {
                **settings,
                "initial_state": episode["seed"],
                "success": episode["success"],
                "steps": episode["steps"],
                "latency_ms": episode.get("latency_ms") or part["latency_ms"],
                "error": episode.get("error"),
                "versions": versions,
                "machine": None if (place := episode.get("machine")) is None else machines[place],
            }


def _as_text(machine: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in machine.items() if name != "episodes"}, sort_keys=True)


def _link_videos(folder: Path, films: list[Path], seeds: set[int]) -> Iterator[dict[str, Any]]:
    for film in films:
        videos = json.loads((film / RESULTS_FILE).read_text())["videos"]
        for entry in (video for video in videos if video["seed"] in seeds):
            source, target = film / entry["path"], folder / entry["path"]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                os.link(source, target)
            except OSError:  # another file system, or one without hard links
                shutil.copyfile(source, target)
            yield entry

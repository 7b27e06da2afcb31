"""The benchmark grid: cells that share demonstrations, budget, head width and initial states.

A cell = task × backbone × scale set × readout × policy × training seed. Each writes its own folder, named by
its settings, and is skipped when its results are there: a run killed anywhere goes on where it was.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from s2robot.checkpoint import write_durably
from s2robot.config import BenchmarkConfig, EncoderConfig, EvaluateConfig, TrainConfig
from s2robot.encoder import S2Encoder
from s2robot.evaluation import MakeVectorEnv, evaluate
from s2robot.interfaces import S2RobotError, resolve_device
from s2robot.report import write_report
from s2robot.training import train

Collect = Callable[[str, int, Path], None]
"""`collect(task, num, path)`: record `num` demonstrations of `task` at `path`, or return when they are there."""


@dataclass(frozen=True)
class Cell:
    """One entry of the grid."""

    task: str
    backbone: str
    scales: tuple[int, ...]
    training_seed: int

    def folder_name(self, config: BenchmarkConfig) -> str:
        """Readable name, plus a hash of every setting that can change the outcome."""
        settings = asdict(config)
        for key in ("output", "tasks", "backbones", "scale_sets", "training_seeds", "dry_run", "num_envs", "device"):
            del settings[key]
        digest = hashlib.sha256(json.dumps([asdict(self), settings], sort_keys=True).encode()).hexdigest()[:8]
        scales = "_".join(map(str, self.scales))
        parts = [self.task, self.backbone, scales, config.readout.name, config.policy.name, f"seed{self.training_seed}"]
        return "-".join([*parts, digest])


def make_cells(config: BenchmarkConfig) -> list[Cell]:
    """The whole grid, cells that share an encoder next to each other."""
    grid = itertools.product(config.tasks, config.backbones, config.scale_sets, config.training_seeds)
    return [Cell(task, backbone, tuple(scales), seed) for task, backbone, scales, seed in grid]


def planned_contrasts(config: BenchmarkConfig) -> list[dict[str, Any]]:
    """What the grid is for: more scales on each backbone, and a larger backbone at the base scale set.

    The first scale set and the first backbone of the lists are the baselines.
    """
    base_scales, base_backbone = config.scale_sets[0], config.backbones[0]
    contrasts = []
    for task in config.tasks:
        for backbone, scales in itertools.product(config.backbones, config.scale_sets[1:]):
            baseline = {"task": task, "backbone": backbone, "scales": list(base_scales)}
            contrasts.append(
                {
                    "name": f"{task}, {backbone}: scales {list(scales)} against {list(base_scales)}",
                    "baseline": baseline,
                    "treatment": {**baseline, "scales": list(scales)},
                }
            )
        for backbone in config.backbones[1:]:
            baseline = {"task": task, "backbone": base_backbone, "scales": list(base_scales)}
            contrasts.append(
                {
                    "name": f"{task}, scales {list(base_scales)}: {backbone} against {base_backbone}",
                    "baseline": baseline,
                    "treatment": {**baseline, "backbone": backbone},
                }
            )
    return contrasts


def describe(config: BenchmarkConfig) -> str:
    """The cells of the grid and what each costs to encode, as a table; runs nothing but the cost model."""
    lines = [f"{'cell':70} {'GMACs/frame':>12}"]
    for cell in make_cells(config):
        encoder = S2Encoder(**asdict(_encoder_config(config, cell)), device=resolve_device("cpu"))
        lines.append(f"{cell.folder_name(config):70} {encoder.cost().gmacs:12.2f}")
    return "\n".join(lines)


def run_benchmark(config: BenchmarkConfig, collect: Collect, make_vector_env: MakeVectorEnv, num_envs: int) -> Path:
    """Run every cell that has no results yet, then write the report.

    A failing cell is recorded with its error and the rest go on.

    Returns:
        The folder of the report (`report.md`, `report.html`, plots).
    """
    output = Path(config.output)
    cells = make_cells(config)
    failed: list[dict[str, str]] = []
    encoders: dict[str, S2Encoder] = {}
    for number, cell in enumerate(cells, start=1):
        name = cell.folder_name(config)
        folder = output / "cells" / name
        if (folder / "results.json").exists():
            print(f"[{number}/{len(cells)}] {name}: done before")
            continue
        print(f"[{number}/{len(cells)}] {name}")
        dataset = output / "demonstrations" / f"{cell.task}.hdf5"
        try:
            collect(cell.task, config.demonstrations, dataset)
            _run_cell(config, cell, folder, dataset, encoders, make_vector_env, num_envs)
        except S2RobotError as error:
            failed.append({"cell": name, "error": str(error)})
        except Exception:  # a crash of one cell must not cost the others
            failed.append({"cell": name, "error": traceback.format_exc(limit=3)})
        if failed and failed[-1]["cell"] == name:
            print(f"failed: {failed[-1]['error']}")
    names = [cell.folder_name(config) for cell in cells]
    document = {"contrasts": planned_contrasts(config), "cells": names, "failed": failed}
    write_durably(output / "benchmark.json", json.dumps(document, indent=1).encode())
    if len(failed) == len(cells):
        raise S2RobotError(f"every cell of the benchmark failed; the first: {failed[0]['error']}")
    return write_report([output], output / "report").parent


def _encoder_config(config: BenchmarkConfig, cell: Cell) -> EncoderConfig:
    return replace(config.encoder, backbone=cell.backbone, scales=list(cell.scales))


def _run_cell(
    config: BenchmarkConfig,
    cell: Cell,
    folder: Path,
    dataset: Path,
    encoders: dict[str, S2Encoder],
    make_vector_env: MakeVectorEnv,
    num_envs: int,
) -> None:
    encoder_config = _encoder_config(config, cell)
    key = json.dumps(asdict(encoder_config))
    if key not in encoders:
        encoders.clear()  # neighbours in the grid share one; never two in memory
        encoders[key] = S2Encoder(**asdict(encoder_config), device=resolve_device(config.device))
    checkpoint = train(
        TrainConfig(
            dataset=str(dataset),
            output=str(folder),
            seed=cell.training_seed,
            device=config.device,
            num_demonstrations=config.demonstrations,
            cameras=config.cameras,
            cache_dir=str(Path(config.output) / "feature_cache"),
            encoder=encoder_config,
            readout=config.readout,
            policy=config.policy,
            training=config.training,
        ),
        encoders[key],
    )
    evaluate(
        EvaluateConfig(
            checkpoint=str(checkpoint),
            episodes=config.episodes,
            first_seed=config.first_seed,
            device=config.device,
        ),
        make_vector_env,
        num_envs,
    )

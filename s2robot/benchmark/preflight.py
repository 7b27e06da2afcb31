"""What the cells that are left to run need, checked before anything is recorded or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from s2robot.backbones import load_backbone
from s2robot.backbones.availability import is_available
from s2robot.backbones.loading import SOURCES, local_file
from s2robot.backbones.spec import BackboneSpec
from s2robot.backbones.table import find_spec
from s2robot.benchmark.calibration import calibration_cells
from s2robot.benchmark.cells import Cell
from s2robot.benchmark.controls import PIXELS
from s2robot.benchmark.grid import Grid, make_grid
from s2robot.benchmark.runner import lacking_episodes
from s2robot.benchmark.selection import select_cells
from s2robot.benchmark.sequential import make_races
from s2robot.benchmark.stages import collect_config, demonstrations_key, demonstrations_path, has_rollouts
from s2robot.config import CALIBRATION_SEED, BenchmarkConfig, CollectConfig, EncoderConfig
from s2robot.interfaces import EncoderError, WeightsError
from s2robot.policies import POLICIES
from s2robot.training.fitting import refuse_shifts

CheckCollection = Callable[[CollectConfig], None]
"""`check(config)`: raise at once what recording these demonstrations would raise sooner or later."""


def check_runnable(config: BenchmarkConfig, check_collection: CheckCollection, grid: Grid | None = None) -> list[str]:
    """Reject a benchmark if one of its cells lacks demonstrations or weights that the run cannot make.

    - Cells whose rollouts exist need neither.
    - Cells outside `config.cells` are not checked.
    - An unknown backbone fails only its own cells, as in the run.

    Args:
        config: benchmark settings.
        check_collection: see `CheckCollection`.
        grid: result of `make_grid(config)`; None computes it here.

    Returns:
        Backbones whose weights the run downloads.

    Raises:
        ConfigError: `cells` names none of the grid, or a policy cannot be trained as its settings say.
        WeightsError: weights that are not downloaded by the run are not here.
        Exception: whatever `check_collection` raises.
    """
    cells = _cells_to_run(config, grid or make_grid(config))
    for policy in {cell.arm.policy.label: cell.arm.policy for cell in cells}.values():
        if getattr(POLICIES.find(policy.config.name), "fitted_only", False):
            refuse_shifts(policy.config.name, policy.training)
    if config.engine == "ray":  # its workers have weights and simulator, which this machine may lack
        return []
    for task in {demonstrations_key(cell.task): cell.task for cell in cells}.values():
        if not demonstrations_path(config, task).exists():
            check_collection(collect_config(config, task))
    return _check_weights(cell.arm.encoder for cell in cells)


def download_weights(backbones: Iterable[str]) -> None:
    """Download the weights from timm's hub.

    Raises:
        WeightsError: it cannot be reached, or has none.
    """
    for name in backbones:
        load_backbone(name, "hub")


def _cells_to_run(config: BenchmarkConfig, grid: Grid) -> list[Cell]:
    if config.calibrate and not config.dry_run:
        cells = [cell for task in config.task_list for cell in calibration_cells(grid.arms, task)]
        seeds = range(CALIBRATION_SEED, CALIBRATION_SEED + config.episodes)
        return [cell for cell in cells if not has_rollouts(config, cell, seeds)]
    chosen = select_cells(config, grid.cells)
    races = make_races(config, grid.contrasts, grid.cells)
    lacking = lacking_episodes(config, Path(config.output).resolve(), races, chosen)
    first = config.first_seed
    return [
        cell
        for cell in chosen
        if cell.name in lacking and not has_rollouts(config, cell, range(first, first + lacking[cell.name]))
    ]


def _check_weights(encoders: Iterable[EncoderConfig]) -> list[str]:
    downloads: list[str] = []
    missing: list[str] = []
    for name, weights in dict.fromkeys((encoder.backbone, encoder.weights) for encoder in encoders):
        if name == PIXELS or weights == "none":
            continue
        try:
            spec = find_spec(name)
        except EncoderError:
            continue
        if not _are_here(spec, weights):
            to_download = (spec.source if weights == "default" else weights) == "hub"
            (downloads if to_download else missing).append(name)
    if missing:
        commands = " and ".join(f"`s2robot encoders fetch {name}`" for name in missing)
        raise WeightsError(f"this machine does not have the weights of {', '.join(missing)}; run {commands}")
    return downloads


def _are_here(spec: BackboneSpec, weights: str) -> bool:
    if weights == "default":
        return is_available(spec)
    if weights in SOURCES:
        return is_available(replace(spec, source=weights))
    return local_file(spec, weights).is_file()

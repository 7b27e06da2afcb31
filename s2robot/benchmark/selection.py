"""Select cells: by number, or by the two sides of a contrast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from s2robot.benchmark.cells import Cell
from s2robot.config import BenchmarkConfig, require
from s2robot.report.plan_document import PlannedContrast, matches


class CellPair(NamedTuple):
    """Two cells of one training seed that a contrast compares."""

    baseline: Cell
    treatment: Cell


def select_cells(config: BenchmarkConfig, cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells that `config.cells` selects: one number, a list of numbers, or null for all.

    Raises:
        ConfigError: a number is out of range or repeated, or sequential stopping is on, which needs all cells.
    """
    if config.cells is None:
        return list(cells)
    numbers = config.cells if isinstance(config.cells, list) else [config.cells]
    valid = all(type(number) is int and 0 <= number < len(cells) for number in numbers) and bool(numbers)
    once = valid and len(set(numbers)) == len(numbers)
    require(once, "cells", config.cells, f"numbers from 0 to {len(cells) - 1}, each once")
    require(config.sequential.batch is None, "cells", config.cells, "null: sequential stopping needs all cells")
    return [cells[number] for number in numbers]


def cells_matching(selector: dict[str, Any], cells: Sequence[Cell]) -> list[Cell]:
    """The cells that have all the settings of one side of a contrast."""
    return [cell for cell in cells if matches(cell.setting, selector)]


def compared_pairs(contrast: PlannedContrast, cells: Sequence[Cell]) -> list[CellPair]:
    """Return the pairs of cells that the contrast compares, as the report does.

    Args:
        contrast: a planned comparison.
        cells: the cells of one training seed.
    """
    by_setting = {cell.setting: cell for cell in cells}
    return [CellPair(*(by_setting[setting] for setting in pair)) for pair in contrast.pairs(by_setting)]

"""What was evaluated: cells (one policy each) and arms (cells that differ in the training seed only)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from s2robot.statistics import Interval, hierarchical_bootstrap, wilson_interval
from s2robot.system.machine import Machine


@dataclass(frozen=True)
class Setting:
    """Everything that tells two arms apart.

    `variant` is a control's name, `encoder` the encoder's fingerprint. `mark`, such as "encoder 04ffabae", tells it
    from an arm of the report that is the same in all else.
    """

    task: str
    policy: str
    backbone: str
    scales: tuple[Any, ...]
    readout: str
    demonstrations: int
    variant: str = ""
    encoder: str = ""
    mark: str = ""

    @property
    def plain(self) -> Setting:
        """What a plan knows of it."""
        return replace(self, encoder="", mark="")

    @property
    def shown_variant(self) -> str:
        """The variant with the mark, for labels."""
        return f"{self.variant} {self.mark}".strip()

    @property
    def sides(self) -> tuple[float, ...]:
        """The scales as numbers, to sort by."""
        return tuple(float(max(scale) if isinstance(scale, tuple) else scale) for scale in self.scales)


# What a contrast may select by, and what labels show.
SELECTORS = tuple(item.name for item in fields(Setting) if item.name not in ("encoder", "mark"))


def scales_label(scales: Collection[Any]) -> str:
    """(224, 448) → "{224, 448}"; (224, (448, 640)) → "{224, 448×640}"."""
    shown = ["×".join(map(str, scale)) if isinstance(scale, tuple | list) else str(scale) for scale in scales]
    return "{" + ", ".join(shown) + "}"


def setting_label(setting: Setting, names: Collection[str] = SELECTORS) -> str:
    """Readable text of some of the settings, such as "Lift · bc · efficientnet_lite0 {224, 448} · conv".

    >>> setting_label(Setting("Lift", "bc", "resnet18", (112, 224), "mean", 60), ["backbone", "scales"])
    'resnet18 {112, 224}'
    """
    shown = {name: str(_shown(setting, name)) if name in names else "" for name in SELECTORS}
    if "scales" in names:
        shown["scales"] = scales_label(setting.scales)
    if "demonstrations" in names:
        shown["demonstrations"] = f"{setting.demonstrations} demonstrations"
    shown["backbone"] = f"{shown['backbone']} {shown.pop('scales')}".strip()
    return " · ".join(text for text in shown.values() if text)


class Failure(NamedTuple):
    """An episode that ended in an error: evaluation seed and what was wrong."""

    seed: int
    error: str


class Video(NamedTuple):
    """A filmed episode: absolute path, evaluation seed and outcome."""

    path: Path
    seed: int
    success: bool


@dataclass(frozen=True)
class CellResult:
    """One `results.json`: one policy, evaluated from E initial states.

    Attributes:
        path: the file.
        setting: what was evaluated.
        training_seed: seed of the training run.
        gmacs: giga multiply-accumulates of the encoder per frame.
        parameters: number of parameters of the backbone.
        latency_ms: median time of one action call [ms], where measured.
        seconds: wall time of the evaluation [s], where recorded.
        seeds: evaluation seeds, ascending, int64 [E]; equal seeds are equal initial states, and where the same renderer
            drew them equal pictures.
        successes: bool [E].
        steps: environment steps of each episode, int64 [E].
        failures: episodes that ended in an error of the simulator; they are left out of all other numbers.
        loss_curve: rows of the training log.
        videos: the filmed episodes whose file exists.
        commands: the commands that trained and evaluated the policy.
        versions: package -> its versions; several where the cell was extended after an upgrade.
        machines: kinds of machine that ran its episodes, each with their number as `episodes`; empty where unknown.
        policies: hashes of the weights that its episodes were run with; several where it was trained again in between.
        fingerprints: hashes of encoder, data and environment, and of the settings of policy, readout and training.
    """

    path: Path
    setting: Setting
    training_seed: int
    gmacs: float
    parameters: float
    latency_ms: float | None
    seconds: float | None
    seeds: NDArray[np.int64]
    successes: NDArray[np.bool_]
    steps: NDArray[np.int64]
    failures: list[Failure]
    loss_curve: list[dict[str, Any]]
    videos: list[Video]
    commands: list[str]
    versions: dict[str, tuple[str, ...]]
    machines: list[Machine]
    policies: tuple[str, ...]
    fingerprints: dict[str, str]

    @cached_property
    def interval(self) -> Interval:
        """Wilson interval of this policy's success rate."""
        return wilson_interval(int(self.successes.sum()), len(self.successes))

    @property
    def rate(self) -> float:
        """Share of solved episodes."""
        return float(self.successes.mean())

    @property
    def errors(self) -> int:
        """Number of episodes that ended in an error of the simulator."""
        return len(self.failures)

    @property
    def episode_count(self) -> int:
        """Number of episodes."""
        return len(self.seeds)


@dataclass(frozen=True)
class ArmResult:
    """The cells of one setting, one per training seed, ascending."""

    setting: Setting
    cells: tuple[CellResult, ...]

    def prints(self, kind: str) -> list[str]:
        """The different fingerprints of its cells; "" for an unknown one."""
        return sorted({cell.fingerprints.get(kind, "") for cell in self.cells})

    @property
    def folders(self) -> set[Path]:
        """The benchmarks' folders that its cells lie in."""
        return {cell.path.parent.parent.parent for cell in self.cells}

    @property
    def successes(self) -> int:
        """Solved episodes over all training seeds."""
        return int(sum(cell.successes.sum() for cell in self.cells))

    @property
    def episodes(self) -> int:
        """Episodes over all training seeds."""
        return sum(len(cell.seeds) for cell in self.cells)

    @property
    def rate(self) -> float:
        """Share of solved episodes over all training seeds."""
        return self.successes / self.episodes

    @property
    def gmacs(self) -> float:
        """Giga multiply-accumulates of the encoder per frame."""
        return self.cells[0].gmacs

    @property
    def parameters(self) -> float:
        """Parameters of the backbone."""
        return self.cells[0].parameters

    @cached_property
    def latency_ms(self) -> float | None:
        """Median over training seeds of the median action call [ms]; None where none was measured."""
        measured = [cell.latency_ms for cell in self.cells if cell.latency_ms is not None]
        return float(np.median(measured)) if measured else None

    @cached_property
    def interval(self) -> Interval:
        """Wilson interval of one policy; hierarchical bootstrap over several training seeds."""
        if len(self.cells) == 1:
            return self.cells[0].interval
        seeds = np.unique(np.concatenate([cell.seeds for cell in self.cells]))
        return hierarchical_bootstrap(self.outcomes(seeds))

    def outcomes(self, seeds: NDArray[np.int64]) -> NDArray[np.float64]:
        """Outcomes 0/1 [training seeds, len(seeds)] at ascending evaluation seeds; NaN where not evaluated."""
        table = np.full((len(self.cells), len(seeds)), np.nan)
        for row, cell in zip(table, self.cells, strict=True):
            here = np.isin(cell.seeds, seeds)
            row[np.searchsorted(seeds, cell.seeds[here])] = cell.successes[here]
        return table

    def shared_seeds(self) -> NDArray[np.int64]:
        """Evaluation seeds that every training seed met."""
        shared = self.cells[0].seeds
        for cell in self.cells[1:]:
            shared = np.intersect1d(shared, cell.seeds)
        return shared


def varying(settings: Sequence[Setting], names: Sequence[str]) -> list[str]:
    """Those of the fields in which the settings differ."""
    return [name for name in names if len({_shown(setting, name) for setting in settings}) > 1]


def _shown(setting: Setting, name: str) -> Any:
    return setting.shown_variant if name == "variant" else getattr(setting, name)

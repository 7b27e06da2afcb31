"""The stages of a cell, each in a folder named by what it depends on: made once, found again by whoever needs it.

```
<store>/demonstrations/<task>-<key>.hdf5     task, number, size, cameras, variant, …
<store>/feature_cache/                       encoder × data × camera, see `s2robot.feature_cache`
<store>/training/<key>/checkpoint/           demonstrations × encoder × readout × policy × budget × training seed
<store>/rollouts/<key>/<first>-<last>/       training × horizon, one folder per range of evaluation seeds
```

A lock beside each lets several processes, also of several benchmarks, share a store on one file system. What
changes a number by rounding only (`device`, the kind of machine) is not part of a key and stands in the results;
settings that a file's content depends on are part of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from s2robot.benchmark.cells import Cell, encoder_settings, hash_json
from s2robot.config import BenchmarkConfig, CollectConfig, EncoderConfig, EvaluateConfig, TaskConfig, TrainConfig
from s2robot.encoder import S2Encoder
from s2robot.evaluation import MakeVectorEnv, evaluate
from s2robot.interfaces import resolve_device
from s2robot.system.files import locked, write_durably
from s2robot.system.machine import pool_machines
from s2robot.system.registry import OUTSIDE_EXPERTS, OUTSIDE_TASKS, providers
from s2robot.training import train

Collect = Callable[[CollectConfig], None]
"""`collect(config)`: record `config.num` demonstrations at `config.out`, or return when they are there."""

_VERSION = 1  # raised when the same settings would give other files than before


@dataclass
class Stages:
    """Makes or finds the stages of cells; picklable, so that another machine can do it on the same file system.

    Attributes:
        config: benchmark settings.
        collect: records demonstrations.
        make_vector_env: makes the environments of rollouts.
        num_envs: number of parallel environments.
        seconds: time spent in each stage since the last `start_clock` [s].
    """

    config: BenchmarkConfig
    collect: Collect
    make_vector_env: MakeVectorEnv
    num_envs: int
    seconds: dict[str, float] = field(default_factory=dict)
    _encoder: tuple[EncoderConfig, S2Encoder] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_encoder": None}  # each process makes its own

    @property
    def store(self) -> Path:
        """Folder of all stages."""
        return store_folder(self.config)

    def start_clock(self) -> None:
        """Forget the time spent."""
        self.seconds = {}

    def demonstrations(self, task: TaskConfig) -> Path:
        """The task's demonstrations, recorded if they are not there."""
        path = demonstrations_path(self.config, task)
        with locked(path.with_suffix("")):
            if not path.exists():
                self._describe(path.with_suffix(".json"), demonstrations_settings(task))
                with self._clock("demonstrations"):
                    self.collect(collect_config(self.config, task))
        return path

    def checkpoint(self, cell: Cell) -> Path:
        """The cell's trained policy, trained if it is not there."""
        dataset = self.demonstrations(cell.task)
        folder = self.store / "training" / training_key(cell)[:16]
        checkpoint = folder / "checkpoint"
        with locked(folder):
            if not checkpoint.exists():
                self._describe(folder / "settings.json", training_settings(cell))
                with self._clock("encoder"):
                    encoder = self._shared_encoder(cell.arm.encoder)
                with self._clock("training"):
                    train(self._train_config(cell, dataset, folder), encoder)
        return checkpoint

    def rollouts(self, cell: Cell, episodes: int) -> list[dict[str, Any]]:
        """The results documents of the first `episodes` evaluation seeds, run where they are not there."""
        folder = rollouts_folder(self.config, cell)
        first = self.config.first_seed
        with locked(folder):
            found = _finished(folder, first, first + episodes)
            missing = list(_gaps([span for span, _ in found], first, first + episodes))
            if missing:
                checkpoint = self.checkpoint(cell)
                self._describe(folder / "settings.json", rollouts_settings(cell))
            for start, stop in missing:
                part = folder / f"{start}-{stop - 1}"
                with self._clock("rollouts"):
                    self._evaluate(cell, checkpoint, part, range(start, stop))
                found.append(((start, stop), part))
        return [_clip(json.loads((part / "results.json").read_text()), *span) for span, part in sorted(found)]

    def film(self, cell: Cell, seeds: Sequence[int]) -> list[Path]:
        """Folders with the video of these initial states, and of those filmed for others."""
        folder = rollouts_folder(self.config, cell)
        with locked(folder):
            for seed in seeds:
                film = folder / f"film{seed}"
                if not (film / "results.json").exists():
                    checkpoint = self.checkpoint(cell)
                    with self._clock("rollouts"):
                        self._evaluate(cell, checkpoint, film, range(seed, seed + 1), videos=1)
            return sorted(path.parent for path in folder.glob("film*/results.json"))

    def _train_config(self, cell: Cell, dataset: Path, folder: Path) -> TrainConfig:
        arm = cell.arm
        return TrainConfig(
            dataset=str(dataset),
            output=str(folder),
            seed=cell.training_seed,
            device=self.config.device,
            num_demonstrations=None if cell.task.chooses else cell.task.demonstrations,
            **vars(cell.task.selection),
            cameras=cell.task.cameras,
            cache_dir=str(self.store / "feature_cache"),
            encoder=arm.encoder,
            readout=arm.readout.config,
            policy=arm.policy.config,
            training=arm.policy.training,
        )

    def _evaluate(self, cell: Cell, checkpoint: Path, output: Path, seeds: range, videos: int = 0) -> None:
        config = EvaluateConfig(
            checkpoint=str(checkpoint),
            episodes=len(seeds),
            first_seed=seeds.start,
            horizon=cell.task.horizon,
            videos=videos,
            output=str(output),
            device=self.config.device,
        )
        evaluate(config, self.make_vector_env, self.num_envs)

    def _shared_encoder(self, config: EncoderConfig) -> S2Encoder:
        """The encoder; neighbours in the grid share one, and there are never two in memory."""
        if self._encoder is None or self._encoder[0] != config:
            self._encoder = None
            self._encoder = config, S2Encoder(**asdict(config), device=resolve_device(self.config.device))
        return self._encoder[1]

    @contextmanager
    def _clock(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def _describe(self, path: Path, settings: dict[str, Any]) -> None:
        """Write down, for people, what the stage's key stands for."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(settings, indent=1).encode())


def store_folder(config: BenchmarkConfig) -> Path:
    """Folder of all stages."""
    return Path(config.store or config.output).resolve()


def demonstrations_path(config: BenchmarkConfig, task: TaskConfig) -> Path:
    """Where the task's demonstrations are, or will be."""
    return store_folder(config) / "demonstrations" / f"{task.task}-{demonstrations_key(task)[:16]}.hdf5"


def collect_config(config: BenchmarkConfig, task: TaskConfig) -> CollectConfig:
    """How the task's demonstrations are recorded."""
    return CollectConfig(**_collect_arguments(task), out=str(demonstrations_path(config, task)))


def rollouts_folder(config: BenchmarkConfig, cell: Cell) -> Path:
    """Where the cell's rollouts are, or will be, in one folder per range of evaluation seeds."""
    return store_folder(config) / "rollouts" / rollouts_key(cell)[:16]


def has_rollouts(config: BenchmarkConfig, cell: Cell, seeds: range) -> bool:
    """Whether the store holds the cell's episodes of all these evaluation seeds."""
    found = _finished(rollouts_folder(config, cell), seeds.start, seeds.stop)
    return not list(_gaps([span for span, _ in found], seeds.start, seeds.stop))


def demonstrations_settings(task: TaskConfig) -> dict[str, Any]:
    """What a file of demonstrations depends on, with the version of a package that brings the task or its expert."""
    settings: dict[str, Any] = {"version": _VERSION, "collect": _collect_arguments(task)}
    if packages := providers([(OUTSIDE_TASKS, task.task), (OUTSIDE_EXPERTS, task.task)]):
        settings["packages"] = packages
    return settings


def training_settings(cell: Cell) -> dict[str, Any]:
    """What a trained policy depends on."""
    arm = cell.arm
    return {
        "version": _VERSION,
        **({"packages": arm.packages} if arm.packages else {}),
        **({"selection": vars(cell.task.selection)} if cell.task.chooses else {}),
        "demonstrations": demonstrations_settings(cell.task),
        "encoder": encoder_settings(arm.encoder),
        "readout": arm.readout.config.identity(),
        "policy": arm.policy.config.identity(),
        "training": asdict(arm.policy.computed.training),
        "seed": cell.training_seed,
    }


def outcome_settings(cell: Cell) -> str:
    """Short hash of policy, readout and training: what the fingerprints of data, encoder and environment leave open."""
    settings = training_settings(cell)
    named = ("packages", "selection", "policy", "readout", "training")
    return hash_json({key: settings[key] for key in named if key in settings})[:16]


def rollouts_settings(cell: Cell) -> dict[str, Any]:
    """What an episode depends on, its seed apart."""
    return {"version": _VERSION, "horizon": cell.task.horizon, "policy": training_settings(cell)}


def demonstrations_key(task: TaskConfig) -> str:
    """Name of the task's demonstrations."""
    return hash_json(demonstrations_settings(task))


def training_key(cell: Cell) -> str:
    """Name of the cell's training."""
    return hash_json(training_settings(cell))


def rollouts_key(cell: Cell) -> str:
    """Name of the cell's rollouts."""
    return hash_json(rollouts_settings(cell))


def _collect_arguments(task: TaskConfig) -> dict[str, Any]:
    assert task.demonstrations is not None  # the benchmark's own fill both in
    assert task.size is not None
    return {
        "task": task.task,
        "num": task.demonstrations,
        "size": task.size,
        "cameras": task.cameras,
        "noise": task.noise,
        "seed": task.seed,
        "render_profile": task.render_profile,
        "horizon": task.horizon,
        "variant": task.variant,
    }


def _finished(folder: Path, first: int, stop: int) -> list[tuple[tuple[int, int], Path]]:
    """Ranges [start, stop) of seeds that are finished, as far as they are wanted and do not overlap, in order."""
    ranges = []
    for part in folder.glob("*-*"):
        if (part / "results.json").exists():
            low, high = map(int, part.name.split("-"))
            ranges.append(((low, high + 1), part))
    kept: list[tuple[tuple[int, int], Path]] = []
    for (low, high), part in sorted(ranges, key=lambda item: (item[0][0], -item[0][1])):
        low, high = max(low, kept[-1][0][1] if kept else first), min(high, stop)
        if low < high:
            kept.append(((low, high), part))
    return kept


def _clip(document: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """The results of those of its episodes whose seeds lie in [start, stop)."""
    wanted = [row for row in document["episode_results"] if start <= row["seed"] < stop]
    machines, rows = pool_machines([(document.get("machines", []), wanted)])
    ran = [row for row in rows if row.get("error") is None]
    return {
        **document,
        "episode_results": rows,
        "machines": machines,
        "successes": sum(row["success"] for row in ran),
        "episodes": len(ran),
        "seconds": document["seconds"] * len(rows) / len(document["episode_results"]),
    }


def _gaps(spans: list[tuple[int, int]], first: int, stop: int) -> Iterator[tuple[int, int]]:
    for low, high in [*spans, (stop, stop)]:
        if low > first:
            yield first, low
        first = high

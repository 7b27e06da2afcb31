"""What a benchmark would do: its cells, contrasts, cost, time, disk, and the difference it could detect."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from s2robot.benchmark.calibration import calibration_statements
from s2robot.benchmark.cells import Arm, Cell
from s2robot.benchmark.controls import PIXELS, encoder_cost
from s2robot.benchmark.grid import Grid, make_grid
from s2robot.benchmark.output import count_episodes
from s2robot.benchmark.selection import compared_pairs
from s2robot.config import BenchmarkConfig, EncoderConfig
from s2robot.encoder.cost import EncoderCost
from s2robot.interfaces import FeatureShape, resolve_device
from s2robot.statistics import detectable_paired_difference

# Simulator, per environment on one CPU core without a GPU (`python benchmarks/environments.py` prints yours).
STEP_SECONDS, FRAME_SECONDS = 0.010, 0.017
DEMONSTRATION_STEPS = 60  # assumed where the demonstrations are not recorded yet
BYTES_PER_PIXEL = 1.2  # of losslessly compressed camera images
SEED_STD = 0.05  # assumed standard deviation of a method's success rate between training seeds
_PROPRIOCEPTION, _ACTION = 9, 7


@dataclass(frozen=True)
class TaskFacts:
    """What the simulator knows of a task: steps until an episode ends, and the cameras it uses by default."""

    horizon: int
    cameras: tuple[str, ...]


@dataclass(frozen=True)
class Speeds:
    """Seconds per multiply-accumulate [10⁹], and per training step of each arm."""

    per_gmac: float
    training_step: dict[str, float]


def describe(
    config: BenchmarkConfig, task_facts: Callable[[str], TaskFacts], num_envs: int, grid: Grid | None = None
) -> str:
    """The dry run: everything that can be said beforehand, as text; trains and simulates nothing.

    The time of encoder and training comes from a calibration of a few seconds with random weights on this machine, that
    of the simulator from constants; the text says so.

    Args:
        config: benchmark settings.
        task_facts: what the simulator knows of a task.
        num_envs: number of parallel environments.
        grid: result of `make_grid(config)`; None computes it here.

    Raises:
        ConfigError, EncoderError: the benchmark could not run.
    """
    grid = grid or make_grid(config)
    cells, arms = grid.cells, grid.arms
    costs = {arm.key: encoder_cost(arm.encoder) for arm in arms}
    facts = {task.task: task_facts(task.task) for task in config.task_list}
    output = Path(config.output)
    left = [cell for cell in cells if count_episodes(output, cell, config.first_seed) < config.episodes]
    lines = [f"{len(cells)} cells, {len(left)} of them to run:", "", *_cell_table(cells, costs), ""]
    lines += [*_contrasts(config, grid), ""]
    lines += [*_matching(config, arms, costs), *_time(config, left, costs, facts, num_envs), ""]
    lines += [*_disk(config, cells, costs, facts), "", *_power(config), ""]
    lines += calibration_statements(config, arms)
    return "\n".join(lines)


def power_sentence(episodes: int, training_seeds: int, rate: float) -> str:
    """What a number of rollouts can tell apart by the two tests of the report, in one sentence.

    >>> power_sentence(200, 3, 0.8)
    '200 rollouts × 3 seeds tell 80% from 94% apart with 80% power'
    """
    seed_std = SEED_STD if training_seeds > 1 else 0.0
    higher = rate + detectable_paired_difference(rate, episodes, training_seeds, seed_std)
    seeds = f"{training_seeds} seed{'s' if training_seeds > 1 else ''}"
    if higher > 1:
        return f"{episodes} rollouts × {seeds} tell {rate:.0%} apart from no higher rate with 80% power"
    return f"{episodes} rollouts × {seeds} tell {rate:.0%} from {higher:.0%} apart with 80% power"


def _cell_table(cells: Sequence[Cell], costs: dict[str, EncoderCost]) -> list[str]:
    width = max(len(cell.name) for cell in cells)
    lines = [f"{'':>4}  {'cell':{width}}  {'GMACs/frame':>11}  {'parameters':>10}"]
    for number, cell in enumerate(cells):
        cost = costs[cell.arm.key]
        lines.append(f"{number:>4}  {cell.name:{width}}  {cost.gmacs:11.2f}  {cost.parameters / 1e6:8.1f} M")
    return lines


def _contrasts(config: BenchmarkConfig, grid: Grid) -> list[str]:
    """The planned contrasts, and how many pairs of arms they compare: Holm's correction is for so many."""
    contrasts = grid.contrasts
    first = [cell for cell in grid.cells if cell.training_seed == config.training_seeds[0]]
    comparisons = sum(len(compared_pairs(contrast, first)) for contrast in contrasts)
    counted = "" if comparisons == len(contrasts) else f", {comparisons} comparisons (Holm's correction is for as many)"
    return [f"{len(contrasts)} planned contrasts{counted}:", *(f"  {contrast.name}" for contrast in contrasts)]


def _matching(config: BenchmarkConfig, arms: Sequence[Arm], costs: dict[str, EncoderCost]) -> list[str]:
    """How closely the larger backbones match the compute they are held against."""
    lines = []
    larger = [arm for arm in arms if arm.control_of and arm.encoder.backbone != PIXELS]
    for control, arm in itertools.product(larger if "larger_backbone" in config.controls else (), arms):
        same_head = (arm.readout, arm.policy) == (control.readout, control.policy)
        same_backbone = arm.encoder.backbone == control.encoder.backbone
        if arm.encoder_key in control.control_of and same_head and not same_backbone:
            ratio = costs[control.key].gmacs / costs[arm.key].gmacs
            lines.append(f"{control.label} has {ratio:.2f} times the GMACs of {arm.label}")
    return [*dict.fromkeys(lines), ""] if lines else []


def _time(
    config: BenchmarkConfig,
    cells: Sequence[Cell],
    costs: dict[str, EncoderCost],
    facts: dict[str, TaskFacts],
    num_envs: int,
) -> list[str]:
    if not cells:
        return ["time: nothing is left to run"]
    speeds = _calibrate(config, cells, costs)
    seconds = dict.fromkeys(("collecting", "encoding", "training", "rollouts"), 0.0)
    collected, encoded = set(), set()
    for cell in cells:
        task, arm = cell.task, cell.arm
        cameras = len(task.cameras or facts[task.task].cameras)
        frames = (task.demonstrations or 0) * DEMONSTRATION_STEPS
        frame = costs[arm.key].gmacs * speeds.per_gmac * cameras  # all cameras of one step
        if task.label not in collected:
            seconds["collecting"] += frames * (STEP_SECONDS + cameras * FRAME_SECONDS) / num_envs
        if (task.label, arm.encoder_key) not in encoded:
            seconds["encoding"] += 0 if arm.encoder.backbone == PIXELS else frames * frame  # cached as they are
        collected.add(task.label)
        encoded.add((task.label, arm.encoder_key))
        training = arm.policy.training
        steps = training.epochs * -(-round(frames * (1 - training.validation_fraction)) // training.batch_size)
        seconds["training"] += steps * speeds.training_step[arm.key]
        policy, horizon = arm.policy.config, task.horizon or facts[task.task].horizon
        looks = horizon / policy.execute_steps * policy.observation_steps
        simulated = (horizon * STEP_SECONDS + looks * cameras * FRAME_SECONDS) / num_envs
        seconds["rollouts"] += config.episodes * (simulated + looks * frame)
    parts = ", ".join(f"{name} {_duration(value)}" for name, value in seconds.items())
    return [
        f"estimated time, one cell after the other: {_duration(sum(seconds.values()))} ({parts})",
        f"  measured now: {1000 * speeds.per_gmac:.1f} ms per GMAC, a training step of each arm (random weights, "
        f"device={config.device}); constants: {1000 * STEP_SECONDS:.0f} ms per simulated step, "
        f"{1000 * FRAME_SECONDS:.0f} ms per frame, {DEMONSTRATION_STEPS} steps per demonstration, {num_envs} "
        "environments side by side; every episode is taken to last to its horizon, so rollouts take at most this",
    ]


def _calibrate(config: BenchmarkConfig, cells: Sequence[Cell], costs: dict[str, EncoderCost]) -> Speeds:
    """Time the cheapest encoder on a few frames, and a training step of every arm on random features."""
    arms = {cell.arm.key: cell.arm for cell in cells}
    # What `pixels` cost is the policy's network, which encoding does not run.
    priced = [arm for arm in arms.values() if costs[arm.key].gmacs > 0 and arm.encoder.backbone != PIXELS]
    per_gmac = 0.0
    if priced:
        cheapest = min(priced, key=lambda arm: costs[arm.key].gmacs)
        per_gmac = _seconds_per_frame(cheapest.encoder, config.device) / costs[cheapest.key].gmacs
    known: dict[str, float] = {}
    steps = {}
    for key, arm in arms.items():
        shape = costs[key].shape
        alike = repr([arm.policy, arm.readout, shape])
        if alike not in known:
            known[alike] = _seconds_per_step(arm, shape, config.device)
        steps[key] = known[alike]
    return Speeds(per_gmac, steps)


def _seconds_per_frame(encoder: EncoderConfig, device: str, frames: int = 4) -> float:
    import torch

    from s2robot.encoder import S2Encoder

    logger = logging.getLogger("s2robot.backbones.loading")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that the weights are random matters to nobody here
    try:
        made = S2Encoder(**asdict(replace(encoder, weights="none")), device=resolve_device(device))
    finally:
        logger.setLevel(level)
    side = max(max(scale) if isinstance(scale, tuple) else scale for scale in made.scales)
    images = torch.zeros((frames, side, side, 3), dtype=torch.uint8)
    return _median_seconds(lambda: made(images).map.sum().item()) / frames


def _seconds_per_step(arm: Arm, shape: FeatureShape, device_name: str) -> float:
    """One step of the optimiser on random features of one camera."""
    import torch

    from s2robot.interfaces import Batch, Observation, PolicySpec
    from s2robot.policies import make_policy

    device, policy_config = resolve_device(device_name), arm.policy.config
    policy = make_policy(policy_config, arm.readout.config, PolicySpec({"camera": shape}, _PROPRIOCEPTION, _ACTION))
    rows, history = torch.rand(100, _ACTION).numpy(), policy_config.observation_steps
    policy.fit_normalization([rows], [torch.rand(100, _PROPRIOCEPTION).numpy()])
    if not policy.trainable:
        return 0.0  # it sees each window once, which takes no longer than to read it
    policy.to(device).train()
    optimizer = torch.optim.AdamW(policy.parameters())
    size = arm.policy.training.batch_size
    observation = Observation(
        {"camera": torch.rand(size, history, shape.numel).half()},
        torch.rand(size, history, _PROPRIOCEPTION),
        torch.rand(size, history, _ACTION),
    )
    batch = Batch(observation, torch.rand(size, policy_config.action_steps, _ACTION)).to(device)

    def step() -> None:
        optimizer.zero_grad()
        loss = policy.loss(batch)
        loss.backward()
        optimizer.step()
        loss.item()

    return _median_seconds(step)


def _median_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats + 1):  # the first warms up
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]


def _disk(
    config: BenchmarkConfig, cells: Sequence[Cell], costs: dict[str, EncoderCost], facts: dict[str, TaskFacts]
) -> list[str]:
    demonstrations, cache = {}, {}
    for cell in cells:
        task = cell.task
        frames = (task.demonstrations or 0) * DEMONSTRATION_STEPS * len(task.cameras or facts[task.task].cameras)
        demonstrations[task.label] = frames * (task.size or 0) ** 2 * BYTES_PER_PIXEL
        cache[task.label, cell.arm.encoder_key] = frames * costs[cell.arm.key].bytes_per_frame
    return [
        f"disk: demonstrations {_bytes(sum(demonstrations.values()))}, feature cache {_bytes(sum(cache.values()))} "
        f"(at {DEMONSTRATION_STEPS} steps per demonstration), and what the checkpoints take"
    ]


def _power(config: BenchmarkConfig) -> list[str]:
    episodes, seeds = config.episodes, len(config.training_seeds)
    lines = ["detectable difference:"] + [f"  {power_sentence(episodes, seeds, rate)}" for rate in (0.5, 0.8)]
    assumed = (
        "for one contrast at 5% by both tests of the report, before Holm's correction; "
        f"{100 * SEED_STD:.0f} points of standard deviation between training seeds (assumed), and nothing gained from "
        "shared initial states"
    )
    if seeds == 1:
        assumed = "of two trained policies: one training seed says nothing about training again"
    return [*lines, f"  ({assumed})"]


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _bytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"

"""Speed of the environments (single and vectorised, full and fast) compared with robosuite's own GymWrapper.

Run: python benchmarks/environments.py [--task Lift] [--size 224] [--seconds 3] [--rounds 3]
Prints a Markdown table of medians over the rounds, with smallest and largest values; about four minutes on two cores.

In each round every row is measured once, in a new process, with two cameras, so that other load on the machine affects
all rows alike. A measurement takes as many steps as fit into the given time, after a warm-up in which libraries load
and compile. A step is one action (1/20 s of simulated time), a frame is one rendered image.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from s2robot_envs import TASKS, make_env, make_vector_env
from s2robot_envs.vector import default_num_envs

WARM_UP = 3  # steps before the clock starts: the first frame starts OpenGL, the first step loads compiled code
LONG = 100_000  # horizon in steps, so that no episode ends while it is measured


@dataclass(frozen=True)
class Speed:
    """Seconds per reset of all environments together, environment steps per second, and rendered frames per second."""

    reset: float
    steps: float
    frames: float


def time_steps(step: Callable[[], object], seconds: float) -> float:
    """Return calls per second, over at least `seconds` and 5 calls after the warm-up."""
    for _ in range(WARM_UP):
        step()
    start, calls = time.perf_counter(), 0
    while calls < 5 or time.perf_counter() - start < seconds:
        step()
        calls += 1
    return calls / (time.perf_counter() - start)


def time_resets(reset: Callable[[int], object]) -> float:
    """Return the seconds of the faster of two resets, after a first one."""
    reset(0)
    times = []
    for seed in (1, 2):
        start = time.perf_counter()
        reset(seed)
        times.append(time.perf_counter() - start)
    return min(times)


def gym_wrapper(task: str, size: int, seconds: float) -> Speed:
    """Measure robosuite's GymWrapper with its defaults: hard resets, its own renderer."""
    import robosuite
    from robosuite.wrappers import GymWrapper

    cameras = list(TASKS[task].cameras[:2])
    env = GymWrapper(
        robosuite.make(
            task,
            robots=["Panda"] * TASKS[task].num_robots,
            has_renderer=False,
            has_offscreen_renderer=True,
            use_camera_obs=True,
            camera_names=cameras,
            camera_heights=size,
            camera_widths=size,
            horizon=LONG,
        ),
        keys=[f"{camera}_image" for camera in cameras],
    )
    reset = time_resets(lambda seed: env.reset(seed=seed))
    rng = np.random.default_rng(0)
    rate = time_steps(lambda: env.step(rng.uniform(-1, 1, env.action_space.shape)), seconds)
    # Check that there are two frames of the requested size, else the rate would be of something else.
    assert env._get_observations()[f"{cameras[1]}_image"].shape == (size, size, 3)
    return Speed(reset, rate, 2 * rate)


def single(task: str, size: int, seconds: float, profile: str) -> Speed:
    """Measure one environment in this process."""
    env = make_env(task, cameras=TASKS[task].cameras[:2], image_size=size, render_profile=profile, horizon=LONG)
    reset = time_resets(lambda seed: env.reset(seed=seed))
    rng = np.random.default_rng(0)
    rate = time_steps(lambda: env.step(rng.uniform(-1, 1, env.action_space.shape)), seconds)
    env.close()
    return Speed(reset, rate, 2 * rate)


def vectorised(task: str, size: int, seconds: float, profile: str, num_envs: int, action_steps: int) -> Speed:
    """Measure one process per environment, each executing chunks of `action_steps` actions."""
    envs = make_vector_env(
        task,
        num_envs,
        cameras=TASKS[task].cameras[:2],
        image_size=size,
        render_profile=profile,
        horizon=LONG,
        action_steps=action_steps,
    )
    seeds = np.arange(num_envs)
    reset = time_resets(lambda seed: envs.reset(seed=(seeds + seed * num_envs).tolist()))
    rng = np.random.default_rng(0)
    executed = []

    def step() -> None:
        info = envs.step(rng.uniform(-1, 1, envs.action_space.shape))[-1]
        executed.append(info["steps"].sum())

    rate = time_steps(step, seconds)
    envs.close()
    if set(executed) != {num_envs * action_steps}:  # an idle environment would look infinitely fast
        raise RuntimeError(f"some environment was idle: {executed}")
    return Speed(reset, num_envs * action_steps * rate, num_envs * 2 * rate)


def in_own_process(measure: Callable[..., Speed], *arguments: object) -> Speed:
    """Call `measure` in a new process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, measure, arguments))
    process.start()
    sender.close()
    speed = receiver.recv()
    process.join()
    return speed


def _send(sender: multiprocessing.connection.Connection, measure: Callable[..., Speed], arguments: tuple) -> None:
    sender.send(measure(*arguments))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="Lift", choices=sorted(TASKS))
    parser.add_argument("--size", type=int, default=224, help="pixels per side of both cameras")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each row and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    common = options.task, options.size, options.seconds
    num_envs = default_num_envs()
    rows = {
        "robosuite GymWrapper": (gym_wrapper, ()),
        "ours, full": (single, ("full",)),
        "ours, fast": (single, ("fast",)),
        f"ours, full, {num_envs} processes": (vectorised, ("full", num_envs, 1)),
        f"ours, fast, {num_envs} processes": (vectorised, ("fast", num_envs, 1)),
        f"ours, fast, {num_envs} processes, chunks of 8 actions": (vectorised, ("fast", num_envs, 8)),
    }
    speeds: dict[str, list[Speed]] = {name: [] for name in rows}
    for round_ in tqdm(range(options.rounds), "rounds"):
        # The order changes in every round, so that no row is always the first or always follows the same row.
        names = list(rows)[round_ % len(rows) :] + list(rows)[: round_ % len(rows)]
        for name in tqdm(names, leave=False):
            measure, arguments = rows[name]
            speeds[name].append(in_own_process(measure, *common, *arguments))
    print(
        f"{options.task}, two cameras at {options.size} pixels, {num_envs} cores, {options.rounds} rounds of ", end=""
    )
    print(f"{options.seconds:g} s: median (smallest to largest)\n")
    print("| environment | reset [s] | steps/s | frames/s | steps/s against GymWrapper, same round |")
    print("|---|---|---|---|---|")
    baseline = [speed.steps for speed in speeds["robosuite GymWrapper"]]
    for name, rounds in speeds.items():
        columns = [
            spread([speed.reset for speed in rounds], 3),
            spread([speed.steps for speed in rounds], 1),
            spread([speed.frames for speed in rounds], 1),
            spread([speed.steps / base for speed, base in zip(rounds, baseline, strict=True)], 1, "x"),
        ]
        print(f"| {name} | {' | '.join(columns)} |")


def spread(values: list[float], digits: int, unit: str = "") -> str:
    """Return the median and the range over the rounds."""
    return f"{np.median(values):.{digits}f}{unit} ({min(values):.{digits}f} to {max(values):.{digits}f})"


if __name__ == "__main__":
    main()

"""Speed of the environments, single and vectorised, full and fast, against robosuite's own GymWrapper.

Run: python benchmarks/environments.py [--task Lift] [--size 224] [--steps 100]
Prints a Markdown table; a minute or two. Every row is measured in a process of its own, one after the other, with
two cameras. A step is one action (1/20 s of simulated time); a frame is one rendered image.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from s2robot_envs import TASKS, make_env, make_vector_env
from s2robot_envs.vector import default_num_envs

WARM_UP = 3  # steps before the clock starts: the first frame starts OpenGL, the first step loads compiled code


@dataclass(frozen=True)
class Speed:
    """Seconds per reset (all environments together), environment steps per second, rendered frames per second."""

    reset: float
    steps: float
    frames: float


def time_steps(step: Callable[[], object], repeats: int) -> float:
    """Seconds of `repeats` steps after the warm-up."""
    for _ in range(WARM_UP):
        step()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return time.perf_counter() - start


def gym_wrapper(task: str, size: int, steps: int) -> Speed:
    """The GymWrapper of robosuite with its defaults: hard resets, its own renderer."""
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
        ),
        keys=[f"{camera}_image" for camera in cameras],
    )
    env.reset()
    start = time.perf_counter()
    env.reset()
    reset = time.perf_counter() - start
    rng = np.random.default_rng(0)
    seconds = time_steps(lambda: env.step(rng.uniform(-1, 1, env.action_space.shape)), steps)
    return Speed(reset, steps / seconds, 2 * steps / seconds)


def single(task: str, size: int, steps: int, profile: str) -> Speed:
    """One environment in this process."""
    horizon = steps + WARM_UP
    env = make_env(task, cameras=TASKS[task].cameras[:2], image_size=size, render_profile=profile, horizon=horizon)
    env.reset(seed=0)
    start = time.perf_counter()
    env.reset(seed=1)
    reset = time.perf_counter() - start
    rng = np.random.default_rng(0)
    seconds = time_steps(lambda: env.step(rng.uniform(-1, 1, env.action_space.shape)), steps)
    env.close()
    return Speed(reset, steps / seconds, 2 * steps / seconds)


def vectorised(task: str, size: int, steps: int, profile: str, num_envs: int, action_steps: int) -> Speed:
    """One process per environment; every environment makes `steps` steps, in chunks of `action_steps`."""
    chunks = -(-steps // action_steps)
    envs = make_vector_env(
        task,
        num_envs,
        cameras=TASKS[task].cameras[:2],
        image_size=size,
        render_profile=profile,
        horizon=(chunks + WARM_UP) * action_steps,
        action_steps=action_steps,
    )
    envs.reset(seed=list(range(num_envs)))
    start = time.perf_counter()
    envs.reset(seed=list(range(num_envs, 2 * num_envs)))
    reset = time.perf_counter() - start
    rng = np.random.default_rng(0)
    seconds = time_steps(lambda: envs.step(rng.uniform(-1, 1, envs.action_space.shape)), chunks)
    envs.close()
    return Speed(reset, num_envs * chunks * action_steps / seconds, num_envs * 2 * chunks / seconds)


def in_own_process(measure: Callable[..., Speed], *arguments: object) -> Speed:
    """Call `measure` in a fresh process."""
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
    parser.add_argument("--steps", type=int, default=100, help="measured steps per environment")
    options = parser.parse_args()
    common = options.task, options.size, options.steps
    num_envs = default_num_envs()
    rows = [
        ("robosuite GymWrapper", gym_wrapper, ()),
        ("ours, full", single, ("full",)),
        ("ours, fast", single, ("fast",)),
        (f"ours, full, {num_envs} processes", vectorised, ("full", num_envs, 1)),
        (f"ours, fast, {num_envs} processes", vectorised, ("fast", num_envs, 1)),
        (f"ours, fast, {num_envs} processes, chunks of 8 actions", vectorised, ("fast", num_envs, 8)),
    ]
    print(f"{options.task}, two cameras at {options.size} pixels, {num_envs} cores\n")
    print("| environment | reset [s] | steps/s | frames/s | steps/s against GymWrapper |")
    print("|---|---|---|---|---|")
    baseline = None
    for name, measure, arguments in rows:
        speed = in_own_process(measure, *common, *arguments)
        baseline = baseline or speed.steps
        ratio = f"{speed.steps / baseline:.1f}x"
        print(f"| {name} | {speed.reset:.3f} | {speed.steps:.1f} | {speed.frames:.1f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()

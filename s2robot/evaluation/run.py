"""Evaluate a checkpoint: run the remaining seeds, run a few again to film them, write `results.json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from tqdm import tqdm

from s2robot.checkpoint import Checkpoint, load_policy, package_versions, packages_of, require_task
from s2robot.config import EVALUATION_SEED, EvaluateConfig, require
from s2robot.config.environment import NO_TASK
from s2robot.data.appearance import evaluation_environment
from s2robot.encoder import S2Encoder
from s2robot.evaluation.log import EpisodeLog
from s2robot.evaluation.results import RESULTS_SCHEMA, hash_json, make_results
from s2robot.evaluation.tasks import choose_tasks, describe_task, folder_of, summarise
from s2robot.evaluation.videos import choose_seeds, compare, write_video
from s2robot.interfaces import CheckpointError, RolloutError, resolve_device
from s2robot.policies import Policy
from s2robot.rollout import Actor, EpisodeFilm, EpisodeResult, rollout
from s2robot.system.files import locked, write_durably
from s2robot.system.machine import Machine, machine_facts, mixed_machines
from s2robot.system.registry import OUTSIDE_TASKS

__all__ = ["RESULTS_SCHEMA", "MakeVectorEnv", "evaluate"]

_HOPELESS = 10
"""If this many episodes end in an error before any has run, the evaluation stops: none of the others would run."""

MakeVectorEnv = Callable[..., VectorEnv]
"""`make_vector_env(task=…, num_envs=…, observation_steps=…, action_steps=…, on_failure="replace", timeout=…,
**environment)`, without autoreset; a failed environment is replaced and reported in `info["error"]`."""

RunSeeds = Callable[..., Iterator[tuple[EpisodeResult, EpisodeFilm | None]]]


def evaluate(config: EvaluateConfig, make_vector_env: MakeVectorEnv, num_envs: int) -> dict[str, Any]:
    """Roll a checkpoint out over held-out seeds, write `results.json` and videos, and return the results.

    - Episodes are appended to `episodes.jsonl` as they end. An evaluation that is started again, also with more
      episodes, runs only those that are missing or that ended in an error.
    - On one machine an episode depends on its seed alone, so an interrupted evaluation gives the same results as an
      uninterrupted one. On another kind of machine it continues, prints a line, and names both machines in the results.
    - Videos are made afterwards, by running the chosen seeds again.

    Args:
        config: settings of the evaluation.
        make_vector_env: function that makes the environments.
        num_envs: number of environments that run at the same time.

    Raises:
        CheckpointError: the checkpoint is damaged, or records no environment.
        RolloutError: the environment does not fit the policy, or no episode could be run.
    """
    device = resolve_device(config.device)
    loaded = load_policy(config.checkpoint, device, config.engine, tells_task=True)
    policy, encoder, checkpoint = loaded
    chosen = choose_tasks(checkpoint, config.task_text)
    if not chosen:
        return _evaluate(config, loaded, device, make_vector_env, num_envs)
    output, documents = Path(config.output or Path(config.checkpoint).parent), []
    for task in chosen:
        one = replace(checkpoint, environment=checkpoint.tasks[task]["environment"])
        folder = folder_of(output, checkpoint, task)
        print(f"task {checkpoint.spec.tasks[task]!r}: {folder}", file=sys.stderr)
        alone = replace(config, output=str(folder))
        documents.append((folder, _evaluate(alone, (policy, encoder, one), device, make_vector_env, num_envs, task)))
    results = summarise(output, documents)
    write_durably(output / "results.json", json.dumps(results, indent=1).encode())
    return results


def _evaluate(
    config: EvaluateConfig,
    loaded: tuple[Policy, S2Encoder, Checkpoint],
    device: torch.device,
    make_vector_env: MakeVectorEnv,
    num_envs: int,
    task: int | None = None,
) -> dict[str, Any]:
    """Evaluate one task; `task` is its index for a policy that is told it."""
    policy, encoder, checkpoint = loaded
    recorded = (Path(config.checkpoint) / "config.json").read_text()  # with the hash of the weights
    weights = json.loads(recorded)["sha256"]
    environment, mismatch = evaluation_environment(
        _environment(config, checkpoint),
        render_profile=config.render_profile,
        variant=config.variant,
        allow_mismatch=config.allow_mismatch,
    )
    if config.horizon is not None:
        environment["horizon"] = config.horizon
    actor = Actor(policy, encoder, checkpoint, device, config.execute_steps, config.temporal_ensemble, task)
    run = _make_run(config, actor, checkpoint, environment, make_vector_env, num_envs)
    # On a GPU, rounding depends on the batch size, so num_envs is part of what determines an episode.
    together = None if device.type == "cpu" else num_envs
    acting = (str(device), together, config.engine, actor.execute_steps, config.temporal_ensemble)
    trained, simulator = checkpoint.config, (OUTSIDE_TASKS, environment["task"])
    versions = package_versions() | packages_of(trained.policy, trained.readout, simulator)
    told = [] if task is None else [checkpoint.spec.tasks[task]]
    identity = hash_json([recorded, environment, versions, acting, *told])
    machine = {**machine_facts(device), "engine": config.engine or checkpoint.config.encoder.engine}

    output = Path(config.output or Path(config.checkpoint).parent)
    with locked(output / ".evaluation"):
        start = time.perf_counter()
        log = EpisodeLog(output / "episodes.jsonl", identity, machine)
        episodes = _run_episodes(log, actor, config, run, start)
        results = make_results(config, checkpoint, environment, encoder, episodes, log.machines, weights)
        for text in told:
            results |= describe_task(results, text)
        chosen = choose_seeds(episodes, config.videos)
        _film(log, output, [seed for seed in chosen if seed not in log.filmed()], run, start)
        filmed = log.filmed() & set(chosen)
        latency = log.times.summary()
        results |= {
            "mismatch": mismatch,
            "seconds": round(log.seconds, 1),
            "latency_ms": latency and latency["median_ms"],
            "latency": latency,
            "videos": [video for video in log.videos if video["seed"] in filmed],
            "warnings": [
                *_seed_warnings(config.first_seed),
                *mixed_machines(results["machines"]),
                *(warning for seed, warning in log.warnings.items() if seed in chosen),
            ],
            "notes": list(_renderer_notes(checkpoint.renderers, results["machines"])),
        }
        write_durably(output / "results.json", json.dumps(results, indent=1).encode())
    return results


def _environment(config: EvaluateConfig, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the environment that the checkpoint records, or that the settings name if it records none."""
    recorded = checkpoint.environment
    config.require_task()
    if "task" in recorded:
        require_task(checkpoint, config.task)
        for name, value in config.environment([]).items():
            require(
                name in ("task", "render_profile", "variant", "proprioception"),
                name,
                value,
                f"nothing, because the checkpoint records its environment, {recorded['task']}",
            )
        return recorded
    if config.task in (None, NO_TASK):
        raise CheckpointError(
            f"checkpoint {config.checkpoint!r} records no environment, because its dataset had no task; "
            "to run it on a robot, use `s2robot serve` or `s2robot export`; to evaluate it in simulation, name an "
            "environment, such as task=Lift or task=gym:<id>"
        )
    return {**config.environment(checkpoint.proprioception), **recorded}


def _seed_warnings(first_seed: int) -> list[str]:
    if first_seed >= EVALUATION_SEED:
        return []
    return [f"seeds below {EVALUATION_SEED} may be those of demonstrations, and so not unseen: first_seed={first_seed}"]


def _renderer_notes(trained_on: Sequence[str], machines: Sequence[Machine]) -> Iterator[str]:
    """Yield a note if the demonstrations and the rollouts were rendered by different renderers."""
    here = sorted({machine["renderer"] for machine in machines if machine["renderer"] is not None})
    if trained_on and here and here != sorted(trained_on):
        yield (
            f"the pictures of the demonstrations were rendered by {' and '.join(trained_on)}, those of the rollouts by "
            f"{' and '.join(here)}: they may differ, mostly by up to 2 of 255"
        )


def _make_run(
    config: EvaluateConfig,
    actor: Actor,
    checkpoint: Checkpoint,
    environment: dict[str, Any],
    make_vector_env: MakeVectorEnv,
    num_envs: int,
) -> RunSeeds:
    """Return `run(seeds, film=False)`, which makes the environments, runs the seeds and closes the environments."""

    def run(seeds: Sequence[int], film: bool = False) -> Iterator[tuple[EpisodeResult, EpisodeFilm | None]]:
        if not seeds:
            return
        envs = make_vector_env(
            num_envs=min(num_envs, len(seeds)),
            observation_steps=checkpoint.config.policy.observation_steps,
            action_steps=actor.execute_steps,
            on_failure="replace",
            timeout=config.step_timeout,
            **environment,
        )
        try:
            yield from rollout(actor, envs, seeds, film=seeds if film else ())
        finally:
            envs.close()

    return run


def _run_episodes(
    log: EpisodeLog, actor: Actor, config: EvaluateConfig, run: RunSeeds, start: float
) -> list[EpisodeResult]:
    """Run the remaining seeds, log each episode as it ends, and return all episodes that the settings request."""
    seeds = range(config.first_seed, config.first_seed + config.episodes)
    left = log.missing(seeds)
    if len(left) < len(seeds):
        print(f"{len(seeds) - len(left)} of {len(seeds)} episodes were run before: {log.path}", file=sys.stderr)
    if left and (moved := log.moved(seeds)):
        print(
            f"some of them ran on another kind of machine ({moved}): rounding may make the remaining episodes end "
            "differently here; the results name both machines",
            file=sys.stderr,
        )
    successes = errors = 0
    with tqdm(total=len(seeds), initial=len(seeds) - len(left), unit="episode", desc="rollouts") as bar:
        for count, (result, _) in enumerate(run(left), 1):
            log.add(result, actor.times.drain(), time.perf_counter() - start)
            successes += result.success
            if result.error is not None:
                errors += 1
                bar.write(
                    f"seed {result.seed} is not counted, because its simulator failed twice: {result.error}",
                    file=sys.stderr,
                )
            if errors == count >= _HOPELESS:
                raise RolloutError(f"the simulator failed in each of the first {errors} episodes: {result.error}")
            failed = {"errors": errors} if errors else {}
            bar.set_postfix(success=f"{successes}/{count - errors}", **failed)
            bar.update()
    return [log.episodes[seed] for seed in seeds]


def _film(log: EpisodeLog, output: Path, seeds: Sequence[int], run: RunSeeds, start: float) -> None:
    """Run the seeds again to film them, and check that they end as before."""
    for result, recording in tqdm(
        run(seeds, film=True), total=len(seeds), unit="video", desc="videos", disable=not seeds
    ):
        video = write_video(output, recording) if recording is not None else None
        warning = compare(log.episodes[result.seed], result)
        if warning is not None:
            tqdm.write(f"warning: {warning}", file=sys.stderr)
        log.add_video(result.seed, video, warning, time.perf_counter() - start)

"""Recording and re-rendering demonstrations: where datasets meet the simulator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from s2robot.cli.recorded import (
    rebuilding_settings,
    recorded_task,
    require_recorded_environment,
    with_control_frequency,
)
from s2robot.config import CollectConfig, RenderConfig
from s2robot.data.appearance import ATTRIBUTE as LOOK
from s2robot.data.appearance import look_of
from s2robot.data.base import RENDERER
from s2robot.data.horizon import horizon_of
from s2robot.interfaces import DatasetError, Episode
from s2robot_envs import collect as collect_episodes


def collect_demonstrations(config: CollectConfig) -> None:
    """Record `config.num` demonstrations in `config.out`; an existing file with the same settings is kept.

    Raises:
        DatasetError: the file exists with other settings and `overwrite` is off.
        S2RobotEnvError: unknown task or camera, or the simulator failed.
    """
    from s2robot.data import RobomimicWriter, open_dataset
    from s2robot_envs import make_env
    from s2robot_envs.collection import packages
    from s2robot_envs.recorded import ROBOSUITE, differences
    from s2robot_envs.settings import ROBOSUITE_SETTINGS

    path = Path(config.out)
    kwargs: dict[str, Any] = {
        "cameras": config.cameras,
        "image_size": config.size,
        "render_profile": config.render_profile,
        "horizon": config.horizon,
        "variant": config.variant,
        "gym": config.gym,
        **{name: value for name in ROBOSUITE_SETTINGS if (value := getattr(config, name)) is not None},
    }
    # Made once here for its description, so that impossible settings are an error before the file is opened.
    env: Any = make_env(config.task, **kwargs)
    recorded_as: dict[str, Any] = {"seed": config.seed, "noise": config.noise, "num": config.num}
    if config.expert is not None:
        recorded_as["expert"] = config.expert
    env_args, fps = {**env.env_args(), "collection": recorded_as}, env.metadata.get("render_fps")
    env.close()
    added = packages(config.task, config.expert)
    if added:
        env_args["packages"] = added
    if path.exists() and not config.overwrite:
        with open_dataset(path) as dataset:
            same = all(dataset.env_args.get(key) == env_args[key] for key in ("s2robot", "collection"))
            same = same and not (env_args.get("type") == ROBOSUITE and differences(dataset.env_args, env_args))
        if not same:
            raise DatasetError(
                f"{config.out!r} holds demonstrations recorded with other settings; give overwrite=true or another out"
            )
        print(f"{path} already holds the {config.num} demonstrations of {config.task}")
        return
    with (
        RobomimicWriter(path, env_args, fps=fps) as writer,
        tqdm(total=config.num, unit="demo", desc="collecting") as bar,
    ):
        bar.update(writer.count)  # demonstrations that an interrupted run already recorded
        episodes = collect_episodes(
            config.task,
            config.num - writer.count,
            seed=config.seed,
            noise=config.noise,
            workers=config.workers,
            first_attempt=writer.attributes.get("attempts", 0),
            expert=config.expert,
            env_kwargs=kwargs,
        )
        for recorded in episodes:
            writer.add(_episode(recorded, look_of(env_args["s2robot"])))
            bar.update()
    print(f"{config.num} demonstrations of {config.task} ({writer.attributes['attempts']} attempts): {path}")


def render_demonstrations(config: RenderConfig) -> None:
    """Render the states recorded in `config.dataset` into `config.out`, and print where the replay drifts.

    Raises:
        DatasetError: `out` exists and `overwrite` is off, the dataset records no environment or no states, or the
            environment made here is not the recorded one.
        S2RobotEnvError: the task or a camera is unknown, the recording is of another robot or scene, or the simulator
            failed.
    """
    from s2robot.data import open_dataset
    from s2robot.data.rerender import described, recorded_states, render_dataset
    from s2robot.data.selection import select_episodes
    from s2robot_envs import make_env
    from s2robot_envs.recorded import recorded_controllers
    from s2robot_envs.replay import RecordedEpisode, replay

    if Path(config.out).exists() and not config.overwrite:
        raise DatasetError(f"{config.out!r} exists; give overwrite=true or another out")
    with open_dataset(config.dataset) as dataset:
        chosen = select_episodes(dataset, config.selection)
        lengths = [dataset.lengths[index] for index in chosen]
        env_args = with_control_frequency(dataset)
        recorded = env_args.get("s2robot", {})
        task = config.task or recorded.get("task") or recorded_task(env_args)
        if not task:
            raise dataset.error("records no environment (env_args), so no simulator can replay it")
        recorded_states(dataset, chosen[0])  # an environment that cannot be made is not to blame if there are none
        kwargs = {
            "horizon": horizon_of(lengths),
            **rebuilding_settings(env_args, task),
            **recorded,
            "task": task,
            "cameras": config.cameras or recorded.get("cameras"),
            "image_size": config.size,
            "render_profile": config.render_profile or recorded.get("render_profile", "fast"),
        }
        if config.absolute_actions and (controllers := recorded_controllers(env_args)):
            kwargs["controller"] = controllers  # poses are in the frame of reference of these
        env: Any = make_env(**kwargs)
        ours, action_width = env.env_args(), env.action_space.shape[0]
        env.close()
        require_recorded_environment(dataset, env_args, ours, action_width)
        env_args = described(env_args, ours)

        def replay_all(
            episodes: Iterable[tuple[str, np.ndarray, Episode]],
        ) -> Iterator[dict[str, Any]]:
            recordings = (
                # A seed reproduces the scene of our own environments only; others need the recorded model.
                RecordedEpisode(
                    name,
                    states,
                    episode.attributes.get("seed") if recorded else None,
                    episode.model_file,
                    episode.actions if config.absolute_actions else None,
                )
                for name, states, episode in episodes
            )
            return replay(kwargs, recordings, workers=config.workers)

        look = {LOOK: look_of(env_args["s2robot"])}
        drifts = render_dataset(dataset, config.out, env_args, replay_all, attributes=look, episodes=chosen)
        lines = [*map(str, drifts), f"{len(chosen)} demonstrations at {config.size} pixels: {config.out}"]
        if not recorded:
            lines.append(
                f"an episode of evaluation ends after {kwargs['horizon']} steps at the latest, because the longest "
                f"demonstration takes {max(lengths)}; evaluate with horizon=… to change it"
            )
        print("\n".join(lines))


def _episode(recorded: dict[str, Any], look: dict[str, Any]) -> Episode:
    return Episode(
        actions=recorded["actions"],
        images=recorded["images"],
        proprioception=recorded["proprioception"],
        success=recorded["success"],
        rewards=recorded["rewards"],
        states=recorded["states"],
        model_file=recorded["model_file"],
        attributes={
            "seed": recorded["seed"],
            "attempts": recorded["attempts"],
            "success": recorded["success"],
            LOOK: look,
            **({} if recorded["renderer"] is None else {RENDERER: recorded["renderer"]}),
        },
    )

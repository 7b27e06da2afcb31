"""The console script `s2robot`: one function per verb.

Besides `train_policy.py` the only file that joins the package with the simulator (`s2robot_envs`).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from s2robot_envs import S2RobotEnvError, make_vector_env
from s2robot_envs import collect as collect_episodes
from tqdm import tqdm

from s2robot.config import (
    CONFIG_DIR,
    BenchmarkConfig,
    CollectConfig,
    ConvertConfig,
    EvaluateConfig,
    RenderConfig,
    register,
    resolve,
)
from s2robot.interfaces import ConfigError, DatasetError, Episode, S2RobotError, unknown_name


def collect(words: list[str]) -> None:
    """Record demonstrations of a scripted expert as robomimic HDF5, with images and states."""
    collect_demonstrations(parse(CollectConfig, words))


def evaluate(words: list[str]) -> None:
    """Roll a checkpoint out over held-out seeds: success rate with its interval, videos, results.json."""
    from s2robot.evaluation import evaluate as evaluate_checkpoint
    from s2robot.report import plot_run

    config = parse(EvaluateConfig, words)
    results = evaluate_checkpoint(config, make_vector_env, config.num_envs or _cores())
    output = Path(config.output or Path(config.checkpoint).parent)
    plot_run(results, output / "results.png")
    low, high = results["interval"]
    print(
        f"success {results['successes']}/{results['episodes']} = {results['success_rate']:.1%} "
        f"(95% Wilson interval {low:.1%} to {high:.1%}) on {results['task']} over unseen seeds "
        f"{config.first_seed} to {config.first_seed + config.episodes - 1}, in {results['seconds']:.0f} s\n"
        f"results, plot and videos: {output}"
    )


def benchmark(words: list[str]) -> None:
    """Compare success rates over a grid of encoders and scale sets: tables, plots and a report."""
    from s2robot.benchmark import describe, run_benchmark

    config: BenchmarkConfig = compose("benchmark", words)
    if config.dry_run:
        print(describe(config))
        return

    def collect_for(task: str, num: int, path: Path) -> None:
        collect_demonstrations(
            CollectConfig(task=task, num=num, size=config.size, cameras=config.cameras, out=str(path))
        )

    report_folder = run_benchmark(config, collect_for, make_vector_env, config.num_envs or _cores())
    print((report_folder / "report.md").read_text())
    print(f"report: {report_folder}")


def report(words: list[str]) -> None:
    """Write Markdown, CSV, plots and one HTML page from any set of result folders."""
    from s2robot.report import write_report

    folders = [Path(word) for word in words if "=" not in word]
    options = dict(word.partition("=")[::2] for word in words if "=" in word)
    out = Path(options.pop("out", "outputs/report"))
    if options:
        raise ConfigError(unknown_name("setting", next(iter(options)), ["out"]))
    if not folders:
        raise ConfigError("report needs at least one folder with results: s2robot report DIR… [out=DIR]")
    print(f"report: {write_report(folders, out)}")


def render(words: list[str]) -> None:
    """Replay recorded states and record them again at any size, from any camera; says where the replay drifts."""
    render_demonstrations(parse(RenderConfig, words))


def convert(words: list[str]) -> None:
    """Copy a dataset into another format: robomimic for out=*.hdf5, else a LeRobot folder."""
    from s2robot.data.conversion import convert_dataset

    config = parse(ConvertConfig, words)
    count = convert_dataset(config.dataset, config.out, fps=config.fps, video=config.video)
    print(f"{count} demonstrations: {config.out}")


def inspect(words: list[str]) -> None:
    """Describe a dataset: counts, sizes, ranges, what is missing or looks wrong; sheet=FILE.png draws it."""
    from s2robot.data.inspection import contact_sheet, inspect_dataset

    datasets = [word for word in words if "=" not in word]
    options = dict(word.partition("=")[::2] for word in words if "=" in word)
    sheet = options.pop("sheet", None)
    if options:
        raise ConfigError(unknown_name("setting", next(iter(options)), ["sheet"]))
    if len(datasets) != 1:
        raise ConfigError("inspect needs one dataset: s2robot inspect DATASET [sheet=FILE.png]")
    print(inspect_dataset(datasets[0]))
    if sheet is not None:
        print(f"contact sheet   {contact_sheet(datasets[0], sheet)}")


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb of the command line: how it is written and the function that runs its words."""

    usage: str
    run: Callable[[list[str]], None]
    config: type[Any] | None = None


VERBS = {
    "collect": Verb("collect task=Lift num=120 size=448 out=demos/lift.hdf5", collect, CollectConfig),
    "evaluate": Verb("evaluate checkpoint=outputs/<run>/checkpoint episodes=100", evaluate, EvaluateConfig),
    "benchmark": Verb("benchmark [+experiment=NAME] [key=value …]", benchmark, BenchmarkConfig),
    "render": Verb("render dataset=demos/low_dim.hdf5 out=demos/lift_448.hdf5 size=448", render, RenderConfig),
    "convert": Verb("convert dataset=demos/lift.hdf5 out=demos/lift_lerobot", convert, ConvertConfig),
    "inspect": Verb("inspect DATASET [sheet=FILE.png]", inspect),
    "report": Verb("report DIR… [out=outputs/report]", report),
}


def main(words: list[str] | None = None) -> int:
    """Run one verb; what a user got wrong ends in one line on stderr and exit status 2."""
    # Before torch loads OpenMP: threads that spin while they wait cost tenfold as soon as another process is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    name, *rest = (sys.argv[1:] if words is None else words) or ["--help"]
    try:
        if name in ("-h", "--help", "help"):
            print(_help())
        elif name not in VERBS:
            raise ConfigError(unknown_name("command", name, VERBS))
        elif {"-h", "--help"} & set(rest):
            print(_verb_help(VERBS[name]))
        else:
            VERBS[name].run(rest)
    except (S2RobotError, S2RobotEnvError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _help() -> str:
    lines = [f"  s2robot {verb.usage}\n      {verb.run.__doc__}" for verb in VERBS.values()]
    training = (
        "  python train_policy.py dataset=demos/lift.hdf5 [key=value …]\n      Train a policy (`--help` for all)."
    )
    return "\n".join(["usage: s2robot COMMAND [key=value …]", "", *lines, training])


def _verb_help(verb: Verb) -> str:
    lines = [f"usage: s2robot {verb.usage}", "", str(verb.run.__doc__)]
    if verb.config is not None:
        settings = OmegaConf.to_yaml(OmegaConf.structured(verb.config))
        lines += ["", "Settings and defaults (??? is required):", "", settings.rstrip()]
    return "\n".join(lines)


def parse(cls: type[Any], words: list[str]) -> Any:
    """Make a config dataclass from `key=value` words.

    Raises:
        ConfigError: a word is no `key=value`, a key is unknown, a value has the wrong type, or one is missing.
    """
    names = [item.name for item in dataclasses.fields(cls)]
    for word in words:
        key, equals, _ = word.partition("=")
        if not equals:
            raise ConfigError(f"{word!r} is not of the form key=value; keys: {', '.join(names)}")
        if key not in names:
            raise ConfigError(unknown_name("setting", key, names))
    try:
        return resolve(OmegaConf.merge(OmegaConf.structured(cls), OmegaConf.from_dotlist(words)))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def compose(config_name: str, overrides: list[str]) -> Any:
    """Compose a configuration of `configs/` with Hydra and make its dataclass.

    Raises:
        ConfigError: an override does not fit; Hydra's message names the choices.
    """
    from s2robot.backbones import BACKBONES

    register(BACKBONES)
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return resolve(hydra.compose(config_name, overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(str(error)) from error


def collect_demonstrations(config: CollectConfig) -> None:
    """Record `config.num` demonstrations at `config.out`; a finished file of the same settings is kept.

    Raises:
        DatasetError: the file exists with other settings and `overwrite` is off.
        S2RobotEnvError: unknown task or camera, or the simulator failed.
    """
    from s2robot_envs import make_env

    from s2robot.data import RobomimicWriter, open_dataset

    path = Path(config.out)
    kwargs: dict[str, Any] = {
        "cameras": config.cameras,
        "image_size": config.size,
        "render_profile": config.render_profile,
    }
    env: Any = make_env(config.task, **kwargs)
    recorded_as = {"seed": config.seed, "noise": config.noise, "num": config.num}
    env_args = {**env.env_args(), "collection": recorded_as}
    env.close()
    if path.exists() and not config.overwrite:
        with open_dataset(path) as dataset:
            same = all(dataset.env_args.get(key) == env_args[key] for key in ("s2robot", "collection"))
        if not same:
            raise DatasetError(
                f"{config.out!r} holds demonstrations of other settings; give overwrite=true or another out"
            )
        print(f"{config.num} demonstrations of {config.task} are in {path} already")
        return
    with RobomimicWriter(path, env_args) as writer, tqdm(total=config.num, unit="demo", desc="collecting") as bar:
        bar.update(writer.count)  # of an interrupted run
        episodes = collect_episodes(
            config.task,
            config.num - writer.count,
            seed=config.seed,
            noise=config.noise,
            workers=config.workers,
            first_attempt=writer.attributes.get("attempts", 0),
            env_kwargs=kwargs,
        )
        for recorded in episodes:
            writer.add(_episode(recorded))
            bar.update()
    print(f"{config.num} demonstrations of {config.task} ({writer.attributes['attempts']} attempts): {path}")


def render_demonstrations(config: RenderConfig) -> None:
    """Render the states recorded in `config.dataset` into `config.out`, and print where the replay drifts.

    Raises:
        DatasetError: `out` exists and `overwrite` is off, or the dataset records no environment or no states.
        S2RobotEnvError: unknown task or camera, a recording of another robot or scene, or the simulator failed.
    """
    from s2robot_envs import make_env
    from s2robot_envs.replay import Recording, replay

    from s2robot.data import open_dataset
    from s2robot.data.rerender import render_dataset

    if Path(config.out).exists() and not config.overwrite:
        raise DatasetError(f"{config.out!r} exists; give overwrite=true or another out")
    with open_dataset(config.dataset) as dataset:
        recorded = dataset.env_args.get("s2robot", {})
        task = recorded.get("task") or dataset.env_args.get("env_name")
        if not task:
            raise dataset.error("records no environment (env_args), so no simulator can replay it")
        kwargs = {
            **recorded,
            "task": task,
            "cameras": config.cameras or recorded.get("cameras"),
            "image_size": config.size,
            "render_profile": config.render_profile or recorded.get("render_profile", "fast"),
        }
        env: Any = make_env(**kwargs)
        env_args = {**dataset.env_args, **env.env_args()}
        env.close()

        def replay_all(
            episodes: Iterable[tuple[str, np.ndarray, Episode]],
        ) -> Iterator[dict[str, dict[str, np.ndarray]]]:
            recordings = (
                # A seed sets up only scenes of our own environments; others need their model.
                Recording(name, states, episode.attributes.get("seed") if recorded else None, episode.model_file)
                for name, states, episode in episodes
            )
            return replay(kwargs, recordings, workers=config.workers)

        drifts = render_dataset(dataset, config.out, env_args, replay_all)
        print("\n".join([*map(str, drifts), f"{len(dataset)} demonstrations at {config.size} pixels: {config.out}"]))


def _episode(recorded: dict[str, Any]) -> Episode:
    return Episode(
        actions=recorded["actions"],
        images=recorded["images"],
        proprioception=recorded["proprioception"],
        success=recorded["success"],
        rewards=recorded["rewards"],
        states=recorded["states"],
        model_file=recorded["model_file"],
        attributes={"seed": recorded["seed"], "attempts": recorded["attempts"]},
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(main())

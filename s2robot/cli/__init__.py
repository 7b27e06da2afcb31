"""The console script `s2robot`: one function per verb.

Only this package joins `s2robot` with the simulator (`s2robot_envs`).
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from s2robot.cli.demonstrations import collect_demonstrations, render_demonstrations
from s2robot.cli.words import compose, parse, split
from s2robot.config import BenchmarkConfig, CollectConfig, ConvertConfig, EvaluateConfig, RenderConfig
from s2robot.interfaces import ConfigError, S2RobotError, unknown_name
from s2robot_envs import S2RobotEnvError, default_num_envs, make_vector_env


def collect(words: list[str]) -> None:
    """Record demonstrations of a scripted expert as robomimic HDF5, with images and states."""
    collect_demonstrations(parse(CollectConfig, words))


def evaluate(words: list[str]) -> None:
    """Roll a checkpoint out over held-out seeds: success rate with its interval, videos, results.json."""
    from s2robot.evaluation import evaluate as evaluate_checkpoint
    from s2robot.report import plot_run

    config = parse(EvaluateConfig, words)
    results = evaluate_checkpoint(config, make_vector_env, config.num_envs or default_num_envs())
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

    report_folder = run_benchmark(config, collect_for, make_vector_env, config.num_envs or default_num_envs())
    print((report_folder / "report.md").read_text())
    print(f"report: {report_folder}")


def report(words: list[str]) -> None:
    """Write Markdown, CSV, plots and one HTML page from any set of result folders."""
    from s2robot.report import write_report

    folders, options = split(words, ["out"])
    if not folders:
        raise ConfigError("report needs at least one folder with results: s2robot report DIR… [out=DIR]")
    print(f"report: {write_report([Path(folder) for folder in folders], Path(options.get('out', 'outputs/report')))}")


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

    datasets, options = split(words, ["sheet"])
    if len(datasets) != 1:
        raise ConfigError("inspect needs one dataset: s2robot inspect DATASET [sheet=FILE.png]")
    print(inspect_dataset(datasets[0]))
    if "sheet" in options:
        print(f"contact sheet   {contact_sheet(datasets[0], options['sheet'])}")


def encoders(words: list[str]) -> None:
    """List the named backbones; with a name, what it costs at several scale sets; `fetch NAME` gets its weights."""
    from s2robot.backbones.fetching import fetch
    from s2robot.backbones.listing import encoder_text, encoders_table

    match words:
        case []:
            print(encoders_table())
        case ["fetch", name]:
            print(fetch(name))
        case [name]:
            print(encoder_text(name))
        case _:
            raise ConfigError(f"encoders takes no word, NAME, or fetch NAME; got {' '.join(words)!r}")


def doctor(words: list[str]) -> None:
    """Check OpenGL, versions, cores, memory, disk and weights; render one frame; say what mends what is wrong."""
    from s2robot_envs.doctor import run_checks

    split(words, [])
    checks = run_checks()
    print("\n".join(map(str, checks)))
    problems = [check.name for check in checks if check.status == "problem"]
    if problems:
        raise S2RobotError(f"not ready: {', '.join(problems)}")


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
    "encoders": Verb("encoders [NAME | fetch NAME]", encoders),
    "doctor": Verb("doctor", doctor),
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

"""One function per verb: command-line words in, `Output` out; slow imports stay inside the functions."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from s2robot.cli import VERBS
from s2robot.cli.outcome import NotReadyError, Output
from s2robot.cli.overrides import expand
from s2robot.cli.words import compose, parse, split
from s2robot.config import (
    EVALUATION_SEED,
    CollectConfig,
    ConvertConfig,
    EvaluateConfig,
    InspectConfig,
    RenderConfig,
    TrainConfig,
)
from s2robot.interfaces import ConfigError


def collect(words: list[str]) -> Output:
    """Record demonstrations with a scripted expert."""
    from s2robot.cli.demonstrations import collect_demonstrations

    config: CollectConfig = parse(CollectConfig, words)
    collect_demonstrations(config)
    return Output("", {"dataset": config.out, "demonstrations": config.num, "task": config.task})


def render(words: list[str]) -> Output:
    """Replay recorded states at another size or from another camera."""
    from s2robot.cli.demonstrations import render_demonstrations

    config: RenderConfig = parse(RenderConfig, words)
    render_demonstrations(config)
    return Output("", {"dataset": config.out, "size": config.size})


def convert(words: list[str]) -> Output:
    """Copy a dataset into another format."""
    from s2robot.data.conversion import convert_dataset

    config: ConvertConfig = parse(ConvertConfig, words)
    count = convert_dataset(
        config.dataset,
        config.out,
        fps=config.fps,
        video=config.video,
        proprioception=config.proprioception,
        cameras=config.cameras,
        flip=config.flip,
        selection=config.selection,
    )
    return Output(f"{count} demonstrations: {config.out}", {"dataset": config.out, "demonstrations": count})


def inspect(words: list[str]) -> Output:
    """Describe a dataset."""
    from s2robot.data.inspection import contact_sheet, inspect_dataset

    datasets = [word for word in words if "=" not in word]
    if len(datasets) != 1:
        raise ConfigError(f"inspect needs one dataset: s2robot {VERBS['inspect'].usage}")
    config: InspectConfig = parse(InspectConfig, [word for word in words if "=" in word])
    dataset = expand(datasets[0])
    chosen: Any = {"cameras": config.cameras, "flip": config.flip, "selection": config.selection}
    found = inspect_dataset(dataset, **chosen)
    text, data = str(found), plain(dataclasses.asdict(found))
    if config.sheet is not None:
        sheet = str(contact_sheet(dataset, config.sheet, **chosen))
        text, data = f"{text}\ncontact sheet   {sheet}", {**data, "sheet": sheet}
    return Output(text, data)


def train(words: list[str]) -> Output:
    """Train a policy; `train_policy.py` does the same with all of Hydra's options (multirun, launchers)."""
    from s2robot.cli.closing import describe_checkpoint, train_checked

    checkpoint = train_checked(compose("train_policy", words))
    return Output(describe_checkpoint(checkpoint), {"checkpoint": str(checkpoint)})


def encode(words: list[str]) -> Output:
    """Fill the feature cache with the features that a training run with the same words needs."""
    from s2robot.data import open_dataset
    from s2robot.interfaces import resolve_device

    config: TrainConfig = compose("train_policy", words)
    # An error here is told before torch is imported, which takes seconds.
    for path in config.datasets:
        open_dataset(path, cameras=config.cameras, flip=config.flip, action_key=config.action_keys).close()
    from s2robot.encoder import S2Encoder
    from s2robot.training import prepare

    encoder = S2Encoder(**dataclasses.asdict(config.encoder), device=resolve_device(config.device))
    data = prepare(config, encoder)
    frames = sum(len(actions) for actions in data.demonstrations.actions)
    cameras = list(data.features)
    return Output(
        f"{frames} frames of {', '.join(cameras)} are in {config.cache_dir}",
        {"cache": config.cache_dir, "cameras": cameras, "frames": frames, "encoder": encoder.fingerprint()},
    )


def evaluate(words: list[str]) -> Output:
    """Roll a checkpoint out over held-out seeds.

    Raises:
        S2RobotError: for example, the simulator failed in some episodes; the results of the others are printed first.
    """
    from s2robot.checkpoint import load_record

    config: EvaluateConfig = parse(EvaluateConfig, words)
    load_record(config.checkpoint)  # an error here is told before torch is imported, which takes seconds
    from s2robot.evaluation import evaluate as evaluate_checkpoint
    from s2robot.report import plot_run
    from s2robot_envs import default_num_envs, make_vector_env

    results = evaluate_checkpoint(config, make_vector_env, config.num_envs or default_num_envs())
    output = Path(config.output or Path(config.checkpoint).parent)
    if "tasks" in results:
        return _tasks_evaluated(results, output)
    plot_run(results, output / "results.png")
    low, high = results["interval"]
    horizon = results["environment"].get("horizon")
    limit = f", at most {horizon} steps each" if horizon else ""
    seeds = "unseen seeds" if config.first_seed >= EVALUATION_SEED else "seeds"  # the results have a warning for these
    text = (
        f"success {results['successes']}/{results['episodes']} = {results['success_rate']:.1%} "
        f"(95% Wilson interval {low:.1%} to {high:.1%}) on {results['task']} over {seeds} "
        f"{config.first_seed} to {config.first_seed + config.episodes - 1}{limit}, in {results['seconds']:.0f} s\n"
        f"results, plot and videos: {output}"
    )
    remarks = [(kind, remark) for kind in ("warning", "note") for remark in results[f"{kind}s"]]
    text = "\n".join([text, *(f"{kind}: {remark}" for kind, remark in remarks)])
    long = ("episode_results", "loss_curve")
    data = {key: value for key, value in results.items() if key not in long} | {"output": str(output)}
    failed = [episode for episode in results["episode_results"] if episode["error"] is not None]
    if failed:
        raise NotReadyError(
            Output(text, data),
            f"{len(failed)} of {config.episodes} episodes could not be run and are not counted: the simulator failed "
            f"twice with seed {', '.join(str(episode['seed']) for episode in failed)}; "
            f"the first error: {failed[0]['error']}",
        )
    return Output(text, data)


def _tasks_evaluated(results: dict[str, Any], output: Path) -> Output:
    """Return success per task.

    Raises:
        NotReadyError: the simulator failed in some episodes; the results of the others are printed first.
    """
    lines = [
        f"success {row['successes']}/{row['episodes']} = {row['success_rate']:.1%} (95% Wilson interval "
        f"{row['interval'][0]:.1%} to {row['interval'][1]:.1%}) on {row['task']}"
        for row in results["tasks"]
    ]
    lines.append(f"results and videos of each task: {output / 'tasks'}")
    lines += [f"{kind}: {remark}" for kind in ("warning", "note") for remark in results[f"{kind}s"]]
    done = Output("\n".join(lines), {**results, "output": str(output)})
    if results["errors"]:
        raise NotReadyError(done, f"{results['errors']} episodes could not be run and are not counted")
    return done


def benchmark(words: list[str]) -> Output:
    """Run a grid of cells and report it; `dry_run=true` only prints the plan, `calibrate=true` measures difficulty."""
    config = compose("benchmark", words)  # first: what follows imports torch, which takes seconds
    from s2robot.cli.cells import run_cells

    return run_cells(config)


def report(words: list[str]) -> Output:
    """Write a report of any set of result folders."""
    from s2robot.report import write_report

    folders, options = split(words, ["out"])
    if not folders:
        raise ConfigError("report needs at least one folder with results: s2robot report DIR… [out=DIR]")
    page = str(write_report([Path(folder) for folder in folders], Path(options.get("out", "outputs/report"))))
    return Output(f"report: {page}", {"report": page})


def encoders(words: list[str]) -> Output:
    """List the named backbones, describe one of them, or fetch its weights."""
    from s2robot.backbones import BACKBONES
    from s2robot.backbones.availability import is_available
    from s2robot.backbones.fetching import fetch
    from s2robot.backbones.table import known_specs
    from s2robot.encoder.listing import encoder_text, encoders_table

    match words:
        case []:
            rows = [
                {
                    **plain(dataclasses.asdict(dataclasses.replace(spec, network=None))),
                    "offline": is_available(spec),
                    "provider": BACKBONES.provider(spec.name),
                }
                for spec in known_specs()
            ]
            return Output(encoders_table(), {"encoders": rows})
        case ["fetch"]:
            raise ConfigError("encoders fetch needs a NAME; `s2robot encoders` lists them")
        case ["fetch", name]:
            path = str(fetch(name))
            return Output(path, {"name": name, "weights": path})
        case [name]:
            text = encoder_text(name)
            return Output(text, {"name": name, "description": text.splitlines()})
        case _:
            raise ConfigError(f"encoders takes no word, NAME, or fetch NAME; got {' '.join(words)!r}")


def doctor(words: list[str]) -> Output:
    """Check this machine.

    Raises:
        S2RobotError: a check found a problem; all findings are printed first.
    """
    from s2robot_envs.doctor import run_checks

    if words:
        raise ConfigError(f"doctor takes no words; got {' '.join(words)!r}")
    checks = run_checks()
    output = Output("\n".join(map(str, checks)), {"checks": [dataclasses.asdict(check) for check in checks]})
    problems = [check.name for check in checks if check.status == "problem"]
    if problems:
        raise NotReadyError(output, f"not ready: {', '.join(problems)}")
    return output


def plain(value: Any) -> Any:
    """Convert `value` to plain JSON types; numbers that are not finite become None."""
    match value:
        case dict():
            return {str(key): plain(item) for key, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case np.ndarray() | np.generic():
            return plain(value.tolist())
        case float():
            return value if math.isfinite(value) else None
        case bool() | int() | str() | None:
            return value
        case _:
            return str(value)

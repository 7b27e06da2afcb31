"""The console script `s2robot`: its verbs, their help, and the exit status of each run.

Only this package joins `s2robot` with the simulator (`s2robot_envs`). This file imports nothing heavy at the top, so
that help, completion and mistyped words are answered at once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from s2robot.cli.faults import explain
from s2robot.interfaces import ConfigError, S2RobotError, unknown_name


@dataclass(frozen=True)
class Verb:
    """One verb: usage line, summary, the function that runs its words, and the name of its settings' dataclass."""

    usage: str
    summary: str
    function: str
    settings: str = ""

    @property
    def config(self) -> type[Any] | None:
        """The dataclass of its `key=value` words; None if it has no settings."""
        return getattr(importlib.import_module("s2robot.config"), self.settings) if self.settings else None


VERBS = {
    "collect": Verb(
        "collect task=Lift num=120 size=448 out=demos/lift.hdf5",
        "Record demonstrations of a scripted expert as robomimic HDF5, with images and states.",
        "verbs:collect",
        "CollectConfig",
    ),
    "render": Verb(
        "render dataset=demos/low_dim.hdf5 out=demos/lift_448.hdf5 size=448",
        "Replay recorded states at any size, from any camera; says where the replay drifts.",
        "verbs:render",
        "RenderConfig",
    ),
    "convert": Verb(
        "convert dataset=demos/lift.hdf5 out=demos/lift_lerobot",
        "Copy a dataset into another format: robomimic for out=*.hdf5, else a LeRobot folder.",
        "verbs:convert",
        "ConvertConfig",
    ),
    "inspect": Verb(
        "inspect DATASET [sheet=FILE.png] [filter_key=NAME] ['cameras={front: agentview_rgb}'] ['flip=[front]']",
        "Describe a dataset: counts, sizes, ranges, what is missing or looks wrong; sheet= draws it.",
        "verbs:inspect",
        "InspectConfig",
    ),
    "encode": Verb(
        "encode dataset=demos/lift.hdf5 'encoder.scales=[224,448]'",
        "Fill the feature cache with what a training run of the same settings needs.",
        "verbs:encode",
        "TrainConfig",
    ),
    "cache": Verb(
        "cache ls | verify | prune [root=outputs/feature_cache] [days=30] [gigabytes=50] [missing=true] [delete=true]",
        "List the cached features, verify their checksums, or list what can be deleted; delete=true deletes it.",
        "cache:cache",
    ),
    "train": Verb(
        "train dataset=demos/lift.hdf5 +experiment=lift_bc output=outputs/lift",
        "Train a policy on cached features; `python train_policy.py` is the same with all of Hydra's options.",
        "verbs:train",
        "TrainConfig",
    ),
    "evaluate": Verb(
        "evaluate checkpoint=outputs/lift/checkpoint episodes=100",
        "Roll a checkpoint out over held-out seeds: success rate with its interval, videos, results.json.",
        "verbs:evaluate",
        "EvaluateConfig",
    ),
    "benchmark": Verb(
        "benchmark output=outputs/benchmark [dry_run=true] [key=value …]",
        "Compare success rates over a grid of encoders and scale sets: tables, plots and a report.",
        "verbs:benchmark",
        "BenchmarkConfig",
    ),
    "report": Verb(
        "report DIR… [out=outputs/report]",
        "Write Markdown, CSV, plots and one HTML page from any set of result folders.",
        "verbs:report",
    ),
    "encoders": Verb(
        "encoders [NAME | fetch NAME]",
        "List the named backbones; with a name, what it costs at several scale sets; fetch gets its weights.",
        "verbs:encoders",
    ),
    "export": Verb(
        "export checkpoint=outputs/lift/checkpoint out=outputs/lift.onnx format=onnx",
        "Write encoder and policy as one ONNX or torch.export graph, checked to compute the same.",
        "deployment:export",
        "ExportConfig",
    ),
    "serve": Verb(
        "serve checkpoint=outputs/lift/checkpoint port=8765",
        "Let robots ask a checkpoint for actions over a websocket; host= and token_file= let in other computers.",
        "deployment:serve",
        "ServeConfig",
    ),
    "doctor": Verb(
        "doctor",
        "Check OpenGL, versions, cores, memory, disk and weights; say how to fix what is wrong.",
        "verbs:doctor",
    ),
    "completion": Verb(
        "completion bash | zsh | fish",
        "Print a script that completes verbs and settings: source <(s2robot completion bash)",
        "completion:completion",
    ),
}
GROUPED = {"train": "train_policy", "encode": "train_policy", "benchmark": "benchmark"}
"""Verbs whose words are Hydra overrides -> the file in `configs/` that they override."""

_EPILOGUE = """\
options, before or after the verb:
  --json     print the result as one JSON document; everything else goes to stderr
  --debug    show the traceback of an error
  -h         this help, or that of a verb with its settings
  --version  the version of s2robot

exit status: 0 success; 1 a bug in this program; 2 an error that one line on stderr explains; 130 interrupted"""


def main(words: list[str] | None = None) -> int:
    """Run one verb and return the exit status; user errors end in one line on stderr and status 2."""
    # Must be set before torch loads OpenMP: by default idle threads spin, and as soon as another process is busy that
    # makes everything about ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = sys.argv[1:] if words is None else words
    flags = {"-h", "--help", "--version", "--json", "--debug"} & set(given)
    name, *rest = [word for word in given if word not in flags] or ["help"]
    try:
        if "--version" in flags:
            from s2robot import __version__

            print(json.dumps({"version": __version__}) if "--json" in flags else f"s2robot {__version__}")
        elif name == "help":
            print(_help())
        elif name not in VERBS:
            raise ConfigError(unknown_name("command", name, VERBS))
        elif {"-h", "--help"} & flags:
            print(_verb_help(name, rest))
        else:
            _run(VERBS[name], rest, as_json="--json" in flags)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as a pager, has left; stdout must not fail again when flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if "--debug" in flags:
            raise
        told = str(error) if isinstance(error, _user_errors()) else explain(error)
        if told is not None:
            print(f"error: {told}", file=sys.stderr)
            return 2
        kind = type(error).__name__
        print(f"internal error: {kind}: {error} (--debug shows the traceback; please report it)", file=sys.stderr)
        return 1
    return 0


def _run(verb: Verb, words: list[str], *, as_json: bool) -> None:
    module, _, function = verb.function.partition(":")
    run = getattr(importlib.import_module(f"s2robot.cli.{module}"), function)
    try:
        with _prints_to_stderr() if as_json else contextlib.nullcontext():
            output = run(words)
    except S2RobotError as error:
        if hasattr(error, "output"):  # a verb that fails, such as `cache verify`, may still have a result to show
            _show(error.output, as_json)
        raise
    _show(output, as_json)


def _show(output: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(output.data))
    elif output.text:
        print(output.text)


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _user_errors() -> tuple[type[Exception], ...]:
    """Base classes of all errors that a user can cause; the simulator's only if it was loaded."""
    envs = sys.modules.get("s2robot_envs.errors")
    return (S2RobotError, *([envs.S2RobotEnvError] if envs else []))


def _help() -> str:
    lines = [f"  s2robot {verb.usage}\n      {verb.summary}" for verb in VERBS.values()]
    return "\n".join(["usage: s2robot VERB [key=value …]", "", *lines, "", _EPILOGUE])


def _settings(name: str, words: list[str]) -> str:
    """YAML of a verb's settings: the defaults of the dataclass and of its file in `configs/`, overridden by `words`."""
    from omegaconf import DictConfig, OmegaConf

    from s2robot.config import CONFIG_DIR

    settings = OmegaConf.structured(VERBS[name].config)
    if name in GROUPED and words:
        from s2robot.cli.words import compose_unresolved

        settings = compose_unresolved(GROUPED[name], words)
    elif name in GROUPED:
        from s2robot.policies import POLICIES

        file: Any = OmegaConf.load(CONFIG_DIR / f"{GROUPED[name]}.yaml")
        chosen: Any = OmegaConf.merge(*(entry for entry in file.pop("defaults") if isinstance(entry, DictConfig)))
        file.pop("hydra")
        settings.policy = POLICIES.settings(chosen.policy)(name=chosen.policy)
        settings.merge_with(file)
    return OmegaConf.to_yaml(settings).rstrip()


def _verb_help(name: str, words: list[str]) -> str:
    verb = VERBS[name]
    lines = [f"usage: s2robot {verb.usage}", "", verb.summary]
    if name in GROUPED:
        lines += ["", f"Words are Hydra overrides of configs/{GROUPED[name]}.yaml: policy=NAME, +experiment=NAME, …"]
    if verb.config is not None:
        given = f" with {shlex.join(words)}" if name in GROUPED and words else ""
        lines += ["", f"Settings and defaults{given} (??? is required):", "", _settings(name, words)]
    return "\n".join(lines)

"""Compare this computer's results with those of other, emulated kinds of computer, and run the tests on each kind.

    make test-portable                                  results and tests, on every kind
    make test-portable PORTABLE_ARGS="--only sse4"      one kind
    make test-portable PORTABLE_ARGS="--facts"          without the tests

A kind of computer is emulated by environment variables of the libraries that choose code by processor: PyTorch, oneDNN
(OpenVINO's too), NumPy, glibc and Mesa's software OpenGL. They can only disable features of this processor; features
that it lacks are not emulated.
"""

from __future__ import annotations

import argparse
import ctypes.util
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
AVX512 = "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL"
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "NPY_DISABLE_CPU_FEATURES": AVX512,
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX512F,-AVX512VL",
}
SSE4 = {
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "NPY_DISABLE_CPU_FEATURES": f"AVX2 FMA3 {AVX512}",
    "GLIBC_TUNABLES": "glibc.cpu.hwcaps=-AVX2,-FMA,-AVX512F,-AVX512VL",
    "GALLIUM_OVERRIDE_CPU_CAPS": "sse4.1",
    "LP_NATIVE_VECTOR_WIDTH": "128",
}
KINDS: dict[str, dict[str, str]] = {
    "the same": {},
    "two threads": {"OMP_NUM_THREADS": "2", "S2ROBOT_TEST_THREADS": "2"},
    "avx2": AVX2,
    "sse4": SSE4,
    "osmesa": {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
}
"""Name -> environment variables that emulate this kind."""

TESTS = (
    *("test_s2", "test_encoder", "test_engines", "test_backbones", "test_feature_cache", "test_export"),
    *("test_envs_rendering", "test_envs_replay", "test_envs_robosuite_env", "test_envs_gymnasium"),
    *("test_rollout", "test_rollout_actor", "test_rollout_simulator", "test_training", "test_training_resume"),
    *("test_policies", "test_policy_diffusion", "test_policy_outputs", "test_policy_sequences", "test_readout"),
    *("test_statistics", "test_statistics_anytime", "test_statistics_power"),
    *("test_report", "test_report_contrasts", "test_report_pairs"),
)
"""Rendering, encoder, engines, policies and statistics."""


@dataclass(frozen=True)
class Tolerance:
    """The accepted difference between a fact on another kind of computer and on this one."""

    pattern: str
    absolute: float
    relative: float = 0.0
    share: float = 0.0  # share of the values that may differ more, up to `far`
    far: float = 0.0


# The promises of docs/architecture.md, "What is the same where".
TOLERANCES = (
    Tolerance("features", 0.0, relative=1e-4),  # relative to the map's norm; sums are in another order
    Tolerance("actions", 1e-3),  # the range is 2
    Tolerance("pixels", 2, share=0.01, far=255),  # an edge may fall on the neighbouring pixel
    Tolerance("initial state", 1e-9),
    Tolerance("state after", 1e-6),  # after one second the chaotic contacts have not yet amplified rounding
)


def disagreement(name: str, ours: np.ndarray, theirs: np.ndarray) -> tuple[str, bool]:
    """Return a text about the difference of one fact, and whether the difference is within the promised tolerance."""
    if ours.shape != theirs.shape:
        return f"shape {theirs.shape} for {ours.shape}", False
    if np.array_equal(ours, theirs):
        return "equal", True
    if name.startswith("anywhere"):
        return "differs", False
    rule = next(rule for rule in TOLERANCES if rule.pattern in name)
    apart = np.abs(ours.astype(np.float64) - theirs.astype(np.float64))
    if rule.relative:
        norm = float(np.linalg.norm(apart) / np.linalg.norm(ours.astype(np.float64)))
        return f"{norm:.1e} of the norm", norm <= rule.relative
    beyond = float((apart > rule.absolute).mean())
    text = f"{(apart > 0).mean():.2%} of the values, by at most {apart.max():.2g}"
    return text, beyond <= rule.share and apart.max() <= max(rule.absolute, rule.far)


def environment(changes: dict[str, str]) -> dict[str, str]:
    """Return this process's environment with one thread and the changes, without variables set by pytest or make."""
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "PYTEST_ADDOPTS")}
    ours = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "MUJOCO_GL": "egl"}
    return {**outside, **ours, **changes}


def facts(changes: dict[str, str]) -> dict[str, np.ndarray]:
    """Return what tests/portable_facts.py computes in a process of that kind."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "facts.npz"
        command = [sys.executable, "-W", "ignore", "tests/portable_facts.py", str(path)]
        done = subprocess.run(command, cwd=ROOT, env=environment(changes), capture_output=True, text=True)
        if not path.exists():
            sys.exit(f"tests/portable_facts.py ended with {done.returncode}:\n{done.stderr[-3000:]}")
        with np.load(path) as file:
            return dict(file)


def compare(kind: str, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Print a line per fact that is not equal; return whether all are within the promised tolerances."""
    good, equal = True, 0
    for name in ours:
        text, within = disagreement(name, ours[name], theirs[name])
        within &= kind != "the same" or text == "equal"  # on one machine everything must be equal
        equal += text == "equal"
        good &= within
        if text != "equal":
            print(f"  {'' if within else 'NOT AS PROMISED: '}{name}: {text}")
    print(f"  {equal} of {len(ours)} facts equal bit for bit", flush=True)
    return good


def run_tests(changes: dict[str, str], workers: int) -> tuple[bool, str]:
    """Run the tests of `TESTS` on that kind; return whether they pass, and pytest's last line."""
    workers = max(1, workers // int(changes.get("S2ROBOT_TEST_THREADS", 1)))
    command = [sys.executable, "-m", "pytest", "-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    command += ["-p", "no:cacheprovider"]
    command += ["-m", "not slow and not gpu and not integration", *(f"tests/{name}.py" for name in TESTS)]
    done = subprocess.run(command, cwd=ROOT, env=environment(changes), capture_output=True, text=True)
    lines = done.stdout.splitlines()
    for line in lines:
        if re.match("(FAILED|ERROR) ", line):
            print(f"  {line}")
    return done.returncode == 0, lines[-1] if lines else done.stderr[-300:]


def missing(kind: str) -> str | None:
    """Return why a kind cannot be emulated here; None if it can."""
    if kind == "osmesa" and not ctypes.util.find_library("OSMesa"):
        return "libOSMesa is missing (Debian: libosmesa6)"
    return None


def main() -> None:
    """Compare and test every kind; exit with 1 if one of them breaks a promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(KINDS), help="run only this kind; may be repeated")
    parser.add_argument("--facts", action="store_true", help="compare only, run no tests")
    parser.add_argument("--workers", type=int, default=2, help="number of processes that run the tests")
    options = parser.parse_args()
    ours, failed = facts({}), []
    for kind in options.only or KINDS:
        changes = KINDS[kind]
        print(f"{kind}: {' '.join(f'{key}={value!r}' for key, value in changes.items()) or 'another process'}")
        if reason := missing(kind):
            print(f"  not run: {reason}")
            failed.append(kind)
            continue
        good = compare(kind, ours, facts(changes))
        if not options.facts and kind != "the same":
            passed, summary = run_tests(changes, options.workers)
            print(f"  tests: {summary}", flush=True)
            good &= passed
        failed += [] if good else [kind]
    print(f"not as promised on: {', '.join(failed)}" if failed else "every kind gives what is promised")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

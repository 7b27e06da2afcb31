"""The house rules that a machine can check: layers, sizes, and nothing that runs code found in a file."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import LONGEST

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("s2robot/**/*.py"), *ROOT.glob("envs/**/*.py"), ROOT / "train_policy.py"])
MAX_LINES = 350
CODE_LOADERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def name_of(node: ast.expr) -> str:
    """The dotted name of an expression such as `torch.load`; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def code_execution(source: str) -> list[str]:
    """What in `source` could run code that came with a file: `line: what` each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
            found += [f"{node.lineno}: import {name}" for name in modules if name.split(".")[0] in CODE_LOADERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in CODE_LOADERS:
            names = [alias.name for alias in node.names if not alias.name.endswith("Error")]
            found += [f"{node.lineno}: from {node.module} import {name}" for name in names]
        elif isinstance(node, ast.Call):
            name, arguments = name_of(node.func), {item.arg: item.value for item in node.keywords}
            if name in {"eval", "exec"}:
                found.append(f"{node.lineno}: {name}")
            if name == "torch.load" and not is_constant(arguments.get("weights_only"), True):
                found.append(f"{node.lineno}: torch.load without weights_only=True")
            if (
                name.endswith(".load")
                and "allow_pickle" in arguments
                and not is_constant(arguments["allow_pickle"], False)
            ):
                found.append(f"{node.lineno}: {name} with allow_pickle")
    return found


def is_constant(node: ast.expr | None, value: object) -> bool:
    """Whether an argument is written as this constant."""
    return isinstance(node, ast.Constant) and node.value is value


def test_every_layer_imports_only_what_is_below_it():
    # In a process of its own: import-linter switches the loggers off that it finds.
    program = shutil.which("lint-imports", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if not program:
        pytest.skip("import-linter is not installed (pip install -e '.[dev]')")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_package_has_few_rooms():
    rooms = {path.relative_to(ROOT / "s2robot").parts[0] for path in SOURCES if path.is_relative_to(ROOT / "s2robot")}
    assert len(rooms - {"__init__.py"}) <= 20


def test_every_place_that_the_plan_of_the_house_names_exists():
    table = (ROOT / "docs/architecture.md").read_text().partition("### Where do I find")[2].partition("\n## ")[0]
    names = re.findall(r"`([\w/]+(?:\.py|/))`", table)
    assert len(names) > 20
    assert [name for name in names if not ((ROOT / name).exists() or (ROOT / "s2robot" / name).exists())] == []


@pytest.mark.parametrize(
    ("former", "name"),
    [
        ("readout", "make_readout"),
        ("tuning", "measure_settings"),
        ("tiling_figure", "tiling_figure"),
        ("extras", "MissingLibraryError"),
        ("encoder", "S2Encoder"),
        ("s2", "multiscale_forward"),
    ],
)
def test_documented_import_path_of_before_the_move_still_works(former, name):
    found = getattr(importlib.import_module(f"s2robot.{former}"), name)
    assert found.__module__.startswith("s2robot.")
    assert found is getattr(importlib.import_module(found.__module__), name)


def public_classes(source: str) -> set[str]:
    """Names of the classes and type aliases that a module defines for others."""
    names = {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and not (isinstance(node.value, ast.Call)):
            names |= {name_of(target) for target in node.targets}
    return {name for name in names if re.fullmatch(r"[A-Z]+[a-z]\w*", name)}


def test_a_name_means_one_thing():
    owners = defaultdict(list)
    for path in ROOT.glob("s2robot/**/*.py"):
        for name in public_classes(path.read_text()):
            owners[name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in owners.items() if len(paths) > 1} == {}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("class Arm: ...", {"Arm"}),
        ("class _Arm: ...", set()),
        ("Look = dict[str, int]", {"Look"}),
        ("Run = Callable[..., int]", {"Run"}),
        ("T = TypeVar('T')\nJob = TypeVar('Job')\nARMS = {}", set()),
    ],
)
def test_the_search_for_names_finds_classes_and_aliases(source, names):
    assert public_classes(source) == names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_runs_no_code_that_it_loads(path):
    assert code_execution(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from dill import loads",
        "eval('1')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
    ],
)
def test_the_search_for_code_execution_finds(source):
    assert code_execution(source)


@pytest.mark.parametrize(
    "source",
    ["torch.load(path, weights_only=True)", "model.eval()", "np.load(path)", "from pickle import UnpicklingError"],
)
def test_the_search_for_code_execution_allows(source):
    assert code_execution(source) == []


def test_the_files_of_tests_that_run_first_exist():
    assert [name for name in LONGEST if not (ROOT / f"tests/test_{name}.py").is_file()] == []

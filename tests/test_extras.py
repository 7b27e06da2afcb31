"""The core does without every optional library, and says which extra brings a missing one."""

import importlib
import subprocess
import sys

import pytest

from s2robot.system.extras import MissingLibraryError

OPTIONAL = ("stable_baselines3", "torchrl", "tensordict", "onnx", "onnxruntime", "onnxscript", "websockets", "msgpack")


def test_core_imports_no_optional_library():
    script = (
        "import sys, s2robot, s2robot.cli, s2robot.encoder, s2robot.checkpoint, s2robot.integrations.gymnasium\n"
        "import s2robot.deployment.export, s2robot.deployment.episode_runner\n"
        f"print(sorted(set({OPTIONAL!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("s2robot.integrations.stable_baselines3", "stable_baselines3", "sb3"),
        ("s2robot.integrations.torchrl", "tensordict", "torchrl"),
        ("s2robot.deployment.server", "websockets", "server"),
    ],
)
def test_a_missing_library_names_its_extra(monkeypatch, module, library, extra):
    for name in [name for name in sys.modules if name == library or name.startswith(f"{library}.")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, library, None)  # makes its import fail
    monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(MissingLibraryError, match=rf"pip install 's2robot\[{extra}\]'"):
        importlib.import_module(module)

"""scripts/setup.sh with stand-ins for Python, apt and sudo: nothing is installed, every call is recorded."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Answers what setup.sh asks of an interpreter; `-m venv` copies it into the new environment.
PYTHON = """#!/bin/bash
echo "python $*" >>"$CALLS"
case "$*" in
  -) cat >/dev/null; echo "$FAKES/python3" ;;
  -V) echo "Python 3.12.0" ;;
  "-m venv --clear "*) rm -rf "$4"; mkdir -p "$4/bin"; cp "$0" "$4/bin/python"; cp "$0" "$4/bin/pip" ;;
  *python%d.%d*) echo python3.12 ;;
  *%d.%d*) echo 3.12 ;;
  *sysconfig*) echo "$FAKES" ;;
  *ctypes*) [ "${!#}" != "$MISSING_LIBRARY" ] ;;
esac
"""
RECORD = '#!/bin/bash\necho "{name} $*" >>"$CALLS"\n{body}\n'


class Machine:
    """A checkout and a folder of stand-ins in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.checkout, self.fakes, self.calls = folder / "checkout", folder / "fakes", folder / "calls"
        (self.checkout / "scripts").mkdir(parents=True)
        (self.checkout / "requirements").mkdir()
        shutil.copy(ROOT / "scripts" / "setup.sh", self.checkout / "scripts")
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        for name in ("py3.12", "installer", "build"):
            (self.checkout / "requirements" / f"{name}.txt").touch()
        self.fakes.mkdir()
        (self.fakes / "Python.h").touch()
        self.add("python3", PYTHON)
        self.add("gcc", "#!/bin/bash\n")
        self.add("id", "#!/bin/bash\necho 0\n")
        for name in ("apt-get", "sudo"):
            self.add(name, RECORD.format(name=name, body=""))

    def add(self, name: str, script: str) -> None:
        """Put a program in front of PATH."""
        (self.fakes / name).write_text(script)
        (self.fakes / name).chmod(0o755)

    def setup(self, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """Run setup.sh; return its exit status, what it said and the calls it made."""
        self.calls.write_text("")
        outside = {name: value for name, value in os.environ.items() if name not in ("VENV", "NEWEST", "LC_ALL")}
        environment = {
            **outside,
            "LC_ALL": "C",  # bash itself warns of a locale that is not there
            "PATH": f"{self.fakes}:{os.environ['PATH']}",
            "FAKES": str(self.fakes),
            "CALLS": str(self.calls),
            "MISSING_LIBRARY": "",
            "PYTHON": "python3",
            "MUJOCO_GL": "egl",
            **environment,
        }
        command = ["bash", "scripts/setup.sh", *arguments]
        done = subprocess.run(command, cwd=self.checkout, env=environment, capture_output=True, text=True)
        return done.returncode, done.stderr, self.calls.read_text().splitlines()


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


LOCKED = "python -m pip install --require-hashes"
INSTALLER = f"{LOCKED} --requirement requirements/installer.txt"
INSTALL = f"{LOCKED} --build-constraint requirements/build.txt --requirement requirements/py3.12.txt"
PROJECT = "python -m pip install --no-deps --no-build-isolation --editable ."
NEWEST = "python -m pip install --upgrade --upgrade-strategy eager --editable .[dev]"
CREATE = "python -m venv --clear .venv"


def test_first_run_creates_the_environment_and_installs(machine):
    status, _, calls = machine.setup()
    assert status == 0
    assert calls.index(CREATE) < calls.index(INSTALLER) < calls.index(INSTALL) < calls.index(PROJECT)
    assert NEWEST not in calls


def test_second_run_does_nothing(machine):
    machine.setup()
    status, said, calls = machine.setup()
    assert (status, said) == (0, "")
    assert INSTALL not in calls


def test_changed_dependencies_are_installed_into_the_same_environment(machine):
    machine.setup()
    (machine.checkout / "pyproject.toml").write_text('[project]\nname = "changed"\n')
    _, _, calls = machine.setup()
    assert INSTALL in calls
    assert CREATE not in calls


@pytest.mark.parametrize("name", ["py3.12", "build"])
def test_changed_lock_is_installed_into_the_same_environment(machine, name):
    machine.setup()
    (machine.checkout / "requirements" / f"{name}.txt").write_text("torch==2.14.1\n")
    _, _, calls = machine.setup()
    assert INSTALL in calls
    assert CREATE not in calls


def test_lock_of_another_python_changes_nothing(machine):
    machine.setup()
    (machine.checkout / "requirements" / "py3.13.txt").touch()
    assert INSTALL not in machine.setup()[2]


def test_missing_lock_is_named(machine):
    (machine.checkout / "requirements" / "py3.12.txt").unlink()
    status, said, _ = machine.setup()
    assert status != 0
    assert "requirements/py3.12.txt is missing; `make lock` writes it" in said


def test_newest_versions_are_installed_without_the_lock_and_go_when_it_is_asked_for(machine):
    _, said, calls = machine.setup(NEWEST="1")
    assert NEWEST in calls
    assert INSTALL not in calls
    assert "the locked ones take their place again" in said
    assert NEWEST not in machine.setup(NEWEST="1")[2]  # on the same day
    _, said, calls = machine.setup()
    assert INSTALL in calls
    assert CREATE not in calls
    assert "the versions of requirements/py3.12.txt" in said


def test_newest_versions_are_looked_up_again_on_another_day(machine):
    machine.add("date", "#!/bin/bash\necho 2026-01-01\n")
    machine.setup(NEWEST="1")
    machine.add("date", "#!/bin/bash\necho 2026-01-02\n")
    assert NEWEST in machine.setup(NEWEST="1")[2]


def test_interrupted_installation_of_others_is_not_taken_for_the_lock(machine):
    machine.setup()
    broken = PYTHON.replace("esac", '  "-m pip install --upgrade"*) exit 1 ;;\nesac')
    (machine.checkout / ".venv" / "bin" / "python").write_text(broken)
    assert machine.setup(NEWEST="1")[0] != 0
    _, _, calls = machine.setup()
    assert INSTALL in calls


def test_folder_of_others_is_not_emptied(machine):
    (machine.checkout / "mine").mkdir()
    (machine.checkout / "mine" / "thesis.tex").touch()
    status, said, calls = machine.setup(VENV="mine")
    assert status != 0
    assert "VENV=mine is not an environment that this script made" in said
    assert "python -m venv --clear mine" not in calls


def test_lock_that_does_not_fit_the_project_is_an_error(machine):
    machine.add("python3", PYTHON.replace("esac", '  "-m pip check") exit 1 ;;\nesac'))
    status, said, _ = machine.setup()
    assert status != 0
    assert "requirements/py3.12.txt does not fit pyproject.toml" in said


def test_another_place_leaves_the_first_alone(machine):
    machine.setup()
    _, _, calls = machine.setup(VENV=".venvs/other")
    assert "python -m venv --clear .venvs/other" in calls
    assert (machine.checkout / ".venv" / "setup-stamp").exists()


def test_system_packages_alone_are_installed_on_demand(machine):
    machine.setup()
    _, _, calls = machine.setup("packages", MISSING_LIBRARY="libEGL.so.1")
    assert any(call.startswith("apt-get install") and "libegl1" in call.split() for call in calls)
    assert INSTALL not in calls


def test_deleted_environment_is_created_again(machine):
    machine.setup()
    shutil.rmtree(machine.checkout / ".venv")
    _, _, calls = machine.setup()
    assert CREATE in calls


def test_other_interpreter_gets_a_new_environment(machine):
    machine.setup()
    machine.add("python3", PYTHON.replace("3.12.0", "3.12.1"))
    _, _, calls = machine.setup()
    assert CREATE in calls


def test_moved_checkout_gets_a_new_environment(machine):
    machine.setup()
    machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved"))
    _, _, calls = machine.setup()
    assert CREATE in calls


def test_failed_installation_is_continued(machine):
    machine.add("python3", PYTHON.replace("esac", '  "-m pip"*) exit 1 ;;\nesac'))
    status, _, _ = machine.setup()
    assert status != 0
    machine.add("python3", PYTHON)
    shutil.copy(machine.fakes / "python3", machine.checkout / ".venv" / "bin" / "python")
    status, _, calls = machine.setup()
    assert status == 0
    assert INSTALL in calls
    assert CREATE not in calls


def test_missing_system_package_is_installed_as_root(machine):
    status, _, calls = machine.setup(MISSING_LIBRARY="libEGL.so.1")
    assert status == 0
    assert any(call.startswith("apt-get install") and "libegl1" in call.split() for call in calls)


def test_missing_system_package_is_installed_through_sudo(machine):
    machine.add("id", "#!/bin/bash\necho 1000\n")
    _, _, calls = machine.setup(MISSING_LIBRARY="libEGL.so.1")
    assert any(call.startswith("sudo -n env") and "libegl1" in call.split() for call in calls)


def test_without_root_the_command_to_run_is_said_and_nothing_is_done(machine):
    machine.add("id", "#!/bin/bash\necho 1000\n")
    machine.add("sudo", RECORD.format(name="sudo", body="exit 1"))
    status, said, calls = machine.setup(MISSING_LIBRARY="libEGL.so.1")
    assert status != 0
    assert re.search(r"sudo apt-get install --yes --no-install-recommends .*\blibegl1\b", said)
    assert CREATE not in calls


def test_unsuitable_python_is_named_with_the_valid_versions(machine):
    status, said, calls = machine.setup(PYTHON="no-such-python")
    assert status != 0
    assert "3.11, 3.12 or 3.13" in said
    assert "no-such-python" in said
    assert CREATE not in calls


def test_context_that_does_not_open_names_the_backend(machine):
    machine.add("python3", PYTHON.replace('echo "$FAKES/python3"', '[[ $0 != *.venv* ]] && echo "$FAKES/python3"'))
    status, said, _ = machine.setup(MUJOCO_GL="egl")
    assert status != 0
    assert "MUJOCO_GL=egl" in said


def test_the_verbs_run_files_that_exist():
    """Verbs that need other projects run rarely; a file that was renamed would go unnoticed."""
    named = re.findall(r"[\w./]+\.(?:py|sh)\b", (ROOT / "Makefile").read_text() + (ROOT / ".ci/run").read_text())
    assert {"train_policy.py", "scripts/setup.sh", "tests/test_export.py"} <= set(named)
    assert [name for name in named if not (ROOT / name).is_file()] == []

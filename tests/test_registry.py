"""What is chosen by name: the package's own, and what installed packages add, each run in an interpreter of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from s2robot.interfaces import ConfigError
from s2robot.system.registry import Registry, providers

OWN = {"ratio": "fractions:Fraction", "given": len}
LOOK = """
import json, logging, sys
logging.basicConfig(stream=sys.stderr, format="%(message)s")
from s2robot.interfaces import ConfigError
from s2robot.system.registry import Registry, providers
registry = Registry("tool", "s2robot.tools", {"ratio": "fractions:Fraction"})
"""


def install(site: Path, package: str, entries: dict[str, str], version: str = "1.2", module: str = "") -> None:
    """What `pip install` leaves behind of a package with one module: the module, and its dist-info."""
    (site / f"{package}.py").write_text(module)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[s2robot.tools]", *lines, ""]))


def look(site: Path, program: str) -> tuple[dict[str, str], str]:
    """What a program prints as JSON where these packages are installed, and what it writes to stderr."""
    code = f"import sys; sys.path.insert(0, {str(site)!r})\n{LOOK}{program}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def error_of(site: Path, expression: str) -> str:
    """The message of the error that an expression ends in."""
    program = f"""
try:
    {expression}
except ConfigError as error:
    print(json.dumps({{"error": str(error)}}))
"""
    return look(site, program)[0]["error"]


def test_own_entry_is_the_object_itself_or_where_it_is():
    registry = Registry("tool", "s2robot.nothing", OWN)
    assert registry["ratio"].__name__ == "Fraction"
    assert registry.find("given") is len
    assert list(registry) == list(OWN)
    assert len(registry) == 2
    assert registry.provider("ratio") is None
    assert providers([(registry, "ratio")]) == {}


def test_listing_imports_nothing():
    registry = Registry("tool", "s2robot.nothing", {"heavy": "no_such_module:Heavy"})
    assert list(registry) == ["heavy"]
    assert "heavy" in registry
    with pytest.raises(ModuleNotFoundError):
        registry["heavy"]


def test_unknown_name_lists_the_choices():
    registry = Registry("tool", "s2robot.nothing", OWN)
    with pytest.raises(ConfigError, match="unknown tool 'ratoi'; did you mean 'ratio'.*given"):
        registry.find("ratoi")
    with pytest.raises(KeyError):
        registry["ratoi"]


def test_entry_of_an_installed_package_is_listed_found_and_named_with_its_version(tmp_path):
    install(tmp_path, "toolbox", {"saw": "toolbox:Saw"}, module="class Saw:\n    teeth = 40\n")
    found, said = look(
        tmp_path,
        'print(json.dumps({"names": list(registry), "loaded": "toolbox" in sys.modules, "count": len(registry),'
        ' "teeth": registry.find("saw").teeth, "provider": registry.provider("saw"),'
        ' "providers": providers([(registry, "saw"), (registry, "ratio")])}))',
    )
    assert found == {
        "names": ["ratio", "saw"],
        "loaded": False,
        "count": 2,
        "teeth": 40,
        "provider": "toolbox 1.2",
        "providers": {"tool saw": "toolbox 1.2"},
    }
    assert said == ""


def test_unknown_name_lists_the_entries_of_installed_packages_too(tmp_path):
    install(tmp_path, "toolbox", {"saw": "toolbox:Saw"})
    assert error_of(tmp_path, 'registry.find("sew")').endswith("Choices: ratio, saw")


@pytest.mark.parametrize(
    ("value", "module", "why"),
    [
        ("toolbox:Saw", "import no_such_library", "ModuleNotFoundError: No module named 'no_such_library'"),
        ("toolbox:Swa", "class Saw: pass", "AttributeError"),
        ("toolbox:Saw", "1 / 0", "ZeroDivisionError"),
        ("nowhere:Saw", "", "ModuleNotFoundError"),
    ],
)
def test_package_that_cannot_be_imported_is_named_with_the_reason(tmp_path, value, module, why):
    install(tmp_path, "toolbox", {"saw": value}, module=module)
    message = error_of(tmp_path, 'registry.find("saw")')
    assert f"tool 'saw' of toolbox 1.2 cannot be imported from '{value}': {why}" in message


def test_two_packages_with_one_name_are_both_named(tmp_path):
    for package in ("toolbox", "workshop"):
        install(tmp_path, package, {"saw": f"{package}:Saw"}, module="class Saw: pass")
    message = error_of(tmp_path, 'registry.find("saw")')
    assert message == "tool 'saw' is provided by toolbox 1.2 and workshop 1.2; uninstall all but one"


def test_entry_from_outside_does_not_replace_ours_and_the_user_is_told(tmp_path):
    install(tmp_path, "toolbox", {"ratio": "toolbox:Ratio"}, module="class Ratio: pass")
    program = (
        'print(json.dumps({"names": list(registry), "found": registry["ratio"].__module__, "count": len(registry)}))'
    )
    found, said = look(tmp_path, program)
    assert found == {"names": ["ratio"], "found": "fractions", "count": 1}
    assert said.strip() == "tool 'ratio' of toolbox 1.2 is not used: s2robot has its own of that name; rename it"


def test_broken_package_is_left_out_of_the_choices_with_a_warning_and_hinders_no_other(tmp_path):
    settings = (
        "from dataclasses import dataclass\n@dataclass\nclass Settings:\n    name: str = ''\n    teeth: int = 40\n"
    )
    install(tmp_path, "toolbox", {"saw": "toolbox:Saw"}, module=f"{settings}class Saw:\n    settings = Settings\n")
    install(tmp_path, "broken", {"axe": "broken:Axe"}, module="import no_such_library")
    install(tmp_path, "silent", {"bit": "silent:Bit"}, module="class Bit: pass")
    program = "registry._own = {}\nprint(json.dumps({k: vars(v) for k, v in registry.default_settings().items()}))"
    found, said = look(tmp_path, program)
    assert found == {"saw": {"name": "saw", "teeth": 40}}
    assert "tool 'axe' of broken 1.2 cannot be imported" in said
    assert "tool 'bit' of silent 1.2 has no attribute `settings`" in said

"""The documentation keeps its word: links lead somewhere, commands are accepted, imported names exist."""

import ast
import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from snippets import FENCE, ROOT, blocks

from s2robot import cli
from s2robot.cli import words as words_of
from s2robot.interfaces import ConfigError

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
SHELL = {"", "sh", "bash", "console", "shell"}
PLACEHOLDER = "…"  # a line that shows the form of a command, not one to run


def commands(text: str) -> list[str]:
    """The lines of a shell script that call this package, without prompt, continuation and folder of the program."""
    lines = [line.strip().removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]
    lines = [re.sub(r"^(\w+=\S* )*(\S*/bin/)?", "", line) for line in lines]
    return [line for line in lines if re.match(r"s2robot |python3? train_policy\.py", line) and PLACEHOLDER not in line]


def in_pages(find, languages: set[str]) -> list:
    """One test parameter for each thing that `find` sees in a code block."""
    found = [(page.name, item) for page in PAGES for block in blocks(page, languages) for item in find(block)]
    return [pytest.param(item, id=f"{page}: {item.splitlines()[0]}") for page, item in found]


def slug(heading: str) -> str:
    """The anchor that a Markdown heading gets on the web."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Every anchor of a page; code blocks hold no headings."""
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)}


def accept(command: str) -> None:
    """Read a command's arguments as the program would, without doing its work.

    Raises:
        ConfigError: the program does not accept them.
    """
    program, *words = [word for word in shlex.split(command, comments=True) if not word.startswith("-")]
    name, *arguments = words
    if program != "s2robot":
        words_of.compose("train_policy", arguments)
    elif name in cli.GROUPED:
        words_of.compose(cli.GROUPED[name], arguments)
    elif config := cli.VERBS[name].config:
        words_of.parse(config, arguments[name == "inspect" :])  # its first word is the dataset


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name}: {link} does not exist"
        assert not anchor or anchor in anchors(target), f"{page.name}: {link} has no such heading"


def test_every_source_of_demonstrations_names_tests_that_exist():
    section = (ROOT / "docs/datasets.md").read_text().split("### What others recorded")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 11
    for row in rows:
        cells = row.strip("| ").split(" | ")
        assert len(cells) == 5, row
        named = re.findall(r"`(test_\w+\.py)`", cells[-1])
        assert named, row
        assert all((ROOT / "tests" / name).is_file() for name in named), row


@pytest.mark.parametrize("command", in_pages(commands, SHELL))
def test_documented_command_is_accepted(command):
    accept(command)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.stem)
def test_commands_in_the_head_of_a_configuration_are_accepted(path):
    for command in commands(path.read_text().replace("#", "")):
        accept(command)


def test_commands_of_the_demo_are_accepted():
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    # As someone who has exported none of the demo's settings, and not called from another make.
    clean = {key: value for key, value in os.environ.items() if not re.match(r"DEMO_|MAKE|MFLAGS|PYTEST_ARGS", key)}
    done = subprocess.run(
        ["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True, env=clean
    )
    recipe = done.stdout
    found = commands(recipe)
    assert [command.split()[1] for command in found] == ["collect", "train_policy.py", "evaluate"]
    for command in found:
        accept(command)


@pytest.mark.parametrize("command", ["s2robot collect tusk=Lift", "python train_policy.py dataset=a.hdf5 policy=bcc"])
def test_a_mistyped_command_is_not_accepted(command):
    with pytest.raises(ConfigError, match="task|bc"):
        accept(command)


@pytest.mark.parametrize("snippet", in_pages(lambda block: [block], {"python", "py"}))
def test_names_imported_in_snippets_exist(snippet):
    for node in ast.walk(ast.parse(snippet)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("s2robot", "s2robot_envs"):
            try:
                module = importlib.import_module(node.module)
            except ImportError as error:  # of a library that this environment lacks: that page's own test runs it
                if (error.name or "").startswith("s2robot"):
                    raise
                continue
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_readme_shows_the_commands_that_a_reader_starts_with():
    text = (ROOT / "README.md").read_text()
    for command in ("make demo", "make test", "s2robot collect", "train_policy.py", "s2robot evaluate"):
        assert command in text, f"README.md does not show {command!r}"


@pytest.mark.parametrize(
    ("page", "containing"),
    [
        ("README.md", "features.prefix.shape"),
        ("README.md", "multiscale_forward"),
        pytest.param("README.md", "make_env", marks=pytest.mark.sim),
        ("docs/tutorials/extend.md", "from_module"),
        ("docs/tutorials/extend.md", "multiscale_forward"),
    ],
)
def test_snippets_that_need_nothing_else_run(page, containing):
    (code,) = blocks(ROOT / page, {"python"}, containing)
    names: dict[str, object] = {}
    try:
        exec(code, names)
    finally:
        if "env" in names:
            names["env"].close()

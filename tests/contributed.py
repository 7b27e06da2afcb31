"""The files that CONTRIBUTING.md tells contributors to write: the code blocks of its sections."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"
BLOCK = re.compile(r"^```(python|diff)\n(?:# |--- )(\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {
    "A policy": "policy",
    "A readout": "readout",
    "A dataset format": "dataset format",
    "An encoder (backbone)": "backbone",
    "A task": "task of robosuite",
    "An expert": "expert",
    "A task variant": "task variant",
}


def blocks_of(section):
    """Return (language, path, content) of each code block that names a file."""
    document = PAGE.read_text(encoding="utf-8")
    text = document.split(f"### {section}\n")[1].split("\n### ")[0].split("\n## ")[0]
    return BLOCK.findall(text)


def entry_of(section):
    """Return the name under which a section adds its class, the module's source, and the module's and class's names."""
    (source,) = [content for language, _, content in blocks_of(section) if language == "python"]
    (line,) = [content for language, _, content in blocks_of(section) if language == "diff"]
    name, module, attribute = re.search(r'^\+ +"(.*?)": "(.*?):(.*?)"', line, re.MULTILINE).groups()
    return name, source, module.rpartition(".")[2], attribute

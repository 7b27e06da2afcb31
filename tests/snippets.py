"""Code blocks of the documentation, for the tests that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def snippet(page: str, language: str, containing: str) -> str:
    """The one code block of docs/`page` in this language that contains a word; README.md has it too, in ten lines."""
    (found,) = blocks(ROOT / "docs" / page, language, containing)
    assert found in blocks(ROOT / "README.md", language, containing)
    assert len(found.splitlines()) <= 10
    return found


def blocks(page: Path, language: str, containing: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [block for block in found if containing in block]

"""Code blocks of the documentation, for the tests that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, languages: set[str], containing: str = "") -> list[str]:
    """The fenced code blocks of a page in one of these languages that contain a word."""
    found = FENCE.findall(page.read_text())
    return [body for language, body in found if language in languages and containing in body]


def snippet(page: str, language: str, containing: str) -> str:
    """The one code block of docs/`page` in this language that contains a word; README.md has it too, in ten lines."""
    (found,) = blocks(ROOT / "docs" / page, {language}, containing)
    assert found in blocks(ROOT / "README.md", {language}, containing)
    assert len(found.splitlines()) <= 10
    return found

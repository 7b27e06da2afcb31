"""Code blocks of the documentation, for the tests that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, languages: set[str], containing: str = "") -> list[str]:
    """Return a page's fenced code blocks in one of these languages that contain a word."""
    found = FENCE.findall(page.read_text())
    return [body for language, body in found if language in languages and containing in body]


def snippet(page: str, language: str, containing: str) -> str:
    """Return the only code block of docs/`page` in this language that contains a word.

    README.md must have the same block, and it must have at most ten lines.
    """
    (found,) = blocks(ROOT / "docs" / page, {language}, containing)
    assert found in blocks(ROOT / "README.md", {language}, containing)
    assert len(found.splitlines()) <= 10
    return found

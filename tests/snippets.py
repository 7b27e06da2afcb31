"""Code blocks of the documentation, for the tests that run them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def snippet(page: str, language: str, containing: str) -> str:
    """The one code block of docs/`page` in this language that contains a word; at most ten lines long."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if containing in block]
    assert len(found.splitlines()) <= 10
    return found

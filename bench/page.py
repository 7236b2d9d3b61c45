"""The page of measured figures: prose by people, and sections between markers that a run writes anew."""

from __future__ import annotations

import re
from pathlib import Path

from tests.lab.computer import REPOSITORY

PAGE = REPOSITORY / "docs" / "performance.md"


def replace_section(text: str, name: str, content: str) -> str:
    """A page's text with what is between ``<!-- NAME -->`` and ``<!-- end of NAME -->`` replaced.

    Raises:
        ValueError: the page has no such section, or more than one.
    """
    section = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
    replaced, count = section.subn(lambda match: f"{match[1]}\n{content.strip()}\n\n{match[2]}", text)
    if count != 1:
        raise ValueError(f"{count} sections {name!r} in the page")
    return replaced


def write_section(name: str, content: str, page: Path = PAGE) -> None:
    """Replace a section of a page in its file."""
    page.write_text(replace_section(page.read_text(), name, content))

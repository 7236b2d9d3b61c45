"""Each hint of the product is on its page, with how it was tried."""

from __future__ import annotations

import re
from pathlib import Path

from tests.hints import hints

PAGE = Path(__file__).parent.parent / "docs" / "hints.md"
_ROW = re.compile(r"^\| (.+) \| `([\w/.]+)` \| (.+) \|$", re.MULTILINE)


def test_the_page_has_each_hint_once_and_no_other() -> None:
    """A new one is added with how it was followed; the words that a hint is made of may be in several places."""
    listed = [hint.replace("\\|", "|") for hint, _, _ in _ROW.findall(PAGE.read_text())]
    assert sorted(listed) == sorted(hints())


def test_each_hint_was_tried() -> None:
    for hint, _, tried in _ROW.findall(PAGE.read_text()):
        assert re.match(r"(test_\w+|by hand|read: \w+)", tried), hint


def test_no_hint_ends_what_others_need() -> None:
    """What is installed, stopped or ended names the case in which that helps; "start it" is for who lends readers."""
    for hint in hints():
        if "install pcscd" in hint or "stop pcscd" in hint or "stop its pcscd" in hint:
            assert "where " in hint or "only if" in hint or hint.startswith("start it"), hint
        assert "systemd (" not in hint, hint
        assert "0666" not in hint, hint

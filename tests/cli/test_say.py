"""Signs, colours, and encodings that lack characters."""

from __future__ import annotations

import codecs

import pytest

from cardferry.cli.say import look_alike, mark


def test_no_colour_for_who_wants_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert mark("✓", "green") == "\x1b[32m✓\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert mark("✓", "green") == "✓"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"+ - ! # ~ \\xfc\\u0142"), ("latin1", b"+ \xb7 ! # ~ \xfc\\u0142")]
)
def test_what_an_encoding_lacks_has_something_that_looks_like_it(encoding: str, shown: bytes) -> None:
    codecs.register_error("look-alike", look_alike)
    assert "✓ · ✗ █ … ü\u0142".encode(encoding, "look-alike") == shown

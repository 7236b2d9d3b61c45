"""The rules in force: read anew when the file has changed and is whole, all of it or nothing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cardferry.policy.rulebook import Rulebook

RULE = '[[allow]]\nwho = "ssh:{who}"\nmay = "read"\n'


class File:
    """A configuration file, and a clock."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        self.now = 1000.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(time, "time", lambda: self.now)
        self.write(RULE.format(who="one"), age=10)
        self.book = Rulebook(lambda: self.path if self.path.exists() else None, "owner")
        self.book.look()

    def write(self, text: str, age: float = 0.0) -> None:
        self.path.write_text(text)
        self.path.chmod(0o600)
        os.utime(self.path, (self.now - age, self.now - age))

    def after(self, seconds: float) -> list[str]:
        """Whom the rules are about then."""
        self.now += seconds
        self.book.look()
        return [who for rule in self.book.rules for who in rule.who]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> File:
    return File(tmp_path / "config.toml", monkeypatch)


def test_a_file_that_has_changed_is_read_within_a_second(file: File) -> None:
    file.write(RULE.format(who="two"), age=1)
    assert file.after(0.5) == ["ssh:one"]
    assert file.after(0.6) == ["ssh:two"]


def test_a_file_that_is_being_written_is_not_read(file: File) -> None:
    """An editor that empties it first: without rules others would hold, for a moment."""
    file.now += 2
    file.write("")
    assert file.after(0.0) == ["ssh:one"]
    file.write(RULE.format(who="two"))
    assert file.after(0.1) == ["ssh:one"]
    assert file.after(0.2) == ["ssh:two"]


def test_a_file_from_the_future_is_read_all_the_same(file: File) -> None:
    file.write(RULE.format(who="two"), age=-3600)
    assert file.after(2) == ["ssh:two"]


@pytest.mark.parametrize("text", ["[[allow]", '[[allow]]\nwho = "ssh:two"\n', 'audti = "off"'])
def test_a_wrong_file_changes_nothing_and_that_is_said_once(
    file: File, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    file.write(text, age=5)
    assert file.after(2) == ["ssh:one"]
    assert file.after(2) == ["ssh:one"]
    assert caplog.text.count("the rules stay as they were") == 1
    file.write(RULE.format(who="two"), age=1)
    assert file.after(2) == ["ssh:two"]


def test_a_file_that_is_gone_changes_nothing(file: File, caplog: pytest.LogCaptureFixture) -> None:
    file.path.unlink()
    assert file.after(2) == ["ssh:one"]
    assert "is gone" in caplog.text

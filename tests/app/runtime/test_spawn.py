from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cardferry.app.runtime.spawn import BackgroundError, Starter, StartReport, alone, decode, start
from cardferry.pcsc.errors import UserError


class WrongError(UserError):
    exit_code = 77


def test_a_report_travels_as_one_line() -> None:
    report = StartReport.of(WrongError("it is wrong", "mend it"))
    line = report.line()
    assert line.count(b"\n") == 1
    assert decode(line) == report
    assert decode(StartReport(serving="/run/x").line()).serving == "/run/x"


def test_an_error_keeps_its_words_and_exit_code() -> None:
    with pytest.raises(BackgroundError) as caught:
        StartReport.of(WrongError("it is wrong", "mend it")).check()
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == ("it is wrong", "mend it", 77)
    StartReport(taken=True).check()


@pytest.mark.parametrize("line", [b"", b"hello\n", b"[1]\n", b'{"taken": 3}\n'])
def test_what_is_no_report_is_an_error_of_its_own(line: bytes) -> None:
    with pytest.raises(BackgroundError):
        decode(line)


def test_whoever_started_us_is_told_once() -> None:
    reading, writing = os.pipe()
    starter = Starter(writing)
    starter.tell(StartReport(taken=True))
    starter.tell(StartReport(error="too late"))
    with os.fdopen(reading, "rb") as heard:
        assert decode(heard.read()) == StartReport(taken=True)


def test_who_was_started_by_nobody_tells_nobody() -> None:
    Starter(None).tell(StartReport(taken=True))


def test_a_starter_that_has_gone_is_no_trouble() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    Starter(writing).tell(StartReport(taken=True))


def test_one_at_a_time_is_alone(tmp_path: Path) -> None:
    inside: list[str] = []
    second = threading.Thread(target=lambda: enter("second"))

    def enter(name: str) -> None:
        with alone(tmp_path):
            inside.append(name)

    with alone(tmp_path):
        second.start()
        inside.append("first")
    second.join(5)
    assert inside == ["first", "second"]
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_a_process_that_cannot_start_says_why_with_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(BackgroundError, match="there is no pcscd socket at /nowhere") as caught:
        start(["host", "--readers", "pcscd:/nowhere"], tmp_path / "log")
    assert caught.value.exit_code == 30
    assert caught.value.hint


def test_a_process_that_ends_without_a_word_points_to_its_log(tmp_path: Path) -> None:
    with pytest.raises(BackgroundError) as caught:
        start(["no-such-command"], tmp_path / "log")
    assert str(tmp_path / "log") in caught.value.hint
    assert "no-such-command" in (tmp_path / "log").read_text()


_WRITER = """
import logging, sys
from cardferry.app.runtime.spawn import BoundedLog
logging.basicConfig(stream=sys.stderr)
logging.getLogger().handlers[0].addFilter(BoundedLog(1000))
for number in range(200):
    logging.warning("line %d", number)
"""


def test_a_log_file_begins_anew_when_it_is_too_long(tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab") as log:
        subprocess.run([sys.executable, "-c", _WRITER], stderr=log, check=True)
    text = (tmp_path / "log").read_text()
    assert len(text) < 1100
    assert text.endswith("line 199\n")

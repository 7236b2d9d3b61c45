from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile

import pytest

SCRIPT = """
import logging
from cardferry.app.runtime.logging import TRAFFIC, set_up
set_up({arguments})
for level in (TRAFFIC, logging.DEBUG, logging.INFO, logging.WARNING):
    logging.getLogger("cardferry.app").log(level, "level %d", level)
"""


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [("0, quiet=True", [30]), ("0", [20, 30]), ("1", [10, 20, 30]), ("2", [5, 10, 20, 30]), ("9", [5, 10, 20, 30])],
)
def test_each_v_shows_more(arguments: str, shown: list[int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(arguments=arguments)], capture_output=True, text=True, check=True
    )
    assert [int(line.rpartition(" ")[2]) for line in done.stderr.splitlines()] == shown
    assert done.stdout == ""


def test_what_others_say_stays_on_its_line() -> None:
    script = (
        "import logging\nfrom cardferry.app.runtime.logging import set_up\nset_up(0)\n"
        "try: raise ValueError('x')\n"
        r"except ValueError: logging.getLogger('cardferry.app').exception('%s', 'evil\nerror: \x1b[31mä')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    first, *rest = done.stderr.decode(errors="backslashreplace").splitlines()
    assert first.startswith(r"evil\nerror: \x1b[31m")
    assert rest[0] == "  Traceback (most recent call last):"


def test_a_traceback_shows_what_others_say_in_lines_that_are_no_messages() -> None:
    script = (
        "import logging\nfrom cardferry.app.runtime.logging import guard_standard_error\nguard_standard_error()\n"
        r"evil = 'x\nerror: \x1b[31m\u202e'" + "\n"
        "logging.getLogger('somebody').warning(evil)\n"
        "raise ExceptionGroup(evil, [ValueError(evil)])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    first, *rest = done.stderr.decode().splitlines()
    assert first == r"x\nerror: \x1b[31m\u202e"
    assert len(rest) > 5
    assert [line for line in rest if not line.startswith("  ") or not line.isprintable()] == []


def journalled(*words: str, script: str | None = None) -> str:
    """What a command writes to standard error when that is the journal, here a file."""
    command = [sys.executable, "-c", script] if script else [sys.executable, "-m", "cardferry", *words]
    with tempfile.TemporaryFile() as journal:
        there = os.fstat(journal.fileno())
        environ = {**os.environ, "JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}
        subprocess.run(command, stderr=journal, env=environ, check=False)
        journal.seek(0)
        return journal.read().decode()


def test_the_journal_is_told_how_grave_each_line_is_and_has_its_own_clock() -> None:
    script = SCRIPT.format(arguments="2") + "logging.getLogger('cardferry.app').error('level 40')"
    lines = journalled(script=script).splitlines()
    assert [(line[:3], line[3:].split()[0]) for line in lines] == [
        ("<7>", "TRAFFIC"), ("<7>", "DEBUG"), ("<6>", "INFO"), ("<4>", "WARNING"), ("<3>", "ERROR"),
    ]  # fmt: skip


def test_errors_that_end_a_command_are_errors_in_the_journal() -> None:
    assert journalled("attach", "gopher://x").splitlines()[0] == "<3>error: not a HOST: 'gopher://x'"
    script = "from cardferry.app.runtime.logging import guard_standard_error as g\ng()\nraise ValueError('x')"
    lines = journalled(script=script).splitlines()
    assert len(lines) > 2
    assert {line[:3] for line in lines} == {"<3>"}


def test_another_journal_than_standard_error_changes_nothing() -> None:
    script = SCRIPT.format(arguments="0")
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "JOURNAL_STREAM": "1:2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.splitlines() == ["level 20", "level 30"]


def test_a_log_file_has_the_time_once() -> None:
    for arguments in ("0, timed=True", "1, timed=True", "1"):
        script = SCRIPT.format(arguments=arguments)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert [len(re.findall(r"\d\d:\d\d:\d\d", line)) for line in done.stderr.splitlines()][:2] == [1, 1]

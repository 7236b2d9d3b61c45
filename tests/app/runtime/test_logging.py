from __future__ import annotations

import subprocess
import sys

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

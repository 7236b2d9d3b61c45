"""The person at the host is asked with pinentry: what is said to the program, and what its answers mean."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cardferry.policy.pin import pinentry
from cardferry.policy.pin.pinentry import Pinentry

_PROGRAM = """\
import sys
print("OK hello", flush=True)
for line in sys.stdin:
    print(line, end="", file=open({log!r}, "a"))
    word = line.split()[0]
    answer = {answers!r}.get(word, "OK")
    if answer == "end":
        sys.exit()
    if answer == "wait":
        import time
        time.sleep(60)
    print(answer, flush=True)
"""


def program(folder: Path, **answers: str) -> str:
    path = folder / "pinentry.py"
    path.write_text(_PROGRAM.format(log=str(folder / "log"), answers=answers))
    return f"{sys.executable} {path}"


async def test_a_pin_is_asked_for_in_words_of_ours(tmp_path: Path) -> None:
    person = Pinentry(program(tmp_path, GETPIN="D 12%2534\nOK"))
    said = await person.pin("ssh:build1\x1b[2J wants the PIN")
    assert (said.yes, said.pin) == (True, "12%34")
    assert "34" not in repr(said)
    log = (tmp_path / "log").read_text()
    assert "SETDESC ssh:build1\\x1b[2J wants the PIN" in log
    assert "SETTIMEOUT 30" in log


@pytest.mark.parametrize(
    ("answer", "yes", "cancelled"),
    [
        ("OK", True, False),
        ("ERR 83886179 cancelled", False, True),
        ("ERR 83886194 no", False, True),
        ("ERR 83886142 timeout", False, False),
        ("NONSENSE", False, False),
        ("end", False, False),
    ],
)
async def test_consent(tmp_path: Path, answer: str, yes: bool, cancelled: bool) -> None:
    said = await Pinentry(program(tmp_path, CONFIRM=answer)).consent("May it?")
    assert (said.yes, said.cancelled, said.pin) == (yes, cancelled, None)


async def test_who_does_not_answer_has_said_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinentry, "PATIENCE", 0.2)
    monkeypatch.setattr(pinentry, "_GRACE", 0)
    assert not (await Pinentry(program(tmp_path, CONFIRM="wait")).consent("May it?")).yes


async def test_without_a_program_nobody_says_yes(tmp_path: Path) -> None:
    assert not (await Pinentry(str(tmp_path / "nothing")).consent("May it?")).yes
    assert not (await Pinentry("").consent("May it?")).yes


async def test_a_pinentry_that_does_not_know_a_setting_is_asked_all_the_same(tmp_path: Path) -> None:
    command = program(tmp_path, SETTIMEOUT="ERR 83886355 unknown", OPTION="ERR 83886254 unknown")
    assert (await Pinentry(command).consent("May it?")).yes

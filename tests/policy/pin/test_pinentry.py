"""The person at the host is asked with pinentry: what is said to the program, and what its answers mean."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from cardferry.policy.pin import pinentry
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Person, Question, Said
from cardferry.policy.pin.pinentry import Pinentry

_PROGRAM = """\
import sys
print("OK hello", flush=True)
answers = {answers!r}
for line in sys.stdin:
    print(line, end="", file=open({log!r}, "a"))
    word = line.split()[0]
    answer = answers.get(word, ["OK"])
    answer = answer.pop(0) if len(answer) > 1 else answer[0]
    if answer == "end":
        sys.exit()
    if answer == "wait":
        import time
        time.sleep(60)
    print(answer, flush=True)
"""
PIN, MAY_IT = Question("May it?", "PIN"), Question("May it?")


def program(folder: Path, **answers: str | list[str]) -> str:
    path = folder / "pinentry.py"
    listed = {word: answer if isinstance(answer, list) else [answer] for word, answer in answers.items()}
    path.write_text(_PROGRAM.format(log=str(folder / "log"), answers=listed))
    return f"{sys.executable} {path}"


async def test_a_pin_is_asked_for_in_words_of_ours(tmp_path: Path) -> None:
    said = await Pinentry(program(tmp_path, GETPIN="D 12%2534\nOK")).ask(
        Question("ssh:build1\x1b[2J wants the PIN", "New PIN", patience=7)
    )
    assert said is not None
    assert said.pin == bytearray(b"12%34")
    assert "34" not in repr(said)
    log = (tmp_path / "log").read_text()
    assert "SETDESC ssh:build1\\x1b[2J wants the PIN" in log
    assert "SETPROMPT New PIN:" in log
    assert "SETTIMEOUT 7" in log


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("OK", Said(yes=True)),
        ("ERR 83886179 cancelled", CANCELLED),
        ("ERR 83886194 no", CANCELLED),
        ("ERR 83886142 timeout", NO_ANSWER),
        ("ERR 83918950 no terminal", None),
        ("NONSENSE", None),
        ("end", None),
    ],
)
async def test_consent(tmp_path: Path, answer: str, said: Said | None) -> None:
    assert await Pinentry(program(tmp_path, CONFIRM=answer)).ask(MAY_IT) == said


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        (["OK", "OK"], Said(yes=True, lasting=True)),
        (["OK", "ERR 83886194 no"], Said(yes=True)),
        (["OK", "end"], Said(yes=True)),
        (["ERR 83886194 no", "OK"], CANCELLED),
    ],
    ids=["ten minutes", "once", "gone", "no"],
)
async def test_ten_minutes_are_a_second_question(tmp_path: Path, answers: list[str], said: Said) -> None:
    """No pinentry says "ten minutes" when a window is closed."""
    assert await Pinentry(program(tmp_path, CONFIRM=answers)).ask(Question("May it?", lasting=True)) == said


async def test_who_does_not_answer_has_said_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinentry, "_GRACE", 0)
    waiting = Pinentry(program(tmp_path, CONFIRM="wait"))
    assert await waiting.ask(Question("May it?", patience=0.2)) == NO_ANSWER


async def test_the_next_way_is_tried_when_one_cannot_ask(tmp_path: Path) -> None:
    there = Pinentry(program(tmp_path, GETPIN="D 1234\nOK"))
    broken = Pinentry(f"{sys.executable} {tmp_path}/gone.py")
    nothing = Pinentry(str(tmp_path / "nothing"))
    person = Person(lambda terminals: [Pinentry(""), nothing, broken, there])
    assert person.ways(PIN) == [broken, there]
    assert (await person.ask(PIN)).pin == bytearray(b"1234")
    assert await Person(lambda terminals: [nothing]).ask(PIN) == NO_ANSWER


async def test_a_pinentry_that_does_not_know_a_setting_is_asked_all_the_same(tmp_path: Path) -> None:
    command = program(tmp_path, SETTIMEOUT="ERR 83886355 unknown", OPTION="ERR 83886254 unknown")
    assert await Pinentry(command).ask(MAY_IT) == Said(yes=True)

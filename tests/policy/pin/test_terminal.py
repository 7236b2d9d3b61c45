"""The person is asked on the terminal: in words, without showing a PIN, and not when another job has the terminal."""

from __future__ import annotations

import sys

import pytest

from cardferry.policy.pin.person import Question
from cardferry.policy.pin.terminal import Terminal
from tests.lab.terminal import OnTerminal

#: Asks each question of its command line on the terminal it has, and prints the answers.
_ASKS = """
import asyncio, sys
from cardferry.policy.pin.person import Question
from cardferry.policy.pin.pinentry import Pinentry
from cardferry.policy.pin.terminal import Terminal

async def main():
    for line in sys.argv[2:]:
        way = Terminal() if sys.argv[1] == "terminal" else Pinentry(sys.argv[1])
        said = await way.ask(Question(*eval(line)))
        print("said", said, None if said is None else said.pin, flush=True)

asyncio.run(main())
"""
PIN, MAY_IT, MAY_IT_OFTEN = ("ssh:build1 wants it\x1b[2J", "PIN"), ("May it?",), ("May it?", "", True)


def asked(way: str, *questions: tuple[object, ...]) -> OnTerminal:
    return OnTerminal([sys.executable, "-c", _ASKS, way, *map(repr, questions)])


def test_what_the_person_says() -> None:
    answers = [
        (PIN, "123456", r"yes=True.*bytearray\(b'123456'\)"),
        (PIN, "", "yes=False, cancelled=True"),
        (MAY_IT, "yes", "yes=True, cancelled=False, lasting=False"),
        (MAY_IT, "ten", "yes=False, cancelled=True"),
        (MAY_IT_OFTEN, "ten", "yes=True, cancelled=False, lasting=True"),
        (MAY_IT_OFTEN, "", "yes=False, cancelled=True"),
        (MAY_IT_OFTEN, "yes please", "yes=False, cancelled=True"),
    ]
    with asked("terminal", *(question for question, _, _ in answers)) as terminal:
        for question, answer, said in answers:
            if question == PIN:
                terminal.wait_for(r"ssh:build1 wants it\\x1b\[2J\r\nPIN.*: ")
            else:
                terminal.wait_for(r"May it\?\r\nyes.*: ")
            terminal.enter(answer + "\n")
            terminal.wait_for(f"said Said.*{said}")
        assert terminal.process.wait(10) == 0
    assert terminal.text.count("123456") == 1, "it was our own print"


def test_who_does_not_answer() -> None:
    with asked("terminal", ("May it?", "PIN", False, 0.1), PIN) as terminal:
        terminal.wait_for("said Said.yes=False, cancelled=False")
        terminal.wait_for("PIN .*: ")
        terminal.enter("12")
        terminal.process.terminate()
        assert terminal.process.wait(10) != 0


async def test_without_a_terminal_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardferry.system.terminal._TERMINAL", "/dev/null")
    assert not Terminal().fits(Question("May it?"))
    assert await Terminal().ask(Question("May it?")) is None


@pytest.mark.real
@pytest.mark.parametrize("program", ["pinentry-tty", "pinentry-curses"])
def test_a_real_pinentry_takes_the_terminal(program: str) -> None:
    with asked(program, PIN, MAY_IT) as terminal:
        terminal.wait_for("wants it")
        terminal.enter("123456\r")
        terminal.wait_for(r"said Said\(yes=True.*bytearray\(b'123456'\)")
        terminal.wait_for("May it")
        terminal.enter("a" if program == "pinentry-tty" else "\r")
        terminal.wait_for(r"said Said\(yes=True.*None")

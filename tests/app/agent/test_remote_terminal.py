"""The agent asks the person at the terminal of a share, and nobody when that has gone."""

from __future__ import annotations

import asyncio

from cardferry.app.agent.remote_terminal import RemoteTerminal
from cardferry.app.hosts import lend_messages as m
from cardferry.policy.pin.person import NO_ANSWER, Question, Said

PIN = Question("ssh:build1 wants it", "PIN", lasting=True, patience=7)


async def test_questions_and_answers_belong_together() -> None:
    sent: list[m.AskPerson] = []
    terminal = RemoteTerminal(sent.append)
    async with asyncio.TaskGroup() as tasks:
        first, second = tasks.create_task(terminal.ask(PIN)), tasks.create_task(terminal.ask(Question("May it?")))
        await asyncio.sleep(0)
        assert sent == [m.AskPerson(1, "ssh:build1 wants it", "PIN", True, 7), m.AskPerson(2, "May it?", "", False, 30)]
        terminal.said(m.PersonSaid(2, asked=True, yes=True, lasting=True))
        terminal.said(answer := m.PersonSaid(1, asked=True, yes=True, pin="1234"))
        terminal.said(m.PersonSaid(1, asked=True, yes=False))
        terminal.said(m.PersonSaid(7, asked=True, yes=True))
    assert first.result() == Said(yes=True, pin=bytearray(b"1234"))
    assert second.result() == Said(yes=True, lasting=True)
    assert "1234" not in repr(answer)


async def test_who_was_not_asked_or_has_gone_leaves_it_to_another_way() -> None:
    terminal = RemoteTerminal(lambda message: None)
    async with asyncio.TaskGroup() as tasks:
        first, second = tasks.create_task(terminal.ask(PIN)), tasks.create_task(terminal.ask(PIN))
        await asyncio.sleep(0)
        terminal.said(m.PersonSaid(1, asked=False))
        terminal.gone()
    assert (first.result(), second.result()) == (None, None)


async def test_a_terminal_that_says_nothing_is_not_waited_for_for_ever() -> None:
    terminal = RemoteTerminal(lambda message: None)
    assert await terminal.ask(Question("May it?", patience=-4.9)) == NO_ANSWER

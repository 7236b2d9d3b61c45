"""The person is asked on the page while somebody looks at it; the clock jumps."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.app.web.questions import PageQuestions
from cardferry.policy.guard import HostGuard
from cardferry.policy.pin.person import CANCELLED, NO_ANSWER, Question, Said
from cardferry.policy.rulebook import Rulebook
from tests.policy.guard.scripted_person import NO, ScriptedPerson
from tests.virtual_time import VirtualTimeLoop

LOOPS = {"virtual": VirtualTimeLoop}
MAY_IT = Question("ssh:build1 wants to sign", lasting=True, patience=30.0)


async def answered(page: PageQuestions, word: str, question: Question = MAY_IT) -> Said | None:
    """What comes of a question to which somebody says that after a while."""
    asking = asyncio.get_running_loop().create_task(page.ask(question))
    await asyncio.sleep(2.5)
    assert page.open is not None
    assert page.answer(page.open.number, word)
    return await asking


@pytest.mark.parametrize(
    ("word", "said"),
    [("allow", Said(yes=True)), ("ten", Said(yes=True, lasting=True)), ("deny", CANCELLED)],
)
async def test_each_button(word: str, said: Said) -> None:
    page = PageQuestions()
    with page.watching():
        assert page.fits(MAY_IT)
        assert await answered(page, word) == said
    assert page.open is None


async def test_only_the_question_that_is_open_is_answered_and_only_once() -> None:
    page = PageQuestions()
    assert not page.answer(1, "allow")
    with page.watching():
        asking = asyncio.get_running_loop().create_task(page.ask(Question("May it?")))
        await asyncio.sleep(1)
        assert page.open is not None
        number = page.open.number
        assert not page.answer(number + 1, "allow")
        assert not page.answer(number, "perhaps")
        assert not page.answer(number, "ten"), "it was not asked whether for longer"
        assert page.answer(number, "deny")
        assert not page.answer(number, "allow")
        assert await asking == CANCELLED
        assert not page.answer(number, "allow")


async def test_no_answer_in_time() -> None:
    page, loop = PageQuestions(), asyncio.get_running_loop()
    began = loop.time()
    with page.watching():
        assert await page.ask(MAY_IT) == NO_ANSWER
    assert loop.time() - began == pytest.approx(30.0)


async def test_nobody_is_asked_who_is_not_there() -> None:
    page = PageQuestions()
    assert not page.fits(MAY_IT)
    page.fetched()
    assert page.fits(MAY_IT)
    await asyncio.sleep(25)
    assert not page.fits(MAY_IT)


async def test_a_page_that_is_closed_leaves_the_question_to_the_next_way() -> None:
    page, loop = PageQuestions(), asyncio.get_running_loop()
    with page.watching():
        asking = loop.create_task(page.ask(MAY_IT))
        await asyncio.sleep(1.5)
    began = loop.time()
    assert await asking is None
    assert loop.time() - began < 5
    assert page.open is None


async def test_a_page_that_is_loaded_anew_keeps_it() -> None:
    page = PageQuestions()
    with page.watching():
        asking = asyncio.get_running_loop().create_task(page.ask(MAY_IT))
        await asyncio.sleep(1.5)
    await asyncio.sleep(1)
    with page.watching():
        await asyncio.sleep(5)
        assert page.open is not None
        assert page.answer(page.open.number, "allow")
        assert await asking == Said(yes=True)


async def test_pins_are_not_typed_on_a_page() -> None:
    page = PageQuestions()
    with page.watching():
        assert not page.fits(Question("the PIN, please", "PIN"))


async def test_the_page_comes_first_and_is_gone_with_its_block(tmp_path: Path) -> None:
    guard, page, terminal = HostGuard(Rulebook(lambda: None, "me")), PageQuestions(), ScriptedPerson(NO)
    with guard.person.at(terminal), page.watching():
        with guard.asking(page):
            assert guard.person.ways(MAY_IT)[0] is page
            assert page not in guard.person.ways(Question("", "PIN"))
        assert page not in guard.person.ways(MAY_IT)


async def test_a_configuration_that_names_other_ways_does_not_ask_on_the_page(tmp_path: Path) -> None:
    path = tmp_path / "cardferry.toml"
    path.write_text('ask-with = ["terminal"]\n')
    guard, page = HostGuard(Rulebook(lambda: path, "me")), PageQuestions()
    with guard.asking(page), page.watching():
        assert page not in guard.person.ways(MAY_IT)

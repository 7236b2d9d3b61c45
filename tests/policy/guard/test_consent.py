"""The person at the host is asked before a key is used: the program sees a slow card."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cardferry.cards.piv import PivCard
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.policy.guard.consent import Consents, Matter
from cardferry.policy.operations import Meaning, Operation
from cardferry.policy.pin.person import Question
from tests.policy.guard.guarded_host import DENIED, OK, READ, SELECT, SIGN_9C, GuardedHost, User, verify
from tests.policy.guard.scripted_person import NO, TEN_MINUTES, TERMINAL, YES, ScriptedPerson

MAY = 'may = ["read", "verify", "sign:9C"]'


def rules(ask: str) -> str:
    return TERMINAL + f'[[allow]]\nwho = "ssh:*"\n{MAY}\nask = "{ask}"\n'


async def sign(user: User) -> bytes:
    assert await user.send(verify()) == OK
    return (await user.send(SIGN_9C))[-2:]


async def test_yes_and_no(tmp_path: Path) -> None:
    person = ScriptedPerson(NO, YES, NO)
    async with GuardedHost(rules("always"), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        with host.guard.person.at(person):
            await build.send(SELECT)
            assert (await build.send(READ))[-2] == 0x61
            assert await sign(build) == DENIED
            assert SIGN_9C not in host.card.seen
            await asyncio.sleep(3)
            assert await sign(build) == OK
            assert await sign(build) == DENIED
    assert [(each.text, each.lasting) for each in person.questions] == [
        ("ssh:build1 (a test (process 1)) wants to use the card in Virtual 00 00: sign with PIV 9C.", False)
    ] * 3


async def test_the_program_sees_a_slow_card(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with GuardedHost(rules("always"), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(ScriptedPerson(YES, after=20)):
            began = loop.time()
            assert await sign(build) == OK
            assert loop.time() - began == pytest.approx(20)


@pytest.mark.parametrize("seconds", [30, 5])
async def test_no_answer_in_time_is_a_no(tmp_path: Path, seconds: int) -> None:
    loop = asyncio.get_running_loop()
    text = rules("first") if seconds == 30 else f"ask-timeout = {seconds}\n{rules('first')}"
    async with GuardedHost(text, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(ScriptedPerson()):
            began = loop.time()
            assert await sign(build) == DENIED
            assert loop.time() - began == pytest.approx(seconds)


async def test_for_the_next_ten_minutes_is_an_answer(tmp_path: Path) -> None:
    person = ScriptedPerson(YES, TEN_MINUTES, NO)
    async with GuardedHost(rules("first"), folder=tmp_path) as host:
        build, other = await host.principal("ssh:build1"), await host.principal("ssh:other")
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert await sign(build) == OK  # once
            assert await sign(build) == OK
            await asyncio.sleep(599)
            assert await sign(build) == OK
            assert len(person.questions) == 2
            await asyncio.sleep(2)
            assert await sign(build) == DENIED
            assert len(person.questions) == 3
            assert all(each.lasting for each in person.questions)
            await other.send(SELECT)
            assert await sign(other) == DENIED  # it was not asked about
            assert len(person.questions) == 4


async def test_a_rule_that_always_asks_does_so_whatever_was_said_before(tmp_path: Path) -> None:
    person = ScriptedPerson(TEN_MINUTES, YES)
    async with GuardedHost(rules("first"), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert await sign(build) == OK
            (tmp_path / "config.toml").write_text(rules("always"))
            host.guard.rulebook.reload()
            assert await sign(build) == OK
            assert len(person.questions) == 2


async def test_two_programs_with_the_same_wish_are_one_question() -> None:
    person = ScriptedPerson(YES, NO, after=10)
    consents = Consents(person.ask)
    one, other = (
        Matter(Principal(PrincipalKind.SSH, "build1"), "a reader", Meaning(Operation.SIGN, key)) for key in ("9C", "9D")
    )
    same = await asyncio.gather(*(consents.get(one, Question("May it?")) for _ in range(3)))
    assert same == [YES] * 3
    assert len(person.questions) == 1
    assert await consents.get(other, Question("May it?")) == NO
    assert len(person.questions) == 2


async def test_two_programs_that_sign_at_once_ask_once(tmp_path: Path) -> None:
    person = ScriptedPerson(TEN_MINUTES, after=0.5)
    async with GuardedHost(rules("first"), folder=tmp_path) as host:
        one, two = await host.principal("ssh:build1"), await host.principal("ssh:build1")
        await one.send(SELECT)
        with host.guard.person.at(person):
            assert [each[-2:] for each in await asyncio.gather(sign_at_once(one), sign_at_once(two))] == [OK, OK]
    assert len(person.questions) == 1


async def sign_at_once(user: User) -> bytes:
    async with user:
        await user.send(verify())
        return await user.send(SIGN_9C)


async def test_a_program_that_goes_while_two_wait_leaves_the_other_its_question() -> None:
    person = ScriptedPerson(NO, YES, after=10)
    consents = Consents(person.ask)
    matter = Matter(Principal(PrincipalKind.SSH, "build1"), "a reader", Meaning(Operation.SIGN, "9C"))
    async with asyncio.TaskGroup() as tasks:
        first = tasks.create_task(consents.get(matter, Question("May it?")))
        second = tasks.create_task(consents.get(matter, Question("May it?")))
        await asyncio.sleep(5)
        first.cancel()
    assert second.result() == NO
    assert len(person.questions) == 2


async def test_a_program_that_tries_again_at_once_does_not_ask_again(tmp_path: Path) -> None:
    person = ScriptedPerson(NO, YES)
    async with GuardedHost(rules("first"), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert [await sign(build), await sign(build)] == [DENIED, DENIED]
            assert len(person.questions) == 1
            await asyncio.sleep(3)
            assert await sign(build) == OK


async def test_what_fetches_the_rest_of_an_answer_is_not_asked_about_again(tmp_path: Path) -> None:
    """A signature that is too long for one response comes in two."""
    person = ScriptedPerson(YES)
    card = LongAnswers.personalised()
    text = rules("always").replace(MAY, MAY + '\nlimit = "1/hour"')
    async with GuardedHost(text, card, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert (await build.send(verify()), (await build.send(SIGN_9C))[-2:-1]) == (OK, b"\x61")
            assert (await build.send(bytes.fromhex("00C0000000")))[-2:] == OK
        assert len(person.questions) == 1


class LongAnswers(PivCard):
    """A card that gives signatures in two pieces."""

    _rest = b""

    def process(self, apdu: bytes) -> bytes:
        if apdu[1] == 0xC0:
            return self._rest
        response = super().process(apdu)
        if apdu[1] != 0x87 or response[-2:] != OK:
            return response
        self._rest = response[10:]
        return response[:10] + bytes((0x61, len(self._rest) - 2))

"""Rules by what a card says of itself; a reader about which no rule is for somebody is not seen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.app.commands.audit import entries
from cardferry.cards.piv import PivCard
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.virtual_card import VirtualCard
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard.identity import Identity, identify
from tests.policy.guard.guarded_host import ASK, OK, READER, SELECT, SIGN_9C, GuardedHost, Recorder, verify

BUILD = Principal(PrincipalKind.SSH, "build1")
BY_SERIAL = '[[allow]]\nwho = "ssh:build1"\nmay = ["read", "verify", "sign:9C"]\ncard = "* serial 1234*"\n'
BY_SUBJECT = BY_SERIAL.replace("* serial 1234*", "CN=build*")


def a_card(serial: int, holder: str = "cardferry") -> PivCard:
    return PivCard.personalised(serial=serial, holder=holder)


@asynccontextmanager
async def host_with(
    rules: str, card: VirtualCard, folder: Path, audit: AuditLog | None = None
) -> AsyncIterator[GuardedHost]:
    """A host that asks its cards which ones they are."""
    async with GuardedHost(rules, card, folder, audit) as host:
        with host.guard.telling(host.manager.tell_again):
            async with host.cards.asked(host.manager):
                yield host


async def sees(host: GuardedHost) -> list[str]:
    """What build1 sees when all is known."""
    await host.cards.settled(host.manager, READER)
    return [reader.name for reader in host.offered.seen_by(BUILD).snapshot.readers]


@pytest.mark.parametrize(
    ("rules", "serial", "holder", "seen"),
    [
        (BY_SERIAL, 12345678, "cardferry", True),
        (BY_SERIAL, 87654321, "cardferry", False),
        (BY_SUBJECT, 1, "build signing", True),
        (BY_SUBJECT, 12345678, "somebody else", False),
    ],
)
async def test_a_rule_is_about_a_card_by_what_it_says(
    rules: str, serial: int, holder: str, seen: bool, tmp_path: Path
) -> None:
    async with host_with(rules, a_card(serial, holder), tmp_path) as host:
        assert await sees(host) == ([READER] if seen else [])
        if seen:
            build = await host.principal("ssh:build1")
            await build.send(SELECT)
            assert await build.send(verify()) == OK
            assert (await build.send(SIGN_9C))[-2:] == OK
        else:
            with pytest.raises(PcscError) as refused:
                await host.principal("ssh:build1")
            assert refused.value.code is ReturnCode.E_UNKNOWN_READER


async def test_a_program_that_connects_at_once_waits_until_the_card_has_said_which_one_it_is(tmp_path: Path) -> None:
    async with host_with(BY_SERIAL, a_card(12345678), tmp_path) as host:
        build = await host.principal("ssh:build1")
        asked = len(host.card.seen)
        await build.send(SELECT)
        assert await build.send(verify()) == OK
        assert host.card.seen[asked:] == [SELECT, ASK, verify()], "nobody comes in between"


async def test_another_card_in_the_same_reader_is_another_one(tmp_path: Path) -> None:
    async with host_with(BY_SERIAL, a_card(12345678), tmp_path) as host:
        seen = host.offered.seen_by(BUILD)
        assert await sees(host) == [READER]
        host.reader.remove()
        host.reader.insert(Recorder(a_card(87654321)))
        assert seen.snapshot.readers == (), "what was known of the one before does not hold for a moment"
        assert await sees(host) == []
        host.reader.remove()
        serial = seen.snapshot.serial
        host.reader.insert(Recorder(a_card(12345678)))
        async with asyncio.timeout(10):
            news = await seen.changed(serial)
        assert [reader.name for reader in news.readers] == [READER], "whoever waits is told"


async def test_a_card_that_goes_while_it_is_asked_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    asked = asyncio.Event()

    class Slow(Recorder):
        def slow(self, apdu: bytes) -> bool:
            asked.set()
            return False

    async with host_with(BY_SERIAL, a_card(12345678), tmp_path) as host:
        await host.cards.settled(host.manager, READER)
        host.reader.remove()
        host.reader.insert(Slow(a_card(12345678)))
        await asked.wait()
        host.reader.remove()
        host.reader.insert(Recorder(a_card(87654321)))
        assert await sees(host) == []
        assert host.cards.identity(READER).serials == ("87654321",)


async def test_who_waits_is_told_when_the_rules_change(tmp_path: Path) -> None:
    async with host_with(BY_SERIAL, a_card(1), tmp_path) as host:
        assert await sees(host) == []
        seen = host.offered.seen_by(BUILD)
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(seen.changed(seen.snapshot.serial))
            await asyncio.sleep(0)
            (tmp_path / "config.toml").write_text(BY_SERIAL.replace("1234*", "1"))
            host.guard.rulebook.reload()
        assert [reader.name for reader in waiting.result().readers] == [READER]


async def test_a_card_is_asked_from_the_moment_in_which_others_are_to_see_it(tmp_path: Path) -> None:
    rules = '[[allow]]\nwho = "*"\nmay = "read"\n'
    async with host_with(rules, a_card(12345678), tmp_path) as host:
        assert host.cards.identity(READER).serials == ()
        host.guard.show_cards()
        await host.cards.settled(host.manager, READER)
        assert host.cards.identity(READER).serials == ("12345678",)


async def test_without_rules_about_cards_and_without_an_audit_no_card_is_asked(tmp_path: Path) -> None:
    rules = BY_SERIAL.replace("* serial 1234*", "*")
    async with host_with(rules, a_card(1), tmp_path) as host:
        assert await sees(host) == [READER]
        assert host.card.seen == []


async def test_what_the_host_asks_is_its_own_and_is_written_down(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    async with host_with(BY_SERIAL, a_card(1234, "build"), tmp_path, AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        await build.send(verify())
        await build.send(SIGN_9C)
        atr = host.card.atr.hex()
    learnt, _, signed = list(entries(path))[1:]
    assert (learnt["event"], learnt["principal"], learnt["program"].split(" (")[0], learnt["proved"]) == (
        "learnt",
        "local-user:owner",
        "cardferry",
        True,
    )
    assert learnt["what"].startswith("serial 1234; 9A CN=build,")
    assert signed["what"] == "signed with PIV 9C, CN=build,OU=Digital Signature"
    assert signed["card"] == atr


async def test_a_card_that_says_nothing_is_its_reader() -> None:
    async def refuses(apdu: bytes) -> bytes:
        return b"\x6a\x82"

    assert await identify(refuses) == Identity()


@pytest.mark.parametrize(
    "garbage", [b"\x90\x00", b"\x53\x82\x90\x00", b"\x61\x00", b"\x6c\x10", b"", b"\x90", b"S\x81"]
)
async def test_hostile_answers_are_no_names(garbage: bytes) -> None:
    async def send(apdu: bytes) -> bytes:
        return b"\x90\x00" if apdu[1] == 0xA4 else garbage

    assert (await identify(send)).subjects == {}


async def test_an_exclusive_program_finds_its_card_as_ever(tmp_path: Path) -> None:
    async with host_with(BY_SERIAL, a_card(1234), tmp_path) as host:
        context = await host.offered.open(host.guard.itself)
        with pytest.raises(PcscError):
            await context.connect(READER, ShareMode.EXCLUSIVE, Protocol.T1)  # no rule is about the owner
        build = await host.principal("ssh:build1")
        assert (await build.send(SELECT))[-2:] == OK

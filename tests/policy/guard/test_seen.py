"""A reader about which no rule is for somebody is not there for it: not at a socket, and not over a link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cardferry.frontends.pcsclite import PcscliteFrontend
from cardferry.pcsc.applications import ANY as ANY_APPLICATION
from cardferry.pcsc.applications import Application
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, by_host_itself
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard import Cards, HostGuard
from cardferry.policy.guarded import Guarded
from cardferry.policy.offered import Offered
from cardferry.policy.recorded import Recorded
from cardferry.policy.rulebook import Rulebook
from cardferry.transports.listening import ListeningSocket
from tests.callers import TESTER, somebody
from tests.frontends.library import Build, Library
from tests.link.desk import READER, Desk
from tests.policy.guard.guarded_host import READ, SELECT, GuardedHost

ONE, TWO = (Principal(PrincipalKind.SSH, name) for name in ("one", "two"))
RULE = '[[allow]]\nwho = "{who}"\nmay = "read"\n'


def names(readers: object) -> list[str]:
    return [reader.name for reader in readers]  # type: ignore[attr-defined]


@asynccontextmanager
async def guarded(desk: Desk, folder: Path, rules: str) -> AsyncIterator[tuple[HostGuard, Guarded]]:
    """The desk's readers, by rules."""
    path = folder / "config.toml"
    path.write_text(f'audit = "off"\n{rules}')
    guard = HostGuard(Rulebook(lambda: path, "owner"))
    with guard.telling(desk.manager.tell_again):
        yield guard, Guarded(desk.manager, guard, Cards(guard))


def now(guard: HostGuard, folder: Path, rules: str) -> None:
    """Rules that hold from now on."""
    (folder / "config.toml").write_text(f'audit = "off"\n{rules}')
    guard.rulebook.reload()


async def test_at_a_socket_each_principal_sees_its_own_and_hears_when_that_changes(tmp_path: Path) -> None:
    async with Desk() as desk, guarded(desk, tmp_path, RULE.format(who="ssh:one")) as (guard, manager):
        with ListeningSocket(tmp_path / "1") as first, ListeningSocket(tmp_path / "2") as second:
            async with (
                PcscliteFrontend(manager, first, caller=Caller(ONE)),
                PcscliteFrontend(manager, second, caller=Caller(TWO)),
                Library(Build(4), first.path) as one,
                Library(Build(4), second.path) as two,
            ):
                await one.establish()
                await two.establish()
                assert (names(await one.readers()), names(await two.readers())) == ([READER], [])
                assert names(await one.wait()) == [READER]
                assert await two.wait() == []
                now(guard, tmp_path, RULE.format(who="ssh:two"))
                async with asyncio.timeout(10):
                    assert (await one.event(), await two.event()) == (0, 0)
                assert (names(await one.readers()), names(await two.readers())) == ([], [READER])


async def test_two_principals_at_one_socket_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accounts of this computer, at a door that an administrator has opened."""
    callers = iter([Caller(ONE), Caller(TWO)])
    monkeypatch.setattr(PcscliteFrontend, "identify", lambda self, transport: next(callers))
    async with Desk() as desk, guarded(desk, tmp_path, RULE.format(who="ssh:one")) as (_, manager):
        with ListeningSocket(tmp_path / "s") as listening:
            async with (
                PcscliteFrontend(manager, listening),
                Library(Build(4), listening.path) as one,
            ):
                await one.establish()
                async with Library(Build(4), listening.path) as two:
                    await two.establish()
                    assert (names(await one.readers()), names(await two.readers())) == ([READER], [])


async def test_over_a_link_it_is_not_in_the_guests_readers(tmp_path: Path) -> None:
    async with Desk() as desk, guarded(desk, tmp_path, RULE.format(who=TESTER)) as (guard, manager):
        desk.host.manager = manager
        guest = await desk.guest()
        assert names(guest.snapshot.readers) == [READER]
        serial = guest.snapshot.serial
        now(guard, tmp_path, RULE.format(who="ssh:somebody-else"))
        async with asyncio.timeout(10):
            assert (await guest.changed(serial)).readers == ()
        context = await guest.open(somebody("alice"))
        with pytest.raises(PcscError) as refused:
            await context.connect(READER, ShareMode.SHARED, Protocol.ANY)
        assert refused.value.code is ReturnCode.E_UNKNOWN_READER
        other = await desk.guest()
        assert other.snapshot.readers == ()


async def test_what_is_put_around_a_guard_hides_the_same(tmp_path: Path) -> None:
    async with Desk() as desk, guarded(desk, tmp_path, RULE.format(who="ssh:one")) as (_, manager):
        around = Offered(Recorded(manager, lambda record: None), ["*"])
        assert names(around.seen_by(ONE).snapshot.readers) == [READER]
        assert around.seen_by(TWO).snapshot.readers == ()
        assert around.seen_by(ONE).may_read(READER, ANY_APPLICATION, SELECT)
        assert not around.seen_by(TWO).may_read(READER, ANY_APPLICATION, SELECT)


PIV = frozenset({Application.PIV})


@pytest.mark.parametrize(
    ("may", "apdu", "allowed"),
    [
        ("read", READ, True),
        ("read:5FC105", READ, True),
        ("read:5FC10A", READ, False),
        ("verify", READ, True),  # who may do more may read
        ("read", bytes.fromhex("00C0000000"), True),
        ("read:5FC105", bytes.fromhex("00C0000000"), False),  # the rest of what, nobody can tell
        ("all", bytes.fromhex("0020008008313233343536FFFF"), False),
        ("all", bytes.fromhex("10CB3FFF055C035FC10500"), False),
        ("all", b"\x00", False),
        ("all", bytes.fromhex("0CB0000000"), False),
    ],
)
def test_who_may_be_told_what_a_card_has_said(may: str, apdu: bytes, allowed: bool, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[[allow]]\nwho = "ssh:one"\nmay = "{may}"\n')
    guard = HostGuard(Rulebook(lambda: path, "owner"))
    manager = Guarded(Desk().manager, guard, Cards(guard))
    assert manager.seen_by(ONE).may_read(READER, PIV, apdu) is allowed
    assert not manager.seen_by(TWO).may_read(READER, PIV, apdu)
    assert not manager.may_read(READER, PIV, apdu), "of whom?"


async def test_what_is_denied_is_not_run_ahead(tmp_path: Path) -> None:
    """Nor is it written down: no program has asked."""
    rules = '[[allow]]\nwho = "ssh:one"\nmay = "read"\n'
    log = AuditLog(tmp_path / "audit")
    async with GuardedHost(rules, folder=tmp_path, audit=log) as host:
        one = await host.principal("ssh:one")
        await one.send(SELECT)
        (tmp_path / "config.toml").write_text(rules.replace("ssh:one", "ssh:two"))
        host.guard.rulebook.reload()
        with by_host_itself():
            ahead = one.card.transmit(READ, Protocol.T1)
        with pytest.raises(PcscError) as refused:
            await ahead
        assert refused.value.code is ReturnCode.E_SHARING_VIOLATION
        assert host.card.seen == [SELECT]
    assert (tmp_path / "audit").read_text().count("\n") == 1

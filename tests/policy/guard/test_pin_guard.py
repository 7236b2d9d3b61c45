"""A guest leaves the last PIN try, and waits after two wrong PINs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardferry.cards.piv import PivCard
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.policy.guard import wrong_pins
from cardferry.policy.guard.wrong_pins import WrongPins
from cardferry.transports.folders import locked
from tests.policy.guard.guarded_host import ASK, DENIED, OK, READER, SELECT, GuardedHost, verify

LAST, BLOCKED = b"\x63\xc0", b"\x69\x83"


async def test_fifty_wrong_pins_of_guests_leave_a_try() -> None:
    async with GuardedHost() as host:
        for number in range(50):
            guest = await host.principal(f"ssh:guest{number % 5}")
            await guest.send(SELECT)
            await guest.send(verify("999999"))
        assert await guest.send(ASK) == b"\x63\xc1"
        owner = await host.principal("local-user:owner")
        await owner.send(SELECT)
        assert await owner.send(verify()) == OK


async def test_the_last_try_is_refused_as_the_card_would_refuse_it() -> None:
    async with GuardedHost() as host:
        one, two = await host.principal("ssh:one"), await host.principal("ssh:two")
        await one.send(SELECT)
        assert [await one.send(verify("999999")) for _ in range(3)] == [b"\x63\xc2", b"\x63\xc1", BLOCKED]
        assert await two.send(verify()) == LAST
        assert await two.send(bytes.fromhex("0024008010") + b"123456\xff\xff654321\xff\xff") == LAST


async def test_wrong_pins_and_refusals_are_counted_by_principal() -> None:
    async with GuardedHost() as host:
        one, two = await host.principal("ssh:one"), await host.principal("vsock:7")
        await one.send(SELECT)
        await one.send(verify("999999"))
        await two.send(SELECT)
        assert await two.send(bytes.fromhex("00DB3FFF095C035FC1055300")) == DENIED
        counts = host.guard.counts.of(READER)
        assert (counts.of("ssh:one").pin_failures, counts.of("ssh:one").denials) == (1, 0)
        assert (counts.of("vsock:7").pin_failures, counts.of("vsock:7").denials) == (0, 1)


async def test_the_account_itself_is_no_guest() -> None:
    async with GuardedHost() as host:
        owner = await host.principal("local-user:owner")
        await owner.send(SELECT)
        answers = [await owner.send(verify("999999")) for _ in range(3)]
        assert answers[-1] in (LAST, BLOCKED)


async def test_more_tries_are_kept_where_the_configuration_says_so(tmp_path: Path) -> None:
    async with GuardedHost("keep-tries = 2", folder=tmp_path) as host:
        guest = await host.principal("ssh:guest")
        await guest.send(SELECT)
        assert [await guest.send(verify("999999")) for _ in range(2)] == [b"\x63\xc2", LAST]


async def test_the_puk_has_tries_as_well() -> None:
    unblock = bytes.fromhex("002C008010") + b"99999999" + b"123456\xff\xff"
    async with GuardedHost() as host:
        for name in ("one", "two", "three"):
            guest = await host.principal(f"ssh:{name}")
            await guest.send(SELECT)
            for _ in range(2):
                answer = await guest.send(unblock)
        assert answer == LAST
        assert (await guest.send(bytes.fromhex("00F7008100")))[-3:] == b"\x01\x90\x00"  # tries left


async def test_a_card_that_does_not_say_is_supposed_to_have_three() -> None:
    card = PivCard.personalised()
    process = card.process
    card.process = lambda apdu: b"\x6d\x00" if apdu == ASK else process(apdu)  # type: ignore[method-assign]
    async with GuardedHost(card=card) as host:
        one, two = await host.principal("ssh:one"), await host.principal("ssh:two")
        await one.send(SELECT)
        assert [await one.send(verify("999999")) for _ in range(2)] == [b"\x63\xc2", b"\x63\xc1"]
        assert await two.send(verify()) == LAST


async def test_whoever_waits_is_forgiven_by_the_host() -> None:
    async with GuardedHost() as host:
        guest = await host.principal("ssh:guest")
        await guest.send(SELECT)
        for _ in range(2):
            await guest.send(verify("999999"))
        owner = await host.principal("local-user:owner")
        assert await owner.send(verify()) == OK
        assert await guest.send(verify()) == BLOCKED
        assert host.guard.wrong_pins.forgive("guest") == ["ssh:guest"]
        assert await guest.send(verify()) == OK


WHO = Principal(PrincipalKind.SSH, "build1")


def test_wrong_pins_outlive_the_process(tmp_path: Path) -> None:
    path = tmp_path / "wrong.json"
    first = WrongPins(path)
    assert not first.count(WHO)
    assert WrongPins(path).count(WHO)
    assert WrongPins(path).waits(WHO)
    assert WrongPins(path).forgive("ssh:build1") == ["ssh:build1"]
    assert not first.waits(WHO)
    assert path.stat().st_mode & 0o077 == 0


def test_after_an_hour_a_principal_is_forgiven_by_itself() -> None:
    now = 0.0
    wrong = WrongPins(clock=lambda: now)
    wrong.count(WHO)
    wrong.count(WHO)
    assert wrong.waiting() == {"ssh:build1": wrong_pins.LONGEST}
    now = wrong_pins.LONGEST
    assert not wrong.waits(WHO)


def test_the_right_pin_takes_the_wrong_one_back() -> None:
    wrong = WrongPins()
    wrong.count(WHO)
    wrong.right(WHO)
    assert not wrong.count(WHO)


@pytest.mark.parametrize("text", ["", "[]", '{"ssh:a": 3}', '{"ssh:a": ["x", 1]}'])
def test_a_file_that_is_none_does_no_harm(tmp_path: Path, text: str) -> None:
    path = tmp_path / "wrong.json"
    path.write_text(text)
    assert not WrongPins(path).waits(WHO)


def test_what_another_process_has_counted_meanwhile_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "wrong-pins"
    guest = Principal(PrincipalKind.SSH, "build1")

    @contextmanager
    def after_another_process(folder: Path) -> Iterator[None]:
        monkeypatch.setattr(wrong_pins, "locked", locked)
        assert not WrongPins(path).count(guest)
        with locked(folder):
            yield

    monkeypatch.setattr(wrong_pins, "locked", after_another_process)
    assert WrongPins(path).count(guest), "it is the second one"


def test_where_nothing_can_be_written_it_is_counted_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    known = WrongPins(tmp_path / "there is no such folder" / "wrong-pins")
    guest = Principal(PrincipalKind.SSH, "build1")
    assert [known.count(guest), known.count(guest), known.waits(guest)] == [False, True, True]
    assert "cannot be written" in caplog.text

"""A ticket stands in the place of the PIN: for one principal and operation, so often and so long."""

from __future__ import annotations

import hmac
import secrets
import stat
from pathlib import Path

import pytest

from cardferry.app.commands.audit import entries
from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.constants import GET_FEATURE_REQUEST
from cardferry.policy.audit import AuditLog
from cardferry.policy.guard.tickets import MOST, Tickets
from tests.policy.guard.guarded_host import DENIED, OK, SELECT, SIGN, SIGN_9C, GuardedHost, verify
from tests.policy.guard.scripted_person import NO, TERMINAL, ScriptedPerson, pin

BUILD1 = "ssh:build1"


def rules(folder: Path, more: str = "", may: str = '["read", "sign:9C", "authenticate:9A"]') -> str:
    secret = folder / "pin"
    secret.write_text("123456")
    secret.chmod(0o600)
    kept = more or f'pin-from = "file:{secret}"'
    return f'[[allow]]\nwho = "ssh:build*"\nmay = {may}\npin = "ticket"\n{kept}\n'


async def test_a_ticket_opens_the_key_that_it_is_for_and_no_other(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        _, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 20, 3600)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert await build.send(verify(digits)) == OK
        assert verify(digits) not in host.card.seen
        assert verify() in host.card.seen
        assert await build.send(SIGN) == DENIED  # the rules allow it, the ticket does not
        assert SIGN not in host.card.seen
        assert (await build.send(SIGN_9C))[-2:] == OK


async def test_two_tickets_are_good_for_what_both_are_for(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        given = [host.guard.tickets.make(BUILD1, [each], 20, 3600)[1] for each in ("sign:9C", "authenticate:9A")]
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert [await build.send(verify(digits)) for digits in given] == [OK, OK]
        assert [(await build.send(each))[-2:] for each in (SIGN_9C, SIGN)] == [OK, OK]


async def test_it_is_good_so_often(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        _, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 2, 3600)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        for expected in (OK, OK):
            assert await build.send(verify(digits)) == OK
            assert (await build.send(SIGN_9C))[-2:] == expected
        assert await build.send(verify(digits)) == DENIED
        assert await build.send(SIGN_9C) == DENIED
        assert host.guard.wrong_pins.waiting() == {}  # a ticket that was good is no wrong PIN


async def test_it_is_good_so_long_and_until_it_is_revoked(tmp_path: Path) -> None:
    now = 1000.0
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        host.guard.tickets = Tickets(clock=lambda: now)
        ticket, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 20, 3600)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert await build.send(verify(digits)) == OK
        now += 3599
        assert (await build.send(SIGN_9C))[-2:] == OK
        assert await build.send(verify(digits)) == OK
        now += 1
        assert await build.send(SIGN_9C) == DENIED
        assert await build.send(verify(digits)) == DENIED
        now -= 100
        assert await build.send(verify(digits)) == OK
        assert [one.name for one in host.guard.tickets.revoke(ticket.name)] == [ticket.name]
        assert await build.send(SIGN_9C) == DENIED


async def test_a_wrong_ticket_costs_the_card_no_try_and_its_principal_one(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        _, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 20, 3600)
        _, anothers = host.guard.tickets.make("ssh:build2", ["sign:9C"], 20, 3600)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert [await build.send(verify(each)) for each in (anothers, "123456", digits)] == [
            b"\x63\xc1", b"\x63\xc0", b"\x69\x83",
        ]  # fmt: skip
        assert not any(apdu[1] == 0x20 for apdu in host.card.seen)
        assert set(host.guard.wrong_pins.waiting()) == {BUILD1}
        host.guard.wrong_pins.forgive(BUILD1)
        assert await build.send(verify(digits)) == OK


async def test_all_tickets_of_a_principal_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(one: str, other: str) -> bool:
        compared.append(one)
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    tickets = Tickets()
    made = [tickets.make(BUILD1, ["sign:9C"], 1, 60) for _ in range(3)]
    who = Principal(PrincipalKind.SSH, "build1")
    for ticket, digits in made:
        assert tickets.find(who, digits.encode()) == ticket
    assert tickets.find(who, b"") is None
    assert len(compared) == 4 * 3


async def test_without_a_ticket_no_key_is_used_also_when_the_card_is_open(tmp_path: Path) -> None:
    async with GuardedHost("", folder=tmp_path) as host:
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert await build.send(verify()) == OK
        assert (await build.send(SIGN))[-2:] == OK
        (tmp_path / "config.toml").write_text(rules(tmp_path))
        host.guard.rulebook.reload()
        assert await build.send(SIGN) == DENIED


async def test_what_a_ticket_has_opened_is_closed_when_another_principal_comes(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        digits = [host.guard.tickets.make(who, ["authenticate:9A"], 9, 60)[1] for who in (BUILD1, "ssh:build2")]
        one, two = await host.principal(BUILD1), await host.principal("ssh:build2")
        await one.send(SELECT)
        assert await one.send(verify(digits[0])) == OK
        assert await two.send(SIGN) == DENIED
        assert await two.send(verify(digits[1])) == OK
        assert await one.send(SIGN) == DENIED


async def test_it_is_given_again_after_another_principal_was_there(tmp_path: Path) -> None:
    """Also for a key that the card gives without a PIN."""
    without_pin = bytes.fromhex(SIGN.hex().replace("0087119a", "0087119e"))
    text = rules(tmp_path, may='["read", "authenticate:9E"]') + '[[allow]]\nwho = "ssh:two"\nmay = "read"\n'
    async with GuardedHost(text, folder=tmp_path) as host:
        _, digits = host.guard.tickets.make(BUILD1, ["authenticate:9E"], 9, 60)
        one, two = await host.principal(BUILD1), await host.principal("ssh:two")
        await one.send(SELECT)
        assert await one.send(verify(digits)) == OK
        assert (await one.send(without_pin))[-2:] == OK
        await two.send(SELECT)
        assert await one.send(without_pin) == DENIED


async def test_it_changes_no_pin(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, may='["all"]'), folder=tmp_path) as host:
        _, digits = host.guard.tickets.make(BUILD1, ["manage-pin"], 9, 60)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert await build.send(verify(digits)) == OK
        assert await build.send(bytes.fromhex("0024008010") + digits.encode() + b"87654321") == DENIED
        for piece in ("1020008004", "0020008004"):
            assert await build.send(bytes.fromhex(piece) + b"1234") != OK


async def test_programs_see_no_pinpad(tmp_path: Path) -> None:
    """They must ask for a PIN, or have one: the ticket."""
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        build = await host.principal(BUILD1)
        assert await build.card.control(GET_FEATURE_REQUEST, b"", 264) == b""


async def test_the_pin_may_be_typed_at_the_host(tmp_path: Path) -> None:
    person = ScriptedPerson(typed := pin("123456"), NO)
    async with GuardedHost(TERMINAL + rules(tmp_path, "# no pin-from"), folder=tmp_path) as host:
        _, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 9, 60)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        with host.guard.person.at(person):
            assert await build.send(verify(digits)) == OK
            assert (await build.send(SIGN_9C))[-2:] == OK
            assert await build.send(verify(digits)) == DENIED
    assert typed.pin == bytearray(6), "it was overwritten"


async def test_a_pin_that_is_not_the_cards_is_not_tried_until_it_is_blocked(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path), folder=tmp_path) as host:
        (tmp_path / "pin").write_text("999999")
        _, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 9, 60)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        assert [await build.send(verify(digits)) for _ in range(3)] == [b"\x63\xc2", b"\x63\xc1", b"\x69\x83"]


async def test_it_is_written_down_which_ticket_was_used_and_never_its_digits(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(1)
    path = tmp_path / "audit"
    async with GuardedHost(rules(tmp_path), folder=tmp_path, audit=AuditLog(path)) as host:
        ticket, digits = host.guard.tickets.make(BUILD1, ["sign:9C"], 20, 3600)
        build = await host.principal(BUILD1)
        await build.send(SELECT)
        await build.send(verify(digits))
        await build.send(SIGN_9C)
    done = [(each["operation"], each["rule"]) for each in entries(path) if each.get("event") == "done"]
    assert done == [("verify:80", f"rule 1, ticket {ticket.name}"), ("sign:9C", f"rule 1, ticket {ticket.name}")]
    for secret in (digits, "123456"):
        assert secret not in path.read_text() + caplog.text


# the file


def test_tickets_outlive_a_process_and_are_nobody_elses(tmp_path: Path) -> None:
    path = tmp_path / "tickets.json"
    ticket, digits = Tickets(path).make(BUILD1, ["sign:9C"], 2, 60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert digits not in path.read_text()
    another = Tickets(path)
    assert another.find(Principal(PrincipalKind.SSH, "build1"), digits.encode()) == ticket
    assert another.use(ticket) == ""
    assert [one.uses for one in Tickets(path).valid()] == [1]
    assert another.use(ticket) == ""
    assert "used up" in Tickets(path).use(ticket)
    assert Tickets(path).valid() == []
    assert [one.name for one in Tickets(path).revoke(BUILD1)] == [ticket.name]
    assert "revoked" in another.use(ticket)
    assert [each.name for each in tmp_path.iterdir()] == ["tickets.json"]


def test_equal_digits_do_not_look_equal_in_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "randbelow", lambda most: 42)
    tickets = Tickets()
    (one, digits), (two, _) = (tickets.make(BUILD1, ["sign:9C"], 1, 60) for _ in range(2))
    assert digits == "00000042"
    assert one.digest != two.digest


def test_a_file_that_is_none_or_cannot_be_written_makes_no_ticket_good(tmp_path: Path) -> None:
    path = tmp_path / "tickets.json"
    path.write_text("[1]")
    tickets = Tickets(path)
    assert tickets.valid() == []
    ticket, _ = tickets.make(BUILD1, ["sign:9C"], 1, 60)
    assert len(tickets.valid()) == 1
    path.unlink()
    path.mkdir()
    assert tickets.use(ticket) != ""


def test_there_are_not_too_many(tmp_path: Path) -> None:
    tickets = Tickets()
    for _ in range(MOST):
        tickets.make(BUILD1, ["sign:9C"], 1, 60)
    with pytest.raises(ValueError, match="there are 64"):
        tickets.make(BUILD1, ["sign:9C"], 1, 60)

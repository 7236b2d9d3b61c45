"""The host gives the PIN, and asks its person: programs see a reader with a pinpad, and a slow card."""

from __future__ import annotations

import time
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from cardferry.app.commands.audit import entries
from cardferry.pcsc.constants import GET_FEATURE_REQUEST
from cardferry.policy.audit import AuditLog
from cardferry.policy.pin.entry import PROPERTIES, PROPERTIES_CODE, VERIFY_CODE
from cardferry.policy.pin.pinentry import Said
from tests.policy.guard.guarded_host import DENIED, OK, SELECT, SIGN, SIGN_9C, GuardedHost, User, verify
from tests.policy.pin.test_entry import asked

TEMPLATE = asked(0x82, 0x08, 0x00, "0020008008" + "FF" * 8)


def rules(folder: Path, more: str, may: str = '["read", "sign:9C"]') -> str:
    secret = folder / "pin"
    secret.write_text("123456\n")
    secret.chmod(0o600)
    return (
        f'[[allow]]\nwho = "ssh:build1"\nmay = {may}\n{more.format(secret=secret)}\n'
        '[[allow]]\nwho = "ssh:other"\nmay = ["read", "verify", "sign"]\n'
    )


HOST = 'pin = "host"\npin-from = "file:{secret}"'
PINPAD = 'pin = "pinpad"'


def codes(features: bytes) -> dict[int, int]:
    return {features[at]: int.from_bytes(features[at + 2 : at + 6], "big") for at in range(0, len(features), 6)}


async def enter(user: User, template: bytes = TEMPLATE) -> bytes:
    return await user.card.control(VERIFY_CODE, template, 2)


async def test_the_reader_has_a_pinpad_for_whom_the_host_gives_the_pin(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build, other = await host.principal("ssh:build1"), await host.principal("ssh:other")
        features = codes(await build.card.control(GET_FEATURE_REQUEST, b"", 264))
        assert features == {0x06: VERIFY_CODE, 0x12: PROPERTIES_CODE}
        assert await build.card.control(PROPERTIES_CODE, b"", 264) == PROPERTIES
        assert codes(await other.card.control(GET_FEATURE_REQUEST, b"", 264)) == {}


async def test_the_pin_of_the_host_opens_the_key_that_the_rule_allows_and_for_nobody_else(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build, other = await host.principal("ssh:build1"), await host.principal("ssh:other")
        await build.send(SELECT)
        assert await enter(build) == OK
        assert (await build.send(SIGN_9C))[-2:] == OK
        assert await enter(build) == OK
        assert await build.send(SIGN) == DENIED  # 9A: no rule
        assert await other.send(SIGN_9C) == DENIED  # no PIN


async def test_a_program_that_gives_a_pin_itself_is_refused(tmp_path: Path) -> None:
    may = '["read", "verify", "sign:9C"]'
    async with GuardedHost(rules(tmp_path, HOST, may), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await build.send(verify()) == DENIED
        assert verify() not in host.card.seen


@pytest.mark.parametrize(
    ("template", "answer"),
    [
        (asked(0x82, 0, 0, "0087119A00"), DENIED),
        (asked(0x82, 0, 0, "0024008000"), DENIED),
        (asked(0x82, 0x08, 0x00, "0020008008" + "FF" * 8, least=7), b"\x64\x03"),
        (b"nonsense", b"\x6b\x80"),
    ],
    ids=["signs", "changes", "another size", "none"],
)
async def test_the_pin_goes_into_no_other_command(tmp_path: Path, template: bytes, answer: bytes) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build, template) == answer
        assert not any(b"123456" in apdu for apdu in host.card.seen)


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (Said(yes=True, pin="123456"), OK),
        (Said(yes=True, pin="999999"), b"\x63\xc2"),
        (Said(yes=False, cancelled=True), b"\x64\x01"),
        (Said(yes=False), b"\x64\x00"),
    ],
    ids=["right", "wrong", "cancelled", "no answer"],
)
async def test_the_person_at_the_host_types_it(tmp_path: Path, said: Said, answer: bytes) -> None:
    async with GuardedHost(rules(tmp_path, PINPAD), folder=tmp_path) as host:
        person = AsyncMock(command="pinentry")
        person.pin.return_value = said
        host.guard._pinentry = person
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build) == answer
        (text,) = person.pin.call_args.args
        assert text == "ssh:build1 (a test (process 1)) wants the PIN of the card in Virtual 00 00."


async def test_wrong_pins_of_a_secret_are_counted_so_that_it_does_not_block_the_card(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        (tmp_path / "pin").write_text("999999")
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert [await enter(build) for _ in range(3)] == [b"\x63\xc2", b"\x63\xc1", b"\x69\x83"]


async def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path) as host:
        (tmp_path / "pin").chmod(0o644)
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await enter(build) == b"\x64\x01"


async def test_the_hosts_pin_is_written_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    path = tmp_path / "audit"
    async with GuardedHost(rules(tmp_path, HOST), folder=tmp_path, audit=AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        await enter(build)
        (tmp_path / "pin").write_text("473829")
        await enter(build)
    assert [each["outcome"][:5] for each in entries(path) if each.get("operation") == "verify:80"] == ["90 00", "63 C2"]
    for secret in ("123456", "473829"):
        assert secret not in path.read_text() + caplog.text


@pytest.mark.parametrize("ask", ["first", "always"])
async def test_the_person_is_asked_before_a_key_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    text = rules(tmp_path, f'ask = "{ask}"', '["read", "verify", "sign:9C"]')
    async with GuardedHost(text, folder=tmp_path) as host:
        person = AsyncMock(command="pinentry")
        host.guard._pinentry = person
        build = await host.principal("ssh:build1")

        async def sign(yes: bool) -> bytes:
            person.consent.return_value = Said(yes=yes, cancelled=not yes)
            assert await build.send(verify()) == OK
            return (await build.send(SIGN_9C))[-2:]

        await build.send(SELECT)
        assert await sign(False) == DENIED
        assert SIGN_9C not in host.card.seen
        assert await sign(True) == OK
        first = person.consent.call_args.args[0]
        assert first.startswith(
            "ssh:build1 (a test (process 1)) wants to use the card in Virtual 00 00: sign with PIV 9C"
        )
        assert await sign(False) == (OK if ask == "first" else DENIED)
        now = 599.0
        assert await sign(False) == (OK if ask == "first" else DENIED)
        now = 601.0
        assert await sign(False) == DENIED

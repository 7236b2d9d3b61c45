"""What acts and what is denied is written down; PINs and data are not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.app.commands.audit import entries, verify
from cardferry.pcsc.apdu import CommandApdu
from cardferry.pcsc.applications import Application
from cardferry.pcsc.caller import by_host_itself
from cardferry.pcsc.constants import Protocol
from cardferry.pcsc.errors import PcscError
from cardferry.policy.audit import AuditLog, Entry
from cardferry.policy.audit.words import deed, signed_digest
from cardferry.policy.guard import act
from cardferry.policy.guard.act import KEY_USES
from cardferry.policy.guard.host import _MANY_UNWRITTEN
from cardferry.policy.operations import Action, Meaning, Operation
from tests.policy.guard.guarded_host import DENIED, OK, READ, SELECT, SIGN_9C, GuardedHost
from tests.policy.guard.guarded_host import verify as pin

RULES = '{extra}\n[[allow]]\nwho = "ssh:build1"\nmay = ["read", "verify", "sign:9C"]\n'
RESET = bytes.fromhex("00FB0000")


async def test_who_has_done_what(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        for command in (SELECT, READ, pin("999999"), pin(), SIGN_9C, RESET):
            await build.send(command)
    found = [(each["event"], each["operation"], each["what"], each.get("digest")) for each in list(entries(path))[1:]]
    assert found == [
        ("done", "verify:80", "verified PIN PIV 80", None),
        ("done", "verify:80", "verified PIN PIV 80", None),
        ("done", "sign:9C", "signed with PIV 9C", "11" * 32),
        ("denied", "administer", "administered", None),
    ]
    assert verify(path).lines == 5
    last = list(entries(path))[-1]
    assert last["rule"] == "rule 1 is about ssh:build1, but does not allow it"
    assert (last["principal"], last["program"], last["outcome"]) == (
        "ssh:build1",
        "a test (process 1)",
        "answered 69 82",
    )


async def test_pins_are_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(1)
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=AuditLog(tmp_path / "audit")) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        await build.send(pin("473829"))
        await build.send(bytes.fromhex("0024008010") + b"473829\xff\xff582947\xff\xff")
    written = (tmp_path / "audit").read_text() + caplog.text
    for secret in ("473829", "582947", b"473829".hex(), b"582947".hex()):
        assert secret not in written.lower()


async def test_a_flood_of_denials_is_counted_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    path = tmp_path / "audit"
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        for _ in range(100):
            await build.send(RESET)
        now = 10.0
        await build.send(RESET)
    assert [each.get("times", 1) for each in entries(path) if each["event"] == "denied"] == [1, 100]


async def test_what_happens_in_a_moment_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit"
    log = AuditLog(path)
    calls: list[int] = []
    add = log.add

    def counted(*entries: Entry) -> bool:
        calls.append(len(entries))
        return add(*entries)

    monkeypatch.setattr(log, "add", counted)
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=log) as host:
        build = await host.principal("ssh:build1")
        for command in (SELECT, pin(), SIGN_9C, SIGN_9C):
            await build.send(command)
        assert calls == []
        await asyncio.sleep(0.06)
        assert calls == [3]
        await build.send(pin())
    assert calls == [3, 1], "the end waits for nothing"
    assert verify(path).lines == 5


async def test_the_words_for_what_uses_a_key_are_found_after_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Operation] = []

    def counted(action: Action) -> str:
        found.append(action.operation)
        return signed_digest(action)

    path = tmp_path / "audit"
    monkeypatch.setattr(act, "signed_digest", counted)
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        for number in range(1, _MANY_UNWRITTEN // 2 + 1):
            await build.send(pin())
            assert found == [Operation.VERIFY] * number, "of a PIN nothing is kept until then"
            assert (await build.send(SIGN_9C))[-2:] == OK
        await asyncio.sleep(0)  # when many wait, they wait for the next pass of the event loop only
        assert found.count(Operation.SIGN) == _MANY_UNWRITTEN // 2
        await build.send(pin())
        await build.send(SIGN_9C)
        host.reader.remove()
    assert verify(path).lines == _MANY_UNWRITTEN + 3
    assert {each["card"] for each in list(entries(path))[1:]} == {host.card.atr.hex()}


async def test_one_line_without_words_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "audit"
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=AuditLog(path)) as host:
        build = await host.principal("ssh:build1")
        for command in (SELECT, pin(), SIGN_9C):
            await build.send(command)
        monkeypatch.delattr(act, "signed_digest")
    assert [each["what"] for each in list(entries(path))[1:]] == [
        "verified PIN PIV 80",
        "something that could not be put into words",
    ]


@given(st.sampled_from(sorted(KEY_USES)), st.binary(max_size=80), st.booleans(), st.sampled_from((0x87, 0x2A, 0x88)))
def test_there_are_words_for_whatever_a_key_is_used_on(
    operation: Operation, data: bytes, complete: bool, instruction: int
) -> None:
    command = CommandApdu(0, instruction, 0x11, 0x9C, data)
    action = Action(Meaning(operation, "9C"), frozenset({Application.PIV}), command, complete, b"", command)
    assert deed(action, signed_digest(action), "CN=a")


async def test_a_key_that_was_used_is_not_used_ahead_of_its_program(tmp_path: Path) -> None:
    async with GuardedHost(RULES.format(extra=""), folder=tmp_path, audit=AuditLog(tmp_path / "audit")) as host:
        build = await host.principal("ssh:build1")
        for command in (SELECT, pin(), SIGN_9C):
            await build.send(command)
        seen = len(host.card.seen)
        with by_host_itself():
            ahead = build.card.transmit(SIGN_9C, Protocol.T1)
        with pytest.raises(PcscError):
            await ahead
        assert len(host.card.seen) == seen


async def test_nothing_that_acts_is_done_when_it_must_be_written_and_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path / "audit")
    async with GuardedHost(RULES.format(extra='audit = "required"'), folder=tmp_path, audit=log) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await build.send(pin()) == OK
        assert (await build.send(SIGN_9C))[-2:] == OK
        with monkeypatch.context() as patch:
            patch.setattr(log, "add", lambda *_: False)
            seen = len(host.card.seen)
            assert await build.send(SIGN_9C) == DENIED
            assert SIGN_9C not in host.card.seen[seen:]
            assert (await build.send(SELECT))[-2:] == OK  # reading goes on
        await build.send(pin())
        assert (await build.send(SIGN_9C))[-2:] == OK

"""What acts and what is denied is written down; PINs and data are not."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from cardferry.app.commands.audit import entries, verify
from cardferry.policy.audit import AuditLog, Entry
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


async def test_nothing_that_acts_is_done_when_it_must_be_written_and_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(tmp_path / "audit")
    async with GuardedHost(RULES.format(extra='audit = "required"'), folder=tmp_path, audit=log) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await build.send(pin()) == OK
        with monkeypatch.context() as patch:
            patch.setattr(log, "add", lambda *_: False)
            seen = len(host.card.seen)
            assert await build.send(SIGN_9C) == DENIED
            assert SIGN_9C not in host.card.seen[seen:]
            assert (await build.send(SELECT))[-2:] == OK  # reading goes on
        await build.send(pin())
        assert (await build.send(SIGN_9C))[-2:] == OK

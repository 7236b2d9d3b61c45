"""What the rules deny does not reach the card, and is answered as a card would; what they allow does."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Attribute, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.policy.operations import Tracker
from cardferry.policy.rulebook import Rulebook
from tests.policy.guard.guarded_host import (
    DENIED,
    OK,
    READ,
    SELECT,
    SIGN,
    SIGN_9C,
    GuardedHost,
    verify,
)

CHANGE_PIN = bytes.fromhex("0024008010") + b"123456\xff\xff654321\xff\xff"
PUT = bytes.fromhex("00DB3FFF095C035FC105530101") + b"\x00"
GENERATE = bytes.fromhex("0047009A05AC0380011100")
RESET = bytes.fromhex("00FB0000")
UNKNOWN = bytes.fromhex("00550000")

RULES = """
[[allow]]
who = "ssh:build*"
may = ["read", "verify", "sign:9C"]
limit = "2/hour"

[[allow]]
who = "local-user:*"
may = "all"
"""


async def test_what_no_rule_allows_does_not_reach_the_card(tmp_path: Path) -> None:
    async with GuardedHost(RULES, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        assert await build.send(verify()) == OK
        seen = len(host.card.seen)
        for command in (SIGN, CHANGE_PIN, PUT, GENERATE, RESET, UNKNOWN, b"\x00"):
            assert await build.send(command) == DENIED
        assert len(host.card.seen) == seen
        assert (await build.send(verify()))[-2:] == OK


async def test_a_key_is_allowed_and_its_neighbour_is_not_up_to_the_limit(tmp_path: Path) -> None:
    async with GuardedHost(RULES, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        await build.send(SELECT)
        for _ in range(2):
            assert await build.send(verify()) == OK
            assert (await build.send(SIGN_9C))[-2:] == OK
        assert await build.send(verify()) == OK
        assert await build.send(SIGN_9C) == DENIED
        assert await build.send(READ) != DENIED  # reading is not counted


async def test_a_reader_about_which_no_rule_speaks_is_unknown(tmp_path: Path) -> None:
    async with GuardedHost(RULES, folder=tmp_path) as host:
        with pytest.raises(PcscError) as error:
            await host.principal("ssh:elsewhere")
        assert error.value.code is ReturnCode.E_UNKNOWN_READER


@pytest.mark.parametrize("door", ["vsock:7", "unix:somebody", "local-user:somebody"])
async def test_without_rules_doors_use_keys_and_change_nothing(door: str) -> None:
    async with GuardedHost() as host:
        user = await host.principal(door)
        await user.send(SELECT)
        assert await user.send(verify()) == OK
        assert (await user.send(SIGN))[-2:] == OK
        seen = len(host.card.seen)
        for command in (CHANGE_PIN, PUT, GENERATE, RESET, UNKNOWN):
            assert await user.send(command) == DENIED
        with pytest.raises(PcscError) as error:
            await user.card.control(0x42000001, b"", 10)
        assert error.value.code is ReturnCode.W_SECURITY_VIOLATION
        with pytest.raises(PcscError) as error:
            await user.card.set_attribute(Attribute.VENDOR_NAME, b"")
        assert error.value.code is ReturnCode.W_SECURITY_VIOLATION
        assert len(host.card.seen) == seen


@pytest.mark.parametrize("owner", ["ssh:anyone", "local-user:owner", "unix:owner"])
async def test_without_rules_the_owner_may_do_everything(owner: str) -> None:
    async with GuardedHost() as host:
        user = await host.principal(owner)
        await user.send(SELECT)
        assert await user.send(verify()) == OK
        assert await user.send(CHANGE_PIN) == OK
        assert await user.send(UNKNOWN) not in (OK, DENIED)


async def test_a_door_may_ask_a_reader_what_it_can() -> None:
    async with GuardedHost() as host:
        user = await host.principal("vsock:7")
        assert await user.card.control(GET_FEATURE_REQUEST, b"", 264) == b""


async def test_rules_that_change_hold_for_those_who_are_connected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    monkeypatch.setattr(time, "time", lambda: clock)  # a file just written would not be believed to be whole
    async with GuardedHost(RULES, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        assert (await build.send(SELECT))[-2:] == OK
        assert (await build.send(SELECT))[-2:] == OK
        (tmp_path / "config.toml").write_text('[[allow]]\nwho = "ssh:other"\nmay = "read"\n')
        clock += 2
        assert await build.send(SELECT) == DENIED
        (tmp_path / "config.toml").write_text("[[allow]]\nwho = 3\n")  # broken: the rules stay
        clock += 2
        assert await build.send(SELECT) == DENIED
        (tmp_path / "config.toml").unlink()
        clock += 2
        assert await build.send(SELECT) == DENIED
        (tmp_path / "config.toml").write_text(RULES)
        clock += 2
        assert (await build.send(SELECT))[-2:] == OK


async def test_hours_end_while_somebody_is_connected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = '[[allow]]\nwho = "ssh:build1"\nmay = "read"\nhours = "08:00-09:00"\n'
    async with GuardedHost(rules, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        moments = iter([datetime(2026, 1, 1, 8, 59), datetime(2026, 1, 1, 9, 0)])
        decide = host.guard.rulebook.decide
        monkeypatch.setattr(
            host.guard.rulebook, "decide", lambda who, card, meaning: decide(who, card, meaning, next(moments))
        )
        assert (await build.send(SELECT))[-2:] == OK
        assert await build.send(SELECT) == DENIED


async def test_whoever_shares_the_reader_is_judged_in_the_cards_order(tmp_path: Path) -> None:
    """One selects another application: the other's next command is judged for that one."""
    async with GuardedHost(RULES, folder=tmp_path) as host:
        build, owner = await host.principal("ssh:build1"), await host.principal("local-user:owner")
        await build.send(SELECT)
        await owner.send(bytes.fromhex("00A4040006D2760001240100"))
        assert await build.send(bytes.fromhex("0087119C04") + b"\x7c\x02\x82\x00") in (DENIED, b"\x6a\x86", b"\x6d\x00")


async def test_other_protocols_and_modes_take_the_same_way(tmp_path: Path) -> None:
    async with GuardedHost(RULES, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        raw = await build.card.reconnect(ShareMode.SHARED, Protocol.RAW, 0)  # type: ignore[arg-type]
        assert raw is Protocol.RAW
        assert await build.card.transmit(RESET, Protocol.RAW) == DENIED


async def test_what_is_known_to_be_allowed_is_neither_judged_nor_decided_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    for kind, name in ((Tracker, "judge"), (Rulebook, "decide")):
        original = getattr(kind, name)

        def counted(*args: object, name: str = name, original: Callable[..., object] = original) -> object:
            calls.append(name)
            return original(*args)

        monkeypatch.setattr(kind, name, counted)
    async with GuardedHost(RULES, folder=tmp_path) as host:
        build = await host.principal("ssh:build1")
        for _ in range(3):
            await build.send(SELECT)
            await build.send(READ)
        calls.clear()
        for _ in range(100):
            await build.send(SELECT)
            await build.send(READ)
        assert calls == []
        other = await host.principal("ssh:build2")
        await other.send(READ)
        assert calls.count("decide") == 1, "somebody else is asked about anew"

"""Whom `cardferry status`, the log and the record name: the principal that was proved, beside what a guest says."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cardferry.link import Guest
from cardferry.pcsc.caller import Caller, Principal, PrincipalKind, Program
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.system.peers import user_name
from cardferry.transports.unix import UnixAddress
from tests.cli.terminal import Commands

SAID = Principal(PrincipalKind.SSH, "the-president")


@pytest.fixture
def cardferry() -> Iterator[Commands]:
    with TemporaryDirectory() as folder:
        yield Commands(Path(folder))


def program(name: str) -> Caller:
    """A program on the guest, which says that it is somebody else's."""
    return Caller(SAID, Program(name, 4711, 1000))


async def test_guests_holders_and_waiters_are_shown_with_their_principal(cardferry: Commands, tmp_path: Path) -> None:
    door, record = tmp_path / "l", tmp_path / "record"
    proved = f"unix:{user_name(os.getuid())}"
    words = ("host", "-v", "--readers", "virtual:", "--listen", f"unix:{door}", "--record", str(record))
    async with cardferry.beside(*words, until="open files") as agent:
        async with asyncio.timeout(20):
            while not door.exists():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(0.005)
        async with Guest(UnixAddress(door).dial) as guest:
            await guest.ready()
            (reader,) = guest.snapshot.readers
            first, second = [await guest.open(program(name), 60) for name in ("first", "second")]
            held = await first.connect(reader.name, ShareMode.SHARED, Protocol.T0 | Protocol.T1)
            wanted = await second.connect(reader.name, ShareMode.SHARED, Protocol.T0 | Protocol.T1)
            await held.begin()
            waiting = wanted.begin()
            async with asyncio.timeout(20):
                while not (shown := json.loads(await cardferry.json())[0]["readers"][0])["waiters"]:
                    pass
            assert shown["holder"].startswith("first (process 4711, user 1000) on ")
            assert shown["principal"] == proved
            (waiter,) = shown["waiters"]
            assert waiter["client"].startswith("second (process 4711, user 1000) on ")
            assert waiter["principal"] == proved
            people = await cardferry("status")
            assert f"serves {proved}, as this computer has proved" in people
            assert people.count(f" as {proved} for ") == 2
            waiting.cancel()
        await agent.says(f"connected as {proved}")
    text = record.read_text()
    assert {json.loads(line)["principal"] for line in text.splitlines()} == {proved}
    assert SAID.name not in text + people + agent.bytes.decode()

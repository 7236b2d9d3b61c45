"""What stands between a manager and those who use it: put there in one place, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cardferry.app.runtime.service import Service, fronts, offering
from cardferry.pcsc.constants import Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.transports.listening import ListeningSocket
from tests.callers import somebody
from tests.fleet.hosts import Said
from tests.frontends.library import Build, Library
from tests.test_walls import imports

#: Where layers are put around a manager.
PLACE = "cardferry.app.runtime.service"
LAYERS = {"cardferry.policy.offered", "cardferry.policy.record_file", "cardferry.policy.recorded"}


def serving(*readers: str) -> Said:
    """A manager whose connects succeed."""
    manager = Said(*readers)
    manager.context.connect.return_value.protocol = Protocol.T1
    return manager


def test_nothing_is_put_around_a_manager_anywhere_else() -> None:
    graph = imports("cardferry")
    users = {name for name, used in graph.items() if used & LAYERS and not name.startswith("cardferry.policy")}
    assert users == {PLACE, "cardferry.app.demo.story"}, "the demo reads records"
    assert graph["cardferry.app.demo.story"] & LAYERS == {"cardferry.policy.recorded"}


def test_without_a_wish_there_is_nothing_in_between() -> None:
    manager = Said("Reader")
    assert offering(manager, Service()) is manager


async def test_what_is_not_offered_is_not_there_and_what_is_done_is_recorded(tmp_path: Path) -> None:
    record = tmp_path / "record"
    manager = offering(serving("Yubico 00 00", "Other 00 00"), Service(record=record, readers=("Yubico*",)))
    assert [reader.name for reader in manager.snapshot.readers] == ["Yubico 00 00"]
    context = await manager.open(somebody("gpg"))
    with pytest.raises(PcscError) as refused:
        await context.connect("Other 00 00", ShareMode.SHARED, Protocol.ANY)
    assert refused.value.code is ReturnCode.E_UNKNOWN_READER
    await context.connect("Yubico 00 00", ShareMode.SHARED, Protocol.ANY)
    calls = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(call["call"], call["reader"]) for call in calls][1:] == [("connect", "Yubico 00 00")]


async def test_who_serves_in_two_ways_records_each_call_once(tmp_path: Path) -> None:
    """As `share` does: programs through a socket, and guests over links."""
    record = tmp_path / "record"
    service = Service(record=record)
    manager = offering(serving("Reader"), service)
    with ListeningSocket(tmp_path / "s") as listening:
        async with fronts(manager, [(listening, None)], service), Library(Build(4), listening.path) as program:
            guest = await manager.open(somebody("guest"))
            await guest.connect("Reader", ShareMode.SHARED, Protocol.ANY)
            await program.establish()
            await program.connect("Reader")
    calls = [json.loads(line)["call"] for line in record.read_text().splitlines()]
    assert calls.count("connect") == 2

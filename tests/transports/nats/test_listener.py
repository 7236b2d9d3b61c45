"""What a host in a fleet says while there is no way to NATS."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import NoReturn

import pytest

from cardferry.transports.nats import listener as module
from cardferry.transports.nats.address import FleetAddress
from cardferry.transports.nats.errors import NatsError, NatsRefusesError
from cardferry.transports.nats.settings import FleetSettings
from tests.transports.nats.service import joined_name, service

SERVERS = ("nats://n1", "nats://n2")
DOWN, SILENT = "no NATS service at {}: Connection refused", "no NATS service at {}: no answer in time"
CLOSED = "NATS at {} does not let us in"


async def test_each_reason_why_there_is_no_way_is_told_once_whichever_server_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = [DOWN, DOWN, SILENT, DOWN, SILENT, CLOSED, CLOSED, DOWN, CLOSED]
    done = asyncio.Event()

    def connected(settings: FleetSettings) -> NoReturn:
        reason = reasons.pop(0) if reasons else DOWN
        if not reasons:
            done.set()
        raise (NatsRefusesError if reason is CLOSED else NatsError)(reason.format(SERVERS[len(reasons) % 2]), "")

    monkeypatch.setattr(module, "connected", connected)
    monkeypatch.setattr(module, "_LONGEST_PAUSE", 0.001)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    near, far = socket.socketpair()
    with near, far:
        async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
            listener = FleetAddress("LAB-7", SERVERS).listener(near)
            task = tasks.create_task(listener.run(lambda arrival: None))
            await done.wait()
            task.cancel()
    told = [message.partition("not in the fleet: ")[2] for message in caplog.messages]
    assert [message.partition("; ")[0] for message in told if message] == [
        "no NATS service at nats://n1: Connection refused",
        "no NATS service at nats://n1: no answer in time",
        "NATS at nats://n2 does not let us in",
    ]


def test_a_host_of_a_fleet_without_servers_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    near, far = socket.socketpair()
    with near, far, pytest.raises(NatsRefusesError, match="no NATS server of a fleet is known here") as told:
        FleetAddress("LAB-7").listener(near)
    assert (told.value.exit_code, "--fleet nats://HOST:4222" in told.value.hint) == (39, True)


async def test_a_host_ends_soon_although_nats_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = joined_name(tmp_path, monkeypatch)
    near, far = socket.socketpair()
    with near, far:
        async with asyncio.timeout(4), asyncio.TaskGroup() as tasks:  # the library alone would wait for 5 s
            listener = address.listener(near)
            task = tasks.create_task(listener.run(lambda arrival: None))
            await listener.here.wait()
            with service().frozen():
                task.cancel()
                await asyncio.wait({task})

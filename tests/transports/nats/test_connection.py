"""The connection to a NATS service, apart from what goes through it."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import nats.js.errors as js
import pytest

from cardferry.transports.nats import connection as connection_module
from cardferry.transports.nats.connection import Connection, connect, still_wanted
from cardferry.transports.nats.errors import NatsError
from cardferry.transports.nats.explaining import explained
from cardferry.transports.nats.settings import FleetSettings
from tests.transports.nats.service import service


async def test_a_cancellation_that_was_lost_on_the_way_is_found() -> None:
    async def work() -> None:
        for _ in range(2):
            still_wanted()
            with suppress(asyncio.CancelledError):  # as asyncio.wait_for does it now and then
                await asyncio.sleep(60)

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        task = tasks.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@pytest.mark.parametrize("ends", [lambda connection: None, lambda connection: connection.leave()])
async def test_a_connection_that_breaks_with_something_left_to_send_is_lost(
    ends: Callable[[Any], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The library gives up closing where the rest cannot be sent, and calls nobody."""
    async with asyncio.timeout(20):
        connection = await connect(FleetSettings((f"nats://127.0.0.1:{service().port}",)))
        flusher = connection.client._flusher_task
        assert flusher is not None
        flusher.cancel()
        connection.publish("somewhere", b"never leaves")
        service().reset()
        ends(connection)
        await connection.over()
    connection.publish("somewhere", b"vanishes")
    await connection.close()
    del connection, flusher
    gc.collect()
    assert not caplog.records, "nobody but a developer can do anything with that"


async def test_what_is_published_before_the_loss_is_noticed_vanishes() -> None:
    async with asyncio.timeout(20):
        connection = await connect(FleetSettings((f"nats://127.0.0.1:{service().port}",)))
        await connection.client.close()
        connection.lost = asyncio.get_running_loop().create_future()  # as if nobody had said so
        connection.publish("somewhere", b"")
        assert connection.lost.done()


@pytest.mark.parametrize(
    ("raised", "heals", "words"),
    [
        (js.ServiceUnavailableError(code=503, err_code=10008), True, "at the moment"),
        (js.NoStreamResponseError(), True, "at the moment"),
        (js.ServiceUnavailableError(), False, "without JetStream"),
        (js.ServiceUnavailableError(code=503, err_code=10039), False, "without JetStream"),
        (js.NotFoundError(code=404, description="stream not found"), True, "refuses: stream not found"),
        (js.BucketNotFoundError(), True, "refuses"),
        (TimeoutError(), True, "no answer in time"),
    ],
)
def test_whatever_the_directory_says_is_an_error_for_people(raised: Exception, heals: bool, words: str) -> None:
    with pytest.raises(NatsError) as caught, explained("nats://there"):
        raise raised
    assert caught.value.heals == heals
    assert words in str(caught.value)


async def test_a_connection_that_cannot_be_closed_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """After TLS was refused, asyncio never says that the connection is closed."""
    async with asyncio.timeout(20):
        connection = await connect(FleetSettings((f"nats://127.0.0.1:{service().port}",)))
        with monkeypatch.context() as patched:
            patched.setattr(connection.client, "close", asyncio.get_running_loop().create_future)
            patched.setattr("cardferry.transports.nats.connection._END_TIME", 0.01)
            await connection.close()
        assert connection.lost.done()
        await connection.close()


async def test_a_server_that_does_not_answer_is_not_waited_for_while_there_is_another() -> None:
    silent = [socket.create_server(("127.0.0.1", 0)) for _ in range(4)]
    urls = [f"nats://127.0.0.1:{one.getsockname()[1]}" for one in silent]
    try:
        for servers in (urls[:1], urls):
            async with asyncio.timeout(4):
                connection = await connect(FleetSettings((*servers, f"nats://127.0.0.1:{service().port}")))
            assert connection.where.endswith(f":{service().port}")
            await connection.close()
    finally:
        for one in silent:
            one.close()


async def test_of_servers_that_all_refuse_it_says_why() -> None:
    with pytest.raises(NatsError, match="Connection refused"):
        await connect(FleetSettings(("nats://127.0.0.1:1", "nats://127.0.0.1:2")))


async def test_who_gives_up_connecting_at_the_moment_of_success_leaves_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Connection] = []
    really = connection_module._connect

    async def connects(*words: Any) -> Connection:
        made.append(await really(*words))
        connecting.cancel()
        return made[0]

    monkeypatch.setattr(connection_module, "_connect", connects)
    async with asyncio.timeout(20):
        settings = FleetSettings((f"nats://127.0.0.1:{service().port}",))
        connecting = asyncio.get_running_loop().create_task(connect(settings))
        with pytest.raises(asyncio.CancelledError):
            await connecting
        await made[0].over()

"""One connection to a pcscd: handshake, order, loss, and whatever a hostile one sends."""

from __future__ import annotations

import asyncio
import struct

import pytest

from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.readers.pcscd.connection import HANDSHAKE_TIMEOUT, Connection
from cardferry.readers.pcscd.failure import NoPcscdError, Reason
from cardferry.wire.pcsclite.messages import (
    Connect,
    GetReadersState,
    Request,
    StatesReply,
    Version,
    WaitReaderStateChange,
)
from tests.readers.pcscd.fake import FakeConnection, FakePcscd


async def refusal(pcscd: FakePcscd) -> Reason:
    with pytest.raises(NoPcscdError) as caught:
        await Connection.open(pcscd.dial)
    await asyncio.sleep(1)
    assert pcscd.connections == []
    return caught.value.reason


@pytest.mark.parametrize("minor", [2, 3, 4, 5, 6])
async def test_every_level_is_found(minor: int) -> None:
    pcscd = FakePcscd(minor)
    connection = await Connection.open(pcscd.dial)
    assert connection.minor == minor
    requests = pcscd.dialled[0].requests
    asked = [request.minor for request in requests if isinstance(request, Version)]
    assert asked == [6, minor][: 1 + (minor < 6)] + [2] * (minor == 2)  # 4:2 is asked how long its names are
    connection.close()


@pytest.mark.parametrize("size", [100, 128])
@pytest.mark.parametrize("delay", [0.0, 0.1])
async def test_the_size_of_names_is_found_where_the_level_does_not_tell(size: int, delay: float) -> None:
    pcscd = FakePcscd(2, delay, name_size=size)
    for number in range(16):
        pcscd.add_reader(f"{'x' * (size - 10)} {number:02X} 00").insert()
    connection = await Connection.open(pcscd.dial)
    states = (await connection.post(GetReadersState())).readers
    assert [state.name for state in states] == list(pcscd.readers)
    context = await connection.establish()
    connected = await connection.post(Connect(context, states[3].name, 2, 3))
    assert connected.rv == 0
    connection.close()


async def test_a_server_that_ends_while_it_is_asked_for_the_size_of_names() -> None:
    pcscd = FakePcscd(2)
    serve = pcscd.serve

    def hang_up(connection: FakeConnection, request: Request) -> None:
        if isinstance(request, GetReadersState):
            connection.hang_up()
        else:
            serve(connection, request)

    pcscd.serve = hang_up  # type: ignore[method-assign]
    assert await refusal(pcscd) is Reason.LOST


async def test_a_server_with_names_of_no_known_size_is_refused() -> None:
    pcscd = FakePcscd(2)
    serve = pcscd.serve

    def strange(connection: FakeConnection, request: Request) -> None:
        if isinstance(request, GetReadersState):
            connection.reply(bytes(16 * 200))
        else:
            serve(connection, request)

    pcscd.serve = strange  # type: ignore[method-assign]
    assert await refusal(pcscd) is Reason.GARBAGE


async def test_a_known_level_is_asked_for_at_once() -> None:
    pcscd = FakePcscd(4)
    assert (await Connection.open(pcscd.dial, 4)).minor == 4
    assert len(pcscd.dialled[0].requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((4, 7, ReturnCode.E_SERVICE_STOPPED), Reason.VERSION_REFUSED),
        ((4, 1, ReturnCode.E_NO_SERVICE), Reason.VERSION_REFUSED),
        ((5, 0, ReturnCode.E_SERVICE_STOPPED), Reason.VERSION_REFUSED),
        ((4, 6, ReturnCode.W_SECURITY_VIOLATION), Reason.TURNED_AWAY),
        ((4, 6, ReturnCode.E_NO_MEMORY), Reason.TURNED_AWAY),
    ],
)
async def test_refused(answer: tuple[int, int, int], reason: Reason) -> None:
    pcscd = FakePcscd(6)
    pcscd._version = lambda connection, request: struct.pack("=iiI", *answer)  # type: ignore[method-assign]
    assert await refusal(pcscd) is reason


async def test_a_server_that_refuses_every_version_is_not_asked_for_ever() -> None:
    pcscd = FakePcscd(6)
    answer = struct.pack("=iiI", 4, 4, ReturnCode.E_SERVICE_STOPPED)
    pcscd._version = lambda connection, request: answer  # type: ignore[method-assign]
    assert await refusal(pcscd) is Reason.VERSION_REFUSED
    assert len(pcscd.dialled[0].requests) == 2


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (FileNotFoundError(2, "No such file"), Reason.NO_SOCKET),
        (ConnectionRefusedError(111, "refused"), Reason.NOBODY_LISTENS),
        (PermissionError(13, "Permission denied"), Reason.NO_PERMISSION),
        (ConnectionResetError(104, "reset"), Reason.CLOSED_AT_ONCE),
        (OSError(113, "No route to host"), Reason.UNREACHABLE),
        (OSError("AF_UNIX path too long"), Reason.UNREACHABLE),
    ],
)
async def test_dialling_fails(error: OSError, reason: Reason) -> None:
    pcscd = FakePcscd()
    pcscd.refuse_dial = error
    assert await refusal(pcscd) is reason


@pytest.mark.parametrize("error", [None, ConnectionResetError(104, "reset")])
async def test_closed_at_once(error: Exception | None) -> None:
    pcscd = FakePcscd()
    pcscd.greet = lambda connection: connection.hang_up(error)
    assert await refusal(pcscd) is Reason.CLOSED_AT_ONCE


async def test_silent() -> None:
    pcscd = FakePcscd()

    def silence(connection: FakeConnection) -> None:
        connection.from_client.receive = lambda data: None

    pcscd.greet = silence
    before = asyncio.get_running_loop().time()
    assert await refusal(pcscd) is Reason.SILENT
    assert asyncio.get_running_loop().time() - before == pytest.approx(HANDSHAKE_TIMEOUT + 1)


@pytest.mark.parametrize(
    "garbage", [b"HTTP/1.0 400 Bad Request\r\n", b"\xff" * 100, b"SSH-2.0-OpenSSH_9.2\r\n"], ids=("http", "ff", "ssh")
)
async def test_garbage_instead_of_a_version(garbage: bytes) -> None:
    pcscd = FakePcscd()
    pcscd._version = lambda connection, request: garbage  # type: ignore[method-assign]
    assert await refusal(pcscd) is Reason.GARBAGE


async def test_garbage_before_any_question() -> None:
    pcscd = FakePcscd()
    pcscd.greet = lambda connection: connection.reply(b"220 ready\r\n")
    assert await refusal(pcscd) is Reason.GARBAGE


async def test_replies_come_in_order_and_several_requests_are_one_write() -> None:
    pcscd = FakePcscd(4)
    connection = await Connection.open(pcscd.dial)
    first, second, third = connection.post_all(Version(minor=4), GetReadersState(), Version(minor=4))
    assert isinstance(await second, StatesReply)
    assert first.done()
    assert (await third).minor == 4
    assert len(pcscd.dialled[0].writes[-1]) == 3


async def test_an_event_is_told() -> None:
    pcscd = FakePcscd(4)
    told: list[bool] = []
    connection = await Connection.open(pcscd.dial)
    connection.on_event = lambda: told.append(True)
    assert (await connection.post(WaitReaderStateChange())).readers == ()
    pcscd.add_reader("R")
    await asyncio.sleep(1)
    assert told == [True]


async def test_after_the_loss_everything_fails_at_once() -> None:
    pcscd = FakePcscd(4)
    lost: list[bool] = []
    connection = await Connection.open(pcscd.dial)
    connection.on_lost = lambda: lost.append(True)
    pcscd.dialled[0].hang_up()
    await asyncio.sleep(1)
    assert lost == [True]
    with pytest.raises(PcscError) as caught:
        await connection.post(GetReadersState())
    assert caught.value.code is ReturnCode.E_READER_UNAVAILABLE
    assert connection.failure is not None
    assert connection.failure.reason is Reason.LOST
    connection.close()


async def test_garbage_later_ends_the_connection_and_keeps_what_came_before() -> None:
    pcscd = FakePcscd(4)
    connection = await Connection.open(pcscd.dial)
    good, bad = connection.post_all(Version(minor=4), GetReadersState())
    fake = pcscd.dialled[0]
    fake.to_client.write(struct.pack("=iiI", 4, 4, 0) + b"\xff" * 10_000)
    assert (await good).minor == 4
    with pytest.raises(PcscError):
        await bad
    assert connection.failure is not None
    assert connection.failure.reason is Reason.GARBAGE
    await asyncio.sleep(1)
    assert pcscd.connections == []


async def test_close_is_quiet() -> None:
    pcscd = FakePcscd(4)
    lost: list[bool] = []
    connection = await Connection.open(pcscd.dial)
    connection.on_lost = lambda: lost.append(True)
    connection.close()
    connection.close()
    await asyncio.sleep(1)
    assert lost == []
    assert pcscd.connections == []

"""Every message against bytes that our own code did not make: see `tests.wire.pcsclite.vectors`."""

from __future__ import annotations

import pytest

from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.client import ClientCodec
from cardferry.wire.pcsclite.server import ServerCodec
from tests.wire.pcsclite.peers import BYTE_ORDERS, asked
from tests.wire.pcsclite.vectors import READERS, RECORDS, VECTORS, Vector, wire

cases = pytest.mark.parametrize(
    ("vector", "order"),
    [pytest.param(vector, order, id=f"{vector.name}, {BYTE_ORDERS[order]}") for vector in VECTORS for order in (0, 1)],
)


def server_for(vector: Vector, order: int) -> ServerCodec:
    """A server that knows the client's byte order and level, as after a handshake."""
    server = ServerCodec(name_size=vector.name_size)
    handshake = (
        f"0c000000 11000000 04000000 0{vector.minor}000000 00000000",
        f"0000000c 00000011 00000004 0000000{vector.minor} 00000000",
    )
    [version] = asked(server, wire(handshake[order]))
    assert isinstance(version, m.Version)
    server.version(version)
    assert server.minor == vector.minor
    assert server.dialect.byte_order == BYTE_ORDERS[order]
    return server


def client_for(vector: Vector, order: int) -> ClientCodec:
    """A client that has sent all that comes before the vector's request."""
    client = ClientCodec(vector.minor, BYTE_ORDERS[order], vector.name_size)
    for request in vector.before:
        client.send(request)
    return client


def nothing_else(client: ClientCodec) -> bool:
    return not client.pending and not client.buffered


@cases
def test_server_reads(vector: Vector, order: int) -> None:
    assert asked(server_for(vector, order), wire(vector.asked[order])) == [vector.request]


@cases
def test_server_reads_as_the_first_message(vector: Vector, order: int) -> None:
    """No version came before: the byte order is seen from the message itself (CANCEL is often the only one)."""
    server = ServerCodec()
    assert asked(server, wire(vector.asked[order])) == [vector.request]
    assert server.dialect.byte_order == BYTE_ORDERS[order]


@cases
def test_server_reads_byte_by_byte_and_split_anywhere(vector: Vector, order: int) -> None:
    data = wire(vector.asked[order])
    server = server_for(vector, order)
    assert [request for byte in data for request in asked(server, bytes((byte,)))] == [vector.request]
    for offset in range(len(data) + 1):
        assert asked(server, data[:offset]) + asked(server, data[offset:]) == [vector.request]
    assert not server.buffered


@cases
def test_server_answers(vector: Vector, order: int) -> None:
    server = server_for(vector, order)
    assert vector.answer(server) == wire(vector.answered[order])


@cases
def test_client_asks(vector: Vector, order: int) -> None:
    client = client_for(vector, order)
    assert client.send(vector.request) == wire((vector.sent or vector.asked)[order])


@cases
def test_client_reads(vector: Vector, order: int) -> None:
    client = client_for(vector, order)
    client.send(vector.request)
    assert client.pending == (vector.reply is not None)
    data = wire(vector.answered[order])
    assert client.receive(data) == ([vector.reply] if vector.reply else [])
    assert nothing_else(client)


@cases
def test_client_reads_byte_by_byte_and_split_anywhere(vector: Vector, order: int) -> None:
    data = wire(vector.answered[order])
    expected = [vector.reply] if vector.reply else []
    for offset in range(len(data) + 1):
        client = client_for(vector, order)
        client.send(vector.request)
        assert client.receive(data[:offset]) + client.receive(data[offset:]) == expected
    client = client_for(vector, order)
    client.send(vector.request)
    assert [reply for byte in data for reply in client.receive(bytes((byte,)))] == expected
    assert nothing_else(client)


@pytest.mark.parametrize("order", [0, 1])
def test_array_of_4_6_has_the_announced_size(order: int) -> None:
    server = ServerCodec(slots=16, array_slots=18)
    assert asked(server, wire(("00000000 16000000", "00000000 00000016")[order])) == [m.GetReadersStateSize()]
    assert server.state_count() == wire(("12000000", "00000012")[order])
    assert asked(server, wire(("00000000 17000000", "00000000 00000017")[order])) == [m.GetReadersStateArray()]
    array = wire(RECORDS[order], f"00*{16 * 184}")
    assert server.state_array(READERS) == array

    client = ClientCodec(byte_order=BYTE_ORDERS[order])
    assert client.send(m.GetReadersStateSize()) == wire(("00000000 16000000", "00000000 00000016")[order])
    # Sent before the size is known, read when it is.
    assert client.send(m.GetReadersStateArray()) == wire(("00000000 17000000", "00000000 00000017")[order])
    assert client.receive(wire(("12000000", "00000012")[order]) + array) == [
        m.StateCountReply(18),
        m.StatesReply(READERS),
    ]


@pytest.mark.parametrize("order", [0, 1])
def test_array_of_pcscd_2_5_with_two_slots(order: int) -> None:
    client = ClientCodec(byte_order=BYTE_ORDERS[order])
    client.send(m.GetReadersStateSize())
    assert client.receive(wire(("02000000", "00000002")[order])) == [m.StateCountReply(2)]
    client.send(m.GetReadersStateArray())
    assert client.receive(wire(RECORDS[order])) == [m.StatesReply(READERS)]


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("minor", [2, 3, 4, 5, 6])
def test_event(minor: int, order: int) -> None:
    server = server_for(Vector("", m.GetReadersState(), ("", ""), lambda _: b"", ("", ""), None, minor), order)
    client = ClientCodec(minor, BYTE_ORDERS[order])
    cancelled = wire(("00000000 02001080", "00000000 80100002")[order])
    assert server.event() == bytes(8)
    assert server.event(0x80100002) == cancelled
    for data, event in ((bytes(8), m.Event(0)), (cancelled, m.Event(0x80100002))):
        client.send(m.WaitReaderStateChange())
        if minor in (4, 5):
            client.receive(wire(RECORDS[order], f"00*{14 * 184}"))
        assert client.registered
        assert [item for byte in data for item in client.receive(bytes((byte,)))] == [event]
        assert not client.registered


def test_a_whole_conversation_split_anywhere() -> None:
    """Bytes of many requests in one stream: every split into two gives what one piece gives."""
    stream = b"".join(wire(vector.asked[0]) for vector in VECTORS if vector.name_size == 128)
    whole = asked(ServerCodec(), stream)
    assert whole == [vector.request for vector in VECTORS if vector.name_size == 128]
    for offset in range(0, len(stream), 7):
        server = ServerCodec()
        assert asked(server, stream[:offset]) + asked(server, stream[offset:]) == whole


def test_input_may_be_any_kind_of_bytes() -> None:
    vector = next(vector for vector in VECTORS if vector.name == "transmit (captured)")
    data = wire(vector.asked[0])
    for kind in (bytes, bytearray, memoryview):
        server, client = ServerCodec(), ClientCodec(byte_order="little")
        [request] = asked(server, kind(data))
        assert request == vector.request
        assert isinstance(request, m.Transmit)
        assert isinstance(request.apdu, bytes)
        client.send(vector.request)
        assert client.receive(kind(wire(vector.answered[0]))) == [vector.reply]

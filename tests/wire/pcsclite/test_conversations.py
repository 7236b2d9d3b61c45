"""A real client codec and a real server codec tied together; and anything at all fed to each."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cardferry.pcsc.constants import MAX_APDU_SIZE, CardState, Protocol
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.client import ClientCodec
from cardferry.wire.pcsclite.layout import ByteOrder
from cardferry.wire.pcsclite.server import ServerCodec
from tests.wire.pcsclite.peers import BYTE_ORDERS, MINORS, agreed, asked, pieces
from tests.wire.pcsclite.vectors import VECTORS, wire

u32 = st.integers(0, 0xFFFFFFFF)
cards = st.integers(-0x80000000, 0x7FFFFFFF)
data = st.binary(max_size=300)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=24)
rooms = st.integers(0, MAX_APDU_SIZE)
errors = st.one_of(st.just(0), st.integers(0x80100001, 0x8010006F))
readers = st.lists(
    st.builds(
        ReaderState,
        names.filter(bool),
        st.integers(0, 65535),
        st.integers(0, 127).map(CardState),
        st.integers(-1, 200),
        st.binary(max_size=33),
        st.integers(0, 15).map(Protocol),
    ),
    max_size=16,
).map(tuple)

requests: st.SearchStrategy[m.Request] = st.one_of(
    st.builds(m.Version, st.just(4), st.sampled_from(MINORS)),
    st.builds(m.EstablishContext, u32),
    st.builds(m.ReleaseContext, u32),
    st.builds(m.Connect, u32, names, u32, u32),
    st.builds(m.Reconnect, cards, u32, u32, u32),
    st.builds(m.Disconnect, cards, u32),
    st.builds(m.BeginTransaction, cards),
    st.builds(m.EndTransaction, cards, u32),
    st.builds(m.Transmit, cards, u32, data, rooms, u32, u32, u32),
    st.builds(m.Control, cards, u32, data, rooms),
    st.builds(m.Status, cards),
    st.builds(m.Cancel, u32),
    st.builds(m.GetAttribute, cards, u32, st.integers(0, 264)),
    st.builds(m.SetAttribute, cards, u32, st.binary(max_size=264)),
    st.builds(m.GetReadersState),
    st.builds(m.GetReaderEvents),
    st.builds(m.GetReadersStateSize),
)

E_INSUFFICIENT_BUFFER = 0x80100008


class Answers:
    """Answers each request with values that hypothesis chooses, and knows what the client must see."""

    def __init__(self, draw: Callable[[st.SearchStrategy[object]], object], server: ServerCodec) -> None:
        self._draw = draw
        self._server = server

    def _int(self, strategy: st.SearchStrategy[int]) -> int:
        value = self._draw(strategy)
        assert isinstance(value, int)
        return value

    def _bytes(self, strategy: st.SearchStrategy[bytes]) -> bytes:
        value = self._draw(strategy)
        assert isinstance(value, bytes)
        return value

    def _readers(self) -> tuple[ReaderState, ...]:
        value = self._draw(readers)
        assert isinstance(value, tuple)
        return value

    def answer(self, request: m.Request) -> tuple[bytes, m.Reply]:
        server = self._server
        rv = self._int(errors)
        match request:
            case m.Version():
                return server.version(request), m.VersionReply(4, request.minor, 0)
            case m.EstablishContext():
                context = self._int(u32)
                return server.established(request, context, rv), m.ContextReply(rv, context)
            case m.Connect():
                card, protocol = self._int(cards), self._int(u32)
                return server.connected(request, card, protocol, rv), m.ConnectReply(rv, card, protocol)
            case m.Reconnect():
                protocol = self._int(u32)
                return server.reconnected(request, protocol, rv), m.ReconnectReply(rv, protocol)
            case m.Transmit():
                response, protocol = self._bytes(data), self._int(u32)
                reply = server.transmitted(request, response, rv, protocol)
                if len(response) > request.receive_length:
                    rv = rv or E_INSUFFICIENT_BUFFER
                return reply, m.TransmitReply(rv, b"" if rv else response, len(response), protocol)
            case m.Control():
                response = self._bytes(data)
                reply = server.controlled(request, response, rv)
                if len(response) > request.receive_length:
                    rv = rv or E_INSUFFICIENT_BUFFER
                return reply, m.ControlReply(rv, b"" if rv else response, len(response))
            case m.GetAttribute():
                value = self._bytes(st.binary(max_size=264))
                reply = server.attribute(request, value, rv)
                if len(value) > request.length:
                    rv = rv or E_INSUFFICIENT_BUFFER
                return reply, m.AttributeReply(rv, b"" if rv else value)
            case m.SetAttribute():
                return server.attribute(request, request.value, rv), m.AttributeReply(rv, b"" if rv else request.value)
            case m.GetReadersState():
                states = self._readers()
                return server.states(states), m.StatesReply(states)
            case m.GetReadersStateArray():
                states = self._readers()
                return server.state_array(states), m.StatesReply(states)
            case m.GetReadersStateSize():
                return server.state_count(), m.StateCountReply(16)
            case m.GetReaderEvents():
                count = self._int(st.integers(1, 32767))
                return server.reader_events(count), m.ReaderEventsReply(count, 0)
            case m.StopWaiting() | m.WaitReaderStateChange():
                raise AssertionError("has tests of its own")
            case _:
                return server.acknowledged(request, rv), m.Acknowledged(rv)


both_orders = pytest.mark.parametrize("byte_order", BYTE_ORDERS)
all_levels = pytest.mark.parametrize("minor", MINORS)


@both_orders
@all_levels
@given(st.data())
@settings(max_examples=40)
def test_everything_comes_back(byte_order: ByteOrder, minor: int, choose: st.DataObject) -> None:
    """Requests in one stream cut anywhere, replies likewise: both sides see the values that the other one sent."""
    client, server = agreed(minor, byte_order, choose.draw(st.sampled_from([100, 128])) if minor == 2 else 128)
    answers = Answers(choose.draw, server)
    sent = choose.draw(st.lists(requests, min_size=1, max_size=8))
    if any(isinstance(request, m.GetReadersStateSize) for request in sent):
        sent.append(m.GetReadersStateArray())
    seed = choose.draw(st.integers(0, 1000))
    stream = b"".join([client.send(request) for request in sent])
    got = [request for piece in pieces(stream, seed) for request in asked(server, piece)]
    assert got == sent
    replies = b""
    expected = []
    for request in got:
        # A version in the middle would change what the client believes about sizes.
        if isinstance(request, m.Version):
            request.minor = server.minor
        reply, value = answers.answer(request)
        replies += reply
        expected.append(value)
    assert [reply for piece in pieces(replies, seed) for reply in client.receive(piece)] == expected
    assert not client.pending
    assert not client.buffered
    assert not server.buffered


@both_orders
@all_levels
@given(readers, st.sampled_from([0, 0x80100002]), st.integers(0, 1000))
@settings(max_examples=20)
def test_waits_end_by_an_event_or_a_stop(
    byte_order: ByteOrder, minor: int, states: tuple[ReaderState, ...], rv: int, seed: int
) -> None:
    client, server = agreed(minor, byte_order)
    timeout = 0 if minor > 3 else 60000
    first = [m.StatesReply(states)] if minor in (4, 5) else []

    assert asked(server, client.send(m.WaitReaderStateChange(60000))) == [m.WaitReaderStateChange(timeout)]
    stream = server.waiting(states) + server.event(rv)
    assert [item for piece in pieces(stream, seed) for item in client.receive(piece)] == [*first, m.Event(rv)]

    stream = client.send(m.WaitReaderStateChange(60000)) + client.send(m.StopWaiting())
    wait, stop = [request for piece in pieces(stream, seed, 5) for request in asked(server, piece)]
    assert wait == m.WaitReaderStateChange(timeout)
    assert isinstance(stop, m.StopWaiting)
    for end in (server.stopped(stop, rv), server.event(rv)):
        stream = server.waiting(states) + end
        assert [item for piece in pieces(stream, seed) for item in client.receive(piece)] == [*first, m.Stopped(rv)]
        client, _ = agreed(minor, byte_order)
        client.send(m.WaitReaderStateChange())
        client.send(m.StopWaiting())


# Anything at all

garbage = st.lists(st.binary(max_size=120), max_size=12)
#: Headers that look right, with any bytes behind them.
nearly = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([wire(vector.asked[0]) for vector in VECTORS if len(wire(vector.asked[0])) < 400]),
        st.tuples(st.sampled_from([0, 8, 12, 24, 32, 124, 152, 280, 300, 2**31]), st.integers(0, 0x18)).map(
            lambda header: header[0].to_bytes(4, "little") + header[1].to_bytes(4, "little")
        ),
    ),
    max_size=12,
)


def fed_to_server(stream: list[bytes]) -> tuple[list[m.Request], str | None]:
    server = ServerCodec()
    requests = []
    for piece in stream:
        if server.error is not None:
            with pytest.raises(WireError):
                server.receive(piece)
        else:
            requests += server.receive(piece)
        assert server.buffered < MAX_APDU_SIZE
    return requests, str(server.error) if server.error else None


@given(st.one_of(garbage, nearly), st.integers(0, 1000))
@settings(max_examples=400)
def test_server_makes_requests_or_the_one_error_of_anything(stream: list[bytes], seed: int) -> None:
    joined = b"".join(stream)
    result = fed_to_server(stream)
    assert fed_to_server([joined]) == result
    assert fed_to_server(list(pieces(joined, seed))) == result
    assert fed_to_server([bytes((byte,)) for byte in joined]) == result


def fed_to_client(minor: int, asking: list[m.Request], stream: list[bytes]) -> tuple[list[object], str | None]:
    client = ClientCodec(minor, "little")
    for request in asking:
        client.send(request)
    received: list[object] = []
    for piece in stream:
        try:
            received += client.receive(piece)
        except WireError as error:
            received += error.received
            return received, str(error)
        assert client.buffered < MAX_APDU_SIZE
    return received, None


#: Replies, events and pieces of them.
replies = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([bytes(8), bytes(4), wire("00000000 02001080"), wire("ffffffff 01001080")]),
        st.sampled_from([wire(vector.answered[0]) for vector in VECTORS]),
    ),
    max_size=8,
)
asking = st.lists(
    st.sampled_from([vector.request for vector in VECTORS if not isinstance(vector.request, m.StopWaiting)]),
    max_size=6,
    unique_by=type,
)


@given(st.sampled_from(MINORS), asking, st.booleans(), replies, st.integers(0, 1000))
@settings(max_examples=400)
def test_client_makes_replies_or_the_one_error_of_anything(
    minor: int, asking: list[m.Request], stop: bool, stream: list[bytes], seed: int
) -> None:
    if stop and any(isinstance(request, m.WaitReaderStateChange) for request in asking):
        asking.append(m.StopWaiting())
    joined = b"".join(stream)
    result = fed_to_client(minor, asking, stream)
    assert fed_to_client(minor, asking, [joined]) == result
    assert fed_to_client(minor, asking, list(pieces(joined, seed))) == result
    assert fed_to_client(minor, asking, [bytes((byte,)) for byte in joined]) == result


@given(st.sampled_from(MINORS), asking, garbage)
@settings(max_examples=200)
def test_client_bears_garbage(minor: int, asking: list[m.Request], stream: list[bytes]) -> None:
    result = fed_to_client(minor, asking, stream)
    assert fed_to_client(minor, asking, [b"".join(stream)]) == result

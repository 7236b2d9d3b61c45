"""What comes in one piece is read in one step, and is the same as what comes byte by byte, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct, pack

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cardferry.pcsc.constants import MAX_APDU_SIZE
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.layout import Command
from cardferry.wire.pcsclite.server import ServerCodec
from tests.wire.pcsclite.peers import BYTE_ORDERS, agreed

CARD = 0x1234
#: ``rxHeader`` and ``transmit_struct``.
HEADER = {"little": Struct("<II"), "big": Struct(">II")}
TRANSMIT = {"little": Struct("<iIIIIIII"), "big": Struct(">iIIIIIII")}
words = st.one_of(st.integers(0, 40), st.sampled_from([CARD, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]))
#: How much more, or less, a length says than there is.
wrong = st.sampled_from([0, 0, 0, 0, 1, -1, 7, 0x10000, 0x80000000])
bodies = st.one_of(st.binary(max_size=50), st.sampled_from([bytes(MAX_APDU_SIZE), bytes(MAX_APDU_SIZE + 1)]))
orders = st.sampled_from(BYTE_ORDERS)


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The ways in which a message comes: whole first."""
    yield [data]
    yield [data[:1], data[1:]]
    for at in (4, 8, 31, 32, 33, 39, 40, 41):
        yield [data[:at], data[at:]]
    yield [data[:8], data[8:40], data[40:]]
    if len(data) < 500:
        yield [data[at : at + 1] for at in range(len(data))]


def the_same(data: bytes, fed: Callable[[list[bytes]], object]) -> object:
    """What comes of the message in all ways."""
    first, *others = [fed(pieces) for pieces in cuts(data)]
    for other in others:
        assert other == first
    return first


@settings(deadline=None)
@given(orders, st.tuples(words, words, words, words, words, words, words), wrong, bodies, st.booleans(), words)
@example("little", (CARD, 2, 8, 0, 0, 8, 65548), 0, b"\x00\xa4\x00\x00", False, 32)
@example("big", (CARD, 2, 8, 0, 0, 8, 65548), 0, b"\x00\xa4\x00\x00", False, 32)
@example("little", (CARD, 2, 8, 0, 0, 8, 65548), 0, bytes(MAX_APDU_SIZE), False, 32)
@example("little", (CARD, 2, 8, 0, 0, 8, 65548), 0, bytes(MAX_APDU_SIZE + 1), False, 32)
@example("little", (CARD, 2, 8, 0, 0, 8, 65548), 0, b"", False, 32)
def test_a_transmit(order: str, fields: tuple[int, ...], lie: int, apdu: bytes, at_first: bool, size: int) -> None:
    card, protocol, pci, receive_protocol, receive_pci, receive_length, rv = fields
    order_ = BYTE_ORDERS[order == "big"]
    length = (len(apdu) + lie) & 0xFFFFFFFF
    signed = card if card < 0x80000000 else card - (1 << 32)
    for header_size in (32, size):
        body = TRANSMIT[order_].pack(signed, protocol, pci, length, receive_protocol, receive_pci, receive_length, rv)
        data = HEADER[order_].pack(header_size, Command.TRANSMIT) + body + apdu

        def fed(pieces: list[bytes]) -> object:
            server = ServerCodec() if at_first else agreed(4, order_)[1]
            requests: list[m.Request] = []
            for piece in pieces:
                if server.error is None:
                    requests += server.receive(piece)
            # And what comes next is understood, or not, in the same way.
            buffered = None if server.error else server.buffered
            if server.error is None:
                requests += server.receive(HEADER[order_].pack(0, Command.GET_READER_EVENTS))
            return requests, str(server.error), buffered

        the_same(data, fed)


@settings(deadline=None)
@given(
    orders,
    st.tuples(words, words, words, words, words, words),
    st.sampled_from([0, 0, 0, 1, 0x80100002]),
    wrong,
    bodies,
    st.sampled_from([10, 65548, 1 << 20]),
    st.sampled_from(["alone", "two", "begin behind", "registered"]),
)
@example("little", (CARD, 2, 8, 4, 2, 8), 0, 0, b"\x90\x00", 65548, "alone")
@example("big", (CARD, 2, 8, 4, 2, 8), 0, 0, b"\x90\x00", 65548, "alone")
@example("little", (CARD, 2, 8, 4, 2, 8), 0, 0, b"", 65548, "alone")
@example("little", (CARD, 2, 8, 4, 2, 8), 0, 0, bytes(11), 10, "alone")
@example("little", (CARD + 1, 2, 8, 4, 2, 8), 0, 0, b"\x90\x00", 65548, "alone")
@example("little", (CARD, 2, 8, 4, 2, 8), 1, 0, b"\x90\x00", 65548, "alone")
@example("little", (CARD, 2, 8, 4, 2, 8), 0, 0, b"\x90\x00", 65548, "two")
@example("little", (CARD, 2, 8, 4, 2, 8), 0, 0, b"\x90\x00", 65548, "registered")
@example("little", (CARD, 2, 8, 4, 2, 8), 0, 0, bytes(MAX_APDU_SIZE + 1), 1 << 20, "alone")
def test_the_answer_to_a_transmit(
    order: str, fields: tuple[int, ...], rv: int, lie: int, response: bytes, room: int, company: str
) -> None:
    card, protocol, pci, sent_length, receive_protocol, receive_pci = fields
    order_ = BYTE_ORDERS[order == "big"]
    length = (len(response) + lie) & 0xFFFFFFFF
    signed = card if card < 0x80000000 else card - (1 << 32)
    data = TRANSMIT[order_].pack(signed, protocol, pci, sent_length, receive_protocol, receive_pci, length, rv)
    data += response

    def fed(pieces: list[bytes]) -> object:
        client = agreed(4 if company != "registered" else 6, order_)[0]
        if company == "registered":
            client.send(m.WaitReaderStateChange())
        client.send(m.Transmit(CARD, 2, b"\x00\xa4\x00\x00", room))
        if company == "two":
            client.send(m.Transmit(CARD, 2, b"\x00\xa4\x00\x00", room))
        elif company == "begin behind":
            client.send(m.BeginTransaction(CARD))
        replies: list[m.Reply | m.Event] = []
        try:
            for piece in pieces:
                replies += client.receive(piece)
        except WireError as error:
            replies += [*error.received]  # type: ignore[list-item]
            return replies, str(client.error)
        return replies, str(client.error), client.pending, client.buffered, client.registered

    the_same(data, fed)


def _transmit(size: int) -> bytes:
    """A whole request to transmit, of so many bytes."""
    data = agreed(4, "little")[0].send(m.Transmit(CARD, 2, bytes(size - 40)))
    assert len(data) == size
    return data


def _answer(size: int) -> bytes:
    """A whole answer to a transmit, of so many bytes."""
    return TRANSMIT["little"].pack(CARD, 2, 16, 4, 2, 16, size - 32, 0) + bytes(size - 32)


def test_what_looks_like_a_transmit_inside_another_request_is_none() -> None:
    client, server = agreed(4, "little")
    inside = _transmit(280)
    attribute = client.send(m.SetAttribute(CARD, 1, b""))
    assert server.receive(attribute[:8]) == []
    (request,) = server.receive(inside)
    assert isinstance(request, m.SetAttribute)
    control = client.send(m.Control(CARD, 1, inside))
    assert server.receive(control[:-280]) == []
    (request,) = server.receive(control[-280:])
    assert isinstance(request, m.Control)
    assert request.data == inside


def test_what_looks_like_an_answer_inside_another_one_is_none() -> None:
    client = agreed(4, "little")[0]
    inside = _answer(100)
    client.send(m.Transmit(CARD, 2, b"\x00\xa4\x00\x00"))
    assert client.receive(TRANSMIT["little"].pack(CARD, 2, 16, 4, 2, 16, 100, 0)) == []
    (reply,) = client.receive(inside)
    assert isinstance(reply, m.TransmitReply)
    assert reply.response == inside
    client.send(m.Control(CARD, 1, b"", 100))
    data = (16).to_bytes(4, "little") + bytes(20)
    (control,) = client.receive(pack("<iIIIII", CARD, 1, 0, 100, 24, 0) + data)
    assert isinstance(control, m.ControlReply)
    assert control.response == data


def test_answers_that_come_one_by_one_to_requests_sent_together() -> None:
    client = agreed(4, "little")[0]
    for _ in range(3):
        client.send(m.Transmit(CARD, 2, b"\x00\xa4\x00\x00"))
    client.send(m.BeginTransaction(CARD))
    for _ in range(3):
        (reply,) = client.receive(_answer(40))
        assert isinstance(reply, m.TransmitReply)
    assert client.receive(CARD.to_bytes(4, "little") + bytes(4)) == [m.Acknowledged(0)]

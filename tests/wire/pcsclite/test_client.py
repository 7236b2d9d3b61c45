"""The client's codec: negotiation, events among replies, bounds, errors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cardferry.pcsc.constants import MAX_APDU_SIZE
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.client import ClientCodec, next_version
from cardferry.wire.pcsclite.layout import ByteOrder, Dialect
from tests.wire.pcsclite.vectors import ARRAY, CARD, CONTEXT, READERS, RECORDS, wire

CANCELLED = 0x80100002
NO_SERVICE = 0x8010001D
SERVICE_STOPPED = 0x8010001E

EVENT = wire("00000000 00000000")
CANCEL_EVENT = wire("00000000 02001080")
VERSION_REPLY = wire("04000000 06000000 00000000")
MARKED = wire("ffffffff 00000000")
LATE = wire("ffffffff 01001080")


def little(minor: int = 6) -> ClientCodec:
    return ClientCodec(minor, "little")


def every_feeding(client_after: list[m.Request], data: bytes, minor: int = 6) -> Iterator[list[m.Reply | m.Event]]:
    """What comes of ``data`` in one piece, in any two, and byte by byte, by a new client each time."""

    def fed(*data: bytes) -> list[m.Reply | m.Event]:
        client = little(minor)
        for request in client_after:
            client.send(request)
        return [item for piece in data for item in client.receive(piece)]

    yield fed(data)
    for offset in range(len(data)):
        yield fed(data[:offset], data[offset:])
    yield fed(*(bytes((byte,)) for byte in data))


# Negotiation


@pytest.mark.parametrize(
    ("replies", "versions", "level"),
    [
        # (answers of the server, what is asked, level in the end)
        ([(4, 6, 0)], [6], 6),
        ([(4, 5, 0)], [6], 5),  # 2.4.1 takes any newer client, and names its own version
        ([(4, 9, 0)], [6], 6),
        ([(4, 4, SERVICE_STOPPED), (4, 4, 0)], [6, 4], 4),  # 1.8.26 to 2.3
        ([(4, 3, NO_SERVICE), (4, 3, 0)], [6, 3], 3),  # up to 1.8.25
        ([(4, 2, NO_SERVICE), (4, 2, 0)], [6, 2], 2),
        ([(4, 4, SERVICE_STOPPED), (4, 5, SERVICE_STOPPED)], [6, 4], None),
        ([(4, 4, SERVICE_STOPPED), (4, 4, SERVICE_STOPPED)], [6, 4], None),
        ([(4, 6, SERVICE_STOPPED)], [6], None),
        ([(4, 7, SERVICE_STOPPED)], [6], None),
        ([(4, 1, NO_SERVICE)], [6], None),
        ([(3, 4, NO_SERVICE)], [6], None),
        ([(5, 4, 0)], [6], None),
        ([(4, 1, 0)], [6], None),
        ([(4, 6, 0x8010006A)], [6], None),
    ],
)
def test_negotiation(replies: list[tuple[int, int, int]], versions: list[int], level: int | None) -> None:
    answers = iter(replies)
    tried: set[int] = set()
    asked = []
    version: m.Version | None = m.Version()
    while version is not None:
        assert version.major == 4
        asked.append(version.minor)
        tried.add(version.minor)
        reply = m.VersionReply(*next(answers))
        version = next_version(reply, tried)
    assert asked == versions
    assert reply.level == level
    assert next(answers, None) is None


def test_a_version_is_not_tried_twice() -> None:
    assert next_version(m.VersionReply(4, 4, SERVICE_STOPPED), {4}) is None


# Pipelining


def test_requests_may_be_sent_ahead() -> None:
    client = little()
    for request in (m.Version(), m.EstablishContext(2), m.GetReadersState(), m.BeginTransaction(CARD)):
        client.send(request)
    assert client.pending == 4
    data = VERSION_REPLY + wire("02000000 01000000 00000000", ARRAY[0], "7b7d635b 00000000")
    assert client.receive(data) == [
        m.VersionReply(4, 6, 0),
        m.ContextReply(0, 1),
        m.StatesReply(READERS),
        m.Acknowledged(0),
    ]
    assert not client.pending


def test_dialect_is_the_one_in_force() -> None:
    client = ClientCodec(4, "big", 100, 48)
    assert client.dialect == Dialect("big", 4, 100, 48)
    client.minor = 5
    assert client.dialect.minor == 5


def test_state_array_of_48_slots() -> None:
    client = ClientCodec(4, "little", slots=48)
    client.send(m.GetReadersState())
    array = wire(RECORDS[0], f"00*{46 * 184}")
    assert client.receive(array[:-1]) == []
    assert client.receive(array[-1:]) == [m.StatesReply(READERS)]


# Events

WAIT = m.WaitReaderStateChange()
STOP = m.StopWaiting()


def test_barrier_of_a_connection_for_events() -> None:
    """WAIT is silent on 4:6; a second VERSION behind it tells that it is in force."""
    after: list[m.Request] = [WAIT, m.Version()]
    version = m.VersionReply(4, 6, 0)
    for received in every_feeding(after, VERSION_REPLY + EVENT):
        assert received == [version, m.Event(0)]
    for received in every_feeding(after, EVENT + VERSION_REPLY):
        assert received == [m.Event(0), version]
    for received in every_feeding(after, CANCEL_EVENT + VERSION_REPLY):
        assert received == [m.Event(CANCELLED), version]
    for received in every_feeding(after, VERSION_REPLY):
        assert received == [version]


def test_registered_until_the_event() -> None:
    client = little()
    seen = [client.registered]
    client.send(WAIT)
    seen.append(client.registered)
    assert client.receive(EVENT) == [m.Event(0)]
    seen.append(client.registered)
    client.send(WAIT)
    client.send(STOP)
    seen.append(client.registered)
    assert seen == [False, True, False, False]
    assert client.pending == 1


@pytest.mark.parametrize(
    ("request_", "reply_bytes", "reply"),
    [
        (m.EstablishContext(2), "02000000 01000000 00000000", m.ContextReply(0, 1)),
        (m.ReleaseContext(CONTEXT), "f70e6f70 00000000", m.Acknowledged(0)),
        (m.BeginTransaction(CARD), "7b7d635b 00000000", m.Acknowledged(0)),
        (
            m.Transmit(CARD, 2, b"\x00\xa4"),
            "7b7d635b 02000000 10000000 02000000 02000000 10000000 02000000 00000000 9000",
            m.TransmitReply(0, b"\x90\x00", 2, 2),
        ),
        (m.GetReadersStateSize(), "10000000", m.StateCountReply(16)),
        (m.GetReaderEvents(), "02000000 00000000", m.ReaderEventsReply(2, 0)),
    ],
)
def test_event_before_and_after_a_reply_that_cannot_begin_with_zero(
    request_: m.Request, reply_bytes: str, reply: m.Reply
) -> None:
    for received in every_feeding([WAIT, request_], EVENT + wire(reply_bytes)):
        assert received == [m.Event(0), reply]
    for received in every_feeding([WAIT, request_], wire(reply_bytes) + EVENT):
        assert received == [reply, m.Event(0)]


def test_replies_that_can_begin_with_zero_are_not_taken_for_events() -> None:
    empty_slot_first = wire("00*184", RECORDS[0], f"00*{13 * 184}")
    for received in every_feeding([WAIT, m.GetReadersState()], empty_slot_first[:200] + empty_slot_first[200:]):
        assert received == [m.StatesReply(READERS)]
    for received in every_feeding([WAIT, m.EstablishContext(0)], wire("00000000 01000000 00000000") + EVENT):
        assert received == [m.ContextReply(0, 1), m.Event(0)]


def test_an_event_that_has_begun_is_not_the_reply_to_a_later_request() -> None:
    client = little()
    client.send(WAIT)
    assert client.receive(EVENT[:3]) == []
    client.send(m.GetReadersState())
    assert client.receive(EVENT[3:] + wire(ARRAY[0])) == [m.Event(0), m.StatesReply(READERS)]


@pytest.mark.parametrize("minor", [4, 5])
def test_wait_that_is_answered_with_the_states(minor: int) -> None:
    for received in every_feeding([WAIT, m.Version()], wire(ARRAY[0]) + EVENT + VERSION_REPLY, minor):
        assert received == [m.StatesReply(READERS), m.Event(0), m.VersionReply(4, 6, 0)]


@pytest.mark.parametrize("data", [EVENT, CANCEL_EVENT])
def test_stop_is_answered_once_by_the_event_or_the_reply(data: bytes) -> None:
    rv = 0 if data is EVENT else CANCELLED
    for received in every_feeding([WAIT, STOP], data):
        assert received == [m.Stopped(rv)]
    # An event that was sent before the server saw the stop, and before an earlier request's reply: it waits for its
    # turn, so that replies come in the order of the requests.
    for received in every_feeding([WAIT, m.Version(), STOP, m.BeginTransaction(CARD)], data):
        assert received == []
    for received in every_feeding([WAIT, m.Version(), STOP, m.BeginTransaction(CARD)], data + VERSION_REPLY):
        assert received == [m.VersionReply(4, 6, 0), m.Stopped(rv)]
    for received in every_feeding(
        [WAIT, m.Version(), STOP, m.BeginTransaction(CARD)], VERSION_REPLY + data + wire("7b7d635b 00000000")
    ):
        assert received == [m.VersionReply(4, 6, 0), m.Stopped(rv), m.Acknowledged(0)]


def test_wait_again_behind_a_stop() -> None:
    for received in every_feeding([WAIT, STOP, WAIT, m.Version()], EVENT + EVENT + VERSION_REPLY):
        assert received == [m.Stopped(0), m.Event(0), m.VersionReply(4, 6, 0)]
    for received in every_feeding([WAIT, STOP, WAIT, STOP], EVENT + CANCEL_EVENT):
        assert received == [m.Stopped(0), m.Stopped(CANCELLED)]
    # The second wait is not in force before the first has ended, but its event may overtake an older reply.
    after: list[m.Request] = [WAIT, m.Version(), STOP, WAIT, m.Version(), STOP]
    version = m.VersionReply(4, 6, 0)
    for received in every_feeding(after, EVENT + VERSION_REPLY + CANCEL_EVENT + VERSION_REPLY):
        assert received == [version, m.Stopped(0), version, m.Stopped(CANCELLED)]


def test_a_second_wait_or_a_stop_too_many_is_refused_here() -> None:
    client = little()
    with pytest.raises(ValueError, match="no wait"):
        client.send(STOP)
    client.send(WAIT)
    with pytest.raises(ValueError, match="in force already"):
        client.send(WAIT)
    client.send(STOP)
    with pytest.raises(ValueError, match="no wait"):
        client.send(STOP)


# Events up to 4:3

ODD_EVENT = wire("efbeadde 00000000")


@pytest.mark.parametrize("minor", [2, 3])
@pytest.mark.parametrize("event", [EVENT, ODD_EVENT])
def test_old_event_with_anything_in_front(minor: int, event: bytes) -> None:
    for received in every_feeding([WAIT], event, minor):
        assert received == [m.Event(0)]
    for received in every_feeding([WAIT, m.Version()], event + VERSION_REPLY, minor):
        assert received == [m.Event(0), m.VersionReply(4, 6, 0)]
    for received in every_feeding([WAIT, m.Version()], VERSION_REPLY + event, minor):
        assert received == [m.VersionReply(4, 6, 0), m.Event(0)]
    for received in every_feeding([WAIT, m.GetReaderEvents()], wire("02000000 00000000") + event, minor):
        assert received == [m.ReaderEventsReply(2, 0), m.Event(0)]


@pytest.mark.parametrize("minor", [2, 3])
@pytest.mark.parametrize("event", [EVENT, ODD_EVENT])
def test_old_stop_that_an_event_overtook(minor: int, event: bytes) -> None:
    """Up to 1.8.18 pcscd answers the stop nevertheless, later it does not."""
    after: list[m.Request] = [WAIT, STOP, m.Version(), WAIT]
    version = m.VersionReply(4, 6, 0)
    for received in every_feeding(after, MARKED + VERSION_REPLY + event, minor):
        assert received == [m.Stopped(0), version, m.Event(0)]
    for received in every_feeding(after, event + VERSION_REPLY + event, minor):
        assert received == [m.Stopped(0), version, m.Event(0)]
    for received in every_feeding(after, event + LATE + VERSION_REPLY + event, minor):
        assert received == [m.Stopped(0), version, m.Event(0)]
    # The late answer with nothing else outstanding, and in front of states.
    for received in every_feeding([WAIT, STOP], event + LATE, minor):
        assert received == [m.Stopped(0)]
    for received in every_feeding([WAIT, STOP, m.GetReadersState()], event + LATE + wire(ARRAY[0]), minor):
        assert received == [m.Stopped(0), m.StatesReply(READERS)]
    # And in front of the answer to the next stop.
    for received in every_feeding([WAIT, STOP, WAIT, STOP], event + LATE + MARKED, minor):
        assert received == [m.Stopped(0), m.Stopped(0)]
    # From 1.8.20 on there is none, and the next stop's answer is its own.
    for received in every_feeding([WAIT, STOP, WAIT, STOP], event + MARKED, minor):
        assert received == [m.Stopped(0), m.Stopped(0)]


@pytest.mark.parametrize("minor", [2, 3])
def test_a_stop_that_was_answered_has_no_late_answer(minor: int) -> None:
    client = little(minor)
    client.send(WAIT)
    client.send(STOP)
    with pytest.raises(WireError, match="answer nothing"):
        client.receive(MARKED + LATE)


@pytest.mark.parametrize("minor", [2, 3])
def test_late_answer_comes_once(minor: int) -> None:
    client = little(minor)
    client.send(WAIT)
    client.send(STOP)
    with pytest.raises(WireError, match="not waited for") as caught:
        client.receive(EVENT + EVENT)
    assert caught.value.received == (m.Stopped(0),)
    client = little(minor)
    client.send(WAIT)
    client.send(STOP)
    with pytest.raises(WireError, match="answer nothing"):
        client.receive(EVENT + LATE + LATE)


# What a server cannot send


@pytest.mark.parametrize("byte_order", ["little", "big"])
def test_bytes_that_answer_nothing(byte_order: ByteOrder) -> None:
    with pytest.raises(WireError, match="answer nothing"):
        ClientCodec(byte_order=byte_order).receive(b"\0")


def test_more_than_was_asked_for() -> None:
    client = little()
    client.send(m.Version())
    with pytest.raises(WireError, match="answer nothing") as caught:
        client.receive(VERSION_REPLY + b"\0")
    assert caught.value.received == (m.VersionReply(4, 6, 0),)


def test_event_of_the_other_byte_order() -> None:
    client = little()
    client.send(WAIT)
    with pytest.raises(WireError, match="0x1000000 in front"):
        client.receive(wire("00000001 00000000"))


@pytest.mark.parametrize(
    ("request_", "reply", "words"),
    [
        (m.BeginTransaction(CARD), "7c7d635b 00000000", "BeginTransaction begins with 0x5b637d7c"),
        (m.BeginTransaction(CARD), "00000000 00000000", "begins with 0x0"),
        (m.BeginTransaction(0), "01000000 00000000", "begins with 0x1"),
        (m.EstablishContext(2), "01000000 01000000 00000000", "EstablishContext begins"),
        (m.GetReadersStateSize(), "00000000", "array of 0"),
        (m.GetReadersStateSize(), "ffffffff", "array of -1"),
        (m.GetReadersStateSize(), "01040000", "array of 1025"),
        (m.GetReadersState(), f"'R'/128 00*48 ff000000 00000000 00*{15 * 184}", "ATR of 255"),
        (m.GetAttribute(CARD, 1), "7b7d635b 01000000 00*264 09010000 00000000", "attribute of 265"),
        (
            m.Transmit(CARD, 1, b"", 10),
            "7b7d635b 01000000 10000000 00000000 01000000 10000000 0b000000 00000000",
            "response of 11 bytes",
        ),
        (
            m.Transmit(CARD, 1, b"", 0xFFFFFFFF),
            "7b7d635b 01000000 10000000 00000000 01000000 10000000 0d000100 00000000",
            "response of 65549 bytes",
        ),
        (
            m.Control(CARD, 1, b"", 10),
            "7b7d635b 01000000 00000000 0a000000 0b000000 00000000",
            "control response of 11 bytes",
        ),
        (
            m.Control(CARD, 1, b"", 0xFFFFFFFF),
            "7b7d635b 01000000 00000000 0a000000 ffffffff 00000000",
            "control response of 4294967295 bytes",
        ),
    ],
)
def test_replies_that_are_impossible(request_: m.Request, reply: str, words: str) -> None:
    client = little()
    client.send(request_)
    with pytest.raises(WireError, match=words):
        client.receive(wire(reply))
    assert not client.buffered
    assert isinstance(client.error, WireError)
    with pytest.raises(WireError, match=words):
        client.receive(b"")
    with pytest.raises(WireError, match=words):
        client.send(m.Version())


def test_replies_before_the_bad_bytes_are_in_the_error() -> None:
    client = little()
    client.send(WAIT)
    client.send(m.Version())
    client.send(m.BeginTransaction(CARD))
    with pytest.raises(WireError) as caught:
        client.receive(EVENT + VERSION_REPLY + wire("01020304 05060708"))
    assert caught.value.received == (m.Event(0), m.VersionReply(4, 6, 0))
    with pytest.raises(WireError) as caught:
        client.receive(b"")
    assert caught.value.received == ()


def test_length_that_comes_with_an_error_is_only_a_number() -> None:
    client = little()
    client.send(m.Transmit(CARD, 1, b"", 10))
    assert client.receive(wire("7b7d635b 01000000 10000000 00000000 01000000 10000000 ffffffff 08001080")) == [
        m.TransmitReply(0x80100008, b"", 0xFFFFFFFF, 1)
    ]
    assert not client.pending


def test_the_longest_response() -> None:
    client = little()
    client.send(m.Transmit(CARD, 1, b""))
    response = b"x" * MAX_APDU_SIZE
    head = wire("7b7d635b 01000000 10000000 00000000 01000000 10000000 0c000100 00000000")
    assert client.receive(head + response[:-1]) == []
    assert client.buffered == MAX_APDU_SIZE - 1
    assert client.receive(response[-1:]) == [m.TransmitReply(0, response, MAX_APDU_SIZE, 1)]


# What cannot be sent


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (m.Transmit(CARD, 1, bytes(MAX_APDU_SIZE + 1)), "65549 bytes"),
        (m.Control(CARD, 1, bytes(MAX_APDU_SIZE + 1)), "65549 bytes"),
        (m.SetAttribute(CARD, 1, bytes(265)), "265 bytes"),
        (m.GetReadersStateArray(), "size"),
    ],
)
def test_requests_that_no_server_takes(request_: m.Request, words: str) -> None:
    client = little()
    with pytest.raises(ValueError, match=words):
        client.send(request_)
    assert not client.pending


def test_room_is_never_announced_larger_than_old_servers_bear() -> None:
    """pcscd up to 1.9.7 closes the connection on more than 65548."""
    client = little()
    assert client.send(m.Transmit(1, 1, b"", 0xFFFFFFFF))[32:36] == wire("0c000100")
    assert client.send(m.Control(1, 1, b"", 0xFFFFFFFF))[20:24] == wire("0c000100")
    assert client.send(m.GetAttribute(1, 1, 1000))[280:284] == wire("08010000")

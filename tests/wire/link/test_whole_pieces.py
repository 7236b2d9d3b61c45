"""What comes in one piece is read in one step, and is the same as what comes byte by byte, whatever it is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import HEADER_SIZE, MAX_PAYLOAD, FrameReader, Kind, encode
from cardferry.wire.link.greeting import Role
from cardferry.wire.link.session import Session

HEADER = struct.Struct("!IBQQ")
IDENTITY = bytes(range(16))

numbers = st.one_of(st.integers(0, 12), st.sampled_from([2**32, 2**63, 2**64 - 1]))
kinds = st.one_of(st.just(int(Kind.DATA)), st.just(int(Kind.DATA)), st.integers(0, 255))
payloads = st.one_of(st.binary(max_size=40), st.sampled_from([bytes(MAX_PAYLOAD), bytes(MAX_PAYLOAD + 1)]))
#: How much more, or less, the header says than there is.
wrong = st.sampled_from([0, 0, 0, 0, 1, -1, 21, 1 << 31])
frames = st.tuples(wrong, kinds, numbers, numbers, payloads)


def raw(lie: int, kind: int, number: int, acknowledged: int, payload: bytes) -> bytes:
    """A frame as it may never be sent."""
    return HEADER.pack(max(0, len(payload) + lie), kind, number, acknowledged) + payload


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """The ways in which a frame comes: whole first."""
    yield [data]
    for at in (1, HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1):
        yield [data[:at], data[at:]]
    if len(data) < 500:
        yield [data[at : at + 1] for at in range(len(data))]


def connected() -> Session:
    """A host's session that has sent two messages and received one."""
    guest, host = (Session(role, IDENTITY, 0.0) for role in (Role.GUEST, Role.HOST))
    for end in (guest, host):
        end.attach(0.0)
    guest.send(b"one")
    host.send(b"first")
    host.send(b"second")
    for _ in range(3):
        host.receive(guest.take(), 0.0)
        guest.receive(host.take(), 0.0)
    assert (host.received, guest.received) == (1, 2)
    host.send(b"third")
    host.send(b"fourth")
    assert host.take()
    return host


@settings(deadline=None)
@given(st.lists(frames, min_size=1, max_size=3))
@example([(0, 2, 2, 4, b"two")])
@example([(0, 2, 2, 3, b"two"), (0, 2, 3, 4, b"three")])
@example([(0, 2, 1, 2, b"again")])
@example([(0, 2, 3, 2, b"a gap")])
@example([(0, 2, 2, 5, b"never sent")])
@example([(0, 2, 2, 1, b"goes back")])
@example([(0, 2, 0, 2, b"without a number")])
@example([(0, 2, 2, 2, b"")])
@example([(0, 2, 2, 2, bytes(MAX_PAYLOAD))])
@example([(0, 2, 2, 2, bytes(MAX_PAYLOAD + 1))])
@example([(0, 3, 2, 2, b"")])
@example([(1, 2, 2, 2, b"one byte short"), (0, 2, 3, 2, b"x")])
@example([(-1, 2, 2, 2, b"one byte too many"), (0, 2, 3, 2, b"x")])
def test_a_session_hears_the_same(sent: list[tuple[int, int, int, int, bytes]]) -> None:
    messages = [raw(*frame) for frame in sent]

    def heard(stream: list[list[bytes]]) -> object:
        session = connected()
        delivered: list[bytes] = []
        try:
            for message in stream:
                for piece in message:
                    delivered += session.receive(piece, 1.0)
        except WireError:
            return "it breaks the rules"  # which ends the session, with all that came in the same piece
        return (
            delivered,
            session.phase,
            session.received,
            session.duplicates,
            session.kept,
            session.ack_due,
            session.pending,
            session.reader.buffered,
        )

    first = heard([[message] for message in messages])
    for ways in zip(*(list(cuts(message)) for message in messages), strict=False):
        assert heard(list(ways)) == first


@given(frames, st.integers(0, 30))
def test_a_reader_that_holds_something_takes_no_short_way(frame: tuple[int, int, int, int, bytes], before: int) -> None:
    held = encode(Kind.DATA, 7, 0, b"0123456789")[:before]
    reader = FrameReader()
    assert reader.receive(held) == []
    only = reader.only_data(raw(*frame))
    assert reader.buffered == len(held)
    if before:
        assert only is None


def test_a_message_that_is_sent_now_is_what_would_be_taken() -> None:
    """And nothing is sent now while something waits that must go before it."""
    now, later = connected(), connected()
    later.send(b"fifth")
    assert now.send_now(b"fifth") == later.take()
    assert now.kept == later.kept
    assert now.take() == b""
    now.send(b"sixth")
    assert now.send_now(b"seventh") == b""
    assert now.pending
    later.send(b"sixth")
    later.send(b"seventh")
    assert now.take() == later.take()


def test_nothing_is_sent_now_without_a_pipe_or_before_a_greeting_or_behind_an_answer() -> None:
    session = connected()
    session.receive(encode(Kind.PING, 0, 2, bytes(8)), 1.0)
    assert session.send_now(b"behind a pong") == b""
    taken = session.take()
    assert taken.endswith(b"behind a pong")
    assert len(taken) > 2 * HEADER_SIZE
    session.detach()
    assert session.send_now(b"apart") == b""
    session.attach(2.0)
    assert session.send_now(b"greeting") == b""
    assert b"greeting" not in session.take()


def test_an_acknowledgement_rides_on_what_is_sent_now() -> None:
    session = connected()
    session.receive(encode(Kind.DATA, 2, 4, b"two"), 1.0)
    assert session.ack_due is not None
    frame = session.send_now(b"fifth")
    assert HEADER.unpack_from(frame) == (5, Kind.DATA, 5, 2)
    assert session.ack_due is None


@pytest.mark.parametrize("acknowledged", [3, 4])
def test_what_is_about_to_be_repeated_cannot_be_acknowledged_yet(acknowledged: int) -> None:
    """The other end says on a new pipe that it has not got it."""
    session = connected()
    session.detach()
    session.attach(1.0)
    hello = Session(Role.GUEST, IDENTITY, 0.0).hello
    greeting = replace(hello, established=True, received=2)
    session.receive(encode(Kind.HELLO, 0, 0, greeting.encode()), 1.0)
    with pytest.raises(WireError, match="2 was the last one sent"):
        session.receive(encode(Kind.ACK, 0, acknowledged), 1.0)

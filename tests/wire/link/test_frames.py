"""Frames: laid out by hand, split anywhere, and anything at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cardferry.wire.errors import WireError
from cardferry.wire.link.frames import HEADER_SIZE, MAX_PAYLOAD, Frame, FrameReader, HelloFinder, Kind, encode

#: length 3, DATA, number 7, acknowledged 258, "abc".
DATA = bytes.fromhex("00000003 02 0000000000000007 0000000000000102 616263")
#: ACK of 5.
ACK = bytes.fromhex("00000000 03 0000000000000000 0000000000000005")
FRAMES = [Frame(Kind.DATA, 7, 258, b"abc"), Frame(Kind.ACK, 0, 5)]

frames = st.one_of(
    st.builds(Frame, st.just(Kind.DATA), st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=100)),
    st.builds(Frame, st.just(Kind.ACK), st.just(0), st.integers(0, 2**64 - 1), st.just(b"")),
    st.builds(
        Frame,
        st.sampled_from([Kind.PING, Kind.PONG]),
        st.just(0),
        st.integers(0, 2**64 - 1),
        st.binary(min_size=8, max_size=8),
    ),
    st.builds(
        Frame,
        st.sampled_from([Kind.HELLO, Kind.BYE]),
        st.just(0),
        st.integers(0, 2**64 - 1),
        st.binary(min_size=1, max_size=100),
    ),
)


def test_the_layout() -> None:
    assert encode(*FRAMES[0]) == DATA
    assert encode(*FRAMES[1]) == ACK
    assert FrameReader().receive(DATA + ACK) == FRAMES


@pytest.mark.parametrize("split", range(len(DATA + ACK) + 1))
def test_split_anywhere(split: int) -> None:
    reader = FrameReader()
    data = DATA + ACK
    assert reader.receive(data[:split]) + reader.receive(data[split:]) == FRAMES
    assert reader.buffered == 0


@given(st.lists(frames, max_size=8), st.lists(st.integers(1, 50), min_size=1))
def test_whatever_is_encoded_comes_out_again(sent: list[Frame], pieces: list[int]) -> None:
    data = b"".join(encode(*frame) for frame in sent)
    reader = FrameReader()
    received: list[Frame] = []
    at = 0
    while at < len(data):
        for piece in pieces:
            received += reader.receive(data[at : at + piece])
            at += piece
    assert received == sent
    assert reader.buffered == 0


@pytest.mark.parametrize(
    "header",
    [
        "00000000 00 0000000000000000 0000000000000000",
        "00000000 07 0000000000000000 0000000000000000",
        "00100001 02 0000000000000001 0000000000000000",
        "ffffffff 02 0000000000000001 0000000000000000",
        "00000001 03 0000000000000000 0000000000000000",
        "00000007 04 0000000000000000 0000000000000000",
        "00000401 01 0000000000000000 0000000000000000",
        "00000000 01 0000000000000000 0000000000000000",
        "00000000 02 0000000000000000 0000000000000000",
        "00000000 03 0000000000000001 0000000000000000",
    ],
    ids=[
        "kind 0",
        "kind 7",
        "1 MiB and a byte",
        "4 GiB",
        "ack with payload",
        "short ping",
        "long hello",
        "empty hello",
        "data without number",
        "ack with number",
    ],
)
def test_headers_that_cannot_be(header: str) -> None:
    reader = FrameReader()
    with pytest.raises(WireError) as caught:
        reader.receive(DATA + bytes.fromhex(header))
    assert caught.value.received == (FRAMES[0],)


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_the_one_error(data: bytes) -> None:
    reader = FrameReader()
    try:
        received = reader.receive(data)
    except WireError:
        return
    assert sum(HEADER_SIZE + len(frame.payload) for frame in received) + reader.buffered == len(data)


def test_a_size_is_checked_before_anything_is_held() -> None:
    reader = FrameReader()
    largest = encode(Kind.DATA, 1, 0, bytes(MAX_PAYLOAD))
    assert reader.receive(largest[:-1]) == []
    assert reader.buffered == len(largest) - 1
    assert reader.receive(largest[-1:]) == [Frame(Kind.DATA, 1, 0, bytes(MAX_PAYLOAD))]


def test_who_takes_less_says_so_before_anything_is_held() -> None:
    reader = FrameReader(100)
    assert reader.receive(encode(Kind.DATA, 1, 0, bytes(100)))
    too_large = encode(Kind.DATA, 1, 0, bytes(101))
    assert reader.only_data(too_large) is None
    with pytest.raises(WireError, match="cannot carry 101"):
        reader.receive(too_large[:HEADER_SIZE])
    assert reader.buffered == 0


@given(st.lists(st.integers(0, 300), min_size=1), st.integers(1, 400))
def test_the_next_size_is_where_the_next_frame_ends(sizes: list[int], piece: int) -> None:
    """Whoever takes no more than that at a time gets at most one frame for it, and all of them in the end."""
    data = b"".join(encode(Kind.DATA, number, 0, bytes(size)) for number, size in enumerate(sizes, 1))
    reader, got, at = FrameReader(), 0, 0
    while at < len(data):
        known = data[at : at + piece]
        size = reader.next_size(known)
        assert size >= 1
        frames = reader.receive(known[:size])
        assert len(frames) <= 1
        got += len(frames)
        at += min(size, len(known))
    assert got == len(sizes)


@pytest.mark.parametrize(("kind", "size"), [(Kind.DATA, MAX_PAYLOAD + 1), (Kind.PING, 7), (Kind.ACK, 1)])
def test_nothing_is_encoded_that_could_not_be_read(kind: Kind, size: int) -> None:
    with pytest.raises(ValueError, match="cannot carry"):
        encode(kind, 0, 0, bytes(size))


@pytest.mark.parametrize("split", range(4 * len(DATA)))
def test_what_is_read_past_ends_at_the_next_hello(split: int) -> None:
    """The reader had half a frame when the pipe was put aside; after the hello nothing is lost, wherever it is cut."""
    hello, half = encode(Kind.HELLO, 0, 0, b"hello"), len(DATA) // 2
    reader = FrameReader()
    assert reader.receive(DATA[:half]) == []
    finder = HelloFinder(reader)
    stream = DATA[half:] + ACK + hello + DATA + ACK + DATA[:half]
    found = b""
    for piece in (stream[:split], stream[split:]):
        found += finder.receive(piece) if not found else piece
    assert found == hello + DATA + ACK + DATA[:half]


def test_what_is_no_frame_is_no_hello_either() -> None:
    with pytest.raises(WireError):
        HelloFinder(FrameReader()).receive(bytes(100))

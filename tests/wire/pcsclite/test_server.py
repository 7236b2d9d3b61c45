"""The server's codec: byte order, versions, bounds, errors."""

from __future__ import annotations

import pytest

from cardferry.pcsc.constants import MAX_APDU_SIZE
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.errors import WireError
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.layout import Dialect
from cardferry.wire.pcsclite.server import ServerCodec
from tests.wire.pcsclite.peers import MINORS, asked
from tests.wire.pcsclite.vectors import wire

NO_SERVICE = 0x8010001D
SERVICE_STOPPED = 0x8010001E


def version_reply(major: int, minor: int, rv: int) -> bytes:
    return b"".join(number.to_bytes(4, "little", signed=number < 0) for number in (major, minor, rv))


def little() -> ServerCodec:
    """A server whose client is little-endian."""
    server = ServerCodec()
    assert asked(server, wire("00000000 15000000")) == [m.GetReaderEvents()]
    return server


# Byte order


@pytest.mark.parametrize(
    "header",
    [
        "00000000 00000000",
        "0c000c00 11000000",
        "ffffffff ffffffff",
        "00010100 11000000",
        "00000000 12001200",
        "47455420 2f20485454502f312e310d0a",
        "16030100 c8010000",
    ],
)
def test_neither_byte_order(header: str) -> None:
    server = ServerCodec()
    assert server.receive(wire(header)) == []
    assert "not a pcsc-lite request" in str(server.error)


def test_byte_order_is_decided_once() -> None:
    server = little()
    assert server.receive(wire("00000000 00000015")) == []
    assert server.error is not None


def test_byte_order_is_not_decided_by_a_part_of_a_header() -> None:
    server = ServerCodec()
    assert asked(server, wire("00000000 000000")) == []
    assert server.buffered == 7
    assert asked(server, wire("15")) == [m.GetReaderEvents()]
    assert server.dialect == Dialect("big")


# Versions


@pytest.mark.parametrize("minor", MINORS)
def test_client_gets_its_own_version_back(minor: int) -> None:
    server = little()
    assert server.version(m.Version(4, minor)) == version_reply(4, minor, 0)
    assert server.minor == minor
    assert server.dialect == Dialect("little", minor)


def test_level_without_a_version_is_the_newest() -> None:
    assert ServerCodec().minor == 6


@pytest.mark.parametrize(("major", "minor"), [(4, 0), (4, 1), (4, -1), (3, 6), (5, 0), (5, 7), (0, 0), (-4, 4)])
def test_versions_that_nobody_speaks_are_refused_for_good(major: int, minor: int) -> None:
    server = little()
    for _ in range(2):
        assert server.version(m.Version(major, minor)) == version_reply(4, 6, NO_SERVICE)
    assert server.minor == 6


def test_newer_client_is_offered_our_version_once_and_accepted() -> None:
    server = little()
    assert server.version(m.Version(4, 7)) == version_reply(4, 6, SERVICE_STOPPED)
    assert server.version(m.Version(4, 6)) == version_reply(4, 6, 0)


def test_newer_client_that_insists_does_not_loop_for_ever() -> None:
    """Libraries from 2.4.1 on repeat their request as often as they read E_SERVICE_STOPPED."""
    server = little()
    answers = [server.version(m.Version(4, 7)) for _ in range(4)]
    assert answers == [version_reply(4, 6, SERVICE_STOPPED)] + [version_reply(4, 6, NO_SERVICE)] * 3


def test_refusal() -> None:
    server = little()
    assert server.version(m.Version(4, 4), refuse=0x8010006A) == version_reply(4, 4, 0x8010006A)
    assert server.minor == 6


@pytest.mark.parametrize("rv", [0, SERVICE_STOPPED])
def test_refusal_that_would_not_be_one(rv: int) -> None:
    with pytest.raises(ValueError, match="cannot be refused"):
        little().version(m.Version(4, 4), refuse=rv)


# Names of 100 bytes

CONNECT_OLD = "7c000000 04000000 01000000 'R'/100 02000000 03000000 00000000 00000000 00000000"
CONNECT_NEW = "98000000 04000000 01000000 'R'/128 02000000 03000000 00000000 00000000 00000000"
CONNECT = m.Connect(1, "R", 2, 3)


def test_old_names_are_adopted_from_the_connect() -> None:
    server = little()
    server.version(m.Version(4, 2))
    assert len(server.states(())) == 16 * 184
    assert asked(server, wire(CONNECT_OLD)) == [CONNECT]
    assert len(server.connected(CONNECT, 1, 2)) == 124
    assert len(server.states(())) == 16 * 156
    assert server.dialect.name_size == 100


def test_old_names_by_option_are_for_4_2_only() -> None:
    server = ServerCodec(name_size=100)
    assert asked(server, wire("00000000 12000000")) == [m.GetReadersState()]
    assert len(server.states(())) == 16 * 184
    for minor in MINORS:
        server.version(m.Version(4, minor))
        assert len(server.states(())) == 16 * (156 if minor == 2 else 184)


def test_new_names_are_adopted_from_the_connect() -> None:
    server = ServerCodec(name_size=100)
    assert asked(server, wire("00000000 12000000")) == [m.GetReadersState()]
    server.version(m.Version(4, 2))
    assert asked(server, wire(CONNECT_NEW)) == [CONNECT]
    assert len(server.connected(CONNECT, 1, 2)) == 152
    assert len(server.states(())) == 16 * 184


@pytest.mark.parametrize(("slots", "name_size"), [(0, 128), (16, 99)])
def test_arguments_are_checked(slots: int, name_size: int) -> None:
    with pytest.raises(ValueError, match=r"slot|name"):
        ServerCodec(slots, name_size)


# Slots

MANY = tuple(ReaderState(f"Reader {number}") for number in range(70))


@pytest.mark.parametrize(
    ("slots", "array_slots", "fixed", "count"),
    [(16, 16, 16, 16), (16, 64, 16, 64), (48, 16, 48, 48), (8, 4, 8, 16)],
)
def test_number_of_slots(slots: int, array_slots: int, fixed: int, count: int) -> None:
    server = ServerCodec(slots=slots, array_slots=array_slots)
    asked(server, wire("00000000 12000000"))
    assert len(server.states(MANY)) == len(server.states(())) == fixed * 184
    assert len(server.state_array(MANY)) == len(server.state_array(())) == count * 184
    assert server.state_count() == count.to_bytes(4, "little")
    server.version(m.Version(4, 5))
    assert server.waiting(MANY) == server.states(MANY)


# Stop


@pytest.mark.parametrize("rv", [0, 0x80100001])
def test_stop_gives_the_timeout_back(rv: int) -> None:
    assert little().stopped(m.StopWaiting(60000), rv) == wire("60ea0000") + rv.to_bytes(4, "little")


# Raw bytes


def test_response_is_sent_whole_or_not_at_all() -> None:
    request = m.Transmit(1, 1, b"", receive_length=2)
    server = little()
    assert server.transmitted(request, b"\x90\x00").endswith(wire("02000000 00000000 9000"))
    assert server.transmitted(request, b"x\x90\x00").endswith(wire("03000000 08001080"))
    assert server.transmitted(request, b"\x90\x00", 0x80100069).endswith(wire("02000000 69001080"))
    # The caller's error stays.
    assert server.transmitted(request, b"x\x90\x00", 0x80100069).endswith(wire("03000000 69001080"))
    control = m.Control(1, 1, b"", receive_length=2)
    assert server.controlled(control, b"ab").endswith(wire("02000000 00000000") + b"ab")
    assert server.controlled(control, b"abc", 0x80100016).endswith(wire("03000000 16001080"))
    set_attribute = m.SetAttribute(1, 1, b"")
    assert server.attribute(set_attribute, bytes(265)) == wire("01000000 01000000 00*264 09010000 08001080")
    assert server.attribute(set_attribute, b"secret", 0x80100016) == wire("01000000 01000000 00*264 06000000 16001080")


@pytest.mark.parametrize("command", ["09", "0a"])
def test_the_longest_apdu_and_control_data(command: str) -> None:
    body = {
        "09": "20000000 09000000 01000000 01000000 10000000 {} 03000000 10000000 0c000100 00000000",
        "0a": "18000000 0a000000 01000000 01000000 {} 0c000100 00000000 00000000",
    }[command]
    server = ServerCodec()
    data = wire(body.format("0c000100")) + b"x" * MAX_APDU_SIZE
    [request] = asked(server, data)
    assert (request.apdu if isinstance(request, m.Transmit) else getattr(request, "data", None)) == b"x" * 65548
    for length in ("0d000100", "ffffffff"):
        server = ServerCodec()
        assert server.receive(wire(body.format(length)) + bytes(100)) == []
        assert "bytes" in str(server.error)
        assert not server.buffered


@pytest.mark.parametrize("command", ["0f000000", "10000000"])
def test_attribute_longer_than_its_field(command: str) -> None:
    server = ServerCodec()
    assert server.receive(wire("18010000", command, "01000000 00000000 00*264 09010000 00000000")) == []
    assert "attribute of 265 bytes" in str(server.error)


# Errors


@pytest.mark.parametrize("command", [0x00, 0x03, 0x0C, 0x0E, 0x18, 0xFFFF])
def test_unknown_command(command: int) -> None:
    server = little()
    assert server.receive(bytes(4) + command.to_bytes(4, "little")) == []
    assert f"command {command:#x}" in str(server.error)


SIZES = {
    0x01: {12},
    0x02: {8},
    0x04: {124, 152},
    0x05: {24},
    0x06: {12},
    0x07: {8},
    0x08: {12},
    0x09: {32},
    0x0A: {24},
    0x0B: {8},
    0x0D: {8},
    0x0F: {280},
    0x10: {280},
    0x11: {12},
    0x12: {0},
    0x13: {0, 8},
    0x14: {0, 8},
    0x15: {0},
    0x16: {0},
    0x17: {0},
}


@pytest.mark.parametrize("command", range(0x20))
def test_only_the_sizes_of_the_structs_are_taken(command: int) -> None:
    """The size is judged before a byte of the body is waited for."""
    for size in [*range(300), 2944, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0xFFFF_FFFF]:
        server = little()
        server.receive(size.to_bytes(4, "little") + command.to_bytes(4, "little"))
        assert (server.error is None) is (size in SIZES.get(command, ()))


def test_requests_before_the_bad_bytes_are_delivered_and_nothing_after() -> None:
    server = ServerCodec()
    assert server.receive(wire("00000000 12000000 00000000 14000000 00000000 03000000 00000000 12000000")) == [
        m.GetReadersState(),
        m.StopWaiting(),
    ]
    error = server.error
    assert isinstance(error, WireError)
    assert error.received == ()
    for _ in range(2):
        with pytest.raises(WireError, match="command 0x3"):
            server.receive(wire("00000000 12000000"))
    assert server.error is error
    assert not server.buffered


def test_a_large_request_byte_by_byte_is_parsed_in_three_steps() -> None:
    """Work is in proportion to bytes: no byte is looked at twice because the next one is late."""

    class Counting(ServerCodec):
        steps = 0

        def _step(self, data: bytes, offset: int, requests: list[m.Request]) -> int:
            self.steps += 1
            return super()._step(data, offset, requests)

    server = Counting()
    data = wire("20000000 09000000 01000000 01000000 10000000 0c000100 03000000 10000000 0c000100 00000000")
    data += bytes(MAX_APDU_SIZE)
    requests = [request for byte in data for request in server.receive(bytes((byte,)))]
    assert requests == [m.Transmit(1, 1, bytes(MAX_APDU_SIZE))]
    assert server.steps == 3

"""Messages of the pcsc-lite protocol as bytes and as values.

The little-endian bytes marked "captured" were seen between a real libpcsclite and a real pcscd 1.9.9. All others are
laid out by hand from the structs in pcsc-lite's ``winscard_msg.h`` and ``eventhandler.h``, and so is every big-endian
one. None was made by the code under test.

Notation: hexadecimal in groups, ``NN*n`` repeats a byte, ``'text'/n`` is text filled up with NUL to n bytes, and
``hex/n`` likewise. Hexadecimal groups are as they appear on the wire, in either byte order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from cardferry.pcsc.constants import CardState, Protocol
from cardferry.pcsc.reader_state import ReaderState
from cardferry.wire.pcsclite import messages as m
from cardferry.wire.pcsclite.server import ServerCodec

_TOKEN = re.compile(r"'(?P<text>[^']*)'/(?P<text_size>\d+)|(?P<hex>[0-9a-f]+)(?:(?P<how>[*/])(?P<count>\d+))?")

CARD = 0x5B637D7B
CONTEXT = 0x706F0EF7


def wire(*notation: str) -> bytes:
    """The bytes that the notation stands for."""
    out = bytearray()
    for token in re.findall(r"'[^']*'/\d+|\S+", " ".join(notation)):
        match = _TOKEN.fullmatch(token)
        assert match is not None, token
        if match["text_size"]:
            out += match["text"].encode().ljust(int(match["text_size"]), b"\0")
        elif match["how"] == "*":
            out += bytes.fromhex(match["hex"]) * int(match["count"])
        elif match["how"] == "/":
            out += bytes.fromhex(match["hex"]).ljust(int(match["count"]), b"\0")
        else:
            out += bytes.fromhex(match["hex"])
    return bytes(out)


@dataclass(frozen=True)
class Vector:
    """One request and its reply.

    Attributes:
        name: of the test.
        request: what a server makes of the request's bytes.
        asked: the request's bytes, little and big-endian.
        answer: the server's answer.
        answered: the reply's bytes, little and big-endian.
        reply: what a client makes of them.
        minor: the level that both speak.
        sent: the request's bytes as our client sends them, where they differ in fields that nobody reads.
        name_size: bytes of a reader name.
        before: what the client has sent already.
    """

    name: str
    request: m.Request
    asked: tuple[str, str]
    answer: Callable[[ServerCodec], bytes]
    answered: tuple[str, str]
    reply: m.Reply | None
    minor: int = 6
    sent: tuple[str, str] | None = None
    name_size: int = 128
    before: tuple[m.Request, ...] = ()


READERS = (
    ReaderState(
        "Virtual PCD 00 00",
        1,
        CardState.PRESENT | CardState.POWERED | CardState.NEGOTIABLE,
        0,
        bytes.fromhex("3b80800101"),
        Protocol.T1,
    ),
    ReaderState("Virtual PCD 00 01", 0x1234, CardState.ABSENT, -1),
)
#: The first record is a captured one.
RECORDS = (
    "'Virtual PCD 00 00'/128 01000000 34000000 00000000 3b80800101/33 000000 05000000 02000000"
    " 'Virtual PCD 00 01'/128 34120000 02000000 ffffffff 00*33 000000 00000000 00000000",
    "'Virtual PCD 00 00'/128 00000001 00000034 00000000 3b80800101/33 000000 00000005 00000002"
    " 'Virtual PCD 00 01'/128 00001234 00000002 ffffffff 00*33 000000 00000000 00000000",
)
#: The same in the records of pcsc-lite 1.6.5 to 1.8.3.
OLD_RECORDS = (RECORDS[0].replace("/128", "/100"), RECORDS[1].replace("/128", "/100"))


def _padded(records: tuple[str, str], padding: int) -> tuple[str, str]:
    return f"{records[0]} 00*{padding}", f"{records[1]} 00*{padding}"


#: 16 records of 184 bytes: 2944.
ARRAY = _padded(RECORDS, 14 * 184)
OLD_ARRAY = _padded(OLD_RECORDS, 14 * 156)

_TRANSMIT = m.Transmit(CARD, 2, bytes.fromhex("00a40000023f00"), 70000, 3)
_TRANSMIT_SHORT = m.Transmit(CARD, 2, bytes.fromhex("00b0000010"), 10, 3, 8, 8)
_TRANSMIT_EMPTY = m.Transmit(CARD, 1, b"", 258, 3)
_CONTROL = m.Control(CARD, 0x42000D48, b"", 70000)
_CONTROL_DATA = m.Control(CARD, 0x42000001, b"\x01\x02\x03", 264)
_GET_ATTRIBUTE = m.GetAttribute(CARD, 0x00090303, 264)
_SET_ATTRIBUTE = m.SetAttribute(CARD, 0x0007A007, b"\x01\x02\x03\x04")
_CONNECT = m.Connect(CONTEXT, "Virtual PCD 00 00", 2, 3)

VECTORS = [
    Vector(
        "version (captured)",
        m.Version(4, 4),
        (
            "0c000000 11000000  04000000 04000000 00000000",
            "0000000c 00000011  00000004 00000004 00000000",
        ),
        lambda server: server.version(m.Version(4, 4)),
        ("04000000 04000000 00000000", "00000004 00000004 00000000"),
        m.VersionReply(4, 4, 0),
    ),
    Vector(
        "version refused",
        m.Version(4, 6),
        (
            "0c000000 11000000  04000000 06000000 00000000",
            "0000000c 00000011  00000004 00000006 00000000",
        ),
        lambda server: server.version(m.Version(4, 6), refuse=0x8010006A),
        ("04000000 06000000 6a001080", "00000004 00000006 8010006a"),
        m.VersionReply(4, 6, 0x8010006A),
    ),
    Vector(
        "establish (captured)",
        m.EstablishContext(2),
        (
            "0c000000 01000000  02000000 00000000 00000000",
            "0000000c 00000001  00000002 00000000 00000000",
        ),
        lambda server: server.established(m.EstablishContext(2), CONTEXT),
        ("02000000 f70e6f70 00000000", "00000002 706f0ef7 00000000"),
        m.ContextReply(0, CONTEXT),
    ),
    Vector(
        "establish with the scope that is zero",
        m.EstablishContext(0),
        (
            "0c000000 01000000  00000000 00000000 00000000",
            "0000000c 00000001  00000000 00000000 00000000",
        ),
        lambda server: server.established(m.EstablishContext(0), 0, 0x80100006),
        ("00000000 00000000 06001080", "00000000 00000000 80100006"),
        m.ContextReply(0x80100006, 0),
    ),
    Vector(
        "release (captured)",
        m.ReleaseContext(CONTEXT),
        ("08000000 02000000  f70e6f70 00000000", "00000008 00000002  706f0ef7 00000000"),
        lambda server: server.acknowledged(m.ReleaseContext(CONTEXT)),
        ("f70e6f70 00000000", "706f0ef7 00000000"),
        m.Acknowledged(0),
    ),
    Vector(
        "connect (captured)",
        _CONNECT,
        (
            "98000000 04000000  f70e6f70 'Virtual PCD 00 00'/128 02000000 03000000 00000000 00000000 00000000",
            "00000098 00000004  706f0ef7 'Virtual PCD 00 00'/128 00000002 00000003 00000000 00000000 00000000",
        ),
        lambda server: server.connected(_CONNECT, CARD, 2),
        (
            "f70e6f70 'Virtual PCD 00 00'/128 02000000 03000000 7b7d635b 02000000 00000000",
            "706f0ef7 'Virtual PCD 00 00'/128 00000002 00000003 5b637d7b 00000002 00000000",
        ),
        m.ConnectReply(0, CARD, 2),
    ),
    Vector(
        "connect with names of 100 bytes",
        _CONNECT,
        (
            "7c000000 04000000  f70e6f70 'Virtual PCD 00 00'/100 02000000 03000000 00000000 00000000 00000000",
            "0000007c 00000004  706f0ef7 'Virtual PCD 00 00'/100 00000002 00000003 00000000 00000000 00000000",
        ),
        lambda server: server.connected(_CONNECT, 0, 0, 0x8010000C),
        (
            "f70e6f70 'Virtual PCD 00 00'/100 02000000 03000000 00000000 00000000 0c001080",
            "706f0ef7 'Virtual PCD 00 00'/100 00000002 00000003 00000000 00000000 8010000c",
        ),
        m.ConnectReply(0x8010000C, 0, 0),
        minor=2,
        name_size=100,
    ),
    Vector(
        "reconnect (captured)",
        m.Reconnect(CARD, 2, 3, 1),
        (
            "18000000 05000000  7b7d635b 02000000 03000000 01000000 00000000 00000000",
            "00000018 00000005  5b637d7b 00000002 00000003 00000001 00000000 00000000",
        ),
        lambda server: server.reconnected(m.Reconnect(CARD, 2, 3, 1), 2),
        (
            "7b7d635b 02000000 03000000 01000000 02000000 00000000",
            "5b637d7b 00000002 00000003 00000001 00000002 00000000",
        ),
        m.ReconnectReply(0, 2),
    ),
    Vector(
        "disconnect (captured)",
        m.Disconnect(CARD, 0),
        (
            "0c000000 06000000  7b7d635b 00000000 00000000",
            "0000000c 00000006  5b637d7b 00000000 00000000",
        ),
        lambda server: server.acknowledged(m.Disconnect(CARD, 0)),
        ("7b7d635b 00000000 00000000", "5b637d7b 00000000 00000000"),
        m.Acknowledged(0),
    ),
    Vector(
        "begin (captured)",
        m.BeginTransaction(CARD),
        ("08000000 07000000  7b7d635b 00000000", "00000008 00000007  5b637d7b 00000000"),
        lambda server: server.acknowledged(m.BeginTransaction(CARD)),
        ("7b7d635b 00000000", "5b637d7b 00000000"),
        m.Acknowledged(0),
    ),
    Vector(
        "begin while another has the card",
        m.BeginTransaction(-1),
        ("08000000 07000000  ffffffff 00000000", "00000008 00000007  ffffffff 00000000"),
        lambda server: server.acknowledged(m.BeginTransaction(-1), 0x8010000B),
        ("ffffffff 0b001080", "ffffffff 8010000b"),
        m.Acknowledged(0x8010000B),
    ),
    Vector(
        "end (captured)",
        m.EndTransaction(CARD, 0),
        (
            "0c000000 08000000  7b7d635b 00000000 00000000",
            "0000000c 00000008  5b637d7b 00000000 00000000",
        ),
        lambda server: server.acknowledged(m.EndTransaction(CARD, 0)),
        ("7b7d635b 00000000 00000000", "5b637d7b 00000000 00000000"),
        m.Acknowledged(0),
    ),
    Vector(
        "end with a reset that fails",
        m.EndTransaction(CARD, 1),
        (
            "0c000000 08000000  7b7d635b 01000000 00000000",
            "0000000c 00000008  5b637d7b 00000001 00000000",
        ),
        lambda server: server.acknowledged(m.EndTransaction(CARD, 1), 0x80100069),
        ("7b7d635b 01000000 69001080", "5b637d7b 00000001 80100069"),
        m.Acknowledged(0x80100069),
    ),
    Vector(
        "transmit (captured)",
        _TRANSMIT,
        (
            "20000000 09000000  7b7d635b 02000000 10000000 07000000 03000000 10000000 70110100 00000000"
            "  00a40000023f00",
            "00000020 00000009  5b637d7b 00000002 00000010 00000007 00000003 00000010 00011170 00000000"
            "  00a40000023f00",
        ),
        lambda server: server.transmitted(_TRANSMIT, b"\x90\x00", protocol=1),
        (
            "7b7d635b 02000000 10000000 07000000 01000000 10000000 02000000 00000000  9000",
            "5b637d7b 00000002 00000010 00000007 00000001 00000010 00000002 00000000  9000",
        ),
        m.TransmitReply(0, b"\x90\x00", 2, 1),
        sent=(
            "20000000 09000000  7b7d635b 02000000 10000000 07000000 03000000 10000000 0c000100 00000000"
            "  00a40000023f00",
            "00000020 00000009  5b637d7b 00000002 00000010 00000007 00000003 00000010 0001000c 00000000"
            "  00a40000023f00",
        ),
    ),
    Vector(
        "transmit with a room that is too small (reply captured but for the length)",
        _TRANSMIT_SHORT,
        (
            "20000000 09000000  7b7d635b 02000000 08000000 05000000 03000000 08000000 0a000000 00000000  00b0000010",
            "00000020 00000009  5b637d7b 00000002 00000008 00000005 00000003 00000008 0000000a 00000000  00b0000010",
        ),
        lambda server: server.transmitted(_TRANSMIT_SHORT, bytes(18)),
        (
            "7b7d635b 02000000 08000000 05000000 02000000 08000000 12000000 08001080",
            "5b637d7b 00000002 00000008 00000005 00000002 00000008 00000012 80100008",
        ),
        m.TransmitReply(0x80100008, b"", 18, 2),
    ),
    Vector(
        "transmit of nothing that fails",
        _TRANSMIT_EMPTY,
        (
            "20000000 09000000  7b7d635b 01000000 10000000 00000000 03000000 10000000 02010000 00000000",
            "00000020 00000009  5b637d7b 00000001 00000010 00000000 00000003 00000010 00000102 00000000",
        ),
        lambda server: server.transmitted(_TRANSMIT_EMPTY, b"", 0x80100068),
        (
            "7b7d635b 01000000 10000000 00000000 01000000 10000000 00000000 68001080",
            "5b637d7b 00000001 00000010 00000000 00000001 00000010 00000000 80100068",
        ),
        m.TransmitReply(0x80100068, b"", 0, 1),
    ),
    Vector(
        "transmit that is answered with nothing",
        _TRANSMIT_EMPTY,
        (
            "20000000 09000000  7b7d635b 01000000 10000000 00000000 03000000 10000000 02010000 00000000",
            "00000020 00000009  5b637d7b 00000001 00000010 00000000 00000003 00000010 00000102 00000000",
        ),
        lambda server: server.transmitted(_TRANSMIT_EMPTY, b""),
        (
            "7b7d635b 01000000 10000000 00000000 01000000 10000000 00000000 00000000",
            "5b637d7b 00000001 00000010 00000000 00000001 00000010 00000000 00000000",
        ),
        m.TransmitReply(0, b"", 0, 1),
    ),
    Vector(
        "control (captured)",
        _CONTROL,
        (
            "18000000 0a000000  7b7d635b 480d0042 00000000 70110100 00000000 00000000",
            "00000018 0000000a  5b637d7b 42000d48 00000000 00011170 00000000 00000000",
        ),
        lambda server: server.controlled(_CONTROL, b"", 0x8010001F),
        (
            "7b7d635b 480d0042 00000000 70110100 00000000 1f001080",
            "5b637d7b 42000d48 00000000 00011170 00000000 8010001f",
        ),
        m.ControlReply(0x8010001F, b"", 0),
        sent=(
            "18000000 0a000000  7b7d635b 480d0042 00000000 0c000100 00000000 00000000",
            "00000018 0000000a  5b637d7b 42000d48 00000000 0001000c 00000000 00000000",
        ),
    ),
    Vector(
        "control with data",
        _CONTROL_DATA,
        (
            "18000000 0a000000  7b7d635b 01000042 03000000 08010000 00000000 00000000  010203",
            "00000018 0000000a  5b637d7b 42000001 00000003 00000108 00000000 00000000  010203",
        ),
        lambda server: server.controlled(_CONTROL_DATA, b"\x06\x04\x42\x00\x00\x09"),
        (
            "7b7d635b 01000042 03000000 08010000 06000000 00000000  060442000009",
            "5b637d7b 42000001 00000003 00000108 00000006 00000000  060442000009",
        ),
        m.ControlReply(0, b"\x06\x04\x42\x00\x00\x09", 6),
    ),
    Vector(
        "control with a room that is too small",
        _CONTROL_DATA,
        (
            "18000000 0a000000  7b7d635b 01000042 03000000 08010000 00000000 00000000  010203",
            "00000018 0000000a  5b637d7b 42000001 00000003 00000108 00000000 00000000  010203",
        ),
        lambda server: server.controlled(_CONTROL_DATA, bytes(265)),
        (
            "7b7d635b 01000042 03000000 08010000 09010000 08001080",
            "5b637d7b 42000001 00000003 00000108 00000109 80100008",
        ),
        m.ControlReply(0x80100008, b"", 265),
    ),
    Vector(
        "status (captured)",
        m.Status(CARD),
        ("08000000 0b000000  7b7d635b 00000000", "00000008 0000000b  5b637d7b 00000000"),
        lambda server: server.acknowledged(m.Status(CARD)),
        ("7b7d635b 00000000", "5b637d7b 00000000"),
        m.Acknowledged(0),
    ),
    Vector(
        "cancel (captured)",
        m.Cancel(0x7D0D7E93),
        ("08000000 0d000000  937e0d7d 00000000", "00000008 0000000d  7d0d7e93 00000000"),
        lambda server: server.acknowledged(m.Cancel(0x7D0D7E93)),
        ("937e0d7d 00000000", "7d0d7e93 00000000"),
        m.Acknowledged(0),
    ),
    Vector(
        "get attribute (captured)",
        _GET_ATTRIBUTE,
        (
            "18010000 0f000000  7b7d635b 03030900 00*264 08010000 1d001080",
            "00000118 0000000f  5b637d7b 00090303 00*264 00000108 8010001d",
        ),
        lambda server: server.attribute(_GET_ATTRIBUTE, rv=0x8010001F),
        (
            "7b7d635b 03030900 00*264 00000000 1f001080",
            "5b637d7b 00090303 00*264 00000000 8010001f",
        ),
        m.AttributeReply(0x8010001F, b""),
        sent=(
            "18010000 0f000000  7b7d635b 03030900 00*264 08010000 00000000",
            "00000118 0000000f  5b637d7b 00090303 00*264 00000108 00000000",
        ),
    ),
    Vector(
        "get attribute that succeeds",
        _GET_ATTRIBUTE,
        (
            "18010000 0f000000  7b7d635b 03030900 00*264 08010000 00000000",
            "00000118 0000000f  5b637d7b 00090303 00*264 00000108 00000000",
        ),
        lambda server: server.attribute(_GET_ATTRIBUTE, b"\x3b\x80\x80\x01\x01"),
        (
            "7b7d635b 03030900 3b80800101/264 05000000 00000000",
            "5b637d7b 00090303 3b80800101/264 00000005 00000000",
        ),
        m.AttributeReply(0, b"\x3b\x80\x80\x01\x01"),
    ),
    Vector(
        "get attribute with a room that is too small",
        m.GetAttribute(CARD, 0x00090303, 4),
        (
            "18010000 0f000000  7b7d635b 03030900 00*264 04000000 00000000",
            "00000118 0000000f  5b637d7b 00090303 00*264 00000004 00000000",
        ),
        lambda server: server.attribute(m.GetAttribute(CARD, 0x00090303, 4), b"\x3b\x80\x80\x01\x01"),
        (
            "7b7d635b 03030900 00*264 05000000 08001080",
            "5b637d7b 00090303 00*264 00000005 80100008",
        ),
        m.AttributeReply(0x80100008, b""),
    ),
    Vector(
        "set attribute",
        _SET_ATTRIBUTE,
        (
            "18010000 10000000  7b7d635b 07a00700 01020304/264 04000000 00000000",
            "00000118 00000010  5b637d7b 0007a007 01020304/264 00000004 00000000",
        ),
        lambda server: server.attribute(_SET_ATTRIBUTE, b"\x01\x02\x03\x04"),
        (
            "7b7d635b 07a00700 01020304/264 04000000 00000000",
            "5b637d7b 0007a007 01020304/264 00000004 00000000",
        ),
        m.AttributeReply(0, b"\x01\x02\x03\x04"),
    ),
    *(
        Vector(
            f"states on 4:{minor} (first record captured)",
            m.GetReadersState(),
            ("00000000 12000000", "00000000 00000012"),
            lambda server: server.states(READERS),
            ARRAY,
            m.StatesReply(READERS),
            minor=minor,
        )
        for minor in (2, 3, 4, 5, 6)
    ),
    Vector(
        "states with names of 100 bytes",
        m.GetReadersState(),
        ("00000000 12000000", "00000000 00000012"),
        lambda server: server.states(READERS),
        OLD_ARRAY,
        m.StatesReply(READERS),
        minor=2,
        name_size=100,
    ),
    *(
        Vector(
            f"wait on 4:{minor}, which has a body",
            m.WaitReaderStateChange(60000),
            ("08000000 13000000  60ea0000 00000000", "00000008 00000013  0000ea60 00000000"),
            lambda server: server.waiting(READERS),
            ("", ""),
            None,
            minor=minor,
        )
        for minor in (2, 3)
    ),
    *(
        Vector(
            f"wait on 4:{minor}, answered with the states",
            m.WaitReaderStateChange(),
            ("00000000 13000000", "00000000 00000013"),
            lambda server: server.waiting(READERS),
            ARRAY,
            m.StatesReply(READERS),
            minor=minor,
        )
        for minor in (4, 5)
    ),
    Vector(
        "wait on 4:6, which is silent",
        m.WaitReaderStateChange(),
        ("00000000 13000000", "00000000 00000013"),
        lambda server: server.waiting(READERS),
        ("", ""),
        None,
    ),
    *(
        Vector(
            f"stop on 4:{minor}, which has a body",
            m.StopWaiting(60000),
            ("08000000 14000000  60ea0000 00000000", "00000008 00000014  0000ea60 00000000"),
            # Our client's mark comes back.
            lambda server: server.stopped(m.StopWaiting(0xFFFFFFFF)),
            ("ffffffff 00000000", "ffffffff 00000000"),
            m.Stopped(0),
            minor=minor,
            sent=("08000000 14000000  ffffffff 00000000", "00000008 00000014  ffffffff 00000000"),
            before=(m.WaitReaderStateChange(),),
        )
        for minor in (2, 3)
    ),
    Vector(
        "stop (captured)",
        m.StopWaiting(),
        ("00000000 14000000", "00000000 00000014"),
        lambda server: server.stopped(m.StopWaiting()),
        ("00000000 00000000", "00000000 00000000"),
        m.Stopped(0),
        before=(m.WaitReaderStateChange(),),
    ),
    Vector(
        "reader events (captured)",
        m.GetReaderEvents(),
        ("00000000 15000000", "00000000 00000015"),
        lambda server: server.reader_events(2),
        ("02000000 00000000", "00000002 00000000"),
        m.ReaderEventsReply(2, 0),
        minor=5,
    ),
    Vector(
        "state count",
        m.GetReadersStateSize(),
        ("00000000 16000000", "00000000 00000016"),
        lambda server: server.state_count(),
        ("10000000", "00000010"),
        m.StateCountReply(16),
    ),
]

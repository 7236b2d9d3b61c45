"""Frames: how the link cuts a byte stream into pieces.

A frame is a header and a payload. The header is, in network byte order::

    u32 length          bytes of the payload
    u8  kind            see `Kind`
    u64 number          of a data frame: 1, 2, 3 ... in each direction of a session; 0 in all other frames
    u64 acknowledged    the number of the last data frame that the sender has received and passed on

The kind decides how long the payload may be, and that is checked before anything of the payload is held.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox

_HEADER: Final = struct.Struct("!IBQQ")
#: Bytes of a frame's header.
HEADER_SIZE: Final = _HEADER.size
#: Bytes of the largest payload of a data frame.
MAX_PAYLOAD: Final = 1 << 20


class Kind(IntEnum):
    """What a frame is for."""

    #: The first frame on every pipe, from both ends; the payload is a `cardferry.wire.link.greeting.Hello`.
    HELLO = 1
    #: Carries a message of the layer above; the only numbered kind.
    DATA = 2
    #: Acknowledges, when there is nothing else to say.
    ACK = 3
    #: Asks for a sign of life; the payload is to be sent back.
    PING = 4
    #: The sign of life, with the payload of the ping.
    PONG = 5
    #: The session is over; the payload is a `cardferry.wire.link.greeting.Bye`.
    BYE = 6


#: The least and the most bytes of each kind's payload.
_SIZES: Final = {
    Kind.HELLO: (1, 1024),
    Kind.DATA: (0, MAX_PAYLOAD),
    Kind.ACK: (0, 0),
    Kind.PING: (8, 8),
    Kind.PONG: (8, 8),
    Kind.BYE: (1, 1024),
}
_DATA: Final = int(Kind.DATA)
_KINDS: Final = {int(kind): (kind, *sizes) for kind, sizes in _SIZES.items()}


class Frame(NamedTuple):
    """One frame; see the module for what the fields mean."""

    kind: Kind
    number: int
    acknowledged: int
    payload: bytes = b""


def encode(kind: Kind, number: int, acknowledged: int, payload: bytes = b"") -> bytes:
    """A frame's bytes. Raises `ValueError` when the payload has a size that this kind cannot have."""
    least, most = _SIZES[kind]
    if not least <= len(payload) <= most:
        raise ValueError(f"{kind.name} cannot carry {len(payload)} bytes")
    return _HEADER.pack(len(payload), kind, number, acknowledged) + payload


def encode_data(number: int, acknowledged: int, payload: bytes) -> bytes:
    """A data frame's bytes; the caller has seen to it that the payload has at most `MAX_PAYLOAD` bytes."""
    return _HEADER.pack(len(payload), _DATA, number, acknowledged) + payload


class FrameReader:
    """Takes bytes in pieces of any size and gives whole frames; holds less than one frame.

    Args:
        most: bytes of the largest payload of a data frame that is taken, `MAX_PAYLOAD` at most.
    """

    __slots__ = ("_inbox", "_most")

    def __init__(self, most: int = MAX_PAYLOAD) -> None:
        self._inbox = Inbox(HEADER_SIZE)
        self._most = most

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return len(self._inbox)

    def next_size(self, data: bytes | bytearray) -> int:
        """How many bytes of ``data`` it takes until the next frame is whole, as far as that can be seen; at least 1."""
        held = len(self._inbox)
        if held:
            return max(1, self._inbox.need - held)
        if len(data) < HEADER_SIZE:
            return HEADER_SIZE
        return HEADER_SIZE + int(_HEADER.unpack_from(data)[0])

    def only_data(self, data: bytes) -> tuple[int, int, bytes] | None:
        """Number, acknowledged and payload when these bytes are one whole data frame, as most pieces are; else None.

        None has taken nothing: `receive` is the way then.
        """
        size = len(data)
        if size < HEADER_SIZE or self._inbox.held:
            return None
        length, kind, number, acknowledged = _HEADER.unpack_from(data)
        if length != size - HEADER_SIZE or kind != _DATA or not number or length > self._most:
            return None
        return number, acknowledged, data[HEADER_SIZE:]

    def take_rest(self) -> bytes:
        """What is held of a frame that is not whole yet; the reader has nothing of it any more."""
        rest = bytes(self._inbox.held)
        self._inbox.held.clear()
        self._inbox.need = HEADER_SIZE
        return rest

    def receive(self, data: bytes) -> list[Frame]:
        """The frames that are whole now.

        Raises:
            WireError: these bytes are no frames; ``received`` has the frames that came before them.
        """
        frames: list[Frame] = []
        data = self._inbox.take(data)
        if not data:
            return frames
        offset, size, need = 0, len(data), HEADER_SIZE
        while size - offset >= HEADER_SIZE:
            length, kind_number, number, acknowledged = _HEADER.unpack_from(data, offset)
            known = _KINDS.get(kind_number)
            if known is None:
                raise WireError(f"no kind of frame has number {kind_number}", tuple(frames))
            kind, least, most = known
            if not least <= length <= most or (kind is Kind.DATA and length > self._most):
                raise WireError(f"{kind.name} cannot carry {length} bytes", tuple(frames))
            if (number != 0) != (kind is Kind.DATA):
                raise WireError(f"{kind.name} cannot have number {number}", tuple(frames))
            end = offset + HEADER_SIZE + length
            if end > size:
                need = HEADER_SIZE + length
                break
            frames.append(Frame(kind, number, acknowledged, data[offset + HEADER_SIZE : end]))
            offset = end
        self._inbox.need = need
        self._inbox.keep(data, offset)
        return frames


class HelloFinder:
    """Reads past frames that are of no use any more, because their session has gone on over another pipe.

    Args:
        reader: has read that pipe until now.
    """

    __slots__ = ("_reader",)

    def __init__(self, reader: FrameReader) -> None:
        self._reader = reader

    def receive(self, data: bytes) -> bytes:
        """Take bytes; return those from the next hello on, nothing while there is none. Raises `WireError`."""
        frames = self._reader.receive(data)
        for number, frame in enumerate(frames):
            if frame.kind is Kind.HELLO:
                return b"".join(encode(*one) for one in frames[number:]) + self._reader.take_rest()
        return b""

"""What the two ends of a pipe through NATS send each other: one frame in each message, without input or output.

NATS delivers a message once or not at all, and in the order in which one client has sent them. So a `DATA` frame says
where in the stream of bytes it belongs: what is not the next is a loss (`cardferry.transports.nats.pipe`).

    kind   1 byte   `Kind`
    number 8 bytes  big-endian; see `Kind`
    data   the rest
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from cardferry.wire.errors import WireError

VERSION: Final = 1
#: Bytes of data in one frame; servers take messages of 1 MiB unless somebody has told them otherwise.
MOST_DATA: Final = 32 * 1024
_HEAD: Final = struct.Struct(">BQ")


class Kind(IntEnum):
    """Kinds of frames, and what their number is."""

    #: A guest wants a pipe: `VERSION`.
    OPEN = 1
    #: It has one: the host's `VERSION`.
    OPENED = 2
    #: Bytes of the stream: how many were before them.
    DATA = 3
    #: So many bytes of the stream were taken, and as many more may come.
    TAKEN = 4
    #: This was all: how many bytes the stream has.
    END = 5
    #: The sender has no such pipe (any more): 0; the data says why, for people.
    GONE = 6


class Frame(NamedTuple):
    """One message."""

    kind: Kind
    number: int = 0
    data: bytes = b""


def encode(kind: Kind, number: int = 0, data: bytes = b"") -> bytes:
    """The message."""
    return _HEAD.pack(kind, number) + data


def parse(message: bytes) -> Frame:
    """Read a message; raises `WireError` when it is none of ours."""
    if not _HEAD.size <= len(message) <= _HEAD.size + MOST_DATA:
        raise WireError(f"a message of {len(message)} bytes is no frame")
    kind, number = _HEAD.unpack_from(message)
    try:
        return Frame(Kind(kind), number, message[_HEAD.size :])
    except ValueError:
        raise WireError(f"a frame of kind {kind}") from None

"""The protocol between a virtual machine's card reader and whoever has the card: "virtual smart card", of libcacard.

Source: ``src/vscard_common.h`` of libcacard, and QEMU's ``hw/usb/ccid-card-passthru.c``, which speaks it over a
character device. Each message is three numbers of four bytes, big-endian (its kind, the number of the reader, and how
many bytes follow), and those bytes. *Machine* is the side that uses the card, *card* the side that has it.

QEMU tells nothing of power and resets: the machine has all that with the reader that it sees, and only commands come.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, Self

from cardferry.pcsc.constants import MAX_ATR_SIZE
from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox

#: 0.0.2: 11 bits, 11 bits and 10 bits (``VSCARD_VERSION``).
VERSION: Final = 2
#: The number of a reader that has none yet (``VSCARD_UNDEFINED_READER_ID``).
NO_READER: Final = 0xFFFF_FFFF
#: Bytes of the longest message that QEMU takes (``VSCARD_IN_SIZE``); it drops the connection at a longer one.
MAX_MESSAGE: Final = 0x10000

_HEADER: Final = Struct(">III")
_NUMBER: Final = Struct(">I")
_MAGIC: Final = b"VSCD"
#: Magic, version, and at least one word of capabilities, of which there are none yet.
_INIT: Final = Struct(">4sII")
#: Bytes of the longest payload.
MAX_PAYLOAD: Final = MAX_MESSAGE - _HEADER.size


class Kind(IntEnum):
    """What a message is (``VSCMsgType``)."""

    INIT = 1
    ERROR = 2
    READER_ADD = 3
    READER_REMOVE = 4
    ATR = 5
    CARD_REMOVE = 6
    APDU = 7
    FLUSH = 8
    FLUSH_COMPLETE = 9


class ErrorCode(IntEnum):
    """What an `Kind.ERROR` says (``VSCErrorCode``); `SUCCESS` acknowledges."""

    SUCCESS = 0
    GENERAL_ERROR = 1
    CANNOT_ADD_MORE_READERS = 2
    CARD_ALREADY_INSERTED = 3


#: What the side with the card may be told, and the machine's.
TO_CARD: Final = frozenset((Kind.INIT, Kind.ERROR, Kind.APDU, Kind.FLUSH))
TO_MACHINE: Final = frozenset(Kind) - {Kind.FLUSH}


@dataclass(frozen=True, slots=True)
class Message:
    """One message; its payload is checked by `MessageStream`, as far as its kind says anything of it."""

    kind: Kind
    payload: bytes = b""
    reader: int = 0

    def encoded(self) -> bytes:
        """As bytes; ``ValueError`` for a payload of more than `MAX_PAYLOAD`."""
        if len(self.payload) > MAX_PAYLOAD:
            raise ValueError(f"{len(self.payload)} bytes do not fit in a message of {MAX_PAYLOAD}")
        return _HEADER.pack(self.kind, self.reader, len(self.payload)) + self.payload

    @property
    def number(self) -> int:
        """What an `Kind.ERROR` says: an `ErrorCode`, or another number."""
        (number,) = _NUMBER.unpack(self.payload)
        return int(number)

    @classmethod
    def init(cls) -> Self:
        """Which protocol and version this is; each side says so once."""
        return cls(Kind.INIT, _INIT.pack(_MAGIC, VERSION, 0), NO_READER)

    @classmethod
    def error(cls, code: ErrorCode, reader: int = 0) -> Self:
        """Something is done, or not."""
        return cls(Kind.ERROR, _NUMBER.pack(code), reader)


class MessageStream:
    """Cuts what one side receives into messages.

    Args:
        allowed: the kinds that this side may be sent, `TO_CARD` or `TO_MACHINE`.

    Attributes:
        error: what was wrong with the other side's bytes, once something was; the connection must then be closed.
    """

    __slots__ = ("_allowed", "_header", "_inbox", "error")

    def __init__(self, allowed: frozenset[Kind]) -> None:
        self._allowed = allowed
        self._inbox = Inbox(_HEADER.size)
        #: Kind and reader of the message whose payload comes next.
        self._header: tuple[Kind, int] | None = None
        self.error: WireError | None = None

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole yet: less than `MAX_MESSAGE`."""
        return len(self._inbox)

    def receive(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """Take bytes in, give the messages that are whole.

        Raises:
            WireError: what came is no such message. What was whole before is in ``received`` of the error.
        """
        if self.error is not None:
            raise WireError(str(self.error))
        messages: list[Message] = []
        inbox = self._inbox
        data = inbox.take(data)
        offset = 0
        try:
            while len(data) - offset >= inbox.need:
                following = offset + inbox.need
                self._part(data[offset:following], messages)
                offset = following
        except WireError as error:
            error.received = tuple(messages)
            self.error = error
            raise
        inbox.keep(data, offset)
        return messages

    def _part(self, part: bytes, messages: list[Message]) -> None:
        """Take a header, or a payload, as it is its turn. A message without payload is whole with its header."""
        if self._header is None:
            number, reader, length = _HEADER.unpack(part)
            if length > MAX_PAYLOAD:
                raise WireError(f"message of {length} bytes, {MAX_PAYLOAD} is the most")
            kind = self._kind(number)
            if length:
                self._header, self._inbox.need = (kind, reader), length
                return
            part = b""
        else:
            kind, reader = self._header
            self._header, self._inbox.need = None, _HEADER.size
        message = Message(kind, part, reader)
        _check(message)
        messages.append(message)

    def _kind(self, number: int) -> Kind:
        try:
            kind = Kind(number)
        except ValueError:
            raise WireError(f"unknown kind of message {number}") from None
        if kind not in self._allowed:
            raise WireError(f"{kind.name} is for the other side")
        return kind


def _check(message: Message) -> None:
    size = len(message.payload)
    match message.kind:
        case Kind.INIT if size < _INIT.size or not message.payload.startswith(_MAGIC):
            raise WireError("its greeting is not that of a virtual smart card")
        case Kind.ERROR if size != _NUMBER.size:
            raise WireError(f"an error of {size} bytes")
        case Kind.ATR if not 2 <= size <= MAX_ATR_SIZE:
            raise WireError(f"an answer to reset of {size} bytes")
        case Kind.APDU if not size:
            raise WireError("an empty command or response")

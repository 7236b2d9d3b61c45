"""The protocol between a virtual reader and a virtual card that dials in: vsmartcard's vpcd.

Source: ``virtualsmartcard/src/vpcd/vpcd.c`` and ``vpcd.h`` of the vsmartcard project. Each message is its length in two
bytes, big-endian, and that many bytes. From the reader a single byte is always a control, so that an APDU has at least
two bytes; it gives APDUs and asks for the ATR, and the card answers both. To the other controls it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Final

from cardferry.wire.errors import WireError
from cardferry.wire.inbox import Inbox

#: The TCP port of the first virtual reader; the second is one higher (``VPCDPORT``).
DEFAULT_PORT: Final = 35963
#: Bytes of the longest message.
MAX_PAYLOAD: Final = 0xFFFF
#: Bytes of the shortest APDU that is not taken for a control.
MIN_APDU: Final = 2

_LENGTH: Final = Struct(">H")


class Control(IntEnum):
    """What a reader does to its card, apart from APDUs (``VPCD_CTRL_*``)."""

    POWER_OFF = 0
    POWER_ON = 1
    RESET = 2
    GET_ATR = 4


class _Side:
    """Cuts a stream into messages, and makes messages of payloads."""

    __slots__ = ("_in_payload", "_inbox", "error")

    def __init__(self) -> None:
        self._inbox = Inbox(_LENGTH.size)
        self._in_payload = False
        self.error: WireError | None = None

    @property
    def buffered(self) -> int:
        """Bytes held of a message that is not whole yet: less than `MAX_PAYLOAD`."""
        return len(self._inbox)

    def _payloads(self, data: bytes | bytearray | memoryview) -> Iterator[bytes]:
        """The payloads that are whole; raises `WireError` at an empty one."""
        if self.error is not None:
            raise WireError(str(self.error))
        inbox = self._inbox
        data = inbox.take(data)
        offset = 0
        while len(data) - offset >= inbox.need:
            following = offset + inbox.need
            if self._in_payload:
                yield data[offset:following]
                inbox.need = _LENGTH.size
                self._in_payload = False
            else:
                inbox.need = _LENGTH.unpack_from(data, offset)[0]
                if not inbox.need:
                    raise WireError("empty vpcd message")
                self._in_payload = True
            offset = following
        inbox.keep(data, offset)

    def _failed(self, error: WireError, received: list[bytes] | list[Control | bytes]) -> WireError:
        error.received = tuple(received)
        self.error = error
        return error


def _message(payload: bytes, shortest: int) -> bytes:
    if not shortest <= len(payload) <= MAX_PAYLOAD:
        raise ValueError(f"{len(payload)} bytes do not fit in a vpcd message of {shortest} to {MAX_PAYLOAD}")
    return _LENGTH.pack(len(payload)) + payload


class ReaderSide(_Side):
    """The reader's end of a connection: controls and APDUs go out, answers come in.

    Attributes:
        pending: answers that have not come yet.
        error: what was wrong with the card's bytes, once something was; the connection must then be closed.
    """

    __slots__ = ("pending",)

    def __init__(self) -> None:
        super().__init__()
        self.pending = 0

    def control(self, control: Control) -> bytes:
        """A control as bytes. Only `Control.GET_ATR` has an answer."""
        self.pending += control is Control.GET_ATR
        return _message(bytes((control,)), 1)

    def command(self, apdu: bytes) -> bytes:
        """A command APDU as bytes.

        Raises:
            ValueError: it is shorter than `MIN_APDU` or longer than `MAX_PAYLOAD`.
        """
        message = _message(apdu, MIN_APDU)
        self.pending += 1
        return message

    def receive(self, data: bytes | bytearray | memoryview) -> list[bytes]:
        """Take bytes in, give the ATRs and responses that are whole, in the order they were asked for.

        Raises:
            WireError: an empty answer (with which vpcd drops the card, too), or one that nobody asked for. What was
                whole before is in ``received`` of the error.
        """
        answers: list[bytes] = []
        try:
            for payload in self._payloads(data):
                if not self.pending:
                    raise WireError("answer to nothing")
                self.pending -= 1
                answers.append(payload)
        except WireError as error:
            raise self._failed(error, answers) from None
        return answers


class CardSide(_Side):
    """The card's end of a connection: controls and APDUs come in, answers go out.

    Attributes:
        error: what was wrong with the reader's bytes, once something was; the connection must then be closed.
    """

    __slots__ = ()

    def receive(self, data: bytes | bytearray | memoryview) -> list[Control | bytes]:
        """Take bytes in, give the controls and APDUs that are whole. `Control.GET_ATR` and APDUs want an answer.

        Raises:
            WireError: an empty message or an unknown control. What was whole before is in ``received`` of the error.
        """
        received: list[Control | bytes] = []
        try:
            for payload in self._payloads(data):
                received.append(payload if len(payload) >= MIN_APDU else _control(payload[0]))
        except WireError as error:
            raise self._failed(error, received) from None
        return received

    def answer(self, payload: bytes) -> bytes:
        """An ATR or a response as bytes.

        Raises:
            ValueError: it is empty or longer than `MAX_PAYLOAD`.
        """
        return _message(payload, 1)


def _control(number: int) -> Control:
    try:
        return Control(number)
    except ValueError:
        raise WireError(f"unknown vpcd control {number}") from None

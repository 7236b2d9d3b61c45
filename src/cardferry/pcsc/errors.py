"""Errors: what PC/SC calls return, and what a person reads.

Source of numbers and meanings: pcsc-lite's ``pcsclite.h`` and ``error.c`` (texts are our own).
"""

from __future__ import annotations

from enum import IntEnum


class ReturnCode(IntEnum):
    """Return values of PC/SC calls as pcsc-lite numbers them."""

    S_SUCCESS = 0
    F_INTERNAL_ERROR = 0x80100001
    E_CANCELLED = 0x80100002
    E_INVALID_HANDLE = 0x80100003
    E_INVALID_PARAMETER = 0x80100004
    E_INVALID_TARGET = 0x80100005
    E_NO_MEMORY = 0x80100006
    F_WAITED_TOO_LONG = 0x80100007
    E_INSUFFICIENT_BUFFER = 0x80100008
    E_UNKNOWN_READER = 0x80100009
    E_TIMEOUT = 0x8010000A
    E_SHARING_VIOLATION = 0x8010000B
    E_NO_SMARTCARD = 0x8010000C
    E_UNKNOWN_CARD = 0x8010000D
    E_CANT_DISPOSE = 0x8010000E
    E_PROTO_MISMATCH = 0x8010000F
    E_NOT_READY = 0x80100010
    E_INVALID_VALUE = 0x80100011
    E_SYSTEM_CANCELLED = 0x80100012
    F_COMM_ERROR = 0x80100013
    F_UNKNOWN_ERROR = 0x80100014
    E_INVALID_ATR = 0x80100015
    E_NOT_TRANSACTED = 0x80100016
    E_READER_UNAVAILABLE = 0x80100017
    P_SHUTDOWN = 0x80100018
    E_PCI_TOO_SMALL = 0x80100019
    E_READER_UNSUPPORTED = 0x8010001A
    E_DUPLICATE_READER = 0x8010001B
    E_CARD_UNSUPPORTED = 0x8010001C
    E_NO_SERVICE = 0x8010001D
    E_SERVICE_STOPPED = 0x8010001E
    E_UNSUPPORTED_FEATURE = 0x8010001F
    E_NO_READERS_AVAILABLE = 0x8010002E
    W_UNSUPPORTED_CARD = 0x80100065
    W_UNRESPONSIVE_CARD = 0x80100066
    W_UNPOWERED_CARD = 0x80100067
    W_RESET_CARD = 0x80100068
    W_REMOVED_CARD = 0x80100069
    W_SECURITY_VIOLATION = 0x8010006A

    @property
    def text(self) -> str:
        """The meaning in a few words, for people."""
        return _TEXTS[self]


_TEXTS: dict[ReturnCode, str] = {
    ReturnCode.S_SUCCESS: "no error",
    ReturnCode.F_INTERNAL_ERROR: "internal error of the resource manager",
    ReturnCode.E_CANCELLED: "cancelled by the program",
    ReturnCode.E_INVALID_HANDLE: "handle is not valid",
    ReturnCode.E_INVALID_PARAMETER: "parameter is not valid",
    ReturnCode.E_INVALID_TARGET: "start-up information is not valid",
    ReturnCode.E_NO_MEMORY: "not enough memory or too many handles",
    ReturnCode.F_WAITED_TOO_LONG: "an internal timer ran out",
    ReturnCode.E_INSUFFICIENT_BUFFER: "the program's buffer is too small for the answer",
    ReturnCode.E_UNKNOWN_READER: "no reader has this name",
    ReturnCode.E_TIMEOUT: "time ran out",
    ReturnCode.E_SHARING_VIOLATION: "another program is using the card",
    ReturnCode.E_NO_SMARTCARD: "no card in the reader",
    ReturnCode.E_UNKNOWN_CARD: "card name is not known",
    ReturnCode.E_CANT_DISPOSE: "the card cannot be disposed of that way",
    ReturnCode.E_PROTO_MISMATCH: "the card does not speak the requested protocol",
    ReturnCode.E_NOT_READY: "the reader or card is not ready",
    ReturnCode.E_INVALID_VALUE: "a value is not valid here",
    ReturnCode.E_SYSTEM_CANCELLED: "cancelled by the system",
    ReturnCode.F_COMM_ERROR: "communication with the resource manager failed",
    ReturnCode.F_UNKNOWN_ERROR: "unknown error",
    ReturnCode.E_INVALID_ATR: "the card's answer to reset is not valid",
    ReturnCode.E_NOT_TRANSACTED: "no transaction is open, or the reader failed",
    ReturnCode.E_READER_UNAVAILABLE: "the reader is not available",
    ReturnCode.P_SHUTDOWN: "the service is shutting down",
    ReturnCode.E_PCI_TOO_SMALL: "the receive buffer for protocol information is too small",
    ReturnCode.E_READER_UNSUPPORTED: "the driver does not support the reader",
    ReturnCode.E_DUPLICATE_READER: "the reader's name is not unique",
    ReturnCode.E_CARD_UNSUPPORTED: "the card is not supported",
    ReturnCode.E_NO_SERVICE: "no resource manager is running",
    ReturnCode.E_SERVICE_STOPPED: "the resource manager speaks another version",
    ReturnCode.E_UNSUPPORTED_FEATURE: "the reader does not support this",
    ReturnCode.E_NO_READERS_AVAILABLE: "no reader is connected",
    ReturnCode.W_UNSUPPORTED_CARD: "the card's answer to reset is not supported",
    ReturnCode.W_UNRESPONSIVE_CARD: "the card does not answer",
    ReturnCode.W_UNPOWERED_CARD: "the card has no power",
    ReturnCode.W_RESET_CARD: "the card was reset by somebody else",
    ReturnCode.W_REMOVED_CARD: "the card was taken out",
    ReturnCode.W_SECURITY_VIOLATION: "access was denied",
}


class CardferryError(Exception):
    """Root of every error that cardferry raises on purpose."""


class PcscError(CardferryError):
    """A PC/SC call failed; ``code`` is what the application gets.

    Args:
        code: the return value; an unknown number becomes ``F_UNKNOWN_ERROR``.
        detail: words for the log, never shown to the application.
    """

    def __init__(self, code: int, detail: str = "") -> None:
        try:
            self.code = ReturnCode(code)
        except ValueError:
            self.code = ReturnCode.F_UNKNOWN_ERROR
            detail = detail or f"return value {code:#010x}"
        self.detail = detail
        super().__init__(f"{self.code.text}{': ' + detail if detail else ''} ({self.code.name})")


class UserError(CardferryError):
    """Something a person can mend: shown as two lines, ``error:`` and ``hint:``.

    Args:
        message: one sentence, what is wrong.
        hint: one sentence, what to do.
    """

    #: The process's exit code; each kind of failure documents its own in ``docs/exit-codes.md``.
    exit_code = 1

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

"""Command and response APDUs, and status words.

Implements ISO 7816-3:2006, 12.1 (the seven cases of a command) and ISO 7816-4:2020, 5 (class byte,
status words).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar, Final

from cardferry.pcsc.errors import CardferryError

#: Bytes of the header CLA INS P1 P2.
HEADER_SIZE: Final = 4
#: The largest data field and expected length that one-byte and three-byte length fields can say.
MAX_SHORT_LC: Final = 0xFF
MAX_SHORT_LE: Final = 0x100
MAX_EXTENDED_LC: Final = 0xFFFF
MAX_EXTENDED_LE: Final = 0x1_0000

_INS_READ_BINARY: Final = 0xB0
_INS_GET_RESPONSE: Final = 0xC0


class ApduError(CardferryError):
    """These bytes, or values, are not an APDU."""


class Case(Enum):
    """The case of a command APDU: data or not, response expected or not, short or extended lengths."""

    CASE_1 = "1"
    CASE_2S = "2S"
    CASE_3S = "3S"
    CASE_4S = "4S"
    CASE_2E = "2E"
    CASE_3E = "3E"
    CASE_4E = "4E"


@dataclass(frozen=True, slots=True)
class CommandApdu:
    """A command APDU.

    Attributes:
        cla, ins, p1, p2: the header, one byte each.
        data: the data field, 0 to 65535 bytes.
        ne: bytes of response data expected at most, 0 (no Le field) to 65536.
        extended: whether lengths are extended. Becomes true by itself when the lengths need it, and false in
            case 1, which has no length fields.
    """

    cla: int
    ins: int
    p1: int
    p2: int
    data: bytes = b""
    ne: int = 0
    extended: bool = False

    def __post_init__(self) -> None:
        if (self.cla | self.ins | self.p1 | self.p2) & ~0xFF:  # also of negative numbers
            raise ApduError("a byte of the command header is out of range")
        if len(self.data) > MAX_EXTENDED_LC:
            raise ApduError(f"a command carries at most {MAX_EXTENDED_LC} bytes, not {len(self.data)}")
        if not 0 <= self.ne <= MAX_EXTENDED_LE:
            raise ApduError(f"a command expects at most {MAX_EXTENDED_LE} bytes, not {self.ne}")
        if len(self.data) > MAX_SHORT_LC or self.ne > MAX_SHORT_LE:
            object.__setattr__(self, "extended", True)
        elif self.extended and not self.data and not self.ne:
            object.__setattr__(self, "extended", False)

    @classmethod
    def parse(cls, raw: bytes) -> CommandApdu:
        """Parse a whole command; raises `ApduError` when its length fields do not fit its size."""
        if len(raw) < HEADER_SIZE:
            raise ApduError(f"a command has at least {HEADER_SIZE} bytes, not {len(raw)}")
        cla, ins, p1, p2 = raw[:HEADER_SIZE]
        body = bytes(raw[HEADER_SIZE:])
        data, ne, extended = _parse_body(body)
        return cls(cla, ins, p1, p2, data, ne, extended)

    def encode(self) -> bytes:
        """The bytes; `parse` gives back an equal command."""
        header = bytes((self.cla, self.ins, self.p1, self.p2))
        size = len(self.data)
        if not self.extended:
            lc = bytes((size,)) if size else b""
            le = bytes((self.ne & 0xFF,)) if self.ne else b""
            return header + lc + self.data + le
        lc = size.to_bytes(2, "big") if size else b""
        le = (self.ne & 0xFFFF).to_bytes(2, "big") if self.ne else b""
        return header + b"\x00" + lc + self.data + le

    @property
    def case(self) -> Case:
        """Which of the seven cases this is."""
        return _CASES[bool(self.data), self.ne > 0, self.extended]

    @property
    def interindustry(self) -> bool:
        """Whether the class byte is one that ISO 7816-4, 5.4.1 gives a meaning to."""
        return self.cla & 0x80 == 0 and self.cla & 0xE0 != 0x20

    @property
    def is_chained(self) -> bool:
        """Whether more commands of this chain follow (ISO 7816-4, 5.4.1). Interindustry classes only."""
        return self.interindustry and self.cla & 0x10 != 0

    @property
    def channel(self) -> int:
        """The logical channel, 0 to 19; 0 for proprietary classes."""
        if not self.interindustry:
            return 0
        return 4 + (self.cla & 0x0F) if self.cla & 0x40 else self.cla & 0x03

    @property
    def secure_messaging(self) -> bool:
        """Whether the command is protected.

        ISO 7816-4, 5.4.1 for interindustry classes. In proprietary classes the same bits as in the first
        interindustry values are taken for it, as GlobalPlatform does (Card Specification 2.3, 11.1.4).
        """
        if self.interindustry and self.cla & 0x40:
            return self.cla & 0x20 != 0
        return self.cla & 0x0C != 0

    @property
    def is_get_response(self) -> bool:
        """Whether this is a plain ``GET RESPONSE`` (ISO 7816-4, 11.8.1): no data, no secure messaging."""
        return (
            self.ins == _INS_GET_RESPONSE
            and self.interindustry
            and not self.is_chained
            and not self.secure_messaging
            and (self.p1, self.p2) == (0, 0)
            and not self.data
            and self.ne > 0
        )

    @property
    def is_read_binary(self) -> bool:
        """Whether this is a plain ``READ BINARY`` with even INS (ISO 7816-4, 11.3.3)."""
        return (
            self.ins == _INS_READ_BINARY
            and self.interindustry
            and not self.is_chained
            and not self.secure_messaging
            and not self.data
            and self.ne > 0
        )

    @property
    def binary_offset(self) -> int | None:
        """Offset that a ``READ BINARY`` reads from in the current file.

        None when it names a file by its short identifier, or is not a plain ``READ BINARY``.
        """
        if not self.is_read_binary or self.p1 & 0x80:
            return None
        return self.p1 << 8 | self.p2


_CASES: Final = {
    (False, False, False): Case.CASE_1,
    (False, True, False): Case.CASE_2S,
    (True, False, False): Case.CASE_3S,
    (True, True, False): Case.CASE_4S,
    (False, True, True): Case.CASE_2E,
    (True, False, True): Case.CASE_3E,
    (True, True, True): Case.CASE_4E,
}


def _parse_body(body: bytes) -> tuple[bytes, int, bool]:
    """Data field, Ne and whether lengths are extended, from what follows the header (ISO 7816-3, 12.1.3)."""
    if not body:
        return b"", 0, False
    if len(body) == 1:
        return b"", body[0] or MAX_SHORT_LE, False
    if body[0]:
        data, rest = body[1 : 1 + body[0]], body[1 + body[0] :]
        if len(data) < body[0] or len(rest) > 1:
            raise ApduError("the command's length does not fit its Lc field")
        return data, (rest[0] or MAX_SHORT_LE) if rest else 0, False
    if len(body) < 3:
        raise ApduError("the command ends inside an extended length field")
    length = int.from_bytes(body[1:3], "big")
    if len(body) == 3:
        return b"", length or MAX_EXTENDED_LE, True
    data, rest = body[3 : 3 + length], body[3 + length :]
    if not length or len(data) < length or len(rest) not in (0, 2):
        raise ApduError("the command's length does not fit its extended Lc field")
    return data, (int.from_bytes(rest, "big") or MAX_EXTENDED_LE) if rest else 0, True


class StatusWord(int):
    """SW1-SW2 of a response, 0 to 0xFFFF (ISO 7816-4, 5.6): any value, the known ones have a name."""

    SUCCESS: ClassVar[StatusWord]
    WARNING: ClassVar[StatusWord]
    VERIFICATION_FAILED: ClassVar[StatusWord]
    EXECUTION_ERROR: ClassVar[StatusWord]
    MEMORY_FAILURE: ClassVar[StatusWord]
    WRONG_LENGTH: ClassVar[StatusWord]
    CHANNEL_NOT_SUPPORTED: ClassVar[StatusWord]
    SECURE_MESSAGING_NOT_SUPPORTED: ClassVar[StatusWord]
    LAST_COMMAND_EXPECTED: ClassVar[StatusWord]
    CHAINING_NOT_SUPPORTED: ClassVar[StatusWord]
    SECURITY_STATUS_NOT_SATISFIED: ClassVar[StatusWord]
    AUTHENTICATION_BLOCKED: ClassVar[StatusWord]
    CONDITIONS_NOT_SATISFIED: ClassVar[StatusWord]
    WRONG_DATA: ClassVar[StatusWord]
    FUNCTION_NOT_SUPPORTED: ClassVar[StatusWord]
    FILE_NOT_FOUND: ClassVar[StatusWord]
    NOT_ENOUGH_MEMORY: ClassVar[StatusWord]
    INCORRECT_P1_P2: ClassVar[StatusWord]
    REFERENCE_NOT_FOUND: ClassVar[StatusWord]
    INS_NOT_SUPPORTED: ClassVar[StatusWord]
    CLA_NOT_SUPPORTED: ClassVar[StatusWord]
    NO_PRECISE_DIAGNOSIS: ClassVar[StatusWord]

    def __new__(cls, value: int) -> StatusWord:
        """Raises `ApduError` outside 0 to 0xFFFF."""
        if not 0 <= value <= 0xFFFF:
            raise ApduError(f"{value} is not a status word")
        return super().__new__(cls, value)

    @classmethod
    def more_data(cls, remaining: int) -> StatusWord:
        """``61xx``: ``remaining`` bytes (1 and up) wait for GET RESPONSE, ``6100`` for more than 255."""
        return cls(0x6100 | (remaining if remaining < MAX_SHORT_LE else 0))

    @classmethod
    def retries(cls, left: int) -> StatusWord:
        """``63Cx``: verification failed, ``left`` tries are left (0 to 15)."""
        return cls(0x63C0 | min(left, 0x0F))

    @property
    def sw1(self) -> int:
        """The first byte."""
        return self >> 8

    @property
    def sw2(self) -> int:
        """The second byte."""
        return self & 0xFF

    @property
    def is_success(self) -> bool:
        """``9000``, or ``61xx``: done, and more data waits."""
        return self == 0x9000 or self.sw1 == 0x61

    @property
    def remaining(self) -> int | None:
        """Bytes that GET RESPONSE would fetch, 1 to 256, where the card says ``61xx``; 256 may mean more."""
        return (self.sw2 or MAX_SHORT_LE) if self.sw1 == 0x61 else None

    @property
    def correct_le(self) -> int | None:
        """The Le that the card asks for, 1 to 256, where it says ``6Cxx``."""
        return (self.sw2 or MAX_SHORT_LE) if self.sw1 == 0x6C else None

    @property
    def tries_left(self) -> int | None:
        """Tries left where the card says ``63Cx``, and 0 for ``6983``."""
        if self == 0x6983:
            return 0
        return self & 0x0F if self & 0xFFF0 == 0x63C0 else None

    @property
    def text(self) -> str:
        """The meaning in a few words, for people."""
        if (known := _TEXTS.get(self)) is not None:
            return known
        if (remaining := self.remaining) is not None:
            return f"{remaining} more bytes are waiting"
        if (correct := self.correct_le) is not None:
            return f"wrong expected length, {correct} bytes are there"
        if (tries := self.tries_left) is not None:
            return f"verification failed, {tries} {'try' if tries == 1 else 'tries'} left"
        return _CLASS_TEXTS.get(self.sw1, "unknown status")

    def encode(self) -> bytes:
        """The two bytes on the wire."""
        return self.to_bytes(2, "big")

    def __repr__(self) -> str:
        return f"StatusWord(0x{self:04X})"

    def __str__(self) -> str:
        return f"{self:04X}"


_KNOWN: Final = (
    (0x9000, "SUCCESS", "done"),
    (0x6200, "WARNING", "warning, memory unchanged"),
    (0x6300, "VERIFICATION_FAILED", "verification failed"),
    (0x6400, "EXECUTION_ERROR", "execution error, memory unchanged"),
    (0x6581, "MEMORY_FAILURE", "memory failure"),
    (0x6700, "WRONG_LENGTH", "wrong length"),
    (0x6881, "CHANNEL_NOT_SUPPORTED", "logical channel not supported"),
    (0x6882, "SECURE_MESSAGING_NOT_SUPPORTED", "secure messaging not supported"),
    (0x6883, "LAST_COMMAND_EXPECTED", "last command of the chain expected"),
    (0x6884, "CHAINING_NOT_SUPPORTED", "command chaining not supported"),
    (0x6982, "SECURITY_STATUS_NOT_SATISFIED", "not permitted without authentication"),
    (0x6983, "AUTHENTICATION_BLOCKED", "authentication method blocked"),
    (0x6985, "CONDITIONS_NOT_SATISFIED", "conditions of use not satisfied"),
    (0x6A80, "WRONG_DATA", "wrong data"),
    (0x6A81, "FUNCTION_NOT_SUPPORTED", "function not supported"),
    (0x6A82, "FILE_NOT_FOUND", "file or application not found"),
    (0x6A84, "NOT_ENOUGH_MEMORY", "not enough memory"),
    (0x6A86, "INCORRECT_P1_P2", "wrong parameters P1-P2"),
    (0x6A88, "REFERENCE_NOT_FOUND", "referenced data not found"),
    (0x6D00, "INS_NOT_SUPPORTED", "instruction not supported"),
    (0x6E00, "CLA_NOT_SUPPORTED", "class not supported"),
    (0x6F00, "NO_PRECISE_DIAGNOSIS", "error without precise diagnosis"),
)

for _value, _name, _ in _KNOWN:
    setattr(StatusWord, _name, StatusWord(_value))

_TEXTS: Final = {value: text for value, _, text in _KNOWN}

_CLASS_TEXTS: Final = {
    0x62: "warning, memory unchanged",
    0x63: "warning, memory changed",
    0x64: "execution error, memory unchanged",
    0x65: "execution error, memory changed",
    0x66: "security issue",
    0x67: "wrong length",
    0x68: "function of the class byte not supported",
    0x69: "command not allowed",
    0x6A: "wrong parameters",
    0x6B: "wrong parameters P1-P2",
    0x6D: "instruction not supported",
    0x6E: "class not supported",
    0x6F: "error without precise diagnosis",
}


@dataclass(frozen=True, slots=True)
class ResponseApdu:
    """A response APDU: data, then the status word (ISO 7816-3, 12.1.4)."""

    data: bytes
    status: StatusWord

    @classmethod
    def parse(cls, raw: bytes) -> ResponseApdu:
        """Split a response; raises `ApduError` when it is shorter than a status word."""
        if len(raw) < 2:
            raise ApduError(f"a response has at least 2 bytes, not {len(raw)}")
        return cls(bytes(raw[:-2]), StatusWord(int.from_bytes(raw[-2:], "big")))

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return self.data + self.status.encode()

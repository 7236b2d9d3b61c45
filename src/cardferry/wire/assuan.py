"""Assuan, the protocol in which GnuPG's programs talk to pinentry: lines of at most 1000 bytes. Sans input and output.

Source: the Assuan manual, "Client requests" and "Server responses"; the pinentry manual for its commands.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from cardferry.wire.errors import WireError

MOST: Final = 1000
_ESCAPED: Final = str.maketrans({"%": "%25", "\r": "%0D", "\n": "%0A"})
#: ``GPG_ERR_CANCELED``, ``GPG_ERR_NOT_CONFIRMED`` and ``GPG_ERR_TIMEOUT``, whatever part of GnuPG says so.
CANCELED, NOT_CONFIRMED, TIMEOUT = 99, 114, 62
_CODE_MASK: Final = 0xFFFF


def request(command: str, text: str = "") -> bytes:
    """A line of the client; the end of a text that is too long is left out."""
    line = f"{command} {text.translate(_ESCAPED)}" if text else command
    raw = line.encode(errors="replace")
    while len(raw) >= MOST:
        raw = raw[: MOST - 1]
        raw = raw[: raw.rfind(b"%")] if b"%" in raw[-2:] else raw
        raw = raw.decode(errors="ignore").encode()
    return raw + b"\n"


@dataclass(slots=True)
class Answer:
    """What the server has said to one request.

    Attributes:
        data: of its D lines.
        code: 0 for OK, else the error's code.
    """

    data: bytearray = field(default_factory=bytearray, repr=False)
    code: int | None = None


class Conversation:
    """The client's end: one answer after the other."""

    def __init__(self) -> None:
        self._answer = Answer()

    def receive(self, line: bytes) -> Answer | None:
        """A line has come; returns the answer that it ends.

        Raises:
            WireError: it is none of the protocol, or asks something back.
        """
        if len(line) > MOST or not line.endswith(b"\n"):
            raise WireError("a line that is too long, or cut short")
        word, _, rest = line.rstrip(b"\r\n").partition(b" ")
        match word:
            case b"OK":
                return self._ended(0)
            case b"ERR":
                number = rest.split(b" ")[0]
                if not number.isdigit():
                    raise WireError("an error without a number")
                return self._ended(int(number) & _CODE_MASK or 1)
            case b"D":
                self._answer.data += unquote_to_bytes(rest)
            case b"S" | b"#" | b"":
                pass
            case _:
                raise WireError(f"an unexpected word: {word[:20]!r}")
        return None

    def _ended(self, code: int) -> Answer:
        answer, self._answer = self._answer, Answer()
        answer.code = code
        return answer

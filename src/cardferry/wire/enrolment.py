"""What guest and host say to each other about certificates, inside TLS: a line of JSON each, before there is a link.

1. The host: `Greeting`, with the certificate of its authority, which the guest compares with the fingerprint that it
   was told.
2. The guest: `Join`, with a secret, when it has no certificate yet; `Renew` when the one that it has shown is about to
   expire.
3. The host: `Issued`, or `Refused`; then it hangs up.
"""

from __future__ import annotations

from typing import Any, Final, Generic, TypeVar

import msgspec

from cardferry.wire.errors import WireError

#: What TLS calls this conversation, and links (ALPN, RFC 7301).
ENROLMENT: Final = "cardferry-enrolment/1"
LINK: Final = "cardferry-link/1"
#: Bytes of the longest line. A certificate of ours has about 600.
MOST: Final = 8192


class Greeting(msgspec.Struct, frozen=True, tag=True):
    """The host's first word.

    Attributes:
        authority: the certificate of its authority (DER).
    """

    authority: bytes


class Join(msgspec.Struct, frozen=True, tag=True):
    """A guest wants its first certificate.

    Attributes:
        secret: of the invitation.
        request: a certificate signing request (PKCS #10, DER), of which the key counts.
        software: name and version of the guest's program.
    """

    secret: str
    request: bytes
    software: str = ""


class Renew(msgspec.Struct, frozen=True, tag=True):
    """A guest wants another certificate for the key that it has shown."""

    software: str = ""


class Issued(msgspec.Struct, frozen=True, tag=True):
    """Here it is.

    Attributes:
        name: of the guest.
        certificate: DER.
    """

    name: str
    certificate: bytes


class Refused(msgspec.Struct, frozen=True, tag=True):
    """There is none; ``why`` is for people."""

    why: str


FromGuest = Join | Renew
FromHost = Greeting | Issued | Refused
Message = TypeVar("Message")


def encode(message: FromGuest | FromHost) -> bytes:
    """The line."""
    return msgspec.json.encode(message) + b"\n"


class LineReader(Generic[Message]):
    """Takes a stream apart.

    Args:
        kind: of the messages that come.
    """

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(kind)
        self._data = b""

    def receive(self, data: bytes) -> list[Message]:
        """The messages that are whole now.

        Raises:
            WireError: it is none, or has no end.
        """
        *lines, self._data = (self._data + data).split(b"\n")
        if any(len(line) > MOST for line in (*lines, self._data)):
            raise WireError(f"a message of more than {MOST} bytes")
        try:
            return [self._decoder.decode(line) for line in lines]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise WireError("no message about certificates") from error

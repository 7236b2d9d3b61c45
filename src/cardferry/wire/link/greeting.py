"""What both ends say first on every pipe, and last in every session.

A hello names the session, and says how far its sender has got with it: the other end repeats what comes after
that. A bye says why there is no session, or none any more.

Versions: an end speaks ``version`` and, beside it, everything down to ``oldest``, which is one step back. Both
take the lower of the two versions, so either end may be newer by one step. Whatever a later version adds to a hello or
bye is appended to it: bytes after the known ones are ignored.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cardferry.wire.errors import WireError

#: The protocol of this program, and the oldest one that it also speaks.
VERSION: Final = 1
OLDEST: Final = 1

#: Bytes of a session's identity: random, so that nobody can take over a session by guessing.
IDENTITY_SIZE: Final = 16
#: Bytes of the software's name, or of a bye's words, in UTF-8.
MAX_TEXT: Final = 200

_MAGIC: Final = b"cardferry link\n"
_HELLO: Final = struct.Struct(f"!{len(_MAGIC)}sHHBB{IDENTITY_SIZE}sQIB")
_BYE: Final = struct.Struct("!BB")


class Role(IntEnum):
    """Which end of the link speaks: a guest has programs, a host has readers."""

    GUEST = 1
    HOST = 2

    @property
    def other(self) -> Role:
        """The other end's role."""
        return Role.HOST if self is Role.GUEST else Role.GUEST


@dataclass(frozen=True, slots=True)
class Hello:
    """The first words on a pipe.

    Attributes:
        role: who speaks.
        identity: the session's, chosen at random by the guest.
        established: whether the speaker has had a hello of this session before. A host that does not know the
            session must then refuse: what was in it is lost.
        received: number of the last data frame that the speaker has received.
        grace: ms that the speaker keeps the session without a pipe; the lesser of both counts.
        version: newest protocol the speaker knows.
        oldest: oldest one.
        software: name and version of the program, for people.
    """

    role: Role
    identity: bytes
    established: bool
    received: int
    grace: int
    version: int = VERSION
    oldest: int = OLDEST
    software: str = ""

    def encode(self) -> bytes:
        """The payload of a hello frame."""
        text = _text(self.software)
        return (
            _HELLO.pack(
                _MAGIC,
                self.version,
                self.oldest,
                self.role,
                self.established,
                self.identity,
                self.received,
                self.grace,
                len(text),
            )
            + text
        )

    @classmethod
    def parse(cls, payload: bytes) -> Hello:
        """Take a payload apart; raises `WireError` when it is no hello."""
        if len(payload) < _HELLO.size:
            raise WireError("the hello is too short")
        magic, version, oldest, role, established, identity, received, grace, length = _HELLO.unpack_from(payload)
        if magic != _MAGIC:
            raise WireError("this is not a cardferry")
        if role not in (Role.GUEST, Role.HOST):
            raise WireError(f"the hello comes from role {role}")
        if not 0 < oldest <= version:
            raise WireError(f"the hello offers versions {oldest} to {version}")
        text = payload[_HELLO.size : _HELLO.size + length]
        return cls(
            Role(role), identity, bool(established), received, grace, version, oldest, text.decode(errors="replace")
        )


class Reason(IntEnum):
    """Why there is no session."""

    #: The end that says so wants to stop; nothing is wrong.
    CLOSED = 0
    #: The two programs are too far apart in age.
    VERSION = 1
    #: The session is not known: it is over, or the host was started anew.
    UNKNOWN_SESSION = 2
    #: The other end broke the protocol.
    PROTOCOL = 3
    #: The other end asked for more than it was allowed.
    LIMIT = 4
    #: The host serves as many guests as it may.
    FULL = 5
    #: The guest is not welcome.
    REFUSED = 6


@dataclass(frozen=True, slots=True)
class Bye:
    """The last words of a session. An unknown reason of a newer program counts as `Reason.REFUSED`."""

    reason: Reason
    text: str = ""

    def encode(self) -> bytes:
        """The payload of a bye frame."""
        text = _text(self.text)
        return _BYE.pack(self.reason, len(text)) + text

    @classmethod
    def parse(cls, payload: bytes) -> Bye:
        """Take a payload apart; raises `WireError` when it is no bye."""
        if len(payload) < _BYE.size:
            raise WireError("the bye is too short")
        number, length = _BYE.unpack_from(payload)
        reason = Reason(number) if number in Reason.__members__.values() else Reason.REFUSED
        return cls(reason, payload[_BYE.size : _BYE.size + length].decode(errors="replace"))


class VersionError(WireError):
    """The two ends have no version of the protocol in common."""


def agree(mine: Hello, theirs: Hello) -> int:
    """The version that both ends speak; raises `VersionError` when there is none."""
    version = min(mine.version, theirs.version)
    if version < max(mine.oldest, theirs.oldest):
        older, newer = sorted((mine, theirs), key=lambda hello: hello.version)
        raise VersionError(
            f"one end speaks version {older.version} of the link, the other {newer.oldest} to {newer.version}"
        )
    return version


def _text(words: str) -> bytes:
    """At most `MAX_TEXT` bytes; a character that is cut in half is left out."""
    return words.encode()[:MAX_TEXT].decode(errors="ignore").encode()

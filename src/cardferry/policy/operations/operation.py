"""Operations, and which of them is the stronger.

Rules allow operations, some with a key or object. So a command is *taken for a weaker one* when it is taken for
an operation that somebody may be allowed without being allowed what the command really does. From that comes the
order, in which most operations are neither weaker nor stronger than each other: whoever may decrypt may not for that
reason sign.

===============  ======================================================================================
`READ`           the weakest: weaker than every other
all others       stronger than `READ`, and not comparable with each other, except:
`ADMINISTER`     without object stronger than `MANAGE_PIN`, `WRITE` and `GENERATE`: it can replace all they change
`OTHER`          the strongest: what the command does is not known, so it may do anything
===============  ======================================================================================

An operation without object ("sign with some key") is stronger than the same operation with one ("sign with 9C").
Who is allowed `OTHER` is allowed everything that a card can do. `CONTROL` is no command to a card, but to the
reader: nothing here judges it, and it is comparable with nothing.
"""

from __future__ import annotations

from enum import StrEnum
from functools import reduce
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Operation(StrEnum):
    """What a command does; the value is its name in rules."""

    #: That of the value, without a call in Python: each command looks up what is known of its meaning.
    __hash__ = str.__hash__

    READ = "read"
    #: Proves knowledge of a PIN, or takes the proof back.
    VERIFY = "verify"
    SIGN = "sign"
    #: Decrypts, or agrees on a secret.
    DECRYPT = "decrypt"
    #: Answers a challenge with a private key: log-in, ssh, TLS.
    AUTHENTICATE = "authenticate"
    #: Changes or resets a PIN or PUK, or how many tries there are.
    MANAGE_PIN = "manage-pin"
    WRITE = "write"
    #: Replaces a private key: makes, imports or deletes it.
    GENERATE = "generate"
    #: Proves to be the administrator, resets, loads programs, changes how the card works.
    ADMINISTER = "administer"
    #: A command to the reader, not the card.
    CONTROL = "control"
    #: Not known.
    OTHER = "other"


_WEAKER_THAN_ADMINISTER: Final = frozenset({Operation.MANAGE_PIN, Operation.WRITE, Operation.GENERATE})


class Meaning(NamedTuple):
    """An operation and what it concerns.

    Attributes:
        operation: what is done.
        object: the key, PIN or data object in hexadecimal digits (``9C``, ``80``, ``5FC105``), an OpenPGP key (``SIG``,
            ``DEC``, ``AUT``), the application or file of a SELECT. None when it is none of these, or not certain.
    """

    operation: Operation
    object: str | None = None

    def covers(self, other: Meaning) -> bool:
        """Whether this is as strong as the other, or stronger: who is allowed this is allowed the other."""
        if self.operation is Operation.OTHER:
            return other.operation is not Operation.CONTROL
        if self.operation is other.operation:
            return self.object is None or self.object == other.object
        if other.operation is Operation.READ:
            return self.operation is not Operation.CONTROL
        return self == _ADMINISTER and other.operation in _WEAKER_THAN_ADMINISTER

    def joined(self, other: Meaning) -> Meaning:
        """The weakest that is as strong as both: what to take a command for that is one of two."""
        if self == other or self.covers(other):
            return self
        if other.covers(self):
            return other
        if self.operation is other.operation:
            return Meaning(self.operation)
        return _ADMINISTER if {self.operation, other.operation} <= _UP_TO_ADMINISTER else UNCERTAIN


UNCERTAIN: Final = Meaning(Operation.OTHER)
_ADMINISTER: Final = Meaning(Operation.ADMINISTER)
_UP_TO_ADMINISTER: Final = _WEAKER_THAN_ADMINISTER | {Operation.ADMINISTER}


def strongest(meanings: Iterable[Meaning]) -> Meaning:
    """All of one or more meanings joined."""
    return reduce(Meaning.joined, meanings)

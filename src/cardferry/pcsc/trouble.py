"""Why there are no readers where they should be: the cause, in words that say what to do about it.

A place of readers reports its trouble (`cardferry.readers.base.ReaderObserver.looked`). It is part of the snapshot, so
it travels with the readers through all layers and over links, and everybody tells it in the same words.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class Cause(IntEnum):
    """What is wrong. The numbers travel over links."""

    #: Something that only a newer cardferry knows.
    OTHER = 0
    #: There is no socket.
    MISSING = 1
    #: There is one, and nobody listens.
    DOWN = 2
    #: The file's access rights keep this account out.
    NOT_PERMITTED = 3
    #: pcscd takes the connection and refuses; polkit's denial arrives like this.
    REFUSED = 4
    #: Likewise through a forwarded socket, where this is also what a missing pcscd looks like.
    CLOSED = 5
    SILENT = 6
    #: It speaks another protocol, or another version.
    STRANGE = 7
    #: The computer with the pcscd is out of reach.
    AWAY = 8
    NO_READER = 9
    #: There are readers, and none is offered (``--reader``).
    NO_MATCH = 10


_SAYS: Final = {
    Cause.MISSING: "there is no pcscd socket at {place}",
    Cause.DOWN: "nobody listens at {place}: pcscd is not running",
    Cause.NOT_PERMITTED: "this account may not use {place}",
    Cause.REFUSED: "pcscd at {place} turned us away",
    Cause.CLOSED: "pcscd at {place} closed the connection without an answer",
    Cause.SILENT: "pcscd at {place} does not answer",
    Cause.STRANGE: "pcscd at {place} is not understood: it {detail}",
    Cause.NO_READER: "pcscd at {place} sees no reader",
    Cause.NO_MATCH: "no reader matches --reader {place}; there is {detail}",
}
_POLKIT: Final = (
    "its polkit rule org.debian.pcsc-lite.access_pcsc wants an active desktop session, or a rule for you: "
    "docs/troubleshooting.md has one to paste"
)
_HINTS: Final = {
    Cause.MISSING: "start it: systemctl start pcscd.socket; if it is not installed: apt install pcscd",
    Cause.DOWN: "start it: systemctl restart pcscd.socket",
    Cause.NOT_PERMITTED: "see ls -l {path}",
    Cause.REFUSED: _POLKIT,
    Cause.CLOSED: f"see there whether it runs: systemctl restart pcscd.socket; if it does, {_POLKIT}",
    Cause.SILENT: "restart it: systemctl restart pcscd",
    Cause.STRANGE: "see that it is a pcscd, of pcsc-lite 1.6.5 or later",
    Cause.AWAY: "see that it is switched on, and that the network leads there; it is tried again",
    Cause.NO_READER: "plug one in; USB readers need a driver: apt install libccid, then plug the reader in again",
    Cause.NO_MATCH: "choose one of these with --reader, or leave the option out",
}
#: Characters of the names of readers that are told.
_MOST_NAMES: Final = 200


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps readers away.

    Attributes:
        cause: see `Cause`.
        place: where, for people: the path of a pcscd's socket, or its computer; for `Cause.NO_MATCH` the patterns.
        detail: what is known besides: why a computer is out of reach, what is strange, which readers there are. Of
            `Cause.OTHER`, all that is known.
        host: the computer at which it is so, as it is called here; empty for this one.
    """

    cause: Cause
    place: str = ""
    detail: str = ""
    host: str = ""

    @property
    def says(self) -> str:
        """What is wrong, in words for people, without the host."""
        template = _SAYS.get(self.cause)
        if template is None:
            return self.detail or f"{self.place} cannot be reached"
        return template.format(place=self.place, detail=self.detail)

    @property
    def hint(self) -> str:
        """What to do about it, and where; empty when that is not known."""
        hint = _HINTS.get(self.cause, "").format(path=shlex.quote(self.place))
        return f"on {self.host}: {hint}" if hint and self.host else hint

    def __str__(self) -> str:
        """What is wrong, and where."""
        return f"{self.host}: {self.says}" if self.host not in ("", self.place) else self.says


def no_match(patterns: tuple[str, ...], names: list[str]) -> Trouble:
    """None of the readers that there are is offered."""
    listed = ", ".join(names)
    if len(listed) > _MOST_NAMES:
        listed = f"{listed[:_MOST_NAMES]}..."
    return Trouble(Cause.NO_MATCH, " ".join(map(shlex.quote, patterns)), listed)

"""Tickets: digits for programs that insist on a PIN. The host puts the real one in their place.

A ticket is for one principal, for what it says, so often and so long. They are kept in a file of the account's private
folder, so that an agent which ends in between forgets none, and ``cardferry ticket`` need not find the process. What is
kept of the digits is a salted hash.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cardferry.pcsc.apdu import CommandApdu
from cardferry.pcsc.applications import Application
from cardferry.pcsc.caller import Principal
from cardferry.policy.operations import Action, Meaning
from cardferry.policy.rules.rule import Permission
from cardferry.private_file import write_private
from cardferry.transports.folders import locked

log = logging.getLogger(__name__)

#: Digits of a ticket: as many as PIV cards take (6 to 8), and OpenPGP cards do (6 or more).
_DIGITS: Final = 8
#: Tickets that are kept: each that a principal has is hashed whenever it gives one.
MOST: Final = 64
#: Bytes that fill a place for a PIN behind it (ISO 7816-4 leaves that to the card).
_FILL: Final = b"\xff\x00"
_PIV_SIZE: Final = 8
#: s after which an expired ticket is forgotten; until then its program is told so, and not taken for a wrong PIN.
_REMEMBERED: Final = 86400.0


class Ticket(msgspec.Struct, frozen=True):
    """One ticket.

    Attributes:
        name: to tell it from others; it says nothing of the digits.
        who: the principal, as rules write it.
        may: operations, likewise.
        uses: how often it may still be used.
        until: s since 1970.
        salt, digest: of the digits.
    """

    name: str
    who: str
    may: list[str]
    uses: int
    until: float
    salt: str
    digest: str

    def covers(self, meaning: Meaning) -> bool:
        """Whether it is for that operation."""
        return any(Permission.parse(each).covers(meaning) for each in self.may)


class Tickets:
    """All tickets of an account.

    Args:
        path: of the file, in a folder that is ours alone; None to keep them in memory.
        clock: s since 1970.
    """

    def __init__(self, path: Path | None = None, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._kept: list[Ticket] = []

    def make(self, who: str, may: Sequence[str], uses: int, seconds: float) -> tuple[Ticket, str]:
        """A new ticket, and its digits, which are nowhere else.

        Raises:
            ValueError: there are too many.
            OSError: it cannot be written down.
        """
        with self._changed() as tickets:
            if len(tickets) >= MOST:
                raise ValueError(f"there are {MOST} tickets")
            digits = f"{secrets.randbelow(10**_DIGITS):0{_DIGITS}}"
            salt = secrets.token_hex(16)
            taken = {ticket.name for ticket in tickets}
            name = next(name for name in iter(lambda: secrets.token_hex(2), "") if name not in taken)
            digest = _digest(digits.encode(), salt)
            made = Ticket(name, who, list(may), uses, self._clock() + seconds, salt, digest)
            tickets.append(made)
        return made, digits

    def valid(self) -> list[Ticket]:
        """Those that can be used."""
        return [ticket for ticket in self._read() if self._is_valid(ticket)]

    def revoke(self, which: str) -> list[Ticket]:
        """End the ticket of that name, or all of that principal; returns which those were."""
        with self._changed() as tickets:
            ended = [ticket for ticket in tickets if which in (ticket.name, ticket.who)]
            tickets[:] = [ticket for ticket in tickets if ticket not in ended]
        return ended

    def find(self, who: Principal, digits: bytes) -> Ticket | None:
        """The ticket of a principal that has these digits, whether it can be used or not; all that it has are tried."""
        found = None
        for ticket in self._read():
            if ticket.who == str(who) and hmac.compare_digest(_digest(digits, ticket.salt), ticket.digest):
                found = ticket
        return found

    def why_not(self, which: Ticket) -> str:
        """Why a ticket cannot be used now; empty when it can."""
        ticket = next((one for one in self._read() if one.name == which.name and one.salt == which.salt), None)
        if ticket is None:
            return f"ticket {which.name} was revoked"
        if ticket.uses <= 0:
            return f"ticket {which.name} is used up"
        return "" if self._is_valid(ticket) else f"ticket {which.name} has expired"

    def use(self, which: Ticket) -> str:
        """Use a ticket once; why it cannot be used, or empty."""
        try:
            with self._changed() as tickets:
                if why := self.why_not(which):
                    return why
                tickets[:] = [
                    msgspec.structs.replace(one, uses=one.uses - 1) if one.name == which.name else one
                    for one in tickets
                ]
        except OSError as error:
            log.error("%s cannot be written, so no ticket is good: %s", self._path, error)
            return f"it cannot be written down that ticket {which.name} was used"
        return ""

    def _is_valid(self, ticket: Ticket) -> bool:
        return ticket.uses > 0 and self._clock() < ticket.until

    def _read(self) -> list[Ticket]:
        """Those that are written down, but what has expired long ago."""
        if self._path is not None:
            try:
                self._kept = msgspec.json.decode(self._path.read_bytes(), type=list[Ticket])
            except FileNotFoundError:
                self._kept = []
            except (OSError, ValueError) as error:
                log.error("no ticket is good: %s: %s", self._path, error)
                self._kept = []
        return self._kept

    @contextmanager
    def _changed(self) -> Iterator[list[Ticket]]:
        """The tickets, to be changed in the block and written down after it; raises `OSError`."""
        if self._path is None:
            yield self._kept
            return
        with locked(self._path.parent):
            tickets = self._read()
            yield tickets
            now = self._clock()
            kept = [ticket for ticket in tickets if now < ticket.until + _REMEMBERED]
            write_private(self._path, msgspec.json.encode(kept))


def _digest(digits: bytes, salt: str) -> str:
    """2 ms of work: whoever can read the file could try all digits, but also read the PIN."""
    return hashlib.scrypt(digits, salt=bytes.fromhex(salt), n=1024, r=8, p=1).hex()


def given(command: CommandApdu) -> bytes:
    """What a program has given as its PIN, without what fills the rest of its place."""
    return command.data.rstrip(_FILL)


def with_pin(action: Action, pin: bytearray) -> bytes:
    """The command with another PIN in the place of what was given.

    A PIV card wants eight bytes (SP 800-73-4 part 2, 2.4.3), an OpenPGP card the PIN alone. On others what fills the
    place behind the PIN stays, and where nothing does, nothing is supposed to.

    Raises:
        ValueError: it is longer than its place, or there is no such command.
    """
    command = action.command
    if command is None:
        raise ValueError("no command")
    filled = command.data != given(command)
    fill, size = (command.data[-1:], len(command.data)) if filled else (b"", len(pin))
    if action.applications == {Application.PIV}:
        fill, size = b"\xff", _PIV_SIZE
    if len(pin) > size:
        raise ValueError("the PIN is longer than its place")
    data = bytes(pin) + fill * (size - len(pin))
    return bytes((command.cla, command.ins, command.p1, command.p2, len(data))) + data

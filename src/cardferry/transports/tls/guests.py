"""Who may come in over TLS: guests that have joined, and invitations. Kept in a file beside the host's keys.

A guest is known by its name and its key; without either its certificate is worth nothing, so removing it needs no list
of revoked certificates. What is kept of an invitation's secret (128 random bits) is a hash.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from cardferry.pcsc.errors import UserError
from cardferry.private_file import write_private
from cardferry.transports.folders import locked
from cardferry.transports.tls.errors import InvitationError
from cardferry.transports.tls.files import stamp

log = logging.getLogger(__name__)

#: What a guest can be called: it is the principal's name, and a DNS name in its certificate.
NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
#: Guests and invitations that are kept.
MOST: Final = 4096
#: Characters of what a guest says of its program.
_MOST_SOFTWARE: Final = 64


class KnownGuest(msgspec.Struct, frozen=True):
    """A guest that has joined. Times in s since 1970.

    Attributes:
        key: the fingerprint of its key.
        joined: when.
        life: s for which its certificates are valid.
        seen, address: when it was here last, and where from; 0 and empty for never.
        software: name and version of its program, as it says itself.
    """

    key: str
    joined: float
    life: float
    seen: float = 0.0
    address: str = ""
    software: str = ""


class Invitation(msgspec.Struct, frozen=True):
    """A secret that is good for one certificate.

    Attributes:
        name: of the guest.
        digest: of the secret.
        until: s since 1970.
        life: s for which the guest's certificates are valid.
    """

    name: str
    digest: str
    until: float
    life: float


class Wrong(msgspec.Struct, frozen=True):
    """Secrets that were good for nothing: how many since the beginning, and the last one's time and origin."""

    count: int = 0
    last: float = 0.0
    address: str = ""


class _Kept(msgspec.Struct):
    guests: dict[str, KnownGuest] = {}
    invitations: list[Invitation] = []
    wrong: Wrong = Wrong()
    #: Where guests come in: as ``--listen`` had it last.
    listens: str = ""
    #: What this host is called in a fleet, and where that is, as a URL; likewise.
    fleet: str = ""


class Guests:
    """All guests of a host.

    Args:
        folder: where the file is, ours alone; it need not be there to look.
        clock: s since 1970.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = folder / "guests.json"
        self._clock = clock
        self._read_as: object = None
        self._kept = _Kept()

    # invitations

    def invite(self, name: str, seconds: float, life: float) -> str:
        """A secret with which a guest can join once, within so many s; an older invitation of that name is void.

        Args:
            life: s for which its certificates are to be valid.

        Raises:
            InvitationError: that is no name, or there are too many.
        """
        if not NAME.fullmatch(name):
            raise InvitationError(
                f"not a name for a guest: {name!r}", "use letters, digits, dots and dashes, as in build1"
            )
        secret = secrets.token_urlsafe(16)
        now = self._clock()
        with self._changed() as kept:
            kept.invitations = [one for one in kept.invitations if one.name != name and one.until > now]
            if len(kept.invitations) + len(kept.guests) >= MOST:
                raise InvitationError(f"there are {MOST} guests and invitations", "`cardferry guests remove` ends one")
            kept.invitations.append(Invitation(name, _digest(secret), now + seconds, life))
        return secret

    def join(self, secret: str, key: str, address: str, software: str) -> Invitation | None:
        """Use an invitation up: the guest is known by that key from now on. None, and counted, when there is none."""
        now, digest = self._clock(), _digest(secret)
        with self._changed() as kept:
            found = next((one for one in kept.invitations if one.digest == digest and one.until > now), None)
            if found is None:
                kept.wrong = Wrong(kept.wrong.count + 1, now, address)
                return None
            kept.invitations.remove(found)
            kept.guests[found.name] = KnownGuest(key, now, found.life, now, address, software[:_MOST_SOFTWARE])
        return found

    @property
    def invitations(self) -> list[Invitation]:
        """Those that are good."""
        now = self._clock()
        return [one for one in self._read().invitations if one.until > now]

    @property
    def wrong(self) -> Wrong:
        """See `Wrong`."""
        return self._read().wrong

    # guests

    @property
    def known(self) -> dict[str, KnownGuest]:
        """Guests by their names."""
        return dict(self._read().guests)

    def find(self, name: str, key: str) -> KnownGuest | None:
        """The guest of that name, if it has that key."""
        found = self._read().guests.get(name)
        return found if found is not None and found.key == key else None

    def seen(self, name: str, key: str, address: str, software: str = "") -> None:
        """A guest is here, or was until now."""
        try:
            with self._changed() as kept:
                if (found := self.find(name, key)) is not None:
                    kept.guests[name] = msgspec.structs.replace(
                        found,
                        seen=self._clock(),
                        address=address,
                        software=software[:_MOST_SOFTWARE] or found.software,
                    )
        except (UserError, OSError) as error:
            log.warning("%s cannot be written: %s", self._path, error)

    def remove(self, name: str) -> bool:
        """Forget a guest, and an invitation of that name; whether there was either."""
        with self._changed() as kept:
            invited = [one for one in kept.invitations if one.name == name]
            kept.invitations = [one for one in kept.invitations if one.name != name]
            return kept.guests.pop(name, None) is not None or bool(invited)

    # where they come in

    @property
    def listens(self) -> str:
        """Where guests come in, as ``--listen`` had it last; empty before that."""
        return self._read().listens

    @listens.setter
    def listens(self, address: str) -> None:
        with self._changed() as kept:
            kept.listens = address

    @property
    def fleet(self) -> str:
        """The URL of this host in a fleet, as it was last; empty before that."""
        return self._read().fleet

    @fleet.setter
    def fleet(self, address: str) -> None:
        with self._changed() as kept:
            kept.fleet = address

    # the file

    def _read(self) -> _Kept:
        try:
            found = stamp([self._path])
            if found != self._read_as:
                self._kept = msgspec.json.decode(self._path.read_bytes(), type=_Kept)
                self._read_as = found
        except FileNotFoundError:
            self._kept, self._read_as = _Kept(), None
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            # Whoever cannot be looked up is not let in.
            log.error("%s cannot be read, so no guest is known: %s", self._path, error)
            self._kept, self._read_as = _Kept(), None
        return self._kept

    @contextmanager
    def _changed(self) -> Iterator[_Kept]:
        """What is kept, to be changed within the block; written when that ends well. Raises `OSError`."""
        with locked(self._path.parent):
            self._read_as = None
            kept = self._read()
            before = msgspec.json.encode(kept)
            try:
                yield kept
            except BaseException:
                self._read_as = None
                raise
            after = msgspec.json.encode(kept)
            if after != before:
                write_private(self._path, after)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()

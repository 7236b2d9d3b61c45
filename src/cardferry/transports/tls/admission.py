"""Who has come over TLS, from whatever transport: until they have proved who they are they cost little.

Somebody who has not got through the handshake has `PROOF_TIME` s, and there are not more than `_MOST_UNPROVED` such:
when one more comes, the first of them has to go. Of each kind of thing that goes wrong there is one line now and then,
however often it happens.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Final
from typing import Protocol as Interface

from cryptography import x509

from cardferry.pcsc.caller import Principal, PrincipalKind
from cardferry.pcsc.errors import UserError
from cardferry.transports import tls
from cardferry.transports.accepting import Newcomers
from cardferry.transports.base import Arrival
from cardferry.transports.tls.door import Enrolment, HostDoor
from cardferry.transports.tls.errors import what_is_wrong
from cardferry.transports.tls.inside import TlsInside
from cardferry.wire.enrolment import ENROLMENT, LINK

log = logging.getLogger(__name__)

#: s to get through the handshake, and to join.
PROOF_TIME: Final = 10.0
#: Connections that have not proved who they are, for each listener.
_MOST_UNPROVED: Final = 64
#: s between two lines about the same kind of thing.
_COMPLAINT_PAUSE: Final = 10.0


class _Complaints:
    """Lines about those who do not come in, not too many."""

    def __init__(self) -> None:
        #: By kind: when it was told last, and how many were not told since.
        self._told: dict[str, tuple[float, int]] = {}

    def tell(self, who: str, what: str) -> None:
        """Somebody does something wrong; ``what`` is one of few."""
        now = asyncio.get_running_loop().time()
        told, more = self._told.get(what, (-_COMPLAINT_PAUSE, 0))
        if now < told + _COMPLAINT_PAUSE:
            self._told[what] = told, more + 1
            return
        self._told[what] = now, 0
        log.warning("%s %s%s", who, what, f" ({more} more did since the last such line)" if more else "")


class Door(Interface):
    """Who may come in; see `cardferry.transports.tls.door.PkiDoor`."""

    def context(self) -> ssl.SSLContext: ...  # noqa: D102
    def admitted(self, certificate: x509.Certificate) -> tuple[str, str]: ...  # noqa: D102
    def seen(self, certificate: x509.Certificate, address: str, software: str = "") -> None: ...  # noqa: D102


class Admission:
    """See the module.

    Args:
        door: who may come in.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        self._complaints = _Complaints()
        self._unproved = Newcomers(
            _MOST_UNPROVED,
            lambda task: self.complain(task.get_name(), "has not proved who it is, and others have come"),
        )
        #: Who is here, with what they have shown.
        self._here: dict[TlsInside, x509.Certificate] = {}
        self.complain = self._complaints.tell
        tls.doors.add(self)

    def recheck(self) -> None:
        """Cut off who is here and may not be here any more."""
        for pipe, certificate in tuple(self._here.items()):
            if why := self._door.admitted(certificate)[1]:
                log.warning("%s: cut off: %s", pipe.name, why)
                pipe.revoke(why)

    def context(self) -> ssl.SSLContext | None:
        """For the next one who comes; None when there is none, of which a line tells."""
        try:
            return self._door.context()
        except (UserError, OSError) as error:
            log.error("nobody can come in: %s", error)
            return None

    def unproved(self, tasks: asyncio.TaskGroup, where: str, proving: Coroutine[Any, Any, None]) -> None:
        """Let somebody prove who it is.

        Args:
            proving: ends when it has, or cannot.
        """
        self._unproved.add(tasks.create_task(proving, name=where))

    def dismiss(self) -> None:
        """Let go of all who have not proved who they are."""
        self._unproved.dismiss()

    async def prove(
        self, pipe: TlsInside, where: str, take: Callable[[Arrival], None], shake: Awaitable[object]
    ) -> None:
        """Take somebody in, once it has proved who it is.

        Args:
            shake: the handshake.
        """
        try:
            async with asyncio.timeout(PROOF_TIME):
                await shake
                await self._let_in(pipe, where, take)
        except asyncio.CancelledError:
            pipe.abort()
            raise
        except OSError as error:
            self.complain(where, what_is_wrong(error))
            pipe.abort()
        except Exception:  # the boundary: whoever has come is nobody else's concern
            log.exception("%s: a bug behind a connection", pipe.name)
            pipe.abort()

    async def _let_in(self, pipe: TlsInside, where: str, take: Callable[[Arrival], None]) -> None:
        shown = pipe.tls.getpeercert(binary_form=True)
        certificate = None if shown is None else x509.load_der_x509_certificate(shown)
        protocol = pipe.tls.selected_alpn_protocol()
        if protocol == ENROLMENT and isinstance(self._door, HostDoor):
            await Enrolment(self._door, pipe, certificate, where).done
        elif protocol != LINK:
            self.complain(where, "is not cardferry, or of another age")
            pipe.abort()
        elif certificate is None:
            self.complain(where, "shows no certificate")
            pipe.abort()
        else:
            self._arrive(pipe, certificate, where, take)

    def _arrive(
        self, pipe: TlsInside, certificate: x509.Certificate, where: str, take: Callable[[Arrival], None]
    ) -> None:
        door, here = self._door, self._here
        if pipe.over:
            return
        name, refusal = door.admitted(certificate)
        here[pipe] = certificate

        def gone() -> None:
            del here[pipe]
            if not door.admitted(certificate)[1]:
                door.seen(certificate, where)

        def greeted(software: str) -> None:
            if not refusal:
                door.seen(certificate, where, software)

        pipe.gone = gone
        pipe.abort_in((certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds())
        take(Arrival(pipe, Principal(PrincipalKind.TLS, name), f"{name} at {where}", refusal, greeted))

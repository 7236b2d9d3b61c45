"""Who may come in at a host over TLS, and who joins.

A host with an authority of its own believes its guests (`HostDoor`); with a public key infrastructure of somebody else,
everybody to whom that has given a certificate, and rules say what each may do (`PkiDoor`).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from cardferry.pcsc.errors import UserError
from cardferry.transports import tls
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls import files
from cardferry.transports.tls.errors import TlsError
from cardferry.transports.tls.identity import Host, Pki
from cardferry.transports.tls.inside import TlsInside
from cardferry.wire import enrolment as e
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: Wrong secrets from one address within `_FORGIVEN` s, after which no secret from there is looked at.
_MOST_WRONG: Final = 5
_FORGIVEN: Final = 600.0
#: Addresses of which wrong secrets are counted.
_MOST_ADDRESSES: Final = 1024
_NO_INVITATION: Final = "there is no such invitation: it was used, it has expired, or the line is not whole"


class _Contexts:
    """The context in force, made anew when its files have changed; when they are wrong, the one before goes on."""

    def __init__(self, source: Host | Pki) -> None:
        self._source = source
        self._stamp: files.Stamp | None = None
        self._context: ssl.SSLContext

    def get(self) -> ssl.SSLContext:
        """For the next one who comes; raises `TlsError` when there has never been a good one."""
        try:
            found = files.stamp(self._source.files)
            if found != self._stamp:
                source = self._source
                self._context = source.context() if isinstance(source, Host) else source.context(server=True)
                self._stamp = found
        except (TlsError, OSError) as error:
            if self._stamp is None:
                if isinstance(error, OSError):
                    raise TlsError(f"{error.filename} cannot be read: {error.strerror}", "name another file") from None
                raise
            log.error("the certificate stays as it was: %s", error)
        return self._context


class PkiDoor:
    """A door for those to whom somebody else's infrastructure has given a certificate."""

    def __init__(self, pki: Pki) -> None:
        self._contexts = _Contexts(pki)

    def context(self) -> ssl.SSLContext:
        """For the next one who comes; raises `TlsError`."""
        return self._contexts.get()

    def admitted(self, certificate: x509.Certificate) -> tuple[str, str]:
        """The principal's name, and why it must not come in; of the certificate it is known that it is good."""
        name = c.principal_name(certificate)
        refusal = "" if name else "the certificate names nobody: it needs a DNS name or a URI as subjectAltName"
        return name or "unknown", refusal

    def seen(self, certificate: x509.Certificate, address: str, software: str = "") -> None:
        """Somebody is here, or was until now."""


class HostDoor:
    """A door for guests that have joined this host, and for those who were invited.

    Args:
        host: see `Host`.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._contexts = _Contexts(host)
        self._renewal = datetime.fromtimestamp(0, UTC)
        #: Wrong secrets by address: how many, and since when in the loop's time.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def context(self) -> ssl.SSLContext:
        """For the next one who comes; raises `TlsError`."""
        if self._renewal < datetime.now(UTC):
            self._renewal = self._host.renew()
        return self._contexts.get()

    def admitted(self, certificate: x509.Certificate) -> tuple[str, str]:
        """See `PkiDoor.admitted`."""
        name = c.principal_name(certificate)
        known = self._host.guests.find(name, c.key_fingerprint(certificate.public_key()))
        if known:
            return name, ""
        if name in self._host.guests.known:
            return name, f"another computer has joined as {name}, and this one is no guest of this host any more"
        return name or "unknown", f"{name or 'it'} is no guest of this host (any more)"

    def seen(self, certificate: x509.Certificate, address: str, software: str = "") -> None:
        """Somebody is here, or was until now."""
        name, key = c.principal_name(certificate), c.key_fingerprint(certificate.public_key())
        self._host.guests.seen(name, key, address, software)

    # joining

    def too_many(self, address: str) -> bool:
        """Whether there were too many wrong secrets from there."""
        count, since = self._wrong.get(address, (0, 0.0))
        return count >= _MOST_WRONG and asyncio.get_running_loop().time() < since + _FORGIVEN

    def _count(self, address: str) -> int:
        now = asyncio.get_running_loop().time()
        count, since = self._wrong.pop(address, (0, now))
        count, since = (1, now) if now > since + _FORGIVEN else (count + 1, since)
        self._wrong[address] = count, since
        if len(self._wrong) > _MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        return count

    def greeting(self) -> e.Greeting:
        """What the host says first to those who want a certificate."""
        return e.Greeting(c.der(self._host.authority().certificate))

    def answer(self, asked: e.FromGuest, shown: x509.Certificate | None, address: str) -> e.Issued | e.Refused:
        """Give somebody a certificate, or not.

        Args:
            asked: what it wants.
            shown: the certificate that it has shown, which is good.
            address: where it comes from.
        """
        if isinstance(asked, e.Join):
            return self._join(asked, address)
        name, why = self.admitted(shown) if shown is not None else ("", "there is no certificate to renew")
        if why or shown is None:
            return e.Refused(why)
        key = shown.public_key()
        known = self._host.guests.find(name, c.key_fingerprint(key))
        self.seen(shown, address, asked.software)
        log.info("%s at %s: its certificate is renewed", name, address)
        return self._issue(name, key, known.life if known else 0.0)

    def _join(self, asked: e.Join, address: str) -> e.Issued | e.Refused:
        if self.too_many(address):
            return e.Refused(f"too many wrong secrets came from {address}: try again in {_FORGIVEN / 60:.0f} minutes")
        try:
            key = c.requested_key(asked.request)
        except ValueError as error:
            return e.Refused(f"that is no request for a certificate: {error}")
        invitation = self._host.guests.join(asked.secret, c.key_fingerprint(key), address, asked.software)
        if invitation is None:
            log.warning("%s: a wrong secret (%d from there)", address, self._count(address))
            return e.Refused(_NO_INVITATION)
        log.warning("%s has joined, from %s", invitation.name, address)
        tls.recheck()  # whoever had that name before has gone
        return self._issue(invitation.name, key, invitation.life)

    def _issue(self, name: str, key: CertificatePublicKeyTypes, life: float) -> e.Issued:
        made = self._host.authority().issue(name, key, timedelta(seconds=life), host=False)
        return e.Issued(name, c.der(made))


class Enrolment:
    """The user of a pipe at whose other end somebody wants a certificate.

    Args:
        door: gives it, or not.
        pipe: connected, and without a user.
        shown: the certificate that was shown, None for none.
        address: where it comes from.

    Attributes:
        done: when the pipe is lost.
    """

    def __init__(self, door: HostDoor, pipe: TlsInside, shown: x509.Certificate | None, address: str) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._door = door
        self._pipe = pipe
        self._shown = shown
        self._address = address
        self._reader: e.LineReader[e.FromGuest] = e.LineReader(e.FromGuest)
        self._answered = False
        pipe.start(self)
        pipe.write(e.encode(door.greeting()))

    def received(self, data: bytes) -> None:
        """Bytes came."""
        if self._answered:
            return
        try:
            messages = self._reader.receive(data)
        except WireError as error:
            log.warning("%s: is not cardferry: %s", self._address, error)
            self._pipe.abort()
            return
        for asked in messages[:1]:
            self._answered = True
            try:
                answer = self._door.answer(asked, self._shown, self._address)
            except (UserError, OSError) as error:
                log.error("no certificate can be given: %s", error)
                answer = e.Refused("the host cannot give one now; its log says why")
            if isinstance(answer, e.Refused):
                log.warning("%s: gets no certificate: %s", self._address, answer.why)
            self._pipe.write(e.encode(answer))
            self._pipe.close()

    def congested(self, congested: bool) -> None:
        """It does not read: the time is limited."""

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        if not self.done.done():
            self.done.set_result(None)

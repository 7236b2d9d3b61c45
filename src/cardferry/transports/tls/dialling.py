"""A guest's way to a host over TLS: links, the first certificate, and the next ones.

A certificate is renewed on the way to a new pipe. So that there is one in time, a pipe ends itself when that is due:
the link dials again, and its session goes on.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from typing import Protocol as Interface

from cryptography import x509

from cardferry import __version__
from cardferry.transports.base import HOW_TO_JOIN
from cardferry.transports.errors import NoHostError, TransportError
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls.errors import InvitationError, NotTlsError, TlsError
from cardferry.transports.tls.files import cannot_be_written, data_folder, joined_folder, joined_places
from cardferry.transports.tls.identity import JoinedHost, Line, Pki, context, read_certificate
from cardferry.transports.tls.inside import TlsInside
from cardferry.wire import enrolment as e
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s until a host that gives no certificate is given up.
_ANSWER_TIME: Final = 10.0
#: s until a renewal that has failed is tried again, at least.
_RENEWAL_PAUSE: Final = 1.0
_SOFTWARE: Final = f"cardferry {__version__}"


class Target(Interface):
    """Where to dial: an address.

    Attributes:
        place: as a part of a file's name.
        pki: files of a public key infrastructure, None where the host was joined.
        how_to_start: what is to be started there, for people.
    """

    @property
    def place(self) -> str: ...  # noqa: D102
    @property
    def pki(self) -> Pki | None: ...  # noqa: D102
    @property
    def how_to_start(self) -> str: ...  # noqa: D102

    async def connect(self, using: ssl.SSLContext) -> TlsInside:
        """Connect; raises `TransportError`."""
        ...


def joined_host(address: Target) -> JoinedHost:
    """What is kept of a host, if it was joined."""
    data_folder()
    return JoinedHost(joined_folder(address.place))


def proof(address: Target) -> object:
    """See `Address.proof`: of which time the certificate is; None when there is none."""
    pki = address.pki
    try:
        return (joined_host(address).own if pki is None else pki.certificate).stat().st_mtime_ns
    except (OSError, TlsError):
        return None


async def dial(address: Target) -> TlsInside:
    """Connect; raises `TransportError`."""
    if address.pki is not None:
        _check_not_expired(address.pki.certificate, "renew it, and name that")
        return await address.connect(address.pki.context(server=False))
    host = joined_host(address)
    if not host.joined:
        raise TlsError(
            f"this computer has not joined {address}",
            HOW_TO_JOIN,
        )
    _check_not_expired(host.own, HOW_TO_JOIN)
    if host.due() <= 0:
        await _renew(address, host)
    pipe = await address.connect(host.context())
    due = host.due()
    pipe.abort_in(due if due > 0 else max(_RENEWAL_PAUSE, host.left().total_seconds() / 2))
    return pipe


def _check_not_expired(path: Path, mend: str) -> None:
    """See that a certificate is still good: the other end could not say so; raises `TlsError`."""
    certificate = read_certificate(path)
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise TlsError(f"the certificate {path} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}", mend)


# --- certificates


async def join(line: Line, address: Target) -> str:
    """Make a key, and get the first certificate for it; returns the guest's name.

    Raises:
        InvitationError: the host gives none.
        TransportError: the host cannot be reached, or is not the one that the line is from.
    """
    made = context(False, None, None, [e.ENROLMENT])
    made.verify_mode = ssl.CERT_NONE  # it is compared with the line's fingerprint before anything is said
    key = await _key_of_another_way(line, address) or c.new_key()
    authority = b""

    def ask(greeting: e.Greeting, shown: bytes) -> e.Join:
        nonlocal authority
        authority = greeting.authority
        try:
            issuer, own = x509.load_der_x509_certificate(authority), x509.load_der_x509_certificate(shown)
        except ValueError:
            raise _another_host(address) from None
        if not hmac.compare_digest(c.fingerprint(issuer), line.fingerprint) or not c.host_certificate_of(issuer, own):
            raise _another_host(address)
        return e.Join(line.secret, c.request(key), _SOFTWARE)

    issued = await _converse(address, made, ask)
    try:
        joined_host(address).keep(key, issued.certificate, authority)
    except OSError as error:
        raise cannot_be_written(error) from None
    return issued.name


async def _key_of_another_way(line: Line, address: Target) -> c.Key | None:
    """The key by which the host knows this account under that name already, where it was joined by another way.

    A host knows a name by one key: with a new one for this way the other way would be lost. Whoever was removed gets a
    new one all the same: the host itself says whether it still knows the key.

    Raises:
        NoHostError: the host cannot be reached.
    """
    for place in joined_places():
        host = JoinedHost(joined_folder(place))
        if place == address.place or not host.is_of(line):
            continue
        try:
            await _converse(address, _enrolment(host), lambda greeting, shown: e.Renew(_SOFTWARE))
            return host.key()
        except NoHostError:
            raise
        except (TransportError, InvitationError, OSError) as error:
            log.debug("the key for %s is not used: %s", place, error)
    return None


def _enrolment(host: JoinedHost) -> ssl.SSLContext:
    """To ask a host that was joined for a certificate."""
    made = host.context()
    made.set_alpn_protocols([e.ENROLMENT])
    return made


def _another_host(address: Target) -> TlsError:
    return TlsError(
        f"who answers at {address} is not the host that this line is from",
        "nothing was told to it; make a new line there with cardferry invite, and see that it names this address",
    )


async def _renew(address: Target, host: JoinedHost) -> None:
    """Get the next certificate; if that cannot be, the one that is there is good for a while."""
    try:
        issued = await _converse(address, _enrolment(host), lambda greeting, shown: e.Renew(_SOFTWARE))
        host.renewed(issued.certificate)
    except (TransportError, InvitationError, OSError) as error:
        log.warning("the certificate for %s is not renewed: %s", address, error)
    else:
        log.info("the certificate for %s is renewed", address)


async def _converse(
    address: Target, using: ssl.SSLContext, ask: Callable[[e.Greeting, bytes], e.FromGuest]
) -> e.Issued:
    """Ask a host for a certificate.

    Args:
        ask: makes the question of the host's first word and its certificate (DER), or raises.
    """
    pipe = await address.connect(using)
    try:
        async with asyncio.timeout(_ANSWER_TIME):
            answer = await _Asking(pipe, ask).answer
    except (WireError, ValueError, OSError):
        raise NotTlsError(f"who answers at {address} gives no certificates", address.how_to_start) from None
    finally:
        pipe.abort()
    if isinstance(answer, e.Refused):
        raise InvitationError(f"{address} gives no certificate: {answer.why}", "at the host: cardferry invite NAME")
    return answer


class _Asking:
    """The user of a pipe at whose other end certificates are given.

    Args:
        pipe: connected, and without a user.
        ask: makes the question of the host's first word and its certificate (DER), or raises.

    Attributes:
        answer: what it says; the error when it is none.
    """

    def __init__(self, pipe: TlsInside, ask: Callable[[e.Greeting, bytes], e.FromGuest]) -> None:
        self.answer: asyncio.Future[e.Issued | e.Refused] = asyncio.get_running_loop().create_future()
        self._pipe = pipe
        self._ask = ask
        self._reader: e.LineReader[e.FromHost] = e.LineReader(e.FromHost)
        pipe.start(self)

    def received(self, data: bytes) -> None:
        """Bytes came."""
        try:
            for message in self._reader.receive(data):
                if self.answer.done():
                    return
                if isinstance(message, e.Greeting):
                    shown = self._pipe.tls.getpeercert(binary_form=True) or b""
                    self._pipe.write(e.encode(self._ask(message, shown)))
                else:
                    self.answer.set_result(message)
        except (WireError, TransportError) as error:
            if not self.answer.done():
                self.answer.set_exception(error)

    def congested(self, congested: bool) -> None:
        """It does not read: the time is limited."""

    def lost(self, error: Exception | None) -> None:
        """The pipe is gone."""
        if not self.answer.done():
            self.answer.set_exception(ConnectionResetError(str(error or "it has hung up")))
            self.answer.exception()  # whoever waited may have given up

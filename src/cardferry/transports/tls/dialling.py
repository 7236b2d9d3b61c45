"""A guest's way to a host over TLS: links, the first certificate, and the next ones.

A certificate is renewed on the way to a new pipe. So that there is one in time, a pipe ends itself when that is due:
the link dials again, and its session goes on.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from typing import Protocol as Interface

from cryptography import x509

from cardferry import __version__
from cardferry.transports.errors import NoHostError, TransportError
from cardferry.transports.tls import certificates as c
from cardferry.transports.tls.errors import InvitationError, TlsError, what_is_wrong
from cardferry.transports.tls.files import cannot_be_written, data_folder, joined_folder
from cardferry.transports.tls.identity import JoinedHost, Line, Pki, context, read_certificate
from cardferry.transports.tls.pipe import TlsPipe
from cardferry.wire import enrolment as e
from cardferry.wire.errors import WireError

log = logging.getLogger(__name__)

#: s until a host that does not answer is given up.
_CONNECT_TIME: Final = 10.0
#: s until a renewal that has failed is tried again, at least.
_RENEWAL_PAUSE: Final = 1.0
_SOFTWARE: Final = f"cardferry {__version__}"


class Target(Interface):
    """Where to dial: an address.

    Attributes:
        host: name or IP address.
        port: of TCP.
        place: both, as a part of a file's name.
        pki: files of a public key infrastructure, None where the host was joined.
    """

    @property
    def host(self) -> str: ...  # noqa: D102
    @property
    def port(self) -> int: ...  # noqa: D102
    @property
    def place(self) -> str: ...  # noqa: D102
    @property
    def pki(self) -> Pki | None: ...  # noqa: D102


def joined_host(address: Target) -> JoinedHost:
    """What is kept of a host, if it was joined."""
    data_folder()
    return JoinedHost(joined_folder(address.place))


async def dial(address: Target) -> TlsPipe:
    """Connect; raises `TransportError`."""
    if address.pki is not None:
        _check_not_expired(address.pki.certificate, "renew it, and name that")
        return await _connect(address, address.pki.context(server=False))
    host = joined_host(address)
    if not host.joined:
        raise TlsError(
            f"this computer has not joined {address}",
            "at the host: cardferry invite NAME; here: cardferry join, with the line that it prints",
        )
    _check_not_expired(
        host.own, "at the host: cardferry invite NAME; here: cardferry join, with the line that it prints"
    )
    if host.due() <= 0:
        await _renew(address, host)
    pipe = await _connect(address, host.context())
    due = host.due()
    pipe.abort_in(due if due > 0 else max(_RENEWAL_PAUSE, host.left().total_seconds() / 2))
    return pipe


def _check_not_expired(path: Path, mend: str) -> None:
    """See that a certificate is still good: the other end could not say so; raises `TlsError`."""
    certificate = read_certificate(path)
    if certificate.not_valid_after_utc <= datetime.now(UTC):
        raise TlsError(f"the certificate {path} has expired on {certificate.not_valid_after_utc:%Y-%m-%d}", mend)


async def _connect(address: Target, using: ssl.SSLContext) -> TlsPipe:
    pipe = TlsPipe(str(address), using, dialled=address.host, peer=f"who answers at {address}")
    try:
        async with asyncio.timeout(_CONNECT_TIME):
            await asyncio.get_running_loop().create_connection(lambda: pipe, address.host, address.port)
            await pipe.proved
    except OSError as error:
        pipe.end()
        raise _explained(address, error) from error
    except BaseException:
        pipe.end()
        raise
    return pipe


def _explained(address: Target, error: OSError) -> TransportError:
    """What a person can do about it."""
    start = f"where the reader is: cardferry host --listen tls::{address.port}"
    if isinstance(error, socket.gaierror):
        return NoHostError(f"{address.host} has no address: {error.strerror}", "see how it is written, and the network")
    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"who answers at {address} {what_is_wrong(error)}",
            "if the host was set up anew: cardferry invite NAME there, and join anew; if not, it is somebody else",
        )
    if isinstance(error, ssl.SSLError):
        return NotTlsError(f"who answers at {address} {what_is_wrong(error)}", start)
    if isinstance(error, TimeoutError):
        return NoHostError(f"nobody answers at {address}", f"{start}; see that no firewall is in between")
    return NoHostError(f"nobody listens at {address}: {error.strerror or error}", start)


class NotTlsError(TransportError):
    """Who answers does not speak TLS 1.3, or is not cardferry."""

    exit_code = 35


# --- certificates


async def join(line: Line, address: Target) -> str:
    """Make a key, and get the first certificate for it; returns the guest's name.

    Raises:
        InvitationError: the host gives none.
        TransportError: the host cannot be reached, or is not the one that the line is from.
    """
    made = context(False, None, None, [e.ENROLMENT])
    made.verify_mode = ssl.CERT_NONE  # it is compared with the line's fingerprint before anything is said
    key = c.new_key()
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


def _another_host(address: Target) -> TlsError:
    return TlsError(
        f"who answers at {address} is not the host that this line is from",
        "nothing was told to it; make a new line there with cardferry invite, and see that it names this address",
    )


async def _renew(address: Target, host: JoinedHost) -> None:
    """Get the next certificate; if that cannot be, the one that is there is good for a while."""
    made = host.context()
    made.set_alpn_protocols([e.ENROLMENT])
    try:
        issued = await _converse(address, made, lambda greeting, shown: e.Renew(_SOFTWARE))
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
    try:
        async with asyncio.timeout(_CONNECT_TIME):
            reader, writer = await asyncio.open_connection(
                address.host, address.port, ssl=using, server_hostname=address.host, limit=e.MOST
            )
            try:
                greeting = await _line(reader, e.Greeting)
                shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
                writer.write(e.encode(ask(greeting, shown)))
                answer: e.Issued | e.Refused = await _line(reader, e.Issued | e.Refused)
            finally:
                writer.transport.abort()
    except OSError as error:
        raise _explained(address, error) from error
    except (WireError, ValueError, EOFError, asyncio.LimitOverrunError):
        hint = f"where the reader is: cardferry host --listen tls::{address.port}"
        raise NotTlsError(f"who answers at {address} gives no certificates", hint) from None
    if isinstance(answer, e.Refused):
        raise InvitationError(f"{address} gives no certificate: {answer.why}", "at the host: cardferry invite NAME")
    return answer


async def _line(reader: asyncio.StreamReader, kind: Any) -> Any:
    """The next message; raises what `_converse` knows when there is none."""
    (message,) = e.LineReader[Any](kind).receive(await reader.readuntil(b"\n"))
    return message

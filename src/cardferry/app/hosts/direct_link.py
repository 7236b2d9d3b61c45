"""The guest's side of a link without ssh: a socket on this computer, or a port of a virtual machine or of its host.

The one who listens there is `cardferry.app.agent.listeners`.

Guest( unix, vsock )  ~~~~~  LinkServer( LocalManager( pcscd ) )
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from cardferry.app.hosts.address import LinkHost, UnixHost, VsockHost, spelled
from cardferry.app.hosts.ssh_link import RefusedError, link_over, patience, why
from cardferry.link import Guest, LinkRefusedError
from cardferry.pcsc.errors import CardferryError, UserError
from cardferry.transports import unix, vsock
from cardferry.transports.base import Dial, Pipe
from cardferry.transports.errors import TransportError
from cardferry.transports.listening import listener
from cardferry.transports.probe import speaks_pcsclite
from cardferry.transports.sockets import check_size
from cardferry.wire.link.greeting import Reason

#: s until a host that took the connection must have said hello: nobody types a password on this way.
_GREETING_TIME: Final = 5.0


class NoHostError(TransportError):
    """Nobody takes links there, or not from this account."""

    exit_code = 34


class NotCardferryError(TransportError):
    """Somebody else is there."""

    exit_code = 35


@asynccontextmanager
async def linked_directly(host: LinkHost, grace: float | None = None) -> AsyncIterator[Guest]:
    """The host's resource manager for the block; whatever breaks is dialled again.

    Args:
        host: where.
        grace: s that calls wait for a host that is out of reach.

    Raises:
        UserError: there was no link at the first attempt.
    """
    timing = replace(patience(grace), greeting=_GREETING_TIME)
    async with AsyncExitStack() as stack:
        try:
            guest = await stack.enter_async_context(link_over(dial_of(host), spelled(host), timing))
        except (OSError, CardferryError) as error:
            raise await explained(host, error) from error
        yield guest


def dial_of(host: LinkHost) -> Dial:
    """Opens pipes to a host; it raises `UserError` when nobody takes the connection."""

    async def dial() -> Pipe:
        match host:
            case UnixHost(path):
                return await _dial_unix(path)
            case VsockHost(address):
                return await vsock.dial(address)

    return dial


async def _dial_unix(path: Path) -> Pipe:
    check_size(path, "where the reader is, choose a shorter one with --listen; here, mount its folder at a shorter one")
    try:
        return await unix.dial(path)
    except OSError as error:
        raise _nobody(path, error) from error


def _nobody(path: Path, error: OSError) -> NoHostError:
    start = f"cardferry host --listen {shlex.quote(f'unix:{path}')}"
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return NoHostError(
                f"there is no socket at {path}",
                f"where the reader is: {start}; where {path.parent} comes from another system, see that it is mounted",
            )
        case PermissionError():
            return NoHostError(
                f"this account may not use {path}",
                f"see ls -l {shlex.quote(str(path))}; the host's --mode and --group say who may",
            )
        case BlockingIOError():
            return NoHostError(
                f"the queue of connections at {path} is full: who listens there takes none",
                "see whether that process is stopped or very busy, and start it anew if it is",
            )
        case _ if path.exists() and not path.is_socket():
            return NoHostError(f"{path} is not a socket", f"name another path, where the reader is: {start}")
    return NoHostError(f"nobody listens at {path}: {error.strerror or error}", f"where the reader is: {start}")


async def explained(host: LinkHost, error: Exception) -> UserError:
    """Why the first attempt has not led to a link, and what to do."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, LinkRefusedError) and error.reason is not Reason.PROTOCOL:
        hint = (
            "install the same version of cardferry on both sides"
            if error.reason is Reason.VERSION
            else "see what its `cardferry status` says"
        )
        return RefusedError(f"no link to {spelled(host)}: {why(error)}", hint)
    who = _who(host)
    if isinstance(error, TimeoutError):
        return NoHostError(f"{who} does not say hello", "it must be `cardferry host --listen`; if it is, start it anew")
    if isinstance(host, UnixHost) and await speaks_pcsclite(host.path):
        return NotCardferryError(
            f"{who} speaks pcsc-lite's protocol, and not that of links", f"use it as what it is: pcscd:{host.path}"
        )
    return NotCardferryError(
        f"{who} does not speak the protocol of links: {error}",
        "name the place that `cardferry host --listen` was given, where the reader is",
    )


def _who(host: LinkHost) -> str:
    """Who is at the other end, as far as that can be seen from here."""
    if isinstance(host, UnixHost):
        return f"{listener(host.path) or 'who listened'} at {host.path}"
    return f"who listens at {spelled(host)}"

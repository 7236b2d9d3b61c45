"""The guest's side of a link without ssh, over any of the transports of `cardferry.transports.registry`.

The one who listens there is `cardferry.app.agent.listeners`.

Guest( unix, vsock, exec, ... )  ~~~~~  LinkServer( LocalManager( pcscd ) )
"""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.connect import OpenedReaders, ReachedHost, Way, reached_over_link
from cardferry.app.hosts.ssh_link import RefusedError, link_over, why
from cardferry.link import Guest, LinkRefusedError, Timing
from cardferry.pcsc.errors import CardferryError, UserError
from cardferry.transports.base import ASK_STATUS, Address
from cardferry.transports.errors import NotCardferryError
from cardferry.transports.registry import TRANSPORTS
from cardferry.wire.link.greeting import Reason


class LinkedHostError(UserError):
    """The host is another cardferry, not a place with readers."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class LinkHost(HostAddress):
    """Where another cardferry takes links (`cardferry host --listen`); there is no other way to such a host."""

    FORMS: ClassVar[tuple[str, ...]] = tuple(transport.FORM for transport in TRANSPORTS.values())

    address: Address

    def __str__(self) -> str:
        return str(self.address)

    def proof(self) -> object:
        """See `HostAddress.proof`."""
        return self.address.proof()

    def open_readers(self, way: Way) -> AbstractAsyncContextManager[OpenedReaders]:
        """There is no way to the readers themselves."""
        again = f"cardferry attach {shlex.quote(str(self))}, without --no-link"
        raise LinkedHostError(f"{self} can only be linked with", again)

    @asynccontextmanager
    async def reach(self, way: Way) -> AsyncIterator[ReachedHost]:
        """The link; whatever breaks is dialled again."""
        if not way.link:
            self.open_readers(way)
        async with linked_directly(self.address, way.timing, memory=way.memory) as guest:
            yield reached_over_link(str(self), guest)


@asynccontextmanager
async def linked_directly(
    address: Address,
    timing: Timing = Timing(),  # noqa: B008 - it is frozen
    *,
    memory: bool = True,
) -> AsyncIterator[Guest]:
    """The host's resource manager for the block; whatever breaks is dialled again.

    Args:
        address: where.
        timing: see `Timing`.
        memory: whether to believe what cards have said before.

    Raises:
        UserError: there was no link at the first attempt.
    """
    timing = replace(timing, greeting=address.GREETING)
    async with AsyncExitStack() as stack:
        try:
            guest = await stack.enter_async_context(
                link_over(address.dial, str(address), timing, memory=memory, how_to_come_in=address.how_to_come_in)
            )
        except (OSError, CardferryError) as error:
            raise await _explained(address, error) from error
        yield guest


async def _explained(address: Address, error: Exception) -> UserError:
    """Why the first attempt has not led to a link, and what to do."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, LinkRefusedError) and error.reason is not Reason.PROTOCOL:
        hint = (
            "install the same version of cardferry on both sides"
            if error.reason is Reason.VERSION
            else address.how_to_come_in
            if error.reason is Reason.REFUSED
            else ASK_STATUS
        )
        return RefusedError(f"no link to {address}: {why(error)}", hint)
    if isinstance(error, TimeoutError):
        return address.silent()
    return await address.stranger() or NotCardferryError(
        f"{address.who()} does not speak the protocol of links: {error}",
        "name the place that `cardferry host --listen` was given, where the reader is",
    )

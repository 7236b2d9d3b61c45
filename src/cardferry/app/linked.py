"""The guest's side of a link over ssh: another computer's resource manager, as if it were here.

Guest( ssh )  ~~~~~  Host( LocalManager( pcscd ) )
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from cardferry.app.agent import SOFTWARE
from cardferry.app.carrier import Carrier
from cardferry.link import Guest, LinkRefusedError, LinkState, Timing
from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Pipe
from cardferry.transports.ssh import SshError, open_session

log = logging.getLogger(__name__)

#: Started with a shell of its own, because login shells differ; people install programs in ~/.local/bin.
_COMMAND: Final = "exec sh -c 'PATH=$PATH:$HOME/.local/bin; exec cardferry host --stdio'"


@asynccontextmanager
async def linked(carrier: Carrier, grace: float | None = None) -> AsyncIterator[Guest | None]:
    """The host's resource manager for the block, if cardferry is there and understands us; None if not.

    Args:
        carrier: the way to the host.
        grace: s that calls wait for a host that is out of reach.

    Raises:
        SshError: the host cannot be reached.
    """
    name = carrier.destination
    facts = (await carrier.connection()).facts
    if "cardferry" not in facts.installed or not facts.pcscd:
        yield None
        return

    async def dial() -> Pipe:
        return await open_session(await carrier.connection(), _COMMAND)

    stopping = False

    def report(state: LinkState) -> None:
        words = {
            LinkState.UP: f"{name}: linked",
            LinkState.BROKEN: f"lost {name}; programs wait",
            LinkState.DOWN: f"{name} has been out of reach for too long: its readers are gone until it is back",
        }
        if state in words and not stopping:
            log.warning("%s", words[state]) if state is not LinkState.UP else log.info("%s", words[state])

    timing = Timing() if grace is None else Timing(grace=grace)
    async with AsyncExitStack() as stack:
        guest = Guest(dial, name=name, timing=timing, report=report, software=SOFTWARE)
        await stack.enter_async_context(guest)
        try:
            await guest.ready()
        except SshError:
            raise
        except (OSError, CardferryError) as error:
            reason = "it speaks another version" if isinstance(error, LinkRefusedError) else str(error)
            log.warning("no link to %s (%s): its pcscd is forwarded instead", name, reason)
            await stack.aclose()
            yield None
            return
        try:
            yield guest
        finally:
            stopping = True


def state(guest: Guest) -> str:
    """How the link is, for ``status``."""
    status = guest.status
    if guest.state is not LinkState.UP:
        return f"{guest.state.value}: {status.last_error}" if status.last_error else guest.state.value
    return "up"

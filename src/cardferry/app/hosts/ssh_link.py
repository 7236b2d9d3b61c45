"""The guest's side of a link: another computer's resource manager, as if it were here.

`link_over` is for any transport; `linked` for ssh, where there is another way if there can be no link.

Guest( ssh )  ~~~~~  LinkServer( LocalManager( pcscd ) )
"""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from cardferry import __version__
from cardferry.app.hosts.direct import direct_dial
from cardferry.app.hosts.gain import gain
from cardferry.app.hosts.ssh_connection import SshConnector
from cardferry.app.hosts.versions import difference, refusal
from cardferry.app.runtime.paths import this_computer
from cardferry.link import Guest, LinkRefusedError, LinkState, Timing
from cardferry.link.guest_direct import DialDirect
from cardferry.pcsc.errors import CardferryError
from cardferry.transports.base import Dial, Pipe
from cardferry.transports.errors import TransportError
from cardferry.transports.ssh import NoShellError, SessionError, SshError
from cardferry.wire.link.greeting import Bye, Reason

log = logging.getLogger(__name__)

SOFTWARE: Final = f"cardferry {__version__}"
#: In the command that the guest itself chooses: a key that is for one command only does not say it.
ASKS_DIRECT: Final = "--asks-direct"


class RefusedError(TransportError):
    """The other end does not want this guest."""

    exit_code = 54
    heals = False


def remote_command(words: list[str]) -> str:
    """A cardferry command for the other side's login shell.

    It starts a shell of its own, because login shells differ. What people install, and `cardferry setup` brings, is in
    ``~/.local/bin``; where they log in, that comes first in PATH.
    """
    line = f"PATH=$HOME/.local/bin:$PATH; exec cardferry {shlex.join(words)}"
    return f"exec sh -c {shlex.quote(line)}"


def own_name() -> str:
    """What this computer calls itself over there."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", this_computer()).lstrip("._-")[:64] or "guest"


@asynccontextmanager
async def link_over(
    dial: Dial,
    name: str,
    timing: Timing,
    host: str | None = None,
    *,
    memory: bool = True,
    direct: DialDirect | None = None,
    how_to_come_in: str = "",
) -> AsyncIterator[Guest]:
    """The host's resource manager for the block, once its readers are known; whatever breaks is dialled again.

    Args:
        dial: opens a pipe to the host.
        name: what the host is called, for people.
        timing: see `Timing`; ``grace`` is how long calls wait for a host that is out of reach.
        host: see `Guest`.
        memory: whether to believe what cards have said before.
        direct: see `Guest`.
        how_to_come_in: what a person can do when the host does not let this computer in any more.

    Raises:
        OSError | CardferryError: there was no link at the first attempt.
    """
    reporter = _Reporter(name, how_to_come_in)
    async with AsyncExitStack() as stack:
        guest = Guest(
            dial, name=name, timing=timing, report=reporter.report, software=SOFTWARE, host=host, remember=memory,
            direct=direct,
        )  # fmt: skip
        reporter.farewell = lambda: guest.farewell
        await stack.enter_async_context(guest)
        try:
            await guest.ready()
        except (OSError, CardferryError):
            reporter.silent = True
            await stack.aclose()  # from here on the error is not the guest's own, who would wrap it
            raise
        try:
            yield guest
        finally:
            reporter.silent = True


def patience(grace: float | None, *, wait: bool = False) -> Timing:
    """The link's times, with ``grace`` in s unless it is None; patient where hosts are waited for."""
    return Timing(patient=wait) if grace is None else Timing(grace=grace, patient=wait)


@asynccontextmanager
async def linked(
    connector: SshConnector,
    timing: Timing = Timing(),  # noqa: B008 - it is frozen
    *,
    memory: bool = True,
    direct: bool = False,
) -> AsyncIterator[Guest | None]:
    """The host's resource manager for the block, if cardferry is there and understands us; None if not.

    Args:
        connector: to the host.
        timing: see `Timing`.
        memory: whether to believe what cards have said before.
        direct: whether to make a connection beside ssh.

    Raises:
        SshError: the host cannot be reached.
    """
    no_shell: NoShellError | None = None
    try:
        connection = await connector.connection()
    except NoShellError as error:
        no_shell = error
        connector.alone = True
    else:
        name, facts = connector.destination, connection.facts
        if "cardferry" not in facts.installed:
            brings = gain(await connection.round_trip(), name)
            log.info("%s: plain forwarding, cardferry is not installed there; %s", name, brings)
        elif not facts.pcscd:
            log.info("%s: plain forwarding, there is no pcscd", name)
        if "cardferry" not in facts.installed or not facts.pcscd:
            yield None
            return
    async with AsyncExitStack() as stack:
        guest: Guest | None = None
        try:
            guest = await stack.enter_async_context(
                link_over(
                    session_dial(connector, direct=direct),
                    connector.destination,
                    timing,
                    memory=memory,
                    direct=direct_dial(connector) if direct else None,
                )
            )
        except (OSError, CardferryError) as error:
            if no_shell is not None:
                raise no_shell from error
            if not _can_forward(error):
                raise
            reason = why(error, connector.destination)
            log.warning("no link to %s: %s; its pcscd is forwarded instead", connector.destination, reason)
        if guest is not None and (told := difference(connector.destination, guest.status.software)):
            log.info("%s", told)
        yield guest


def session_dial(connector: SshConnector, *, direct: bool = False) -> Dial:
    """Opens pipes to the agent of an ssh host.

    Args:
        direct: ask for a connection beside ssh. A host that does not know what that is says so, and is not asked again.
    """
    words = ["host", "--stdio", "--called", own_name()]
    asks = direct

    async def dial() -> Pipe:
        nonlocal asks
        try:
            return await connector.session(remote_command([*words, *([ASKS_DIRECT] if asks else [])]))
        except SessionError as error:
            if not asks or ASKS_DIRECT not in error.message:
                raise
            asks = False
            return await dial()

    return dial


def _can_forward(error: Exception) -> bool:
    """Whether the host is there, and only its cardferry is not what we need."""
    return not isinstance(error, SshError) or isinstance(error, SessionError)


def why(error: Exception, host: str = "") -> str:
    """Why there is no link, in words for people.

    Args:
        host: as on the command line, if it is reached with ssh.
    """
    if isinstance(error, LinkRefusedError) and error.reason is Reason.VERSION:
        return f"its cardferry is too far from this one in age ({error}); {refusal(host, str(error))}"
    if isinstance(error, TimeoutError):
        return f"its agent does not answer: {error}; `cardferry doctor` with its name says more"
    return str(error)


class _Reporter:
    """Tells people how the link is.

    Attributes:
        silent: the end has begun; whatever happens now is meant.
        farewell: how the last session ended.
    """

    def __init__(self, host: str, how_to_come_in: str = "") -> None:
        self.silent = False
        self.farewell: Callable[[], Bye | None] = lambda: None
        self._host = host
        self._how_to_come_in = how_to_come_in
        self._before = False

    def report(self, state: LinkState) -> None:
        """A new state."""
        if self.silent:
            return
        match state:
            case LinkState.UP if self._before:
                log.warning("%s is back", self._host)
            case LinkState.UP:
                self._before = True
                log.info("%s: linked, cardferry is at both ends", self._host)
            case LinkState.BROKEN:
                log.warning("lost %s; programs wait", self._host)
            case LinkState.DOWN:
                log.warning(
                    "the session with %s is over: programs have lost what they held there%s", self._host, self._why()
                )
            case LinkState.CONNECTING:
                pass

    def _why(self) -> str:
        bye = self.farewell()
        if bye is None or bye.reason in (Reason.CLOSED, Reason.UNKNOWN_SESSION) or not bye.text:
            return ""
        mend = f"; {self._how_to_come_in}" if bye.reason is Reason.REFUSED and self._how_to_come_in else ""
        return f"; it says: {bye.text}{mend}"


def link_state(guest: Guest) -> str:
    """How the link is, for ``status``."""
    status = guest.status
    if guest.state is not LinkState.UP:
        return f"{guest.state.value}: {status.last_error}" if status.last_error else guest.state.value
    return "up"

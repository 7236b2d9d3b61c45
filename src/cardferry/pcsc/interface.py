"""The one interface that everything which can serve cards implements, and every layer wraps.

A `ResourceManager` knows its readers at any time without waiting (`snapshot`), tells when something
changed (`changed`) and opens a `Context` for a caller. A `Context` is one SCARDCONTEXT, a `Card` one
SCARDHANDLE. Methods raise `PcscError` with the code that the application shall see, and nothing else.

Waiting for a turn: only one handle uses a card at any moment, the others queue, first come first served.
A context is opened with a *patience*, in seconds: a call that has waited so long for its turn raises
``E_SHARING_VIOLATION``, and its place in the queue is kept for a while. The next call of the same handle
takes up that place again. ``None`` waits for ever.

The calls of one context come one after the other, as libpcsclite sends them; only `Context.close` may come at any
moment. It ends the calls that wait.

A cancelled call (``asyncio.CancelledError``) gives up its place; an APDU that has been handed to the reader
is still answered by the card, and the answer is dropped.

Calls at once: begin, end and transmit, which programs make most, have a second form that needs no task. It does the
same when nothing has to be waited for first, and otherwise does nothing and says so; then the coroutine is the way. A
layer that has nothing to gain derives from `Deliberate`, which always says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol as Interface

from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.reader_state import Snapshot

#: Takes the end of a call at once: the response, or why there is none.
Done = Callable[[bytes, PcscError | None], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is calling, as far as it is known. Shown in ``status``, logs and audit; never trusted blindly.

    Attributes:
        name: words for people, such as ``pid 4711 opensc-tool``.
        uid: user id of the calling process on its own computer, where the kernel told us.
        pid: its process id, likewise.
    """

    name: str
    uid: int | None = None
    pid: int | None = None


class Card(Interface):
    """One SCARDHANDLE: a connection of a context to a reader and, except in direct mode, its card."""

    @property
    def reader(self) -> str:
        """The reader's name."""
        ...

    @property
    def protocol(self) -> Protocol:
        """The active protocol; `Protocol.UNDEFINED` for a direct connection without one."""
        ...

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection: clears ``W_RESET_CARD`` and ``W_REMOVED_CARD``; returns the active protocol."""
        ...

    async def begin(self) -> None:
        """Begin a transaction. Nested calls count up."""
        ...

    async def end(self, disposition: Disposition) -> None:
        """End a transaction. ``E_NOT_TRANSACTED`` when there is none, ``E_SHARING_VIOLATION`` for non-owners."""
        ...

    async def transmit(self, apdu: bytes, protocol: int) -> bytes:
        """Send a command APDU, return the response as it came: usually with a status word.

        Args:
            apdu: the command, at most `MAX_APDU_SIZE` bytes.
            protocol: ``ioSendPciProtocol`` as the application gave it, checked against the active protocol.
        """
        ...

    def begin_at_once(self) -> bool:
        """`begin` if it can be done now without waiting; False says that nothing was done. Never raises."""
        ...

    def end_at_once(self, disposition: Disposition) -> bool:
        """`end` if it can be done now without waiting; False says that nothing was done. Never raises."""
        ...

    def transmit_at_once(self, apdu: bytes, protocol: int, done: Done) -> bool:
        """`transmit` if the command can leave now; False says that nothing was done. Never raises.

        Args:
            apdu, protocol: as for `transmit`.
            done: called once, and not before this method has returned True. It must not raise; if it does, that is
                logged, and concerns nobody else.
        """
        ...

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader; the answer has at most ``max_response`` bytes."""
        ...

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute, at most `MAX_ATTRIBUTE_SIZE` bytes."""
        ...

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute."""
        ...

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return; the values themselves are in the snapshot."""
        ...

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle. It is closed even when an error is raised."""
        ...


class Deliberate:
    """For a `Card` that does nothing at once."""

    __slots__ = ()

    def begin_at_once(self) -> bool:
        """Nothing was done."""
        return False

    def end_at_once(self, disposition: Disposition) -> bool:
        """Nothing was done."""
        del disposition
        return False

    def transmit_at_once(self, apdu: bytes, protocol: int, done: Done) -> bool:
        """Nothing was done."""
        del apdu, protocol, done
        return False


class Context(Interface):
    """One SCARDCONTEXT."""

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect to a reader; see `Card` for what comes back."""
        ...

    async def close(self) -> None:
        """Free every handle: transactions end, and a card that was held is reset. Never raises."""
        ...


class ResourceManager(Interface):
    """Something that serves cards: this computer's readers, another computer's, or many as one."""

    @property
    def snapshot(self) -> Snapshot:
        """All readers as they are known now. Costs nothing, never waits."""
        ...

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one than ``serial``; return that snapshot."""
        ...

    async def open(self, peer: Peer, patience: float | None = None) -> Context:
        """Open a context for ``peer``; ``patience`` in s bounds each wait for a turn."""
        ...

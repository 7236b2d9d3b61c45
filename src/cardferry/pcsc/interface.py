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

Begin, end and transmit, which programs make most, return a `Reply`: it is there at once when nothing had to be waited
for, and otherwise comes without a task. A layer that wraps a card adds what it wants by `Reply.then`.
"""

from __future__ import annotations

from typing import Protocol as Interface
from typing import Self

from cardferry.pcsc.applications import Applications
from cardferry.pcsc.caller import Caller, Principal
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.reader_state import Snapshot
from cardferry.pcsc.reply import Reply


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

    @property
    def counted(self) -> bool:
        """Whether `ReaderState.sharing` of the reader counts this handle."""
        ...

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection: clears ``W_RESET_CARD`` and ``W_REMOVED_CARD``; returns the active protocol."""
        ...

    def begin(self) -> Reply[None]:
        """Begin a transaction. Nested calls count up."""
        ...

    def end(self, disposition: Disposition) -> Reply[None]:
        """End a transaction. ``E_NOT_TRANSACTED`` when there is none, ``E_SHARING_VIOLATION`` for non-owners."""
        ...

    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        """Send a command APDU, return the response as it came: usually with a status word.

        Args:
            apdu: the command, at most `MAX_APDU_SIZE` bytes.
            protocol: ``ioSendPciProtocol`` as the application gave it, checked against the active protocol.
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

    def seen_by(self, principal: Principal) -> ResourceManager:
        """The same, with those readers only that the principal may know of; for its callers. Changes with this one."""
        ...

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Whether those who see this may read the answer to a command, while one of these applications is selected.

        Asks nobody and waits for nothing; what does more than read is not answered so. For answers that are told to
        somebody who has not asked the card: of `seen_by` the principal.
        """
        ...

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context for ``caller``; ``patience`` in s bounds each wait for a turn."""
        ...


class SeenAlike:
    """For a `ResourceManager` that shows the same to all: who may do what is decided in front of it, or at hosts."""

    def seen_by(self, principal: Principal) -> Self:
        """Whoever it is: all readers."""
        del principal
        return self

    def may_read(self, reader: str, applications: Applications, apdu: bytes) -> bool:
        """Everybody may read everything."""
        del reader, applications, apdu
        return True

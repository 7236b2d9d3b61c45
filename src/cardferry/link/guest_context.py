"""One SCARDCONTEXT of a guest. It outlives sessions: a program whose link was away for too long connects again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from cardferry.link import messages as m
from cardferry.link.guest_card import GuestCard
from cardferry.link.guest_session import GONE, GuestSession
from cardferry.pcsc.constants import PROTOCOL_ANY_OLD, CardState, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Peer
from cardferry.pcsc.reader_state import ReaderState

if TYPE_CHECKING:
    from cardferry.link.guest import Guest

#: Calls that a context sends without waiting, one after the other, before it waits for one.
MOST_UNSEEN: Final = 32
_USABLE: Final = CardState.PRESENT | CardState.POWERED


class GuestContext:
    """A context; see `cardferry.pcsc.interface.Context`.

    Args:
        guest: whose context it is.
        peer, patience: as given to `Guest.open`.
    """

    __slots__ = ("_closed", "_number", "_patience", "_peer", "_session", "_unseen", "cards", "guest")

    def __init__(self, guest: Guest, peer: Peer, patience: float | None) -> None:
        self.guest = guest
        self.cards: set[GuestCard] = set()
        self._peer = peer
        self._patience = None if patience is None else max(0.0, patience)
        self._session: GuestSession | None = None
        self._number = 0
        self._unseen = 0
        self._closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> GuestCard:
        """Connect to a reader: without waiting when it is known how that ends."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        state = self.guest.readers.find(reader)
        session = self.guest.session
        if state is None or session is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        if _empty(state, share, protocols):
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        await session.ready()
        self._check_not_closed()
        self._open(session)
        handle = session.new_handle()
        marks = session.marks(reader)
        # pcscd, too, keeps a connect waiting during a transaction; what others do is not known well enough here.
        waits = session.busy(reader, self.cards)
        if not waits and self.may_go_on(session) and _foregone(state, share, protocols):
            protocol = state.protocol
            session.tell(
                m.Connect(0, self._number, handle, reader, share, int(protocols & 0xFFFF), int(state.protocol))
            )
            self.unseen(session)
        else:
            protocol = await self._connect(
                session,
                lambda call: m.Connect(call, self._number, handle, reader, share, int(protocols & 0xFFFF)),
                handle,
            )
        if session.dead:
            raise PcscError(GONE, "the link was away for too long")
        try:
            self._check_not_closed()
        except PcscError:
            session.handles -= 1
            raise
        card = GuestCard(self, session, handle=handle, reader=reader, share=share, protocol=protocol, marks=marks)
        session.cards[handle] = card
        self.cards.add(card)
        return card

    def _check_not_closed(self) -> None:
        if self._closed:
            raise PcscError(ReturnCode.E_CANCELLED, "the context was closed")

    async def _connect(self, session: GuestSession, make: m.MakeCall, handle: int) -> Protocol:
        """Connect, and wait for the active protocol."""
        try:
            answer = await session.ask(make)
        except asyncio.CancelledError:
            session.handles -= 1
            session.tell(m.Disconnect(0, handle, Disposition.LEAVE))  # the host may have been quicker
            raise
        except PcscError:
            session.handles -= 1
            raise
        self.seen(session)
        return Protocol(answer.protocol)

    def _open(self, session: GuestSession) -> None:
        """Open the context in this session, unless it is."""
        if self._session is session:
            return
        self._number = session.new_context()
        self._session = session
        self._unseen = 0
        peer = self._peer
        session.tell(m.Open(self._number, peer.name[:512], peer.uid, peer.pid, self._patience, self.guest.accelerate))

    async def close(self) -> None:
        """Free every handle; the host ends what waits and resets what was held."""
        if self._closed:
            return
        self._closed = True
        for card in tuple(self.cards):
            card.dismiss(vanishes=True)
        session = self._session
        if session is not None and not session.dead:
            session.contexts -= 1
            self.seen(session)
            session.tell(m.Close(self._number))

    # how far ahead of the host we are

    def may_go_on(self, session: GuestSession) -> bool:
        """Whether another call may be sent without waiting."""
        return self._unseen < MOST_UNSEEN and session.unseen < session.welcome.calls // 2

    def may_begin(self, session: GuestSession) -> bool:
        """Whether a transaction may begin without waiting, as far as the context is concerned."""
        return self.may_go_on(session) and (self._patience is None or self._patience > 0)

    def unseen(self, session: GuestSession) -> None:
        """A call was sent without waiting."""
        self._unseen += 1
        session.unseen += 1
        self.guest.counters.pipelined += 1

    def seen(self, session: GuestSession) -> None:
        """An answer has come: everything that was sent before it has been carried out."""
        session.unseen -= self._unseen
        self._unseen = 0


def _empty(state: ReaderState, share: ShareMode, protocols: Protocol) -> bool:
    """Whether nothing is wrong with a connect but that there is no card."""
    return (
        share is ShareMode.SHARED
        and bool(int(protocols) & (Protocol.ANY | Protocol.RAW | PROTOCOL_ANY_OLD))
        and state.sharing >= 0
        and bool(state.state & CardState.ABSENT)
    )


def _foregone(state: ReaderState, share: ShareMode, protocols: Protocol) -> bool:
    """Whether it is known how a connect ends: nobody is in the way, and the protocol is in force already."""
    if state.sharing < 0:
        return False
    if share is ShareMode.DIRECT:
        return True
    if int(protocols) & PROTOCOL_ANY_OLD:
        protocols |= Protocol.ANY
    return (
        share is ShareMode.SHARED
        and state.state & (_USABLE | CardState.SWALLOWED) == _USABLE
        and bool(state.protocol & protocols)
        and not protocols & Protocol.RAW
        and state.protocol in (Protocol.T0, Protocol.T1)
    )

"""One SCARDCONTEXT of a guest. It outlives sessions: a program whose link was away for too long connects again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cardferry.link import messages as m
from cardferry.link.guest_card import GuestCard
from cardferry.link.guest_session import GONE, GuestSession
from cardferry.link.guest_unseen import Unseen
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import PROTOCOL_ANY_OLD, CardState, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reader_state import ReaderState

_USABLE: Final = CardState.PRESENT | CardState.POWERED
#: Characters of a program's name that the host is told.
_MOST_NAME: Final = 512


class GuestContext:
    """A context; see `cardferry.pcsc.interface.Context`.

    Args:
        session: the session in force, None while there is none.
        caller, patience: as given to `Guest.open`.
        when_closed: called when the context has been closed.
        accelerate: whether the host may run ahead.

    Attributes:
        caller: who uses it.
        cards: its open handles.
    """

    __slots__ = (
        "_accelerate",
        "_closed",
        "_current",
        "_number",
        "_patience",
        "_session",
        "_unseen",
        "_when_closed",
        "caller",
        "cards",
    )

    def __init__(
        self,
        session: Callable[[], GuestSession | None],
        caller: Caller,
        patience: float | None,
        when_closed: Callable[[GuestContext], None],
        *,
        accelerate: bool,
    ) -> None:
        self.caller = caller
        self.cards: set[GuestCard] = set()
        self._current = session
        self._when_closed = when_closed
        self._patience = None if patience is None else max(0.0, patience)
        self._accelerate = accelerate
        self._session: GuestSession | None = None
        self._number = 0
        self._unseen = Unseen(self._patience)
        self._closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> GuestCard:
        """Connect to a reader: without waiting when it is known how that ends."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        session = self._current()
        state = None if session is None else session.readers.find(reader)
        if session is None or state is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        if _empty(state, share, protocols):
            raise PcscError(ReturnCode.E_NO_SMARTCARD)
        await session.drain()
        self._check_not_closed()
        self._open(session)
        handle = session.open_handle()
        try:
            return await self._connect(session, handle, state, share, protocols)
        except BaseException:
            session.close_handle(handle)
            raise

    async def _connect(
        self, session: GuestSession, handle: int, state: ReaderState, share: ShareMode, protocols: Protocol
    ) -> GuestCard:
        marks, wanted, name = session.marks(state.name), int(protocols & 0xFFFF), m.packed_name(state.name)
        # pcscd, too, keeps a connect waiting during a transaction; what others do is not known well enough here.
        waits = session.busy(state.name, self.cards)
        if not waits and self._unseen.may_go_on(session) and _foregone(state, share, protocols):
            protocol = state.protocol
            session.tell(m.Connect(0, self._number, handle, name, share, wanted, int(protocol)))
            self._unseen.sent(session)
        else:
            try:
                answer = await session.ask(lambda call: m.Connect(call, self._number, handle, name, share, wanted))
            except asyncio.CancelledError:
                session.tell(m.Disconnect(0, handle, Disposition.LEAVE))  # the host may have been quicker
                raise
            self._unseen.seen(session)
            protocol = Protocol(answer.protocol)
            if session.memory is not None and not session.memory.card(state.name).handles:
                session.memory.card(state.name).stands(answer)
        if session.dead:
            raise PcscError(GONE, "the link was away for too long")
        self._check_not_closed()
        card = GuestCard(
            session,
            self._unseen,
            self.cards.discard,
            handle=handle,
            reader=state.name,
            share=share,
            protocol=protocol,
            marks=marks,
        )
        session.set_card(handle, card)
        self.cards.add(card)
        return card

    def _check_not_closed(self) -> None:
        if self._closed:
            raise PcscError(ReturnCode.E_CANCELLED, "the context was closed")

    def _open(self, session: GuestSession) -> None:
        """Open the context in this session, unless it is."""
        if self._session is session:
            return
        self._number = session.open_context()
        self._session = session
        self._unseen.forget()
        program = self.caller.program
        session.tell(
            m.Open(self._number, program.name[:_MOST_NAME], program.uid, program.pid, self._patience, self._accelerate)
        )

    async def close(self) -> None:
        """Free every handle; the host ends what waits and resets what was held."""
        if self._closed:
            return
        self._closed = True
        self._when_closed(self)
        for card in tuple(self.cards):
            card.dismiss(vanishes=True)
        session = self._session
        if session is not None and not session.dead:
            self._unseen.seen(session)
            session.close_context(self._number)


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

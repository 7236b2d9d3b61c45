"""Several readers shown as one: each connect goes to the reader with the shortest queue.

A `Pool` is around any `ResourceManager`, such as a `Union` of hosts; its *members* are those of the manager's readers
that were chosen. Programs see one reader. A handle stays at the member at which it was opened; when that one goes, its
calls end with ``W_REMOVED_CARD``, and programs connect again, or reconnect, at another member.

How long a queue is, is asked when a program connects (`ReaderState.queue`), of a few members at once. What the snapshot
has comes too late for that: everybody who had seen the same member idle would go there. Who is asked is chosen half by
what the snapshot says and half at random, so that guests of a large pool do not all ask the same few; equal queues are
decided at random, too. A member that does not answer is not asked, nor used, until it has.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final, TypeVar

from cardferry.changes import Changes
from cardferry.pcsc.caller import Caller
from cardferry.pcsc.constants import SHARING_EXCLUSIVE, CardState, Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, Context, ResourceManager, SeenAlike
from cardferry.pcsc.reader_state import Queue, ReaderState, Snapshot, presumed
from cardferry.pcsc.reply import Reply, answered, failed, running, within

#: Members that are asked for one connect.
MOST_ASKED: Final = 4
#: Members, taken at random, whose states are compared to find those that are asked.
MOST_LOOKED_AT: Final = 32
#: s that they have for their answers.
ANSWER_TIME: Final = 0.5
_EMPTY: Final = Queue(0, 0)
_GONE: Final = frozenset({ReturnCode.E_READER_UNAVAILABLE, ReturnCode.E_UNKNOWN_READER})
#: A connect that ends so may succeed at another member.
_ELSEWHERE: Final = _GONE | {
    ReturnCode.E_NO_SMARTCARD,
    ReturnCode.E_SHARING_VIOLATION,
    ReturnCode.W_REMOVED_CARD,
    ReturnCode.W_UNPOWERED_CARD,
    ReturnCode.W_UNRESPONSIVE_CARD,
}

T = TypeVar("T")


class _Place:
    """A member.

    Attributes:
        state: as it was seen last.
        cards: our programs' handles there.
        connecting: our programs that are on their way there.
        silent: a question that it has not answered in time; nothing is done with it until this is done.
    """

    __slots__ = ("cards", "connecting", "silent", "state")

    def __init__(self, state: ReaderState) -> None:
        self.state = state
        self.cards: set[_PoolCard] = set()
        self.connecting = 0
        self.silent: Reply[Queue] | None = None

    @property
    def name(self) -> str:
        return self.state.name

    @property
    def has_card(self) -> bool:
        return bool(self.state.state & CardState.PRESENT)

    def ask(self) -> Reply[Queue]:
        """How long its queue is."""
        if self.silent is not None and not self.silent.done():
            return failed(PcscError(ReturnCode.E_READER_UNAVAILABLE, "it has not answered the last question"))
        self.silent = None
        if self.state.queue is not None:
            return self.state.queue()
        return answered(presumed(self.state))

    def rank(self, queue: Queue, share: ShareMode) -> tuple[bool, int, int]:
        """The lower, the better: somebody is in the way; the queue; those who may come back into it."""
        handles = max(queue.handles, self.state.sharing)
        blocked = self.state.sharing < 0 or (share is ShareMode.EXCLUSIVE and handles > 0)
        return blocked, queue.busy + self.connecting, handles


class Pool(SeenAlike):
    """Shows some readers of a manager as one.

    Args:
        name: of the reader.
        manager: has the members.
        chosen: whether a reader is a member; asked again with each new snapshot.
        chance: decides between equals.

    Attributes:
        name: likewise.
    """

    def __init__(
        self,
        name: str,
        manager: ResourceManager,
        chosen: Callable[[ReaderState], bool] = lambda reader: True,
        chance: random.Random | None = None,
    ) -> None:
        self.name = name
        self._manager = manager
        self._chosen = chosen
        self._chance = chance or random.Random()  # noqa: S311 - nothing is secret about it
        self._places: dict[str, _Place] = {}
        self._event_counter = 0
        self._seen = Snapshot(serial=-1)
        self._snapshot = Snapshot()
        self._changes = Changes()

    # ResourceManager

    @property
    def snapshot(self) -> Snapshot:
        """The one reader, as long as there are members."""
        self._look()
        return self._snapshot

    async def changed(self, serial: int) -> Snapshot:
        """Wait until the snapshot's serial is another one than ``serial``."""
        while self.snapshot.serial == serial:
            await self._news()
        return self.snapshot

    async def _news(self) -> None:
        """Wait until the manager has news, or others are members."""
        async with asyncio.TaskGroup() as tasks:
            waiting = [
                tasks.create_task(one) for one in (self._manager.changed(self._seen.serial), self._changes.wait())
            ]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in waiting:
                task.cancel()

    async def open(self, caller: Caller, patience: float | None = None) -> Context:
        """Open a context."""
        return _PoolContext(self, await self._manager.open(caller, patience))

    @property
    def members(self) -> list[ReaderState]:
        """The members, as they are known now."""
        self._look()
        return [place.state for place in self._places.values()]

    def place_of(self, member: str) -> int:
        """How many handles our programs have at a member."""
        return len(self._places[member].cards)

    # what is shown

    def _look(self) -> None:
        """Look at what is new."""
        if self._manager.snapshot is not self._seen:
            self._seen = self._manager.snapshot
            self._renew()

    def _renew(self) -> None:
        old, self._places = self._places, {}
        before = {name: place.state for name, place in old.items() if place.has_card}
        for reader in filter(self._chosen, self._seen.readers):
            known = self._places[reader.name] = old.get(reader.name) or _Place(reader)
            known.state = reader
        stayed = {
            name
            for name, state in before.items()
            if (place := self._places.get(name)) is not None
            and place.has_card
            and place.state.event_counter == state.event_counter
        }
        with_card = any(place.has_card for place in self._places.values())
        if bool(before) != with_card:
            self._event_counter += 1
        elif before and (not stayed or any(old[name].cards for name in before.keys() - stayed)):
            # For programs that have lost their card it is as if another one had been inserted, which can be used.
            self._event_counter += 2
        self._show()

    def _show(self) -> None:
        readers = (self._shown(),) if self._places else ()
        if readers != self._snapshot.readers or self._seen.troubles != self._snapshot.troubles:
            self._snapshot = self._snapshot.followed_by(readers, troubles=self._seen.troubles)

    def _shown(self) -> ReaderState:
        """The reader: like a member that our programs use; else like one that has a card; and free while any is."""
        places = self._places.values()
        like = max(places, key=lambda place: (bool(place.state.atr), place.has_card, bool(place.cards)))
        waits = next((place.state.use for place in places if _ours_wait(place.state)), None)
        usable = [place.state.sharing for place in places if place.has_card] or [0]
        free = [sharing for sharing in usable if sharing >= 0]
        return replace(
            like.state,
            name=self.name,
            event_counter=self._event_counter & 0xFFFF,
            sharing=sum(free) if free else SHARING_EXCLUSIVE,
            marks=None,
            outsiders=any(place.state.outsiders for place in places),
            use=waits,
            queue=None,
        )

    def choose_again(self) -> None:
        """Other readers may be members from now on."""
        self._seen = self._manager.snapshot
        self._renew()
        self._changes.announce()

    def look_again(self) -> None:
        """A handle has come or gone: what is shown may be like another member from now on."""
        if self._places:
            self._show()

    # where a connect goes

    async def choose(self, share: ShareMode, but: Collection[str]) -> _Place | None:
        """The member to connect to, None when there is none.

        Args:
            share: how.
            but: members that have been tried.
        """
        self._look()
        places = [
            place
            for name, place in self._places.items()
            if name not in but and (place.has_card or share is ShareMode.DIRECT)
        ]
        self._chance.shuffle(places)
        left = list(places)
        while len(left) > 1:
            asked = self._some(left, share)
            lengths = await _lengths(asked)
            if lengths:
                return min(lengths, key=lambda place: place.rank(lengths[place], share))
            left = [place for place in left if place not in asked]
        return next(iter(left or places), None)

    def _some(self, places: Sequence[_Place], share: ShareMode) -> Sequence[_Place]:
        """Those of them, in no order, that are asked."""
        if len(places) <= MOST_ASKED:
            return places
        looked_at = sorted(places[:MOST_LOOKED_AT], key=lambda place: place.rank(presumed(place.state), share))
        near = MOST_ASKED // 2
        return looked_at[:near] + self._chance.sample(looked_at[near:], MOST_ASKED - near)


def _ours_wait(state: ReaderState) -> bool:
    return state.use is not None and any(user.ours for user in state.use.waiting)


async def _lengths(places: Sequence[_Place]) -> dict[_Place, Queue]:
    """The queues of those members that answer in time; of fewer when one is found that nobody uses."""
    found: dict[_Place, Queue] = {}
    enough: Reply[None] = Reply()
    asked = [(place, place.ask()) for place in places]
    left = len(asked)

    def heard(place: _Place, reply: Reply[Queue]) -> None:
        nonlocal left
        left -= 1
        if reply.error is None:
            found[place] = reply.result()
        if not enough.done() and (not left or (found.get(place) == _EMPTY and not place.connecting)):
            enough.resolve(None)

    for place, reply in asked:
        reply.then(partial(heard, place))
    try:
        await within(enough, asyncio.get_running_loop().time() + ANSWER_TIME)
    except TimeoutError:
        for place, reply in asked:
            if not reply.done():
                place.silent = reply
    return dict(found)


class _PoolContext:
    """One SCARDCONTEXT: has handles at several members."""

    __slots__ = ("_cards", "_closed", "_context", "_pool")

    def __init__(self, pool: Pool, context: Context) -> None:
        self._pool = pool
        self._context = context
        self._cards: set[_PoolCard] = set()
        self._closed = False

    async def connect(self, reader: str, share: ShareMode, protocols: Protocol) -> Card:
        """Connect at the member with the shortest queue; at another one when it cannot be done there."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        if self._pool.snapshot.find(reader) is None:
            raise PcscError(ReturnCode.E_UNKNOWN_READER, reader)
        place, inner = await self.connect_somewhere(share, protocols)
        card = _PoolCard(self._pool, self, place, inner)
        self._cards.add(card)
        return card

    async def connect_somewhere(
        self, share: ShareMode, protocols: Protocol, but: Collection[str] = ()
    ) -> tuple[_Place, Card]:
        """A handle at a member.

        Args:
            share, protocols: see `Context.connect`.
            but: members where it is not to be.

        Raises:
            PcscError: ``E_NO_SMARTCARD`` when there is no other member; else what the first one of them has said.
        """
        tried = set(but)
        first: PcscError | None = None
        while (place := await self._pool.choose(share, tried)) is not None:
            place.connecting += 1
            try:
                return place, await self._context.connect(place.name, share, protocols)
            except PcscError as error:
                if error.code not in _ELSEWHERE:
                    raise
                first = first or error
                tried.add(place.name)
            finally:
                place.connecting -= 1
        raise first or PcscError(ReturnCode.E_NO_SMARTCARD)

    def discard(self, card: _PoolCard) -> None:
        """A handle is closed."""
        self._cards.discard(card)

    async def close(self) -> None:
        """Free every handle."""
        self._closed = True
        for card in tuple(self._cards):
            card.left()
        await self._context.close()


class _PoolCard:
    """A handle at a member, under the name of the pool's reader."""

    __slots__ = ("_card", "_closed", "_context", "_place", "_pool")

    def __init__(self, pool: Pool, context: _PoolContext, place: _Place, card: Card) -> None:
        self._pool = pool
        self._context = context
        self._closed = False
        self._is_at(place, card)

    def _is_at(self, place: _Place, card: Card) -> None:
        self._place = place
        self._card = card
        place.cards.add(self)
        self._pool.look_again()

    def left(self) -> None:
        """It is at no member any more."""
        self._closed = True
        self._place.cards.discard(self)
        self._context.discard(self)
        self._pool.look_again()

    @property
    def reader(self) -> str:
        """The name of the pool's reader."""
        return self._pool.name

    @property
    def protocol(self) -> Protocol:
        """The active protocol."""
        return self._card.protocol

    @property
    def counted(self) -> bool:
        """Whether the reader's `sharing` counts this handle."""
        return not self._closed and self._card.counted

    def begin(self) -> Reply[None]:
        """Begin a transaction."""
        return _at_member(self._card.begin())

    def end(self, disposition: Disposition) -> Reply[None]:
        """End a transaction."""
        return _at_member(self._card.end(disposition))

    def transmit(self, apdu: bytes, protocol: int) -> Reply[bytes]:
        """Send a command APDU."""
        return _at_member(self._card.transmit(apdu, protocol))

    async def reconnect(self, share: ShareMode, protocols: Protocol, initialization: Disposition) -> Protocol:
        """Renew the connection: at another member, if this one has no card any more."""
        try:
            return await self._card.reconnect(share, protocols, initialization)
        except PcscError as error:
            if self._closed or error.code not in _ELSEWHERE - {ReturnCode.E_SHARING_VIOLATION}:
                raise
            place, card = await self._context.connect_somewhere(share, protocols, {self._place.name})
        self._place.cards.discard(self)
        with suppress(PcscError):
            await self._card.disconnect(Disposition.LEAVE)
        self._is_at(place, card)
        return card.protocol

    async def control(self, code: int, data: bytes, max_response: int) -> bytes:
        """Send a control code to the reader."""
        return await _outcome(self._card.control(code, data, max_response))

    async def attribute(self, attribute: int) -> bytes:
        """A reader attribute."""
        return await _outcome(self._card.attribute(attribute))

    async def set_attribute(self, attribute: int, value: bytes) -> None:
        """Set a reader attribute."""
        await _outcome(self._card.set_attribute(attribute, value))

    async def status(self) -> None:
        """Raise what ``SCardStatus`` would return."""
        await _outcome(self._card.status())

    async def disconnect(self, disposition: Disposition) -> None:
        """Close the handle; with a member that has gone there is nothing left to close."""
        if self._closed:
            raise PcscError(ReturnCode.E_INVALID_HANDLE)
        self.left()
        try:
            await self._card.disconnect(disposition)
        except PcscError as error:
            if error.code not in _GONE:
                raise


def _at_member(reply: Reply[T]) -> Reply[T]:
    """What becomes of a call at the member."""
    return reply if reply.done() and reply.error is None else running(_outcome(reply))


async def _outcome(call: Awaitable[T]) -> T:
    try:
        return await call
    except PcscError as error:
        if error.code not in _GONE:
            raise
        # The reader of the pool is still there, so for programs it is the card that has gone.
        raise PcscError(ReturnCode.W_REMOVED_CARD, str(error)) from error

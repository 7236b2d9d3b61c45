"""The queue in front of one card: first come, first served, and nobody holds it for ever.

A caller *enters* to get the card and *leaves* to give it up. Whoever enters while the card is taken gets a
ticket, and tickets are served in their order. Four rules make this work with libpcsclite, which cannot wait long
because it holds process-wide locks meanwhile, and which sleeps 0.1 s before it asks again:

1. A caller waits at most its patience, then gets ``E_SHARING_VIOLATION``. Its ticket stays for ``ticket_life``:
   when it comes back within that time, it continues at its old place.
2. A card that becomes free goes to the first ticket whose caller is *present*, that is, waiting at this moment.
   An absent caller keeps its place in front of all that came later: it is overtaken only while it is absent.
3. An owner that is idle for ``max_idle`` while anybody holds a ticket is evicted.
4. So is one that has had the card for ``max_hold`` since anybody else wanted it, however busy it is. A command that is
   at the card by then is finished, and the owner has ``max_idle`` more, once, for what must follow a long command.

An owner can leave the card to its own kind only (`leave`): who belongs to it is served first, and nobody else for
``stay``. While others wait, all of them together have the card for ``max_hold``; each is an owner like any other.

Somebody may want the card who is in no queue of ours: a program on this computer, at pcscd. `outsiders` says that one
may be waiting; it counts like a ticket.

A caller waits in one place at a time. All times come from the event loop's clock. No method here talks to a reader.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from cardferry.pcsc.errors import PcscError, ReturnCode

#: Whether a caller is of somebody's kind.
Kind = Callable[[Hashable], bool]

#: s by which a timer may be early: loops count in ms, or round.
_TICK: Final = 0.002


@dataclass(slots=True, eq=False)
class _Ticket:
    """A place in the queue. ``granted`` is set while its caller is present; ``kept_until`` counts while it is not."""

    caller: Hashable
    since: float
    granted: asyncio.Future[None] | None = None
    kept_until: float = 0.0

    def present(self) -> bool:
        return self.granted is not None and not self.granted.done()

    def alive(self, now: float) -> bool:
        return self.granted is not None or self.kept_until > now


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting caller, for ``status``: since when, on the event loop's clock, in s."""

    caller: Hashable
    since: float


class Turns:
    """Decides whose turn it is.

    Args:
        max_idle: s of idleness after which a waited-for owner is evicted.
        max_hold: s after which one is evicted that is not idle.
        ticket_life: s for which an absent caller's place is kept.
        stay: s for which the card is kept for those of an owner's kind.
        evict: called with the owner, and with words why, to follow its name. It must see to it that the owner loses the
            card by `hand_over` or `leave`; an owner that keeps the card is looked at again when the next caller
            comes.

    Attributes:
        owner: whose turn it is, None when the card is free.
        owned_since: since when, on the event loop's clock, in s.
        wanted_since: when the owner first asked for it.
        kept_by: who has left the card to its own kind, while none of them has it and nobody else can get it.
        moved: called, if it is set, when somebody gets the card, gives it up, or begins to wait.
        ended: called, if it is set, with an owner that gives the card up or loses it, and the s that it has waited for
            it and had it.
    """

    def __init__(
        self, max_idle: float, max_hold: float, ticket_life: float, stay: float, evict: Callable[[Hashable, str], None]
    ) -> None:
        self._max_idle = max_idle
        self._max_hold = max_hold
        self._ticket_life = ticket_life
        self._stay = stay
        self._evict = evict
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[Hashable, _Ticket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._last_used = 0.0
        #: When the owner's time is over; None while nobody else has wanted the card since it is the owner's.
        self._hold_end: float | None = None
        #: It was, and the owner has been given a little more.
        self._extended = False
        #: That is over, too, and the owner gets nothing done any more.
        self._overdue = False
        self._outsiders = False
        self.owner: Hashable | None = None
        self.owned_since = self.wanted_since = 0.0
        self.kept_by: Hashable | None = None
        #: Who belongs to it.
        self._kind: Kind | None = None
        self._kept: asyncio.TimerHandle | None = None
        #: For whom it was kept last, until somebody else has had it.
        self._lately: Kind | None = None
        #: When it is kept for them no more; None while nobody else wants it.
        self._kept_end: float | None = None
        self.moved: Callable[[], None] | None = None
        self.ended: Callable[[Hashable, float, float], None] | None = None

    def take_free(self, caller: Hashable) -> bool:
        """`enter` when nobody has the card; whether it is the caller's now, or was."""
        owner = self.owner
        if owner is None and self._free_for(caller):
            self._take(caller)
            return True
        return owner is caller

    async def enter(self, caller: Hashable, patience: float | None) -> None:
        """Wait until the card is the caller's.

        Args:
            caller: who asks; must not own the card already.
            patience: s to wait at most, None for ever.

        Raises:
            PcscError: ``E_SHARING_VIOLATION`` when patience ran out; the place is kept for a while.
            PcscError: ``E_CANCELLED`` when `drop` was called meanwhile.
            RuntimeError: the caller waits already.
        """
        if self.owner is None and self._free_for(caller):
            self._take(caller)
            return
        ticket = self._ticket(caller)
        if patience is not None and patience <= 0:
            self._keep(ticket)
            raise _impatient()
        await self._wait(ticket, patience)

    def _free_for(self, caller: Hashable) -> bool:
        return self._kind is None or self._kind(caller)

    def _take(self, caller: Hashable) -> None:
        """The card is free for it. Then no such caller is present: `leave` would have given the card to it."""
        ticket = self._tickets.pop(caller, None) if self._tickets else None
        self._grant(caller)
        if ticket is not None and ticket.alive(self.owned_since):
            self.wanted_since = ticket.since
        if self._tickets:
            self._watch()

    def _ticket(self, caller: Hashable) -> _Ticket:
        now = self._loop.time()
        ticket = self._tickets.get(caller)
        if ticket is not None and ticket.granted is not None:
            raise RuntimeError("a caller waits in one place at a time")
        if ticket is None or not ticket.alive(now):
            self._tickets.pop(caller, None)
            ticket = self._tickets[caller] = _Ticket(caller, now)
            if self.moved is not None:
                self.moved()
        return ticket

    async def _wait(self, ticket: _Ticket, patience: float | None) -> None:
        granted = ticket.granted = self._loop.create_future()
        timer = None if patience is None else self._loop.call_later(patience, self._give_up, ticket, granted)
        self._watch()
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled() and granted.exception() is None:
                self.leave(ticket.caller)  # the turn and the cancellation came at the same moment
            elif self._tickets.get(ticket.caller) is ticket:
                del self._tickets[ticket.caller]
            raise
        finally:
            ticket.granted = None
            if timer is not None:
                timer.cancel()

    def _give_up(self, ticket: _Ticket, granted: asyncio.Future[None]) -> None:
        if not granted.done():
            self._keep(ticket)
            granted.set_exception(_impatient())

    def _keep(self, ticket: _Ticket) -> None:
        ticket.granted = None
        ticket.kept_until = self._loop.time() + self._ticket_life
        self._watch()

    def _grant(self, caller: Hashable) -> None:
        self.owner = caller
        self.owned_since = self.wanted_since = self._last_used = self._loop.time()
        self._busy = self._outsiders = False
        if self._kind is not None:
            self._keep_no_more()
        self._start_hold()
        if self.moved is not None:
            self.moved()

    def _start_hold(self) -> None:
        self._hold_end = None
        self._extended = self._overdue = False

    def leave(self, caller: Hashable, kind: Kind | None = None) -> None:
        """Give the card up, if the caller owns it; the first ticket whose caller is present gets it.

        Args:
            caller: who has had it.
            kind: whether somebody is of the caller's kind; then all others wait until none of these has wanted the
                card for ``stay``, or these have had it for ``max_hold`` since one of the others was seen to wait. None
                when anybody may have it.
        """
        if self.owner is not caller:
            return
        self._tell_ended(caller)
        self.owner = None
        if self._lately is None or not self._lately(caller):
            self._lately, self._kept_end = kind, None
        if kind is not None and self._may_keep(kind):
            self.kept_by, self._kind = caller, kind
            self._kept = self._loop.call_later(self._stay, self.keep_no_more)
        if self.moved is not None:
            self.moved()
        self._serve()

    def _may_keep(self, kind: Kind) -> bool:
        now = self._loop.time()
        if all(kind(ticket.caller) for ticket in self._tickets.values() if ticket.alive(now)):
            self._kept_end = None
            return True
        if self._kept_end is None:
            self._kept_end = now + self._max_hold
        return now < self._kept_end

    def keep_no_more(self) -> None:
        """Whoever has left the card to its own kind does so no more: anybody may have it."""
        if self._kind is not None:
            self._keep_no_more()
            if self.moved is not None:
                self.moved()
            self._serve()

    def look_again(self, callers: Iterable[Hashable]) -> None:
        """Callers have gone, and these are left: the card is kept only if one of them is of the kind."""
        if self._kind is not None and not any(map(self._kind, callers)):
            self.keep_no_more()

    def _keep_no_more(self) -> None:
        self.kept_by = self._kind = None
        if self._kept is not None:
            self._kept.cancel()
            self._kept = None

    def _serve(self) -> None:
        for ticket in self._tickets.values():
            if ticket.present() and ticket.granted is not None and self._free_for(ticket.caller):
                del self._tickets[ticket.caller]
                self._grant(ticket.caller)
                self.wanted_since = ticket.since
                ticket.granted.set_result(None)
                self._watch()
                return

    def hand_over(self, owner: Hashable, successor: Hashable) -> bool:
        """Make somebody else the owner, if ``owner`` still is; the queue does not move."""
        if self.owner is not owner:
            return False
        self._tell_ended(owner)
        self._grant(successor)
        return True

    def _tell_ended(self, owner: Hashable) -> None:
        if self.ended is not None:
            since = self.owned_since
            self.ended(owner, since - self.wanted_since, self._loop.time() - since)

    def keep_first(self, caller: Hashable, since: float) -> None:
        """The caller had its turn but could not use it: it gets the *first* place in the queue for a while.

        Args:
            since: when it first asked for the card, see `wanted_since`.
        """
        ticket = _Ticket(caller, since, kept_until=self._loop.time() + self._ticket_life)
        self._tickets = {caller: ticket, **self._tickets}

    def drop(self, caller: Hashable) -> None:
        """The caller will not come back: its place is given up, and a wait ends with ``E_CANCELLED``."""
        ticket = self._tickets.pop(caller, None)
        if ticket is not None and ticket.granted is not None and not ticket.granted.done():
            ticket.granted.set_exception(PcscError(ReturnCode.E_CANCELLED, "the context was closed"))

    def busy(self, busy: bool) -> None:
        """The owner's command is on its way to the card (True), or has come back (False): it is not idle meanwhile."""
        self._busy = busy
        if not busy:
            self._last_used = self._loop.time()
            if self._tickets or self._outsiders:
                if self._hold_end is not None and self._last_used >= self._hold_end:
                    self._outlasted()
                self._watch()

    def _outlasted(self) -> None:
        """A command was at the card when the owner's time was over."""
        if self._extended:
            self._overdue = True
        else:
            self._extended = True
            self._hold_end = self._last_used + self._max_idle

    def adjust(self, max_idle: float, max_hold: float) -> None:
        """Let other bounds apply from now on, also to the owner."""
        if self._hold_end is not None:
            self._hold_end += max_hold - self._max_hold
        self._max_idle, self._max_hold = max_idle, max_hold
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._watch()

    def begun(self) -> None:
        """The owner can use the card only from now on: what it waited for until now is not counted as its time."""
        self._start_hold()
        self._watch()

    def owner_yields(self) -> bool:
        """Whether who waits for the card would get it at once. Who asks wants it, but does not wait otherwise."""
        now = self._loop.time()
        if self._hold_end is None:
            self._hold_end = now + self._max_hold
        return now >= self._hold_end or (not self._busy and now >= self._last_used + self._max_idle)

    def outsiders(self, waiting: bool) -> None:
        """Whether somebody may be waiting for the owner who is in no queue of ours; forgotten with the owner."""
        self._outsiders = waiting
        self._watch()

    def end_overdue(self) -> None:
        """Evict an owner whose time is over before it does the next thing with the card."""
        if self._overdue:
            self._check()

    @property
    def waiting(self) -> list[Waiting]:
        """Everybody with a place in the queue, in order."""
        self._forget_expired()
        return [Waiting(ticket.caller, ticket.since) for ticket in self._tickets.values()]

    def _forget_expired(self) -> None:
        now = self._loop.time()
        for ticket in [ticket for ticket in self._tickets.values() if not ticket.alive(now)]:
            del self._tickets[ticket.caller]

    def _watch(self) -> None:
        if self.owner is None or not (self._tickets or self._outsiders):
            return
        if self._hold_end is None:
            self._hold_end = self._loop.time() + self._max_hold
        # One timer serves many owners: it is cheaper to look again than to set a new one at every hand-over.
        if self._timer is None:
            self._timer = self._loop.call_at(min(self._last_used + self._max_idle, self._hold_end), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._check()

    def _check(self) -> None:
        """Evict the owner if it is time. A command that is at the card is waited for: `busy` looks again then."""
        self._forget_expired()
        self._overdue = False
        if self.owner is None or self._busy or not (self._tickets or self._outsiders):
            return
        now = self._loop.time() + _TICK
        if now >= self._last_used + self._max_idle:
            self._evict(self.owner, f"idle for {self._max_idle:g} s")
        elif self._hold_end is not None and now >= self._hold_end:
            self._evict(self.owner, f"has had the card for {self._max_hold:g} s")
        else:
            self._watch()


def _impatient() -> PcscError:
    return PcscError(ReturnCode.E_SHARING_VIOLATION, "waiting for a turn")

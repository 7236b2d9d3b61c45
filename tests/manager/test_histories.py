"""Random histories of many programs at one reader, in virtual time, held against what PC/SC promises.

The model knows no queue and no timer. It knows what each program was told, what the card has seen, and these promises:

- *alone*: a transaction whose end succeeded had the card to itself, from its begin on, and no reset came between;
- *told*: no handle uses the card across a reset, removal or loss of power without having been told of it first, except
  across a reset that had been asked for before the handle was opened, and one by others that came before its first use;
- *once*: a command that was answered was executed once, one that was refused or not answered never twice;
- *in order*: nobody's turn comes before that of somebody who has been waiting for longer;
- *bounded*: a call with patience is answered within it; after a long silence nobody waits any more;
- *honest*: a warning about a reset or removal is only given when there was one;
- *counted*: the snapshot tells how many handles there are, and each time that any is marked;
- *clean*: the reader is called once at a time, claimed once at a time; when all have gone, nothing is left.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from cardferry.manager import ExclusivePolicy, Settings
from cardferry.manager.card import LocalCard
from cardferry.pcsc.constants import Disposition, Protocol, ShareMode
from cardferry.pcsc.errors import PcscError, ReturnCode
from tests.manager.desk import (
    LEAVE,
    LOST,
    POWERED,
    READER,
    RESET_BY_OTHERS,
    SHARED,
    T1,
    Call,
    Client,
    Desk,
    FakeReader,
)
from tests.virtual_time import VirtualTimeLoop, quiet

#: Times, in s.
MAX_IDLE = 30.0
SLOWEST = 2.0
CONNECT_PATIENCE = 60.0
#: How patient programs are: as through the pcsc-lite front, without limit, not at all.
PATIENCE = st.sampled_from([1.0, None, 0.0])
#: When the library asks again.
RETRY = 0.1
#: What a call with patience may take on top of it: commands that are being executed are waited for.
GRACE = 3 * SLOWEST


@dataclass(eq=False)
class Handle:
    """What the model knows of a handle.

    Attributes:
        renewed: the card's history at the last connect or reconnect: what came before is known to the program.
        resets: how many were asked for before the handle was opened, and may still come: it is not told of those.
        transactions: the card's history at each begin.
        in_order_at: the number of marks at its reader when it was in order.
        evicted: it was warned while it had a transaction, which is then lost; so it is until it reconnects.
    """

    card: LocalCard
    reader: FakeReader
    renewed: int
    transactions: list[int] = field(default_factory=list)
    evicted: bool = False
    resets: int = 0
    in_order_at: int | None = None


@dataclass(eq=False)
class Program:
    """What the model knows of a context.

    Attributes:
        call: what it is in the middle of.
        place: its place in the order of those who wait, None when it does not wait.
        places: by handle: the place, and until when it is kept for a retry.
    """

    client: Client
    patience: float | None
    handles: list[Handle] = field(default_factory=list)
    call: Call[Any] | None = None
    asked: float = 0.0
    limit: float | None = None
    place: int | None = None
    places: dict[object, tuple[int, float]] = field(default_factory=dict)
    closed: bool = False


def has_idle_handles(machine: Histories) -> bool:
    return any(program.handles for program in machine.idle())


class Histories(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = VirtualTimeLoop()
        self.places = itertools.count()
        self.numbers = itertools.count()
        self.programs: list[Program] = []
        #: By when there must have been what a handle was warned of, in which history, and from where on.
        self.warnings: list[tuple[float, FakeReader, int]] = []
        self.card_in = True
        self.plugged = True
        self.local = False
        self.resets = 0

    # The stage

    @initialize(policy=st.sampled_from(ExclusivePolicy), patience=st.lists(PATIENCE, min_size=2, max_size=5))
    def open_the_desk(self, policy: ExclusivePolicy, patience: list[float | None]) -> None:
        self.policy = policy
        self.leave = asyncio.Event()
        self.session = self.loop.create_task(self._session(Settings(MAX_IDLE, exclusive=policy)))
        self.run()
        for each in patience:
            self.program_starts(each, SHARED)

    async def _session(self, bounds: Settings) -> None:
        async with Desk(bounds) as self.desk:
            self.readers = [self.desk.reader]
            await self.leave.wait()

    def run(self, seconds: float = 0.0, action: Callable[[], None] = lambda: None) -> None:
        """Do something, and let everything go on that can, for so long."""

        async def pass_time() -> None:
            action()
            if seconds:
                await asyncio.sleep(seconds)
            await quiet()

        self.loop.run_until_complete(pass_time())

    def teardown(self) -> None:
        try:
            if hasattr(self, "session"):
                self._end()
        finally:
            self.loop.close()

    def _end(self) -> None:
        if self.local:
            self.desk.reader.local_end()
        for program in self.programs:
            self.loop.run_until_complete(program.client.context.close())
        self.run(2 * GRACE)
        self.honest()
        for program in self.programs:
            assert program.call is None or program.call.done, "lost reply"
        self.leave.set()
        self.loop.run_until_complete(self.session)
        for reader in self.readers:
            assert reader.misuse == []
        assert self.loop.problems == []

    # Choosing

    def idle(self) -> list[Program]:
        return [program for program in self.programs if not program.closed and program.call is None]

    def pick_handle(self, number: int) -> tuple[Program, Handle] | None:
        pairs = [(program, handle) for program in self.idle() for handle in program.handles]
        return pairs[number % len(pairs)] if pairs else None

    def start(self, program: Program, key: object, work: Awaitable[object], limit: float | None) -> None:
        now = self.loop.time()
        place, kept_until = program.places.get(key, (0, 0.0))
        program.place = place if now < kept_until else next(self.places)
        program.asked, program.limit = now, limit

        def begin() -> None:
            program.call = self.desk.start(self._followed(program, key, work))

        self.run(action=begin)

    async def _followed(self, program: Program, key: object, work: Awaitable[object]) -> None:
        assert program.place is not None
        place = program.place
        program.places.pop(key, None)
        try:
            await work
        except PcscError:
            tickets = self.desk.slot.turns._tickets if self.plugged else {}
            if isinstance(key, Handle) and key.card in tickets:
                program.places[key] = place, self.loop.time() + 1.0
            raise
        finally:
            program.call = program.place = None

    # What programs do

    @precondition(lambda self: len(self.programs) < 8)
    @rule(patience=PATIENCE, share=st.sampled_from([*ShareMode, SHARED, SHARED]))
    def program_starts(self, patience: float | None, share: ShareMode) -> None:
        client = self.loop.run_until_complete(
            self.desk.client(f"program {len(self.programs)}", None, patience=patience)
        )
        program = Program(client, patience)
        self.programs.append(program)
        self._connect(program, share, T1)

    @rule(number=st.integers(0, 20), share=st.sampled_from(ShareMode), protocols=st.sampled_from([1, 2, 3, 4, 7]))
    def connect(self, number: int, share: ShareMode, protocols: int) -> None:
        if programs := self.idle():
            self._connect(programs[number % len(programs)], share, Protocol(protocols))

    def _connect(self, program: Program, share: ShareMode, protocols: Protocol) -> None:
        reader = self.desk.reader

        async def work() -> None:
            card = await program.client.context.connect(READER, share, protocols)
            program.handles.append(Handle(card, reader, len(reader.history), resets=self.resets))

        limit = None if program.patience is None else CONNECT_PATIENCE
        self.start(program, object(), work(), limit)

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50))
    def begin(self, number: int) -> None:
        if picked := self.pick_handle(number):
            program, handle = picked

            async def work() -> None:
                await self.warning(handle, handle.card.begin())
                handle.transactions.append(len(handle.reader.history))
                self.check_order(program, handle)

            self.start(program, handle, work(), program.patience)

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50), commands=st.integers(0, 3), slow=st.booleans())
    def transaction(self, number: int, commands: int, slow: bool) -> None:
        """A whole one, with a library that repeats what is refused, and a program that takes its time."""
        if picked := self.pick_handle(number):
            program, handle = picked
            self.start(program, handle, self._transaction(program, handle, commands, slow), None)

    async def _transaction(self, program: Program, handle: Handle, commands: int, slow: bool) -> None:
        while True:
            try:
                await self.warning(handle, handle.card.begin())
                break
            except PcscError as error:
                if error.code is not ReturnCode.E_SHARING_VIOLATION or program.closed or not self.plugged:
                    raise
                await asyncio.sleep(RETRY)
        self.check_order(program, handle)
        program.place = None
        handle.transactions.append(len(handle.reader.history))
        for _ in range(commands):
            apdu = self.new_apdu(handle)
            await self.warning(handle, handle.card.transmit(apdu, T1))
            self.check_told(handle, apdu)
            if slow:
                await asyncio.sleep(SLOWEST)
        await self.warning(handle, handle.card.end(LEAVE))
        self.check_alone(handle, handle.transactions.pop(), LEAVE)

    def new_apdu(self, handle: Handle) -> bytes:
        return b"%d %d" % (id(handle), next(self.numbers))

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50), disposition=st.sampled_from([LEAVE, LEAVE, *Disposition]))
    def end(self, number: int, disposition: Disposition) -> None:
        if picked := self.pick_handle(number):
            program, handle = picked

            async def work() -> None:
                await self.warning(handle, handle.card.end(disposition))
                if handle.transactions:  # an exclusive connection that came by reconnect inside one has more
                    self.check_alone(handle, handle.transactions.pop(), disposition)

            self.start(program, handle, work(), None)

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50), raw=st.booleans(), slow=st.booleans())
    def transmit(self, number: int, raw: bool, slow: bool) -> None:
        if picked := self.pick_handle(number):
            program, handle = picked
            apdu = self.new_apdu(handle)

            async def work() -> None:
                protocol = Protocol.RAW if raw else T1
                await self.warning(handle, handle.card.transmit(apdu, protocol))
                self.check_told(handle, apdu)

            if slow:
                self.desk.reader.takes["transmit"] = SLOWEST
            self.start(program, handle, work(), program.patience)
            self.desk.reader.takes.pop("transmit", None)

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50), call=st.sampled_from(["control", "attribute", "set_attribute", "status"]))
    def other_call(self, number: int, call: str) -> None:
        if picked := self.pick_handle(number):
            program, handle = picked
            card = handle.card
            works: dict[str, Callable[[], Awaitable[object]]] = {
                "control": lambda: card.control(1, b"", 1),
                "attribute": lambda: card.attribute(1),
                "set_attribute": lambda: card.set_attribute(1, b""),
                "status": card.status,
            }
            self.start(program, handle, self.warning(handle, works[call]()), program.patience)

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50), share=st.sampled_from(ShareMode), how=st.sampled_from([0, 1, 2]))
    def reconnect(self, number: int, share: ShareMode, how: int) -> None:
        if picked := self.pick_handle(number):
            program, handle = picked

            async def work() -> None:
                await self.resetting(handle.card.reconnect(share, T1, Disposition(how)))
                handle.renewed, handle.evicted, handle.resets = len(handle.reader.history), False, 0

            self.start(program, handle, work(), program.patience)

    @precondition(has_idle_handles)
    @rule(number=st.integers(0, 50), disposition=st.sampled_from(Disposition))
    def disconnect(self, number: int, disposition: Disposition) -> None:
        if picked := self.pick_handle(number):
            program, handle = picked
            program.handles.remove(handle)
            limit = None if program.patience is None else CONNECT_PATIENCE
            self.start(program, handle, self.resetting(handle.card.disconnect(disposition)), limit)

    @rule(number=st.integers(0, 20))
    def program_dies(self, number: int) -> None:
        alive = [program for program in self.programs if not program.closed]
        if alive:
            program = alive[number % len(alive)]
            program.closed = True
            program.handles.clear()
            self.loop.run_until_complete(program.client.context.close())
            self.run()
            if number % 2:
                self.programs.remove(program)

    @precondition(lambda self: any(program.call is not None for program in self.programs))
    @rule(number=st.integers(0, 20))
    def call_is_cancelled(self, number: int) -> None:
        calls = [program.call for program in self.programs if program.call is not None]
        if calls:
            self.run(action=calls[number % len(calls)].cancel)

    # What happens to them

    @rule(seconds=st.sampled_from([0.05, 0.1, 0.5, 1.0, 5.0, MAX_IDLE + 1]))
    def time_passes(self, seconds: float) -> None:
        self.run(seconds)

    @rule()
    def silence(self) -> None:
        """Nobody does anything for very long: then everybody who waits has had his turn."""
        if self.local:
            self.desk.reader.local_end()
            self.local = False
        waiting = [program for program in self.programs if program.call is not None]
        self.run((len(waiting) + 1) * (MAX_IDLE + GRACE))
        honoured = self.policy is ExclusivePolicy.HONOUR and self.plugged and self.desk.sharing == -1
        for program in waiting:
            assert program.call is None or honoured, "starved"

    @rule(what=st.sampled_from(["card", "card", "reader", "local program", "reset by others", "failure"]))
    def something_happens(self, what: str) -> None:
        reader = self.desk.reader
        if what == "card" and self.plugged:
            self.run(action=self.desk.remove if self.card_in else self.desk.insert)
            self.card_in = not self.card_in
        elif what == "reader" and not self.local:
            self._move_reader()
        elif what == "local program":
            self._local_program(reader)
        elif what == "reset by others" and self.card_in and self.plugged:
            reader.reset_by_others = True

    @rule(call=st.sampled_from(["transmit", "claim", "release", "connect SHARED", "reset RESET"]))
    def reader_will_fail(self, call: str) -> None:
        self.desk.reader.fails[call] = PcscError(ReturnCode.F_COMM_ERROR)

    def _move_reader(self) -> None:
        if self.plugged:
            self.run(action=self.desk.unplug)
            self.desk.reader.fails.clear()
        else:
            reader = self.desk.reader = FakeReader()
            self.readers.append(reader)
            self.run(action=lambda: self.desk.manager.reader_added(reader))
            self.run(action=self.desk.insert)
            self.card_in = True
        self.plugged = not self.plugged

    def _local_program(self, reader: FakeReader) -> None:
        if self.local:
            self.run(action=reader.local_end)
            self.local = False
        elif self.plugged and not reader.held() and reader.idle:
            self.run(action=reader.local_begin)
            self.local = True

    # Promises

    async def warning(self, handle: Handle, work: Awaitable[object]) -> None:
        """A call that may be warned of a reset or removal."""
        try:
            await work
        except PcscError as error:
            if error.code in (ReturnCode.W_RESET_CARD, ReturnCode.W_REMOVED_CARD):
                handle.evicted |= bool(handle.transactions)
                if not handle.evicted:
                    self.warnings.append((self.loop.time() + GRACE, handle.reader, handle.renewed))
                handle.transactions.clear()
            raise

    async def resetting(self, work: Awaitable[object]) -> None:
        """A call that may reset the card when its turn comes."""
        self.resets += 1
        try:
            await work
        finally:
            self.resets -= 1

    def check_alone(self, handle: Handle, begun: int, disposition: Disposition) -> None:
        """*alone*"""
        since = handle.reader.history[begun:]
        if disposition in (Disposition.RESET, Disposition.UNPOWER):
            assert since.pop() in (LOST, POWERED)
        mine = b"%d " % id(handle)
        assert all(isinstance(seen, str) or seen.startswith(mine) for seen in since), "somebody else was inside"

    def check_told(self, handle: Handle, apdu: bytes) -> None:
        """*told*, *once*"""
        history = handle.reader.history
        assert history.count(apdu) == 1
        since = history[handle.renewed : history.index(apdu)]
        assert since.count(LOST) <= handle.resets, "not told of a reset"
        mine = b"%d " % id(handle)
        used = [isinstance(seen, bytes) and seen.startswith(mine) for seen in since]
        if any(used):
            assert RESET_BY_OTHERS not in since[used.index(True) :], "not told of a reset by others"

    def check_order(self, lucky: Program, handle: Handle) -> None:
        """*in order*, at the moment when somebody's turn has come"""
        if handle.card.state.lock_count > 1:
            return  # it was its turn before
        assert lucky.place is not None
        tickets = self.desk.slot.turns._tickets
        for program in self.programs:
            if program is not lucky and program.place is not None:
                waits = any(
                    card.state in tickets and tickets[card.state].present() for card in program.client.context.cards
                )
                assert not waits or program.place > lucky.place, "overtaken"

    @invariant()
    def bounded(self) -> None:
        now = self.loop.time()
        for program in self.programs:
            if program.call is not None and program.limit is not None and not program.call.done:
                assert now - program.asked <= program.limit + GRACE, "a call outlives its patience"

    @invariant()
    def honest(self) -> None:
        """The warning comes at once; the reset itself may have to wait for a command that is being executed."""
        for warning in self.warnings:
            due, reader, renewed = warning
            if due < self.loop.time():
                since = reader.history[renewed:]
                assert {LOST, POWERED, RESET_BY_OTHERS} & set(since), "warned of nothing"
        self.warnings = [warning for warning in self.warnings if warning[0] >= self.loop.time()]

    @invariant()
    def clean(self) -> None:
        for reader in getattr(self, "readers", []):
            assert reader.misuse == []
        assert self.loop.problems == []

    @invariant()
    def nothing_is_executed_twice(self) -> None:
        if self.programs:
            executed = [seen for seen in self.desk.reader.history if isinstance(seen, bytes)]
            assert len(executed) == len(set(executed))

    @invariant()
    def marks_are_counted(self) -> None:
        """Others answer status without asking, as long as the number of marks says that nobody was marked."""
        for program in self.programs:
            for handle in program.handles:
                slot = handle.card.slot
                marks = slot.state.marks
                if handle.card.state.happened is None and program.call is None:
                    handle.in_order_at = marks
                elif handle.card.state.happened is not None and not slot.device.gone:
                    assert handle.in_order_at != marks, "marked in secret"

    @invariant()
    def counted(self) -> None:
        """Applications see as many handles as there are."""
        if not self.programs or not self.plugged or any(program.call is not None for program in self.programs):
            return
        slot = self.desk.slot
        known = {
            handle.card.state for program in self.programs for handle in program.handles if handle.card.slot is slot
        }
        assert slot.handles == known
        assert self.desk.sharing == (-1 if slot.exclusive_owner else len(known - slot.dispossessed))


def _play(examples: int, steps: int) -> None:
    logging.disable(logging.CRITICAL)
    try:
        run_state_machine_as_test(
            Histories,
            settings=settings(
                max_examples=examples,
                stateful_step_count=steps,
                deadline=None,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        logging.disable(logging.NOTSET)


def test_random_histories_keep_all_promises() -> None:
    _play(300, 40)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_thousands_of_random_histories_keep_all_promises() -> None:
    _play(5000, 80)

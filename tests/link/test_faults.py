"""A bug behind one guest, or one program, ends that and nothing else: an exception at every boundary of the link.

Every function of the classes below raises once, while mallory's program does all that programs do, loses its pipe, and
leaves. Alice's goes on with what it had, the next guest gets the card, and the log has the traceback.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable, Iterable
from functools import wraps
from typing import Any

import pytest

from cardferry.link import Guest, LinkState
from cardferry.link.channel import Channel, guarded
from cardferry.link.facts import ReaderFacts
from cardferry.link.guest_card import GuestCard
from cardferry.link.guest_context import GuestContext
from cardferry.link.guest_foreseen import Foreseen
from cardferry.link.guest_readers import ReadersReceiver
from cardferry.link.guest_session import GuestSession
from cardferry.link.host_card import HostCard
from cardferry.link.host_lane import Lane
from cardferry.link.host_pace import Pace
from cardferry.link.host_queue import JobQueue
from cardferry.link.host_readers import ReadersSender
from cardferry.link.host_run_ahead import RunAhead
from cardferry.link.host_server import LinkServer
from cardferry.link.host_session import HostSession
from cardferry.manager.card import LocalCard
from cardferry.manager.context import LocalContext
from cardferry.pcsc.constants import GET_FEATURE_REQUEST, Attribute
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.reply import replying, straight
from cardferry.wire.link.frames import FrameReader
from cardferry.wire.link.greeting import Bye, Reason
from cardferry.wire.link.session import Session
from tests.callers import somebody
from tests.link.cards import COUNT, FileCard
from tests.link.desk import ALICE, ANY, LEAVE, READER, RESET, SHARED, T1, Desk, becomes, raises
from tests.link.test_direct import Direct, linked
from tests.link.test_host_run_ahead import CONTENT, GET_DATA, SELECT, get_response, read

MALLORY = somebody("mallory", 1000, 3)
log = logging.getLogger(__name__)

DELAY = 0.01
INJECTED = "injected"

#: What cleans up, or stops a bug: with one in its first line, what it is for stays undone.
CLEANS_UP: tuple[str, ...] = (
    "ended",
    "close",
    "guarded",
    "_guarded",
    "fault",
    "_finish",
    "_is_finished",
    "_hang_up",
    "left",
    "_next_pass",
    "_stepped",
    "attach",
)

#: Where a bug is behind one guest at the host.
AT_THE_HOST: tuple[type, ...] = (Channel, Session, FrameReader, HostSession, Lane, HostCard, RunAhead, ReadersSender)
AT_THE_HOST += (JobQueue, Pace, LocalContext, LocalCard)
#: Where it is behind one link at a guest; and where behind one of its programs.
AT_THE_GUEST: tuple[type, ...] = (Channel, Session, FrameReader, GuestSession, ReadersReceiver, ReaderFacts)
BEHIND_A_PROGRAM: tuple[type, ...] = (GuestContext, GuestCard, Foreseen)


def functions(kinds: Iterable[type]) -> list[tuple[type, str]]:
    return [
        (kind, name)
        for kind in kinds
        for name, value in vars(kind).items()
        if inspect.isfunction(value) and not name.startswith("__") and name not in CLEANS_UP
    ]


EVERYWHERE = functions((*AT_THE_HOST, *AT_THE_GUEST, *BEHIND_A_PROGRAM))


class Injection:
    """Lets one function raise, the first time that it is called for whom it may concern.

    Attributes:
        concerns: whether an object is among those.
        reached: whether it was called.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> None:
        self.concerns: Callable[[object], bool] = lambda one: False
        self.reached = False
        outside = getattr(kind, name)
        function = getattr(outside, "__wrapped__", outside)  # what is guarded raises inside of that
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def later(one: object, *args: Any, **named: Any) -> Any:
                self._raise(one)
                return await function(one, *args, **named)

            plain = not inspect.iscoroutinefunction(outside)
            monkeypatch.setattr(kind, name, replying(later) if plain else later)
        else:

            @wraps(function)
            def now(one: object, *args: Any, **named: Any) -> Any:
                self._raise(one)
                return function(one, *args, **named)

            wrapped = guarded(now) if kind is Channel else straight(now)
            monkeypatch.setattr(kind, name, now if function is outside else wrapped)
        for table in ("_STRAIGHT", "_IN_TASK", "_HANDLERS"):
            entries = getattr(kind, table, {})
            changed = {key: getattr(kind, name) if value is outside else value for key, value in entries.items()}
            monkeypatch.setattr(kind, table, changed, raising=False)

    def _raise(self, one: object) -> None:
        if not self.reached and self.concerns(one):
            self.reached = True
            raise RuntimeError(INJECTED)


async def _try(call: Awaitable[Any]) -> Any:
    """What a frontend does: an error, whatever it is, is that call's."""
    try:
        async with asyncio.timeout(100):
            return await call
    except PcscError:
        return None
    except RuntimeError:
        log.exception("a bug behind a call")
        return None


async def everything(guest: Guest, cut: Callable[[], None]) -> None:
    """All that a program does with a card, and a break."""
    context = await _try(guest.open(MALLORY, 1.0))
    other = await _try(guest.open(MALLORY, 1.0))
    card = await _try(context.connect(READER, SHARED, ANY))
    rival = await _try(other.connect(READER, SHARED, ANY))
    if card is None:
        return
    await _try(card.status())
    await _try(card.control(GET_FEATURE_REQUEST, b"", 264))
    await _try(card.attribute(Attribute.VENDOR_NAME))
    await _try(card.set_attribute(Attribute.VENDOR_NAME, b"x"))
    await _try(card.begin())
    for command in (SELECT, *(read(offset, 200) for offset in range(0, 600, 200)), GET_DATA, get_response(100), COUNT):
        await _try(card.transmit(command, T1))
    await asyncio.sleep(3 * DELAY)
    if rival is not None:
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(_try(rival.transmit(COUNT, T1)))
            behind = tasks.create_task(_try(rival.transmit(COUNT, T1)))
            await asyncio.sleep(3 * DELAY)
            waiting.cancel()
            behind.cancel()
    cut()
    await _try(card.transmit(COUNT, T1))
    await _try(card.end(LEAVE))
    await asyncio.sleep(3.0)
    await _try(card.reconnect(SHARED, ANY, RESET))
    await _try(card.disconnect(LEAVE))
    await _try(other.close())
    await _try(context.close())
    await asyncio.sleep(3.0)


async def serves(guest: Guest) -> bytes:
    """A program of the guest connects, and the card answers."""
    async with asyncio.timeout(120):
        await becomes(guest, LinkState.UP)
        while guest.snapshot.find(READER) is None:
            await guest.changed(guest.snapshot.serial)
        context = await guest.open(ALICE)
        card = await context.connect(READER, SHARED, ANY)
        while True:
            try:
                await card.begin()
                answer = await card.transmit(COUNT, T1)
                await card.end(LEAVE)
            except PcscError:
                await card.reconnect(SHARED, ANY, LEAVE)
                continue
            await context.close()
            return answer


def _concerned(session: HostSession) -> Callable[[object], bool]:
    """Which objects at the host are there for that session."""

    def concerned(one: object) -> bool:
        match one:
            case HostSession():
                return one is session
            case Lane():
                return one._owner is session
            case HostCard():
                return any(one is card for card, _ in session._cards.values())
            case Channel():
                return one is session.channel
            case Session():
                return one is session.channel.session
            case FrameReader():
                return one is session.channel.session.reader
            case ReadersSender():
                return one is session._readers
            case LocalContext():
                return one._caller.guest.startswith("mallory")
            case LocalCard():
                return one.state.caller.guest.startswith("mallory")
            case _:
                return True  # alice does nothing meanwhile

    return concerned


@pytest.mark.parametrize(
    ("kind", "name"), functions(AT_THE_HOST), ids=lambda one: one if isinstance(one, str) else one.__name__
)
async def test_a_bug_behind_one_guest_is_nobody_elses(
    kind: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    injection = Injection(monkeypatch, kind, name)
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.001) as desk:
        alice = await desk.guest()
        card = await (await alice.open(ALICE, 60.0)).connect(READER, SHARED, ANY)
        await card.transmit(COUNT, T1)
        await asyncio.sleep(0.5)
        known = set(desk.host._sessions)
        mallory = await desk.guest()
        (identity,) = set(desk.host._sessions) - known
        injection.concerns = _concerned(desk.host._sessions[identity])
        road = desk.roads[-1]
        await everything(mallory, road.cut)
        if mallory._latest is not None:
            await mallory._say_good_bye(mallory._latest)
        await asyncio.sleep(3.0)
        injection.concerns = lambda one: False
        assert len(await serves(await desk.guest())) == 6
        answer = await _try(card.transmit(COUNT, T1)) or await _reconnected(card)
        assert len(answer) == 6
        assert (alice.status.sessions, alice.status.resumes) == (1, 0)
        assert (INJECTED in caplog.text) == injection.reached
        await asyncio.sleep(20.0)
        assert len(desk.manager.contexts) == 1, "alice's"


@pytest.mark.parametrize("kind", [LocalCard, HostCard, RunAhead])
async def test_a_bug_behind_one_call_is_the_end_of_that_call(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session goes on, and so does the handle."""
    name = {LocalCard: "control", HostCard: "_control", RunAhead: "stop"}[kind]
    injection = Injection(monkeypatch, kind, name)
    async with Desk(FileCard(CONTENT), delay=DELAY) as desk:
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 60.0)).connect(READER, SHARED, ANY)
        await card.transmit(COUNT, T1)
        injection.concerns = lambda one: True
        with raises(ReturnCode.F_INTERNAL_ERROR):
            await card.control(0x42000001, b"x", 264)
        assert len(await _try(card.transmit(COUNT, T1)) or await _reconnected(card)) == 6
        assert (guest.status.sessions, guest.status.resumes) == (1, 0)


async def _reconnected(card: Any) -> bytes:
    """The card was reset, as it is when somebody leaves it in a transaction; she knows how to go on."""
    await card.reconnect(SHARED, ANY, LEAVE)
    answer: bytes = await card.transmit(COUNT, T1)
    return answer


@pytest.mark.parametrize(
    ("kind", "name"),
    functions((*AT_THE_GUEST, *BEHIND_A_PROGRAM)),
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
async def test_a_bug_at_a_guest_ends_no_more_than_its_session(
    kind: type, name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One behind a program not even that: alice's program is at the same guest then."""
    injection = Injection(monkeypatch, kind, name)
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.001) as desk:
        elsewhere = await desk.guest()
        guest = await desk.guest()
        card = await (await guest.open(ALICE, 60.0)).connect(READER, SHARED, ANY)
        await card.transmit(COUNT, T1)
        assert guest.session is not None
        channel = guest.session.channel
        theirs: list[object] = [guest.session, channel, channel.session, channel.session.reader]
        theirs += [guest.session.facts, guest.readers]

        def concerned(one: object) -> bool:
            if isinstance(one, GuestCard):
                return one is not card
            return any(one is each for each in theirs) or isinstance(one, BEHIND_A_PROGRAM)

        injection.concerns = concerned
        await everything(guest, desk.roads[-1].cut)
        injection.concerns = lambda one: False
        assert (INJECTED in caplog.text) == injection.reached
        if kind in BEHIND_A_PROGRAM:
            assert len(await _try(card.transmit(COUNT, T1)) or await _reconnected(card)) == 6
            assert guest.status.sessions == 1
        assert len(await serves(guest)) == 6
        assert len(await serves(elsewhere)) == 6
        assert elsewhere.status.sessions == 1


async def test_what_the_program_does_reaches_nearly_every_boundary() -> None:
    places = {inspect.unwrap(getattr(kind, name)).__code__: f"{kind.__name__}.{name}" for kind, name in EVERYWHERE}
    called: set[object] = set()
    async with Desk(FileCard(CONTENT), delay=DELAY, card_delay=0.001) as desk:
        sys.setprofile(lambda frame, *_: called.add(frame.f_code))
        try:
            await everything(await linked(desk, Direct(desk)), desk.roads[-1].cut)
        finally:
            sys.setprofile(None)
    unreached = sorted(name for code, name in places.items() if code not in called)
    assert len(unreached) < 0.2 * len(places), unreached


@pytest.mark.parametrize("name", ["_dial", "_new_session"])
async def test_a_bug_behind_the_way_to_the_host_is_waited_out(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Desk(delay=DELAY) as desk:
        guest = await desk.guest()
        failures = [RuntimeError(INJECTED)] * 3
        before = getattr(guest, name)

        def failing() -> Any:
            if failures:
                raise failures.pop()
            return before()

        monkeypatch.setattr(guest, name, failing)
        assert guest.session is not None
        guest.session.channel.close(Bye(Reason.CLOSED))
        assert len(await serves(guest)) == 6
        assert not failures


@pytest.mark.parametrize("name", ["learn", "check_facts", "knows", "_session", "forget"])
async def test_a_bug_of_the_host_itself_ends_no_session_but_the_one_that_met_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    injection = Injection(monkeypatch, LinkServer, name)
    async with Desk(FileCard(CONTENT), delay=DELAY) as desk:
        alice = await desk.guest()
        card = await (await alice.open(ALICE, 60.0)).connect(READER, SHARED, ANY)
        mallory = await desk.guest()
        injection.concerns = lambda one: True
        await everything(mallory, desk.roads[-1].cut)
        injection.concerns = lambda one: False
        assert len(await _try(card.transmit(COUNT, T1)) or await _reconnected(card)) == 6
        assert alice.status.sessions == 1
        assert len(await serves(mallory)) == 6

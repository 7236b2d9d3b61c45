"""Programs that believe what the card has said before, at random, beside others that change the card.

Whatever happens, for each program, between two of its reconnects:

- what it was told is what the card has said to it, command by command, up to the first difference. (Each command
  reaches the card once, or never.)
- after a difference nothing more is carried out, and nothing that acts has been answered.
- what it was told from there on, the card could have said to it at some moment since the last answer that it has
  waited for: as if it had run a little earlier.

The mutations at the end take away one piece each of what holds this, and the model must notice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cardferry.link import Guest, guest_card, host_card
from cardferry.link import messages as m
from cardferry.link.host_card import HostCard
from cardferry.link.memory import CardMemory
from cardferry.link.memory_state import Effect
from cardferry.pcsc.errors import PcscError, ReturnCode
from cardferry.pcsc.interface import Card, ResourceManager
from tests.callers import somebody
from tests.link import model_card as c
from tests.link.desk import ANY, LEAVE, READER, SHARED, T1, Desk
from tests.link.model_card import CLOCK, Life, ModelCard, Witness
from tests.virtual_time import run

DELAY = 0.01
EXAMPLES = 120


@dataclass
class Told:
    """What a program was told: the command, the answer, whether it was believed, and in which transaction."""

    apdu: bytes
    answer: bytes
    believed: bool
    transaction: int


@dataclass
class Script:
    """What a program does.

    Attributes:
        where: guest 0, guest 1, or 2 for the host itself.
        turns: commands, whether they are in a transaction, and s to pause before.
    """

    where: int
    turns: list[tuple[list[bytes], bool, float]]
    told: list[list[Told]] = field(default_factory=lambda: [[]])


_select = st.sampled_from([c.select(0), c.select(0), c.select(1), c.select(3)])
_get = st.sampled_from([*map(c.get, c.OBJECTS), c.get(1), c.get(1), c.get(2), c.GET_REST, c.TRIES])
_act = st.sampled_from(
    [c.VERIFY, c.VERIFY, c.SIGN, c.SIGN, c.WRONG_PIN, c.LOG_OUT, c.put(1, 1), c.put(1, 2), c.UNHEARD_OF]
)
_reading = st.lists(st.one_of(_get, _get, _get, _select), min_size=2, max_size=6)
_mixed = st.lists(st.one_of(_get, _get, _act), min_size=1, max_size=5)
_commands = st.tuples(_select, st.one_of(_reading, _reading, _reading, _mixed)).map(lambda some: [some[0], *some[1]])
_pauses = st.sampled_from([0.0, 0.0, 0.0, 0.005, 0.02, 0.08, 1.5, 12.0])
_turns = st.lists(st.tuples(_commands, st.sampled_from([True, True, True, False]), _pauses), min_size=1, max_size=3)


@st.composite
def scripts(draw: st.DrawFn) -> list[Script]:
    """Programs, most of which do the same again and again: otherwise there is nothing to believe."""
    some = draw(st.lists(_turns, min_size=1, max_size=3))
    order = draw(st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2]), st.sampled_from(some)), min_size=4, max_size=9))
    return [Script(where, turns) for where, turns in order]


async def patiently(call: Callable[[], object]) -> object:
    """As libpcsclite: a call that finds the card taken is made again."""
    while True:
        try:
            return await call()  # type: ignore[misc]
        except PcscError as error:
            if error.code is not ReturnCode.E_SHARING_VIOLATION:
                raise
        await asyncio.sleep(0.1)


async def play(manager: ResourceManager, number: int, script: Script) -> None:
    context = await manager.open(somebody(f"program {number}", 1000, number), 1.0)
    card: Card = await patiently(lambda: context.connect(READER, SHARED, ANY))  # type: ignore[assignment]
    for transaction, (commands, begins, pause) in enumerate(script.turns):
        await asyncio.sleep(pause)
        try:
            if begins:
                await patiently(card.begin)
            for apdu in commands:
                before = manager.counters.believed if isinstance(manager, Guest) else 0
                answer = await patiently(partial(card.transmit, apdu, T1))
                believed = isinstance(manager, Guest) and manager.counters.believed > before
                assert isinstance(answer, bytes)
                script.told[-1].append(Told(apdu, answer, believed, transaction))
            if begins:
                await card.end(LEAVE)
        except PcscError as error:
            if error.code is not ReturnCode.W_RESET_CARD:
                raise
            script.told.append([])
            await patiently(lambda: card.reconnect(SHARED, ANY, LEAVE))
    await card.disconnect(LEAVE)
    await context.close()


async def conversation(programs: Sequence[Script], seed: int) -> tuple[ModelCard, Witness, int]:
    """All programs, one after the other and at the same time, while pipes break.

    Args:
        seed: decides all that; an odd one lets somebody change the card of whom the host knows nothing.
    """
    chance = random.Random(seed)
    card = ModelCard()
    witnesses: list[Witness] = []

    def witnessed(manager: ResourceManager) -> ResourceManager:
        witnesses.append(Witness(manager, card))
        return witnesses[0]

    async with Desk(card, delay=DELAY, card_delay=0.001, accelerate=False, around=witnessed) as desk:
        managers: list[ResourceManager] = [await desk.guest(), await desk.guest(), witnesses[0]]
        async with asyncio.TaskGroup() as tasks:
            for number, script in enumerate(programs):
                playing = tasks.create_task(play(managers[script.where], number, script))
                if chance.random() < 0.6:
                    await asyncio.wait({playing}, timeout=chance.choice([0.01, 100.0, 100.0]))
                if seed % 2 and chance.random() < 0.3:
                    card.objects[1] += 10
                if chance.random() < 0.2:
                    desk.roads[chance.randrange(2)].cut()
        await asyncio.sleep(20.0)
        refuted = sum(guest.counters.refuted for guest in managers[:2] if isinstance(guest, Guest))
    return card, witnesses[0], refuted


def check(card: ModelCard, witness: Witness, programs: Sequence[Script], *, known: bool) -> None:
    """See the module.

    Args:
        known: whether nobody has changed the card but the programs.
    """
    carried_out = sum(len(life.answers) for lives in witness.lives.values() for life in lives)
    assert carried_out == card.count, "each command was somebody's"
    for number, script in enumerate(programs):
        lives = witness.lives.get(f"program {number}", [])
        lives += [Life() for _ in script.told[len(lives) :]]
        for told, life in zip(script.told, lives, strict=True):
            check_life(card, told, life, known=known)


def check_life(card: ModelCard, told: list[Told], life: Life, *, known: bool) -> None:
    real = life.answers
    same = 0
    while same < len(told) and same < len(real) and (told[same].apdu, told[same].answer) == real[same][:2]:
        same += 1
    if same == len(told) == len(real):
        return
    if same < len(real):
        asked = [one.apdu for one in told[same : same + 1]]
        assert asked == [real[same][0]], "something else was carried out"
        assert len(real) == same + 1, "something was carried out after a belief was refuted"
    rest = told[same:]
    assert all(one.believed for one in rest), "an answer that was waited for is not what the card has said"
    assert not any(c.acts(one.apdu) for one in rest)
    if not known:
        return
    waited = max((index + 1 for index in range(same) if not told[index].believed), default=0)
    since = real[waited - 1][2] - 1 if waited else -1
    assert could_be(card, told[waited:], since), "that was never so"


def could_be(card: ModelCard, told: list[Told], since: int) -> bool:
    """Whether the card could have said this at some moment not before ``since``, one transaction after the other."""
    if any(one.apdu == c.get(CLOCK) for one in told):
        return True
    moments = [ModelCard() if index < 0 else card.history[index][2] for index in range(since, len(card.history))]
    feasible: set[tuple[int, int | None]] = {(index, None) for index in range(len(moments))}
    for transaction in sorted({one.transaction for one in told}):
        commands = [one for one in told if one.transaction == transaction]
        found = set()
        for index, selected in feasible:
            for later in range(index, len(moments)):
                for chosen in {selected, moments[later].selected}:
                    copy = moments[later].copied()
                    copy.selected = chosen
                    if all(copy.process(one.apdu) == one.answer for one in commands):
                        found.add((later, copy.selected))
        feasible = found
    return bool(feasible)


def explore(examples: int) -> Callable[[], None]:
    """The model, on so many examples."""

    @given(programs=scripts(), seed=st.integers(0, 1000))
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    def once(programs: list[Script], seed: int) -> None:
        for script in programs:
            script.told = [[]]
        card, witness, _ = run(conversation(programs, seed))
        check(card, witness, programs, known=seed % 2 == 0)

    return once


def test_no_program_can_tell_but_by_a_reset() -> None:
    explore(EXAMPLES)()


def _no_refutation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Acting commands are carried out although something before them was refuted."""

    async def refute(card: HostCard, code: object, *, reset: bool) -> None:
        """Nothing is broken."""

    monkeypatch.setattr(HostCard, "_refute", refute)


def _no_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the card says is not compared with what the program was told."""
    monkeypatch.setattr(host_card, "digest_of", lambda response: b"")
    monkeypatch.setattr(guest_card, "digest_of", lambda response: b"")


def _no_forgetting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write does not empty the memory."""
    follow = CardMemory._follow

    def writes_nothing(memory: CardMemory, principal: object, apdu: bytes, key: bytes, response: bytes) -> None:
        if apdu[1] == 0xDA:
            return
        follow(memory, principal, apdu, key, response)  # type: ignore[arg-type]

    monkeypatch.setattr(CardMemory, "_follow", writes_nothing)
    assert Effect.WRITES


def _twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was believed is carried out twice."""
    carry_out = HostCard._carry_out

    async def twice(card: HostCard, message: m.Transmit) -> bytes:
        if not message.call:
            await carry_out(card, message)
        return await carry_out(card, message)

    monkeypatch.setattr(HostCard, "_carry_out", twice)


@pytest.mark.parametrize(
    "mutation", [_no_refutation, _no_comparison, pytest.param(_no_forgetting, marks=pytest.mark.slow), _twice]
)
def test_the_model_notices(mutation: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutation(monkeypatch)
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        explore(EXAMPLES)()

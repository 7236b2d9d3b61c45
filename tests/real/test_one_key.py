"""Programs that use one key at the same time, some of them at the host's pcscd: they fail no more often than there.

The yardstick is measured beforehand in the same lab: the same programs, all at the host's pcscd, nothing of ours there.
pcscd itself loses some: `yubico-piv-tool` gives up when another one's leaving, which resets the card, falls between its
connect and its status. So each side has up to three tries, of which the best counts, and 5 % of the runs are forgiven.
The host's own runs of it are few, and are counted together with the others; by themselves, most of them must succeed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import pytest

from tests.lab import Computer, Lab
from tests.lab.agents import ykcs11_agent
from tests.lab.cards import piv_card
from tests.lab.loops import Loop, Outcome, outcome
from tests.lab.pcscd import Pcscd
from tests.lab.process import Command
from tests.lab.recipe import Recipe
from tests.lab.ways import WAYS, Way

pytestmark = pytest.mark.alone

_READ: Command = ("yubico-piv-tool", "-a", "read-certificate", "-s", "9a")
#: s between two runs of the host's own program. libykpiv starts over five times when the card was reset just then; one
#: that resets it in every round trip leaves a program far away no chance, with whatever carries it there.
_PAUSE = 0.4
_FORGIVEN = 0.05
_MOST_OWN = 0.5
_TRIES = 3
_numbers = itertools.count()

#: What came of programs, by what they are: `_SIGNATURES`, `_READS` by all, and those by the host's own program.
Outcomes = dict[str, Outcome]
_SIGNATURES, _READS, _OWN = "signatures", "reads", "the host's own reads"
#: Runs programs of a computer (with an environment) beside those of the host; how often they shall run.
Workload = Callable[[Computer, Mapping[str, str], Computer, int], Outcomes]


def agent_beside_a_loop(computer: Computer, env: Mapping[str, str], host: Computer, count: int) -> Outcomes:
    """An SSH agent that keeps the key open signs, while other programs come and go."""
    agent = ykcs11_agent(computer, env, f"ykcs11-{next(_numbers)}")
    beside, local = Loop(computer, _READ, env=env), Loop(host, _READ, pause=_PAUSE)
    for loop in (beside, local):
        loop.wait_until_running()
    signatures = Loop(computer, agent.signing, count, agent.env).outcome()
    agent.process.stop()  # first: libykpiv can give up inside a transaction, which would hold the others up for ever
    own = local.outcome()
    return {_SIGNATURES: signatures, _READS: beside.outcome() + own, _OWN: own}


def four_loops(computer: Computer, env: Mapping[str, str], host: Computer, count: int) -> Outcomes:
    """Four users' scripts, and one on the host."""
    local = Loop(host, _READ, pause=_PAUSE)
    read = outcome([Loop(computer, _READ, count, env) for _ in range(4)])
    own = local.outcome()
    return {_READS: read + own, _OWN: own}


#: How often a workload runs its programs, by distance: next door, far away.
_COUNTS: dict[Workload, tuple[int, int]] = {agent_beside_a_loop: (10, 4), four_loops: (12, 2)}


def best(measure: Callable[[], Outcomes], good: Callable[[str], float]) -> Outcomes:
    """The best of some tries, for each part; when all are good enough there is no other try."""
    found = measure()
    for _ in range(_TRIES - 1):
        if all(one.lost <= good(part) for part, one in found.items()):
            break
        again = measure()
        found = {part: min(one, again[part], key=lambda some: some.lost) for part, one in found.items()}
    return found


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    """A host with a key, and a guest."""
    with Lab() as lab:
        recipe = Recipe(lab, pcscd=lambda host: Pcscd(host, name="Yubico YubiKey OTP+FIDO+CCID"))
        piv_card(recipe.pcscd)
        yield recipe


@pytest.fixture(scope="module")
def at_pcscd(recipe: Recipe) -> dict[Workload, Outcomes]:
    """The same at pcscd alone."""
    host = recipe.host
    return {
        workload: best(partial(workload, host, {}, host, near), lambda part: _MOST_OWN if part == _OWN else _FORGIVEN)
        for workload, (near, _) in _COUNTS.items()
    }


@pytest.fixture(scope="module", params=WAYS, ids=str)
def way(request: pytest.FixtureRequest, recipe: Recipe, at_pcscd: object) -> Iterator[tuple[Way, Mapping[str, str]]]:
    """How the guest has attached the host, and what leads its programs there."""
    way: Way = request.param
    with way.attached(recipe) as ferry:
        yield way, ferry.env


def test_programs_that_come_one_after_the_other_find_the_key_as_at_pcscd(
    recipe: Recipe, way: tuple[Way, Mapping[str, str]]
) -> None:
    """Each resets the card when it leaves. That was before the next one came, so that one must hear nothing of it."""
    places = [(recipe.host, None), (recipe.guest, way[1])] * 4
    said = [computer.run(_READ, env) for computer, env in places]
    assert [done.code for done in said] == [0] * 8, "\n".join(done.err for done in said)


def test_an_agent_signs_after_a_program_of_the_hosts_has_come_reset_the_card_and_gone(
    recipe: Recipe, way: tuple[Way, Mapping[str, str]]
) -> None:
    """libykpiv hears of the reset if begin says so."""
    agent = ykcs11_agent(recipe.guest, way[1], f"ykcs11-{next(_numbers)}")
    said = []
    for _ in range(2):
        for _ in range(3):  # one alone can be quicker than anybody far away can know
            recipe.host.run(_READ).check()
        said.append(recipe.guest.run(agent.signing, agent.env))
    agent.process.stop()
    assert [done.code for done in said] == [0, 0], "\n".join(done.err for done in said)


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
@pytest.mark.parametrize("workload", list(_COUNTS), ids=lambda workload: workload.__name__)
def test_programs_fail_no_more_often_than_at_pcscd_alone(
    recipe: Recipe,
    at_pcscd: dict[Workload, Outcomes],
    way: tuple[Way, Mapping[str, str]],
    workload: Workload,
    times: int,
) -> None:
    how, env = way
    count = times * _COUNTS[workload][how.round_trip > 0]
    alone = at_pcscd[workload]

    def allowed(part: str) -> float:
        return _MOST_OWN if part == _OWN else alone[part].lost + _FORGIVEN

    through_us = best(partial(workload, recipe.guest, env, recipe.host, count), allowed)
    worse = [
        f"{part}: {one} (at pcscd alone: {alone[part]})" for part, one in through_us.items() if one.lost > allowed(part)
    ]
    assert not worse, "\n".join(worse)

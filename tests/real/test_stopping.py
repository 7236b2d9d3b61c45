"""Stopped at whatever moment of its life, cardferry ends soon, without a traceback, and leaves nothing behind.

The moments are random; each run of a test tries the same ones, as far as a computer does the same twice.
"""

from __future__ import annotations

import random
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY
from tests.lab.ferry import over
from tests.lab.link import AGENT, GUEST, MASTER, SESSION, STDIO, install_cardferry, processes
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: s; a start takes less, so some moments are in the middle of work.
_LIFE = 1.4
#: s; before our first line is reached, Python makes a traceback of a SIGINT, or loses it.
_PYTHON = 0.3
_SLEEP = "sleep 1234"
#: What a stopped cardferry must not leave running. An agent stays for the next guest.
_ITS = "|".join((MASTER, SESSION, STDIO, GUEST, f"^{_SLEEP}", "cardferry (attach|share|run) "))


@dataclass(frozen=True, slots=True)
class Stop:
    """When and how it is stopped.

    Attributes:
        after: s since it was started, or since the first signal.
    """

    after: float
    number: signal.Signals

    def __call__(self, process: Running) -> None:
        time.sleep(self.after)
        process.send_signal(self.number)


def stops(chance: random.Random) -> list[Stop]:
    """One, or sometimes two in a hurry."""
    number = chance.choice(_SIGNALS)
    first = Stop(chance.uniform(_PYTHON if number is signal.SIGINT else 0, _LIFE), number)
    if chance.random() < 0.7:
        return [first]
    return [first, Stop(chance.uniform(0, 0.2), chance.choice(_SIGNALS))]


def left_behind(computer: Computer) -> list[str]:
    """Sockets and folders of processes that have gone, and processes."""
    running = [f"process {pid}" for pid in processes(computer, _ITS)]
    agents = {f"{pid}.ctl" for pid in processes(computer, AGENT)}
    found = [path.name for path in computer.outside(computer.runtime / "cardferry").glob("*")]
    files = [name for name in found if name not in agents and name not in ("agent", "agent.log", "guest.log")]
    scratch = [name for name in files if name.startswith(".part-")]
    files = [name for name in files if not name.startswith(".")]
    return running + files + scratch[len(agents) :]


def nothing_left(recipe: Recipe) -> bool:
    return not left_behind(recipe.host) and not left_behind(recipe.guest)


@pytest.mark.parametrize("linked", [False, True], ids=["forwarded", "linked"])
@pytest.mark.parametrize("moments", [10, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1200)])])
def test_a_signal_at_any_moment_ends_it_in_order(lab: Lab, linked: bool, moments: int) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    if linked:
        install_cardferry(recipe.host)
        install_cardferry(recipe.guest)
    to_host, to_guest = over(recipe.to_host), over(recipe.to_guest)
    commands: list[tuple[Computer, tuple[str | Path, ...]]] = [
        (recipe.guest, ("attach", "host", *to_host)),
        (recipe.host, ("share", "guest", *to_guest)),
        (recipe.guest, ("run", "--from", "host", *to_host, "--", *_SLEEP.split())),
    ]
    chance = random.Random(moments)
    for number in range(moments):
        computer, words = commands[number % len(commands)]
        with computer.popen([CARDFERRY, *words]) as process:
            planned = stops(chance)
            for stop in planned:
                stop(process)
            ended = process.wait()
        what = f"{words[0]}, {planned}: {process}"
        # before it can do better, a signal ends it as any other program
        assert ended.code == 0 or abs(ended.code) % 128 in {stop.number for stop in planned}, what
        assert "Traceback" not in ended.all, what
        wait_until(partial(nothing_left, recipe), f"nothing is left of {what}")

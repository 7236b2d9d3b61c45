"""A link that breaks again and again, in every way: no command is lost, none is carried out twice, nobody notices.

The card counts commands and answers with the count, so the answers of all programs together must be every number once.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.computer import REPOSITORY
from tests.lab.counting_client import COUNT
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, attach, share
from tests.lab.link import MASTER, SESSION, SSHD, STDIO, install_cardferry, kill, link_of, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe

READER = "Virtual PCD 00 00"
PROGRAMS = 8
#: s; a link that is broken is mended within this, also on a busy machine.
MENDED = 9.0


@dataclass(frozen=True, slots=True)
class Breakable:
    """A link over ssh with a relay between ssh and sshd, and everything that can break it.

    Attributes:
        guest_command: what serves the programs on the guest: ``attach``, or ``guest`` when the host shares.
    """

    recipe: Recipe
    guest_command: str
    far: DelayedPort
    ferry: Ferry

    def cut(self) -> None:
        """The TCP connection is reset; what was on its way, either way, is lost in the middle of a frame."""
        self.far.cut()

    def black(self, seconds: float) -> None:
        """The network swallows everything for a while, and then the connection is gone."""
        self.far.black()
        time.sleep(seconds)
        self.far.light()
        self.far.cut()

    def programs(self) -> list[Running]:
        """Eight programs at work."""
        env = {**self.ferry.env, "PYTHONPATH": str(REPOSITORY)}
        running = [
            self.recipe.guest.popen(
                [PLAIN_PYTHON, "-m", "tests.lab.counting_client", READER, str(seed)], env, stdin=True
            )
            for seed in range(PROGRAMS)
        ]
        for program in running:
            program.wait_for("^counting$")
        return running

    def breaks(self) -> dict[str, Callable[[], object]]:
        """Every way to break it."""
        near, far = self.recipe.guest, self.recipe.host
        if self.guest_command == "guest":
            near, far = far, near
        return {
            "connection reset": self.cut,
            "ssh killed": lambda: kill(near, MASTER),
            "session's ssh killed": lambda: kill(near, SESSION),
            "sshd killed": lambda: kill(far, SSHD),
            "--stdio killed": lambda: kill(far, STDIO),
            "network black": lambda: self.black(0.5),
        }


def attached(lab: Lab) -> Breakable:
    """The guest has attached the host's readers."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd, delay=0.002)
    install_cardferry(recipe.host)
    far = DelayedPort(recipe.guest, recipe.host, 0.002)
    config = recipe.host_sshd.config(recipe.guest, "far", far.address, far.port)
    ferry = attach(recipe, host="far", config=config)
    assert link_of(recipe.guest, "attach").way == "link"
    return Breakable(recipe, "attach", far, ferry)


def shared(lab: Lab) -> Breakable:
    """The host shares its readers with the guest."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd, delay=0.002)
    install_cardferry(recipe.guest)
    far = DelayedPort(recipe.host, recipe.guest, 0.002)
    config = recipe.guest_sshd.config(recipe.host, "far", far.address, far.port)
    ferry = share(recipe, guest="far", config=config)
    assert link_of(recipe.host, "share").way == "link"
    return Breakable(recipe, "guest", far, ferry)


def answers_of(programs: list[Running]) -> list[list[int]]:
    """Stop the programs and return what each was answered; none may have seen an error."""
    for program in programs:
        with suppress(BrokenPipeError):  # it has ended, and says why
            program.write("stop\n")
    ends = [json.loads(program.wait_for("^{", timeout=MENDED + 20).string) for program in programs]
    assert [end["error"] for end in ends] == [None] * len(programs)
    return [end["answers"] for end in ends]


def assert_exactly_once(answers: list[list[int]], count: int, before: int = 0) -> None:
    """Each program's answers are in order, and all together are every number once, up to the card's own count.

    Args:
        before: what the card had counted when the programs began.
    """
    for own in answers:
        assert own == sorted(own)
        assert own, "this program did nothing"
    together = sorted(number for own in answers for number in own)
    assert together == list(range(before + 1, count + 1))


def card_count(link: Breakable) -> int:
    """How many commands the card has carried out: itself one, asked beside the link, on the host."""
    answer = link.recipe.host.pcsc(f"apdu\t{READER}\t{COUNT.hex()}")["answers"][0]
    return int(answer[:8], 16) - 1


def resumes(link: Breakable) -> int:
    """How often the session went on after a break."""
    status = link_of(link.recipe.guest, link.guest_command).link
    assert status is not None
    assert status.sessions == 1, f"a session has ended: {link.ferry.process}"
    return status.resumes


def run(link: Breakable, breaks: int, tell: Callable[[str], None]) -> None:
    """Break the link so many times; nothing may show."""
    chance = random.Random(2)
    programs = link.programs()
    begin = time.monotonic()
    done: Counter[str] = Counter()
    outages: list[float] = []
    ways = link.breaks()
    while done.total() < breaks:
        name = chance.choice(list(ways))
        before = resumes(link)
        broken = time.monotonic()
        ways[name]()
        done[name] += 1
        if chance.random() < 0.2:  # again, while it is being mended
            time.sleep(chance.uniform(0, 0.3))
            name = chance.choice([way for way in ways if way != "network black"])
            ways[name]()
            done[name] += 1
        wait_until(lambda: resumes(link) > before, f"the link goes on after: {name}", MENDED)  # noqa: B023
        wait_for_link(link.recipe.guest, link.guest_command, MENDED)
        outages.append(time.monotonic() - broken)
        time.sleep(chance.uniform(0, 0.2))
    answers = answers_of(programs)
    duration = time.monotonic() - begin
    resumed = resumes(link)
    assert_exactly_once(answers, card_count(link))
    outages.sort()
    figures = {
        "breaks": done.total(),
        **done,
        "resumes": resumed,
        "commands": sum(map(len, answers)),
        "seconds": round(duration, 1),
        "mended after, median": round(outages[len(outages) // 2], 2),
        "at most": round(outages[-1], 2),
    }
    tell(json.dumps(figures))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("made", [attached, shared])
def test_each_command_is_carried_out_once_whatever_breaks(lab: Lab, made: Callable[[Lab], Breakable]) -> None:
    run(made(lab), breaks=10, tell=print)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_breaks(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    run(attached(lab), breaks=1000, tell=tell)

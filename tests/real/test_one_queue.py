"""Everybody on a host is in one queue, however they come: by `share`, over a link, at a container's socket, locally."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from bench.fairness import Turn, outcome

from cardferry.app.runtime.status_socket import Running as Told
from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import PCSC_CLIENT
from tests.lab.ferry import Ferry, over
from tests.lab.link import AGENT, all_running, install_cardferry, processes
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.neighbours import Neighbours
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Running, wait_until
from tests.lab.sshd import Sshd

READER = "Virtual PCD 00 00"
#: s that the card takes for a command, and that the ten programs loop.
CARD, SECONDS = 0.01, 4.0
MAX_IDLE = 1.0


@dataclass
class Program:
    """Where a program runs, and where it finds the card."""

    computer: Computer
    ferry: Ferry

    def start(self, *words: str) -> Running:
        return self.computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words], self.ferry.env, stdin=True)

    def works(self) -> bool:
        return self.computer.pcsc(f"apdu\t{READER}\t00A40000", self.ferry.socket).get("answers") == ["9000"]


class OneHost:
    """A host with a card, and all the ways to it.

    Attributes:
        shared, linked, boxed, local: programs that come by `share`, over a link through ssh, out of a container, and
            through `attach pcscd:` on the host itself.
        by_hand: a `cardferry host` that was started when the others were there.
    """

    def __init__(self, lab: Lab) -> None:
        self.host, far, near, box = (lab.computer(name) for name in ("host", "far", "near", "box"))
        fake_card(Pcscd(self.host), delay=CARD)
        install_cardferry(self.host)
        to_far, to_host = over(Sshd(far).config(self.host)), over(Sshd(self.host).config(near))
        ways = [
            (self.host, ["share", "far", *to_far]),
            (near, ["attach", "host", *to_host]),
            (self.host, ["attach", f"pcscd:{SOCKET}"]),
        ]
        with ThreadPoolExecutor() as at_once:
            share, link, local = at_once.map(lambda way: Ferry(*way), ways)
        assert len(self.agents) == 1, "they found, or started, the same one"
        neighbours = Neighbours.of(self.host, box, lab.folder)
        self.by_hand = neighbours.agent("--max-idle", str(MAX_IDLE))
        self.shared, self.linked, self.local = Program(far, share), Program(near, link), Program(self.host, local)
        self.boxed = Program(box, neighbours.attach())

    @property
    def agents(self) -> list[int]:
        return processes(self.host, AGENT)

    @property
    def told(self) -> dict[str, Told]:
        return {one.command: one for one in all_running(self.host) if one.pid not in self.agents}


@pytest.fixture(scope="module")
def one() -> Iterator[OneHost]:
    with Lab() as lab:
        yield OneHost(lab)


def test_ten_programs_that_come_in_four_ways_share_one_card_fairly(one: OneHost) -> None:
    programs = [one.shared] * 3 + [one.linked] * 3 + [one.boxed] * 2 + [one.local] * 2
    words = ("loop", READER, "--seconds", str(SECONDS), "--start", "--apdu", "00a4040000")
    loops = [program.start(*words) for program in programs]
    for loop in loops:
        loop.wait_for('"ready": true', timeout=60)
    for loop in loops:
        loop.write("go\n")
    said = [json.loads(loop.wait_for('"turns"', timeout=60).string)["turns"] for loop in loops]
    judged = outcome("cardferry", CARD, SECONDS, [[Turn(*turn) for turn in turns] for turns in said])
    assert judged.jain >= 0.99, judged
    assert min(judged.turns) > 10, judged


def test_there_is_one_holder_whoever_is_asked_and_idle_it_loses_the_card_to_whoever_waits(one: OneHost) -> None:
    holder = one.local.start("hold", READER)
    holder.wait_for("held")
    told = one.told
    assert set(told) == {"share", "attach", "host"}
    seen = [slot for tells in told.values() for slot in tells.readers if slot.reader == READER]
    (name,) = {slot.holder for slot in seen if slot.holder is not None}
    assert len(seen) == len(told)
    assert "user" in name
    for program in (one.shared, one.linked, one.boxed):
        assert program.works(), "the holder was idle for a second"
    assert holder.code is None


def test_the_agent_by_hand_leads_the_one_that_was_there_and_says_so(one: OneHost) -> None:
    (agent,) = one.agents
    one.by_hand.wait_for(f"an agent that has started itself is in use .process {agent}.: it goes on", stream="err")
    assert {tells.agent for tells in one.told.values()} == {agent}


def test_when_share_is_killed_the_card_is_free_and_the_others_notice_nothing(one: OneHost) -> None:
    holder = one.shared.start("hold", READER)
    holder.wait_for("held")
    one.shared.ferry.process.send_signal(signal.SIGKILL)
    one.shared.ferry.process.wait()
    assert all(program.works() for program in (one.local, one.linked, one.boxed))
    wait_until(lambda: "share" not in one.told, "nothing is left of it")
    assert len(one.agents) == 1


def test_when_the_agent_is_killed_all_programs_find_the_card_again_where_it_was(one: OneHost) -> None:
    (agent,) = one.agents
    os.kill(agent, signal.SIGKILL)
    one.local.ferry.process.wait_for("the readers are there again", stream="err")
    for program in (one.local, one.linked, one.boxed):
        wait_until(program.works, "a program has the card again")
    wait_until(lambda: {tells.agent for tells in one.told.values()} != {agent}, "there is another one")
    one.by_hand.stop()
    one.local.ferry.stop()
    one.linked.ferry.stop()


def test_nothing_is_left_of_a_lend(lab: Lab) -> None:
    host = lab.computer("host")
    fake_card(Pcscd(host))
    runtime = host.outside(host.runtime) / "cardferry"
    assert Program(host, ferry := Ferry(host, ["attach", f"pcscd:{SOCKET}"])).works()
    assert ferry.stop().code == 0
    assert list(Path(runtime).iterdir()) == []
    wait_until(lambda: not processes(host, AGENT), "the agent has left")

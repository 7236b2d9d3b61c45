"""How often a program over a link has to wait for the other side: counted by a relay between ssh and sshd.

Round trips are counted, never timed. What travels without anybody waiting for it (acknowledgements, signs of life) can
add a turn to one run, so each program gets three, and the best one counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import piv_card
from tests.lab.delay import DelayedPort
from tests.lab.ferry import attach
from tests.lab.link import install_cardferry, link_of, wait_for_link
from tests.lab.process import wait_until
from tests.lab.recipe import Recipe

ONE_WAY = 0.01


@dataclass(frozen=True, slots=True)
class Far:
    """A linked guest, far away."""

    guest: Computer
    socket: Path
    port: DelayedPort

    def counters(self) -> tuple[int, int]:
        """Calls that waited for the host, and responses that were there before they were asked for."""
        status = link_of(self.guest, "attach").link
        assert status is not None
        return status.counters.round_trips, status.counters.hits

    def settled(self) -> int:
        """Turns so far, when nothing travels any more but signs of life."""
        last = -1

        def still() -> bool:
            nonlocal last
            before, last = last, self.port.traffic().turns
            return before == last

        wait_until(still, "the conversation rests")
        return last

    def cost(self, run: Callable[[], object]) -> tuple[int, int, int]:
        """Turns, calls that waited, and hits of a run."""
        before, (waited, hits) = self.settled(), self.counters()
        run()
        turns = self.port.traffic().turns - before
        after = self.counters()
        return turns, after[0] - waited, after[1] - hits


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    """A host with a PIV card in one of two readers, and all that is known of readers known."""
    with Lab() as lab:
        recipe = Recipe(lab)
        piv_card(recipe.pcscd)
        install_cardferry(recipe.host)
        port = DelayedPort(recipe.guest, recipe.host, ONE_WAY)
        ferry = attach(recipe, host="far", config=recipe.host_sshd.config(recipe.guest, "far", port.address, port.port))
        wait_for_link(recipe.guest, "attach")
        assert link_of(recipe.guest, "attach").way == "link"
        yield Far(recipe.guest, ferry.socket, port)


def program(far: Far, *words: str) -> Callable[[], object]:
    return lambda: far.guest.run(list(words), {"PCSCLITE_CSOCK_NAME": str(far.socket)}).check()


def scan(far: Far) -> None:
    """``pcsc_scan`` up to the moment when it has shown both readers."""
    running = far.guest.popen(["pcsc_scan", "-n"], {"PCSCLITE_CSOCK_NAME": str(far.socket)})
    running.wait_for("Card state: .*Card inserted")
    running.wait_for("Card state: .*Card removed")
    running.stop()


def test_the_first_opensc_tool_waits_for_what_the_readers_support_and_no_more(far: Far) -> None:
    assert far.cost(program(far, "opensc-tool", "-a"))[0] <= 2


def test_opensc_tool_and_pcsc_scan_need_at_most_two_round_trips(far: Far) -> None:
    for run in (program(far, "opensc-tool", "-a"), lambda: scan(far)):
        assert min(far.cost(run)[0] for _ in range(3)) <= 2


@pytest.mark.parametrize("words", [("pkcs15-tool", "--list-info"), ("pkcs11-tool", "-L")], ids="_".join)
def test_a_program_waits_only_for_commands_that_nobody_could_foresee(far: Far, words: tuple[str, ...]) -> None:
    costs = [far.cost(program(far, *words)) for _ in range(3)]
    turns, waited, hits = min(costs)
    assert hits > 0, "the rest of a response came ahead"
    # connects, begins, ends and disconnects wait for nothing: what waited was commands
    assert 20 < waited < 40
    assert turns <= waited + 2


def test_a_certificate_of_many_pieces_comes_with_its_first_one(far: Far) -> None:
    read = program(far, "pkcs15-tool", "--read-certificate", "01")
    assert min(far.cost(read)[0] for _ in range(3)) <= 30

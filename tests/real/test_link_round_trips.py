"""How often a program over a link has to wait for the other side: counted by a relay between ssh and sshd.

Round trips are counted, never timed. What travels without anybody waiting for it (acknowledgements, signs of life) can
add a turn to one run, so each program gets three, and the best one counts. Calls that waited are counted by the link
itself, where nothing is added: those counts are exact in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from cardferry.wire.link.session import Timing
from tests.lab import Computer, Lab
from tests.lab.cards import piv_card
from tests.lab.delay import DelayedPort, Traffic
from tests.lab.ferry import Ferry, attach
from tests.lab.link import AGENT, install_cardferry, kill, link_of, processes, wait_for_link
from tests.lab.process import wait_until
from tests.lab.recipe import Recipe

pytestmark = pytest.mark.alone

#: s
ROUND_TRIP = 0.02


@dataclass(slots=True)
class Far:
    """A linked guest, far away."""

    recipe: Recipe
    port: DelayedPort
    ferry: Ferry | None = None

    @property
    def guest(self) -> Computer:
        return self.recipe.guest

    @property
    def env(self) -> dict[str, str]:
        assert self.ferry is not None
        return self.ferry.env

    def attach(self) -> None:
        """A link that no program has used yet, to an agent that none has used either."""
        if self.ferry is not None:
            self.ferry.stop()
            kill(self.recipe.host, AGENT)
            wait_until(lambda: not processes(self.recipe.host, AGENT), "the agent is gone")
        config = self.recipe.host_sshd.config(self.guest, "far", self.port.address, self.port.port)
        self.ferry = attach(self.recipe, host="far", config=config)
        wait_for_link(self.guest, "attach")
        assert link_of(self.guest, "attach").way == "link"

    def counters(self) -> tuple[int, int]:
        """Calls that waited for the host, and responses that were there before they were asked for."""
        status = link_of(self.guest, "attach").link
        assert status is not None
        return status.counters.round_trips, status.counters.hits

    def settled(self) -> int:
        """Turns so far, when nothing travels any more and signs of life are not due soon."""

        silence = Timing().silence

        def resting() -> list[Traffic]:
            traffic = self.port.traffic()
            return [traffic] if 5 * ROUND_TRIP <= traffic.quiet <= silence / 3 else []

        return wait_until(resting, "the conversation rests")[0].turns

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
        far = Far(recipe, DelayedPort(recipe.guest, recipe.host, ROUND_TRIP / 2))
        far.attach()
        yield far


def program(far: Far, *words: str) -> Callable[[], object]:
    return lambda: far.guest.run(list(words), far.env).check()


def scan(far: Far) -> None:
    """``pcsc_scan`` up to the moment when it has shown both readers."""
    running = far.guest.popen(["pcsc_scan", "-n"], far.env)
    running.wait_for("Card state: .*Card inserted")
    running.wait_for("Card state: .*Card removed")
    running.stop()


def test_the_first_opensc_tool_waits_for_what_the_readers_support_and_no_more(far: Far) -> None:
    costs = []
    for _ in range(3):
        far.attach()
        costs.append(far.cost(program(far, "opensc-tool", "-a")))
    print(costs)
    assert {waited for _, waited, _ in costs} == {2}, "one for each of two readers"
    assert min(turns for turns, _, _ in costs) <= 2


def test_opensc_tool_and_pcsc_scan_need_at_most_two_round_trips(far: Far) -> None:
    for run in (program(far, "opensc-tool", "-a"), lambda: scan(far)):
        assert min(far.cost(run)[0] for _ in range(3)) <= 2


@pytest.mark.parametrize("words", [("pkcs15-tool", "--list-info"), ("pkcs11-tool", "-L")], ids="_".join)
def test_a_program_waits_for_what_nobody_could_foresee_and_not_the_second_time(
    far: Far, words: tuple[str, ...]
) -> None:
    far.attach()
    _, waited, hits = far.cost(program(far, *words))
    assert hits > 0, "the rest of a response came ahead"
    # begins, ends and disconnects wait for nothing: what waited was commands
    assert 20 < waited < 45
    again = [far.cost(program(far, *words)) for _ in range(3)]
    assert min(waited for _, waited, _ in again) <= 1, again
    assert min(turns for turns, _, _ in again) <= 4, again


def test_a_certificate_of_many_pieces_comes_with_its_first_one(far: Far) -> None:
    read = program(far, "pkcs15-tool", "--read-certificate", "01")
    assert min(far.cost(read)[0] for _ in range(3)) <= 30

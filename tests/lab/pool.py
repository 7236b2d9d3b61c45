"""A pool in the lab: hosts with a card each, and guests that attach all of them as one reader, without ssh."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, Computer
from tests.lab.ferry import Ferry
from tests.lab.lab import Lab
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd, accepts
from tests.lab.process import Running, wait_until

NAME = "signing"
#: When a turn was asked for, had, and given back, in s on the clock of this machine.
Turn = tuple[float, float, float]


class Place:
    """A host with a card, which takes links at a socket.

    Args:
        number: of the host.
        delay: s that the card takes for each command.
        piv: whether it is the PIV card, rather than one without meaning.
    """

    def __init__(self, lab: Lab, number: int, delay: float = 0.0, *, piv: bool = False) -> None:
        self.computer = lab.computer(f"lab{number}")
        self.pcscd = Pcscd(self.computer)
        self.card = piv_card(self.pcscd, delay=delay) if piv else fake_card(self.pcscd, delay=delay)
        folder = lab.folder / f"at{number}"
        folder.mkdir(mode=0o700)
        self.path = folder / "link"
        self.agent: Running
        self.start()

    @property
    def name(self) -> str:
        """As a member is written."""
        return f"unix:{self.path}"

    def start(self) -> None:
        """The agent; comes back before it listens, see `ready`."""
        self.agent = self.computer.popen([CARDFERRY, "host", "--listen", self.name])

    def ready(self) -> None:
        """Wait until the agent listens."""
        wait_until(lambda: accepts(self.path), f"the agent listens: {self.agent}")

    def kill(self) -> None:
        """The agent dies without a word."""
        self.agent.kill()


def configure(guest: Computer, members: Sequence[str], more: str = "") -> None:
    """Write the pool into a guest's configuration."""
    folder = guest.home / ".config" / "cardferry"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(f"[pool.{NAME}]\nmembers = {json.dumps(list(members))}\n{more}")


def attach_all(guests: Sequence[Computer], *words: str | Path) -> list[Ferry]:
    """Attach on all guests at once."""
    with ExitStack() as stack:
        starting = [guest.popen([CARDFERRY, "attach", *(words or (f"pool:{NAME}",))]) for guest in guests]
        for process in starting:
            stack.callback(process.close)
        ferries = [Ferry.of(process) for process in starting]
        stack.pop_all()
    return ferries


def loops(
    guests: Sequence[tuple[Computer, Ferry]], seconds: float, *words: str, reader: str = NAME, apdu: str = "00a4040000"
) -> list[Running]:
    """A program on each guest that connects for each of its turns, for some s, from the same moment on."""
    command = ["loop", reader, "--connect", "--seconds", str(seconds), "--start", "--apdu", apdu, *words]
    programs = [guest.popen([PLAIN_PYTHON, PCSC_CLIENT, *command], ferry.env, stdin=True) for guest, ferry in guests]
    for program in programs:
        program.wait_for('"ready": true', timeout=60)
    for program in programs:
        program.write("go\n")
    return programs


def turns(programs: Sequence[Running], seconds: float) -> list[list[Turn]]:
    """What each of the programs has had, when they are done."""
    said = [program.wait_for('"turns"|"error":', timeout=seconds * 3 + 60).string for program in programs]
    return [[(asked, owned, released) for asked, owned, released in json.loads(line)["turns"]] for line in said]


def jain(counts: Sequence[int]) -> float:
    """Jain's index: 1 when all have the same, 1/n when one has everything."""
    return sum(counts) ** 2 / (len(counts) * sum(count * count for count in counts))

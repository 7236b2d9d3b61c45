"""scdaemon connects exclusively and keeps the card; two guests with gpg get on with one card all the same."""

from __future__ import annotations

import json
import sys

import pytest

from tests.lab import Lab
from tests.lab.computer import REPOSITORY, Computer
from tests.lab.ferry import Ferry, cardferry, over
from tests.lab.gpg import Gpg
from tests.lab.process import wait_until
from tests.lab.sshd import Sshd

PORT = 35963
#: s; the owner that is idle while somebody waits loses the card so much later. 30 by default, too long for a test.
MAX_IDLE = 1


class Guests:
    """A host with no pcscd: its card dials in to cardferry; two guests with nothing but sshd."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.computer("host")
        self.guests = [lab.computer("one"), lab.computer("two")]
        config = self.host.folder / "ssh_config.guests"
        config.write_text("".join(Sshd(guest).config(self.host, guest.name).read_text() for guest in self.guests))
        words = ["share", "one", "two", "--readers", f"vpicc:{PORT}", "--max-idle", str(MAX_IDLE), *over(config)]
        ferry = Ferry(self.host, words)
        ferry.wait_until_ready()
        card = [sys.executable, "-m", "tests.lab.card_openpgp", f"--port={PORT}"]
        self.card = self.host.popen(
            [*card, f"--storage={self.host.folder / 'openpgp'}"],
            env={"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
            mounts=False,
        )
        self.card.wait_for("^inserted$")
        self.socket = ferry.socket

    def settled(self, guest: Computer) -> bool:
        """Whether a guest that has lost the card knows it: scdaemon looks twice a second, and closes its handle."""
        (running,) = json.loads(cardferry(self.host, "status", "--json").check().out)
        reader = next(reader for reader in running["readers"] if reader["atr"])
        name = f"a program on {guest.name}"
        return name not in reader["clients"] or reader["holder"] == name

    def wait_until_settled(self, guest: Computer) -> None:
        """Wait until scdaemon has noticed that the card is gone, if it is."""
        wait_until(lambda: self.settled(guest), f"scdaemon on {guest.name} notices")


@pytest.fixture
def guests(lab: Lab) -> Guests:
    return Guests(lab)


#: Processes of all computers are seen everywhere; those of this one have its network.
_OWN_SCDAEMONS = """
for pid in $(pgrep -x scdaemon); do
    [ "$(readlink /proc/$pid/ns/net)" = "$(readlink /proc/self/ns/net)" ] && echo $pid
done
true
"""


def agents(computer: Computer) -> set[str]:
    """The scdaemons of a computer, by process id."""
    return set(computer.run(["sh", "-c", _OWN_SCDAEMONS]).check().out.split())


def test_two_guests_use_one_openpgp_card_in_turn_and_no_scdaemon_is_killed(guests: Guests) -> None:
    first, second = (Gpg(computer, guests.socket) for computer in guests.guests)
    first.card_status().check()
    first.make_keys()
    second.import_public(first)
    daemons: dict[str, set[str]] = {}
    for turn in range(3):
        for computer, gpg in zip(guests.guests, (first, second), strict=True):
            guests.wait_until_settled(computer)
            assert "Application type .: OpenPGP" in gpg.card_status().check().out
            signed = gpg.sign(f"turn {turn} on {computer.name}\n").check().out
            assert "Good signature" in gpg.verify(signed).check().err
            running = agents(computer)
            assert running
            assert daemons.setdefault(computer.name, running) == running, "scdaemon was replaced"
    guests.wait_until_settled(guests.guests[0])
    assert first.signature_counter() >= 6
    first.stop()
    second.stop()

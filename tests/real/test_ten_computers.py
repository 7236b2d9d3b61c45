"""The article's picture: ten computers, one card. All sign at the same moment, and every signature is good."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import PCSC_CLIENT
from tests.lab.ferry import Ferry, over
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import Command
from tests.lab.sshd import Sshd

GUESTS = 10


class OneCard:
    """A host with the built-in card, and its public key."""

    def __init__(self, lab: Lab) -> None:
        self.host = lab.computer("host")
        self.pcscd = Pcscd(self.host)
        piv_card(self.pcscd)
        certificate = self.host.home / "certificate"
        self.key = self.host.home / "key"
        read: Command = ["pkcs11-tool", "--read-object", "--type", "cert", "--id", "01", "-o", certificate]
        self.host.run(read).check()
        extract: Command = ["openssl", "x509", "-inform", "der", "-in", certificate, "-pubkey", "-noout"]
        self.key.write_text(self.host.run(extract).check().out)

    def sign_everywhere(self, guests: list[tuple[Computer, Path]]) -> None:
        """Every guest signs a letter of its own, all at once; openssl verifies."""
        signing = []
        for guest, socket in guests:
            (guest.home / "letter").write_text(f"Written on {guest.name}.\n")
            sign = ["--sign", "--id", "01", "-m", "ECDSA-SHA256", "--signature-format", "openssl"]
            files: Command = ["-i", guest.home / "letter", "-o", guest.home / "signature"]
            command: Command = ["pkcs11-tool", "--login", "--pin", PIV_PIN, *sign, *files]
            signing.append(guest.popen(command, {"PCSCLITE_CSOCK_NAME": str(socket)}))
        for process in signing:
            process.wait(timeout=60).check()
        for guest, _ in guests:
            verify: Command = [
                "openssl",
                "dgst",
                "-sha256",
                "-verify",
                self.key,
                "-signature",
                guest.home / "signature",
            ]
            assert "Verified OK" in self.host.run([*verify, guest.home / "letter"]).check().out


def attach_all(one: OneCard, guests: list[Computer]) -> list[Ferry]:
    """Each guest attaches the host; the host has sshd only."""
    one.host.hide_cardferry()
    sshd = Sshd(one.host)
    return [Ferry(guest, ["attach", "host", *over(sshd.config(guest))]) for guest in guests]


def share_all(one: OneCard, guests: list[Computer]) -> list[Ferry]:
    """The host shares with each guest; the guests have sshd only."""
    ferries = []
    for guest in guests:
        guest.hide_cardferry()
        ferries.append(Ferry(one.host, ["share", guest.name, *over(Sshd(guest).config(one.host))]))
    return ferries


@pytest.mark.parametrize("connect", [attach_all, pytest.param(share_all, marks=pytest.mark.slow)])
def test_ten_computers_sign_at_once_with_one_card(
    lab: Lab, connect: Callable[[OneCard, list[Computer]], list[Ferry]]
) -> None:
    one = OneCard(lab)
    guests = [lab.computer(f"guest{number}") for number in range(GUESTS)]
    ferries = connect(one, guests)
    one.sign_everywhere([(guest, ferry.socket) for guest, ferry in zip(guests, ferries, strict=True)])


def test_programs_that_connect_at_the_same_moment_are_all_served(lab: Lab) -> None:
    """pcscd listens with a backlog of 1 and turns some of them away; see `test_recipe_by_hand.py`."""
    one = OneCard(lab)
    guest = lab.computer("guest")
    ferry = Ferry(guest, ["attach", "host", *over(Sshd(one.host).config(guest))])
    one.pcscd.process.send_signal(signal.SIGSTOP)
    programs = [guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "list"], ferry.env) for _ in range(GUESTS)]
    for program in programs:
        assert "Virtual PCD 00 00" in program.wait().check().out
    one.pcscd.process.send_signal(signal.SIGCONT)

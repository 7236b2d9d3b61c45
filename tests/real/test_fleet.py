"""Several hosts in one command, each in its own way: two with cardferry are linked, one with sshd only is forwarded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardferry.app.runtime.status_socket import Link
from tests.lab import Computer, Lab
from tests.lab.cards import PIV_PIN, fake_card, piv_card
from tests.lab.computer import PCSC_CLIENT
from tests.lab.ferry import Ferry, cardferry, over
from tests.lab.link import all_running, install_cardferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import Command, Running, wait_until
from tests.lab.sshd import Sshd

ALPHA, BETA, GAMMA = "alpha", "beta", "gamma"
READER = "Virtual PCD 00 00"
OF = {ALPHA: READER, BETA: f"{READER} (beta)", GAMMA: f"{READER} (gamma)"}
#: s that a linked host may be out of reach, in the tests that wait for it.
GRACE = 2.0


class Fleet:
    """Three hosts with a card each, in readers of the same names; and a guest that can log in to all of them."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.guest = lab.computer("guest")
        self.hosts = {name: lab.computer(name) for name in OF}
        self.sshds = {name: Sshd(host) for name, host in self.hosts.items()}
        self.pcscds = {name: Pcscd(host) for name, host in self.hosts.items()}
        for name in (ALPHA, BETA):
            install_cardferry(self.hosts[name])
        self.config = self.guest.folder / "ssh_config.all"
        self.config.write_text("".join(sshd.config(self.guest, name).read_text() for name, sshd in self.sshds.items()))

    def attach(self, *arguments: str, timeout: float = 30.0) -> Ferry:
        """``cardferry attach alpha beta gamma``, ready."""
        return Ferry(self.guest, ["attach", *OF, *over(self.config), *arguments], timeout)

    def readers(self, ferry: Ferry) -> list[str]:
        """What programs see; nothing when readers come or go between a program's two questions about them."""
        return [reader["name"] for reader in self.guest.pcsc("list", ferry.socket).get("readers", [])]

    def all_readers(self, ferry: Ferry) -> list[str]:
        """The same once those of all hosts are there; a computer that has much to do is ready before they are."""
        readers = self.readers(ferry)
        return readers if len(readers) == 2 * len(OF) else []

    def links(self) -> dict[str, Link]:
        """The hosts, as ``cardferry status`` finds them."""
        (one,) = all_running(self.guest)
        return {link.host: link for link in one.links}

    def ways(self) -> dict[str, str]:
        """Which way leads to each."""
        return {name: link.way for name, link in self.links().items()}

    def assert_works(self, ferry: Ferry, reader: str) -> None:
        """An unmodified program on the guest talks to the card."""
        answer = self.guest.pcsc(f"apdu\t{reader}\t00A4040000", ferry.socket)
        assert answer.get("answers"), answer

    def loop(self, ferry: Ferry, reader: str) -> Running:
        """A program that uses the card again and again until it is told to stop."""
        words: Command = [PLAIN_PYTHON, PCSC_CLIENT, "loop", reader, "--seconds", "60", "--work", "10", "--start"]
        loop = self.guest.popen(words, ferry.env, stdin=True)
        loop.wait_for('"ready": true')
        loop.write("go\n")
        return loop


@pytest.fixture
def fleet(lab: Lab) -> Fleet:
    fleet = Fleet(lab)
    for pcscd in fleet.pcscds.values():
        fake_card(pcscd)
    return fleet


@pytest.fixture(scope="module")
def with_keys() -> Iterator[Fleet]:
    """The same with PIV cards, for tests that leave everything as it is."""
    with Lab() as lab:
        fleet = Fleet(lab)
        for pcscd in fleet.pcscds.values():
            piv_card(pcscd)
        yield fleet


@pytest.fixture
def attached(with_keys: Fleet) -> Iterator[Ferry]:
    """``attach`` of all three, which must end well."""
    ferry = with_keys.attach()
    try:
        yield ferry
    finally:
        stopped = ferry.stop()
    assert stopped.code == 0


# --- all there


def slots(guest: Computer, ferry: Ferry) -> dict[str, str]:
    """PKCS#11 slots with a card, by reader."""
    lines = guest.run(["pkcs11-tool", "-L"], ferry.env).check().out.splitlines()
    found = [line.removeprefix("Slot ").partition(": ") for line in lines if line.startswith("Slot ")]
    return {name: number.split("(")[1].split(")")[0] for number, _, name in found}


def signs(guest: Computer, ferry: Ferry, slot: str, work: Path) -> bool:
    """Whether a signature of the card in that slot is good for the certificate in it."""
    work.mkdir()
    (work / "letter").write_text("Dear card, please sign this.\n")
    tool = ["pkcs11-tool", "--slot", slot]
    read: Command = [*tool, "--read-object", "--type", "cert", "--id", "01", "-o", work / "cert.der"]
    guest.run(read, ferry.env).check()
    key: Command = ["-pubkey", "-noout", "-out", work / "key.pem"]
    guest.run(["openssl", "x509", "-inform", "der", "-in", work / "cert.der", *key]).check()
    how = ["--login", "--pin", PIV_PIN, "--sign", "--id", "01", "-m", "ECDSA-SHA256", "--signature-format", "openssl"]
    guest.run([*tool, *how, "-i", work / "letter", "-o", work / "signature"], ferry.env).check()
    verify: Command = ["openssl", "dgst", "-sha256", "-verify", work / "key.pem", "-signature", work / "signature"]
    return "Verified OK" in guest.run([*verify, work / "letter"]).out


def test_programs_see_the_readers_and_cards_of_all_hosts(with_keys: Fleet, attached: Ferry) -> None:
    listed = with_keys.guest.run(["opensc-tool", "-l"], attached.env).check().out
    assert [line.split(None, 2)[2] for line in listed.splitlines() if "Virtual PCD" in line] == [
        name for host in OF for name in (OF[host], OF[host].replace("00 00", "00 01"))
    ]
    for number in range(0, 6, 2):
        answer = with_keys.guest.run(["opensc-tool", "-r", str(number), "-a"], attached.env).check().out
        assert answer.startswith("3b:9d:13")


def test_programs_sign_with_the_card_of_each_host(with_keys: Fleet) -> None:
    guest = with_keys.guest
    ferry = with_keys.attach("--reader", f"{READER}*")  # OpenSC has slots for four readers
    found = slots(guest, ferry)
    keys = set()
    for host, reader in OF.items():
        work = guest.home / host
        assert signs(guest, ferry, found[reader], work)
        keys.add((work / "key.pem").read_text())
    assert len(keys) == len(OF), "each host has a card of its own"
    assert ferry.stop().code == 0


def test_status_tells_which_way_leads_to_each_host(with_keys: Fleet, attached: Ferry) -> None:
    fleet, ferry = with_keys, attached
    ferry.process.wait_for("gamma: plain forwarding, cardferry is not installed there", stream="err")
    said = cardferry(fleet.guest, "status").check().out
    for line in ("alpha (link): up", "beta (link): up", "gamma (forwarding): up"):
        assert line in said
    holder = fleet.guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", OF[GAMMA]], ferry.env, stdin=True)
    holder.wait_for("held")
    (one,) = json.loads(cardferry(fleet.guest, "status", "--json").check().out)
    assert one["contexts"] == 1
    held = {reader["reader"]: reader["holder"] for reader in one["readers"]}
    assert list(held) == fleet.readers(ferry)
    assert [name for name, holder in held.items() if holder] == [OF[GAMMA]]


def test_no_link_forwards_all(with_keys: Fleet) -> None:
    ferry = with_keys.attach("--no-link")
    assert set(with_keys.ways().values()) == {"forwarding"}
    assert with_keys.readers(ferry)[::2] == list(OF.values())
    assert ferry.stop().code == 0


# --- one away


@pytest.mark.parametrize("cut", [BETA, pytest.param(GAMMA, marks=pytest.mark.slow)])
def test_while_one_host_is_cut_off_programs_at_the_others_go_on_and_it_comes_back(fleet: Fleet, cut: str) -> None:
    ferry = fleet.attach("--grace", f"{GRACE:g}")
    before = wait_until(lambda: fleet.all_readers(ferry), "the readers of all hosts are there")
    others = [host for host in OF if host != cut]
    loops = [fleet.loop(ferry, OF[host]) for host in others]
    stuck = fleet.loop(ferry, OF[cut])
    fleet.lab.network.unplug(fleet.hosts[cut])
    left = [name for host in others for name in (OF[host], OF[host].replace("00 00", "00 01"))]
    wait_until(lambda: fleet.readers(ferry) == left, "the readers of the host that was cut off go", 30)
    assert '"error"' in stuck.wait(30).out
    for host in others:
        fleet.assert_works(ferry, OF[host])
    assert fleet.links()[cut].state != "up"
    fleet.lab.network.plug(fleet.hosts[cut])
    wait_until(lambda: fleet.readers(ferry) == before, "they come back under their names", 60)
    fleet.assert_works(ferry, OF[cut])
    assert all(loop.code is None for loop in loops), "programs at the other hosts have noticed nothing"
    assert fleet.ways() == {ALPHA: "link", BETA: "link", GAMMA: "forwarding"}
    assert ferry.stop().code == 0


def test_a_host_that_is_away_at_first_is_linked_when_it_comes(fleet: Fleet) -> None:
    fleet.sshds[ALPHA].stop()
    ferry = fleet.attach()
    assert fleet.readers(ferry)[::2] == [READER, OF[GAMMA]]
    away = fleet.links()[ALPHA]
    assert (away.way, away.link) == ("", None)
    assert "Connection refused" in away.state
    fleet.assert_works(ferry, READER)
    fleet.sshds[ALPHA].start()
    wait_until(lambda: fleet.links()[ALPHA].state == "up", "it is reached", 30)
    assert fleet.ways()[ALPHA] == "link"
    assert fleet.readers(ferry)[::2] == [f"{READER} (alpha)", READER, OF[GAMMA]]
    fleet.assert_works(ferry, f"{READER} (alpha)")
    assert ferry.stop().code == 0


@pytest.mark.slow
def test_a_host_that_does_not_answer_at_first_keeps_nobody_waiting_for_long(fleet: Fleet) -> None:
    fleet.lab.network.unplug(fleet.hosts[ALPHA])
    ferry = fleet.attach(timeout=15.0)  # ssh alone would try for 20
    assert fleet.readers(ferry)[::2] == [READER, OF[GAMMA]]
    fleet.lab.network.plug(fleet.hosts[ALPHA])
    wait_until(lambda: fleet.ways()[ALPHA] == "link", "it is linked", 60)
    wait_until(lambda: len(fleet.readers(ferry)) == 6, "its readers come")
    assert ferry.stop().code == 0


@pytest.mark.slow
def test_a_host_that_refuses_us_later_is_given_up_alone(fleet: Fleet) -> None:
    fleet.sshds[ALPHA].stop()
    ferry = fleet.attach()
    fleet.hosts[ALPHA].outside("/run/sshd/authorized_keys").write_text("")
    fleet.sshds[ALPHA].start()
    ferry.process.wait_for("alpha refused the login: .*; it is not tried again", stream="err", timeout=30)
    assert "refused the login" in fleet.links()[ALPHA].state
    fleet.assert_works(ferry, READER)
    assert ferry.process.code is None
    assert ferry.stop().code == 0

"""Services of the computer, and of an account that lingers: a real systemd is process 1, and it is rebooted."""

from __future__ import annotations

from tests.lab import Lab
from tests.lab.booted import Booted, booted
from tests.lab.cards import fake_card
from tests.lab.computer import SECOND_UID, SECOND_USER
from tests.lab.ferry import over
from tests.lab.link import all_running, install_cardferry
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result, wait_until
from tests.lab.sshd import Sshd

UNIT = "cardferry-attach-host.service"
SOCKET = "/run/cardferry/host.sock"
#: A reader that needs no other computer, of an account.
READER, ALICES = "vpicc:35991", f"/run/user/{SECOND_UID}/cardferry/vpicc-35991.sock"
LINGERS = f"/var/lib/systemd/linger/{SECOND_USER}"


def as_alice(computer: Booted, *words: str) -> Result:
    """What she types after she has logged in; she logs out again."""
    login = [f"--uid={SECOND_UID}", "--property=PAMName=login", "--property=StandardError=journal"]
    return computer.run(["systemd-run", "--quiet", "--wait", "--pipe", "--collect", *login, "--", *words])


def is_shown(computer: Booted) -> bool:
    """Whether logind has her as somebody whose services run."""
    return SECOND_USER in computer.run(["loginctl", "--no-legend", "list-users"]).out


def test_services_of_the_computer_and_of_an_account_survive_its_reboot(lab: Lab) -> None:
    host = lab.computer("host")
    pcscd = Pcscd(host)
    fake_card(pcscd)
    install_cardferry(host)
    guest = booted(lab, "guest")
    config = Sshd(host).config(guest, "host")

    def readers() -> bool:
        return bool(guest.pcsc("list", SOCKET).get("readers"))

    done = guest.run(["cardferry", "setup", "service", "attach", "host", *over(config)]).check()
    assert f"root's programs find the readers with: export PCSCLITE_CSOCK_NAME={SOCKET}" in done.out
    wait_until(readers, "the readers are there")

    def alice_has_one() -> bool:
        return bool(guest.pcsc("list", ALICES).get("readers"))

    done = as_alice(guest, "cardferry", "setup", "service", "attach", READER, "--linger").check()
    assert f"it starts with the computer: {SECOND_USER} lingers from now on" in done.out
    guest.shut_down()
    assert not [link for one in all_running(host) for link in one.links if link.guest is not None], "it said good-bye"
    guest.boot()
    wait_until(readers, "the readers are there after the reboot")
    wait_until(alice_has_one, "hers are there, too, and she has not logged in")
    assert is_shown(guest)
    assert "Linger=yes" in guest.run(["loginctl", "show-user", SECOND_USER]).out
    guest.run(["cardferry", "setup", "service", "remove", "attach", "host"]).check()
    assert not list(guest.outside("/etc/systemd/system").glob(f"**/{UNIT}"))
    assert not guest.outside(SOCKET).exists()
    done = as_alice(guest, "cardferry", "setup", "service", "remove", "attach", READER).check()
    assert f"{SECOND_USER} does not linger any more" in done.out
    wait_until(lambda: not is_shown(guest), "nothing of hers runs, now that she is not logged in")
    assert not guest.outside(LINGERS).exists()
    assert not list((guest.folder / "tmp" / ".config").rglob("cardferry*"))

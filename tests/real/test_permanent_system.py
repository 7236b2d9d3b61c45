"""A service of the computer: a real systemd is process 1, and the computer is rebooted."""

from __future__ import annotations

from tests.lab import Lab
from tests.lab.booted import booted
from tests.lab.cards import fake_card
from tests.lab.ferry import over
from tests.lab.link import all_running, install_cardferry
from tests.lab.pcscd import Pcscd
from tests.lab.process import wait_until
from tests.lab.sshd import Sshd

UNIT = "cardferry-attach-host.service"
SOCKET = "/run/cardferry/host.sock"


def test_a_service_of_the_computer_survives_its_reboot(lab: Lab) -> None:
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
    guest.shut_down()
    assert not [link for one in all_running(host) for link in one.links if link.guest is not None], "it said good-bye"
    guest.boot()
    wait_until(readers, "the readers are there after the reboot")
    guest.run(["cardferry", "setup", "service", "remove", "attach", "host"]).check()
    assert not list(guest.outside("/etc/systemd/system").glob(f"**/{UNIT}"))
    assert not guest.outside(SOCKET).exists()

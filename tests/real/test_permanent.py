"""Services by systemd's real user manager: reboots, what is away, what hangs, what runs by hand.

Both ends are rebooted, which is here: their user managers are ended, with all they have started, and begin anew.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.ferry import attach, cardferry, over
from tests.lab.link import AGENT, all_running, install_cardferry, processes
from tests.lab.process import wait_until
from tests.lab.recipe import Recipe
from tests.lab.user_systemd import UserSystemd

pytestmark = pytest.mark.usefixtures("needs_second_user")  # a control group of one's own: as root
ATTACH, SHARE, HOST = "cardferry-attach-host.service", "cardferry-share-guest.service", "cardferry.service"


class Machines:
    """Two computers with cardferry, an account's systemd at each, and a card at the host."""

    def __init__(self, lab: Lab) -> None:
        self.recipe = Recipe(lab)
        fake_card(self.recipe.pcscd)
        install_cardferry(self.recipe.host)
        install_cardferry(self.recipe.guest)
        self.guest, self.host = UserSystemd(self.recipe.guest), UserSystemd(self.recipe.host)
        self.socket = self.recipe.guest.runtime / "cardferry" / "host.sock"

    def readers(self) -> list[str]:
        """What programs on the guest see that have the variable as the service has told it."""
        answer = self.recipe.guest.pcsc("list", self.socket)
        return [one["name"] for one in answer.get("readers", [])]

    def wait_for_readers(self, *, there: bool = True) -> None:
        wait_until(lambda: bool(self.readers()) == there, f"readers are {'there' if there else 'gone'}", 30)

    def guests(self) -> list[str]:
        """Sessions that the host has."""
        return [link.host for one in all_running(self.recipe.host) for link in one.links if link.guest is not None]


@pytest.fixture
def machines(lab: Lab) -> Iterator[Machines]:
    made = Machines(lab)
    with made.guest, made.host:
        made.guest.boot()
        yield made


def test_a_reboot_of_both_ends(machines: Machines) -> None:
    guest, host = machines.guest, machines.host
    host.boot()
    host.setup("host")
    done = guest.setup("attach", "host", *over(machines.recipe.to_host), "--max-idle", "20")
    assert f"in a shell: export PCSCLITE_CSOCK_NAME={machines.socket}" in done.out
    assert "it starts when root logs in; with the computer: loginctl enable-linger" in done.out
    machines.wait_for_readers()
    assert len(machines.guests()) == 1
    wanted = f"PCSCLITE_CSOCK_NAME={machines.socket}"
    assert wanted in guest.systemctl("show-environment").out.splitlines(), "programs that systemd starts have it now"

    guest.halt()
    assert machines.guests() == [], "it has said good-bye; the session would live for another 10 s"
    guest.boot()
    guest.wait_for(ATTACH)
    machines.wait_for_readers()
    assert wanted in guest.systemctl("show-environment").out.splitlines(), "and after a reboot"
    started = guest.computer.run(["systemd-run", "--user", "--wait", "--collect", "opensc-tool", "-a"]).check()
    assert "result: success" in started.err

    machines.recipe.host_sshd.shut_down()
    host.halt()
    machines.wait_for_readers(there=False)
    host.boot()
    machines.recipe.host_sshd.start()
    host.wait_for(HOST)
    machines.wait_for_readers()
    words = [entry["MESSAGE"] for entry in guest.log()]
    assert sum("cannot be reached" in line or "does not answer" in line for line in words) < 5, words


def test_it_starts_before_the_host_is_up_and_says_good_bye_when_it_is_stopped(machines: Machines) -> None:
    guest = machines.guest
    machines.recipe.host_sshd.stop()
    guest.setup("attach", "host", *over(machines.recipe.to_host))
    guest.wait_for(ATTACH)
    assert machines.readers() == []
    machines.recipe.host_sshd.start()
    machines.wait_for_readers()
    before = guest.main_process(ATTACH)
    guest.systemctl("restart", ATTACH).check()
    assert guest.main_process(ATTACH) != before
    machines.wait_for_readers()
    wait_until(lambda: len(machines.guests()) == 1, "the session of before has ended, the new one is there", 5)
    guest.systemctl("stop", ATTACH).check()
    assert machines.guests() == []
    priorities = {int(entry["PRIORITY"]) for entry in guest.log() if "trying again" in entry["MESSAGE"]}
    assert priorities == {4}, "the journal knows how grave a line is"
    assert not [entry for entry in guest.log() if entry["MESSAGE"].startswith(("20", "<"))], "and when it was said"


def test_the_watchdog_starts_one_that_was_stopped_anew(machines: Machines) -> None:
    guest = machines.guest
    quick = guest.units / f"{ATTACH}.d" / "quick.conf"
    quick.parent.mkdir(parents=True)
    quick.write_text("[Service]\nWatchdogSec=2\nRestartSec=100ms\n")
    guest.setup("attach", "host", *over(machines.recipe.to_host))
    machines.wait_for_readers()
    first = guest.main_process(ATTACH)

    def told() -> int:
        """When the watchdog was told that it lives, in µs."""
        return int(guest.systemctl("show", "--property=WatchdogTimestampMonotonic", "--value", ATTACH).out)

    at_first = told()
    wait_until(lambda: told() > at_first + 2_500_000, "it tells the watchdog that it lives")
    assert guest.main_process(ATTACH) == first
    os.kill(first, signal.SIGSTOP)
    wait_until(lambda: guest.main_process(ATTACH) not in (0, first), "another process has its place", 30)
    machines.wait_for_readers()
    assert guest.systemctl("show", "--property=NRestarts", "--value", ATTACH).out.strip() == "1"


def test_it_takes_over_from_one_that_runs_by_hand(machines: Machines) -> None:
    by_hand = attach(machines.recipe)
    done = machines.guest.setup("attach", "host", *over(machines.recipe.to_host))
    assert (
        f"`cardferry attach host` ran by hand (process {by_hand.process.pid}): the service takes its place" in done.out
    )
    assert by_hand.process.wait().code == 0
    machines.wait_for_readers()


def test_an_agent_that_a_service_has_started_outlives_it(machines: Machines) -> None:
    """Others may use it: guests that have come over ssh."""
    host = machines.host
    host.boot()
    host.setup("share", "guest", *over(machines.recipe.to_guest))
    (agent,) = processes(machines.recipe.host, AGENT)
    own = machines.socket.with_name("own.sock")  # what is shared from a computer of that name has the other one
    ferry = attach(machines.recipe, "--socket", str(own))
    host.systemctl("stop", SHARE).check()
    assert processes(machines.recipe.host, AGENT) == [agent]
    machines.socket = ferry.socket
    assert machines.readers()
    ferry.stop()


def test_a_service_leaves_the_place_of_an_agent_that_started_itself_to_it(machines: Machines) -> None:
    ferry = attach(machines.recipe)
    (agent,) = processes(machines.recipe.host, AGENT)
    machines.host.boot()
    machines.host.setup("host")
    machines.host.wait_for(HOST)
    machines.socket = ferry.socket
    assert machines.readers(), "programs lose nothing: the agent goes on, and is led"
    ferry.stop()
    wait_until(lambda: agent not in processes(machines.recipe.host, AGENT), "it leaves when nobody uses it any more")
    machines.host.systemctl("reload", HOST).check()
    machines.host.wait_for(HOST)
    machines.socket = attach(machines.recipe).socket
    assert machines.readers(), "and the service has its place"


def test_list_and_remove_leave_nothing(machines: Machines) -> None:
    guest = machines.guest
    config = guest.computer.home / ".config"
    guest.setup("attach", "host", *over(machines.recipe.to_host))
    other = guest.setup("attach", "root@host", *over(machines.recipe.to_host))
    assert f"what systemd starts has those of {ATTACH}" in other.out
    listed = guest.setup("list").out
    assert "attach host" in listed
    assert "attach root@host" in listed
    assert "active" in listed
    guest.setup("remove", "attach", "root@host")
    assert "PCSCLITE_CSOCK_NAME" in guest.systemctl("show-environment").out, "that is the other one's"
    guest.setup("remove", "attach", "host")
    assert guest.setup("list").out == "there are no services of cardferry\n"
    assert [path for path in config.rglob("*") if not path.is_dir()] == []
    assert "PCSCLITE_CSOCK_NAME" not in guest.systemctl("show-environment").out
    assert not cardferry(machines.recipe.guest, "status").out.startswith("attach")
    wrong = guest.cardferry("setup", "service", "remove", "attach", "host", "--user")
    assert (wrong.code, wrong.err.splitlines()[1]) == (60, "hint: cardferry setup service list shows which there are")


def test_a_computer_without_systemd_is_an_error_for_people(machines: Machines) -> None:
    wrong = machines.guest.cardferry("setup", "service", "attach", "host", "--system")
    assert (wrong.code, wrong.out) == (60, "")
    assert wrong.err.startswith("error: systemd does not run this computer\nhint: have what starts"), wrong


def test_one_that_cannot_start_says_where_it_has_said_why(machines: Machines) -> None:
    wrong = machines.guest.cardferry(
        "setup", "service", "attach", "host", "--user", "--socket", "/no/such/folder/x", *over(machines.recipe.to_host)
    )
    assert wrong.code == 60
    assert wrong.err.startswith(f"error: {ATTACH} does not start: Job for {ATTACH} failed"), wrong
    assert f"hint: what it says: journalctl --user -e -u {ATTACH}" in wrong.err
    assert any("No such file" in entry["MESSAGE"] and entry["PRIORITY"] == "3" for entry in machines.guest.log())
    machines.guest.halt()
    wrong = machines.guest.cardferry("setup", "service", "list", "--user")
    assert wrong.code == 60
    assert wrong.err.splitlines()[0] == "error: this account has no systemd manager here"
    machines.guest.boot()
    assert ATTACH.split(".")[0].split("-")[1] in machines.guest.setup("list").out, "a login has one"

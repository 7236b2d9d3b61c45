"""``cardferry setup system`` on a computer that has booted: programs that lose the variable find the reader."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from bench.fairness import Turn, outcome

from tests.lab import Lab, flatpak
from tests.lab.booted import Booted, UnitPcscd, booted
from tests.lab.cards import CardInReader, fake_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, SECOND_UID, SECOND_USER, Computer
from tests.lab.ferry import Ferry, over
from tests.lab.link import AGENT, GUEST, install_cardferry, processes
from tests.lab.namespaces import PLAIN_PYTHON, is_root
from tests.lab.pcscd import Pcscd
from tests.lab.process import Result, Running, wait_until
from tests.lab.sshd import Sshd

READER = "Virtual PCD 00 00"
LIST = ["opensc-tool", "--list-readers"]
#: s that the card takes for a command, and that ten programs loop.
CARD, SECONDS = 0.01, 4.0
SERVICE = "cardferry-system.service"
#: A setuid program that forgets its environment, as careful ones do.
_SETUID = f"""
#include <stdlib.h>
#include <unistd.h>
int main(void) {{
    clearenv();
    if (setuid(0) != 0) return 3;
    execl("/usr/bin/{LIST[0]}", "{LIST[0]}", "{LIST[1]}", (char *) 0);
    return 4;
}}
"""
_POLICY = (
    """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD PolicyKit Policy Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/PolicyKit/1.0/policyconfig.dtd">
<policyconfig>
"""
    + "".join(
        f"""<action id="org.debian.pcsc-lite.{action}"><description>cards</description><message>cards</message>
<defaults><allow_any>no</allow_any><allow_inactive>no</allow_inactive><allow_active>yes</allow_active></defaults></action>
"""
        for action in ("access_pcsc", "access_card")
    )
    + "</policyconfig>\n"
)
_RULE = """\
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("org.debian.pcsc-lite.") == 0)
        return DENIED ? polkit.Result.NO : polkit.Result.YES;
});
"""
pytestmark = pytest.mark.skipif(not is_root() and not os.environ.get("CI"), reason="not run, missing: root")


def as_alice(*words: str | Path) -> list[str | Path]:
    return ["runuser", "-u", SECOND_USER, "--", *words]


class Everything:
    """What a computer is like, as far as a setup may change it."""

    def __init__(self, computer: Booted) -> None:
        self.files = {}
        for root in ("/etc", "/run", "/usr/local", "/var/lib"):
            outside = computer.outside(root)
            for at, folders, names in os.walk(outside):
                here = Path(root) / Path(at).relative_to(outside)
                folders[:] = [name for name in folders if str(here / name) not in _LIVING]
                for name in {*folders, *names} - {"pcscd.pid"}:  # which pcscd leaves
                    path = Path(at, name)
                    found = path.lstat()
                    if stat.S_ISSOCK(found.st_mode) and "systemd" in at:
                        continue
                    content = path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
                    target = str(path.readlink()) if path.is_symlink() else ""
                    self.files[str(here / name)] = (oct(found.st_mode), found.st_uid, found.st_gid, target, content)
        listed = computer.run(["systemctl", "list-unit-files", "--no-legend", "--plain"]).check().out
        self.unit_files = sorted(listed.splitlines())
        words = ["systemctl", "list-units", "--all", "--no-legend", "--plain", "--type=service,socket"]
        states = (line.split()[:4] for line in computer.run(words).check().out.splitlines())
        # a pcscd that nobody uses leaves by itself, and comes when it is called
        self.units = sorted(" ".join(one) for one in states if one[0] not in ("pcscd.service", SERVICE))


#: What systemd keeps of what happens.
_LIVING = {"/run/systemd", "/run/log", "/run/user", "/run/udev", "/var/lib/systemd", "/run/dbus"}


class Desk:
    """A computer with a pcscd and a card, for which everything is set up."""

    def __init__(self, lab: Lab, name: str = "desk") -> None:
        self.lab = lab
        self.computer = booted(lab, name)
        self.run = self.computer.run
        self.run(["systemctl", "enable", "--now", "pcscd.socket"]).check()
        self.before = Everything(self.computer)
        self.said = self.setup()
        self.card: CardInReader = fake_card(UnitPcscd(self.computer), delay=CARD)

    def setup(self, *words: str) -> str:
        return self.run([CARDFERRY, "setup", "system", *words]).check().out

    def lists(self, *words: str | Path) -> bool:
        return READER in self.run([*words, *LIST]).out


@pytest.fixture(scope="module")
def desk() -> Iterator[Desk]:
    with Lab() as lab:
        yield Desk(lab)


def test_sudo_lists_the_reader(desk: Desk) -> None:
    rule = desk.computer.etc / "sudoers.d" / "lab"
    rule.write_text(f"{SECOND_USER} ALL=(ALL) NOPASSWD: ALL\n")
    rule.chmod(0o440)
    assert desk.lists(*as_alice("sudo", "-n"))
    rule.unlink()


def test_cron_lists_the_reader(desk: Desk) -> None:
    table = desk.computer.etc / "cron.d" / "lab"
    table.write_text(f"@reboot {SECOND_USER} {' '.join(LIST)} >/tmp/cron.out 2>&1\n")
    desk.run(["systemctl", "start", "cron"]).check()
    said = desk.computer.outside("/tmp/cron.out")
    wait_until(lambda: said.exists() and READER in said.read_text(), "cron has run it")
    desk.run(["systemctl", "stop", "cron"]).check()
    table.unlink()


def test_a_setuid_program_that_forgets_its_environment_lists_the_reader(desk: Desk) -> None:
    program = desk.computer.folder / "tmp" / "setuid"
    subprocess.run(["gcc", "-x", "c", "-o", program, "-"], input=_SETUID, text=True, check=True)
    program.chmod(0o4755)
    assert READER in desk.run(as_alice("/tmp/setuid"), {"PCSCLITE_CSOCK_NAME": "/nowhere"}).out


def test_a_service_with_a_user_of_its_own_lists_the_reader(desk: Desk) -> None:
    done = desk.computer.unit("dynamic", *LIST, properties=["DynamicUser=yes", "ProtectSystem=strict"])
    assert READER in done.out, done


def test_a_unit_of_an_account_lists_the_reader(desk: Desk) -> None:
    desk.run(["systemctl", "start", f"user@{SECOND_UID}"]).check()
    words = ["systemd-run", "--user", "--quiet", "--wait", "--pipe", "--collect", *LIST]
    done = desk.run(as_alice(*words), {"XDG_RUNTIME_DIR": f"/run/user/{SECOND_UID}"})
    assert READER in done.out, done
    desk.run(["systemctl", "stop", f"user@{SECOND_UID}"]).check()


def test_a_sandbox_that_is_given_the_socket_lists_the_reader(desk: Desk) -> None:
    inside = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--proc", "/proc", "--dev", "/dev"]
    links = [word for name in ("lib", "lib64", "bin") for word in ("--symlink", f"usr/{name}", f"/{name}")]
    given = ["--ro-bind", "/run/pcscd/pcscd.comm", "/run/pcscd/pcscd.comm", "--unshare-all", "--clearenv"]
    assert desk.lists(*as_alice("bwrap", *inside, *links, *given))


def test_a_flatpak_with_the_permission_lists_the_reader(desk: Desk) -> None:
    run = desk.run
    repository = flatpak.build(desk.computer.folder / "tmp" / "flatpak")
    run(["systemctl", "start", f"user@{SECOND_UID}"]).check()
    runtime = f"/run/user/{SECOND_UID}"
    session = {"HOME": "/tmp", "XDG_RUNTIME_DIR": runtime, "DBUS_SESSION_BUS_ADDRESS": f"unix:path={runtime}/bus"}

    def typed(*words: str | Path, **env: str) -> str:
        return run(as_alice("flatpak", *words), {**session, **env}).all

    inside = Path("/tmp") / repository.relative_to(desk.computer.folder / "tmp")
    run(as_alice("flatpak", "--user", "remote-add", "--no-gpg-verify", flatpak.REMOTE, inside), session).check()
    words = ["flatpak", "--user", "install", "--noninteractive", flatpak.REMOTE, flatpak.APPLICATION]
    run(as_alice(*words), session).check()
    assert READER not in typed("run", "--user", flatpak.APPLICATION), "it has no permission"
    assert READER in (said := typed("run", "--user", "--socket=pcsc", flatpak.APPLICATION)), said
    assert READER not in typed("run", "--user", "--socket=pcsc", flatpak.APPLICATION, PCSCLITE_CSOCK_NAME="/nowhere")
    typed("override", "--user", "--socket=pcsc", flatpak.APPLICATION)
    assert READER in typed("run", "--user", flatpak.APPLICATION), "it has it for ever"
    run(["systemctl", "stop", f"user@{SECOND_UID}"]).check()


def test_nobody_but_root_gets_around_us(desk: Desk) -> None:
    behind = {"PCSCLITE_CSOCK_NAME": "/run/pcscd/behind-cardferry.comm"}
    assert READER in desk.run(LIST, behind).out
    assert READER not in desk.run(as_alice(*LIST), behind).out


@pytest.fixture(scope="module")
def near(desk: Desk) -> Computer:
    """Another computer."""
    return desk.lab.computer("near")


@pytest.fixture
def sshd(desk: Desk) -> Iterator[Sshd]:
    """Lets root and alice into the desk; sessions have the environment that accounts have."""
    server = Sshd(desk.computer, env={"XDG_RUNTIME_DIR": ""})
    yield server
    server.stop()
    shutil.rmtree(desk.computer.folder / "ssh")


@pytest.mark.alone
def test_a_program_on_the_host_and_nine_on_guests_take_turns(desk: Desk, near: Computer, sshd: Sshd) -> None:
    with ThreadPoolExecutor() as at_once:
        accounts = enumerate(("root", "root", SECOND_USER))
        coming = [at_once.submit(attach, near, sshd, account, f"{number}.sock") for number, account in accounts]
    links = [each.result() for each in coming]
    take_turns([(desk.computer, {}), *[(near, link.env) for link in links * 3]])
    for link in links:
        link.stop()


def take_turns(programs: list[tuple[Computer, dict[str, str]]]) -> None:
    """Have programs use the card at the same time, alice's where she has attached it; see that it is fair."""
    words: list[str | Path]
    words = [PLAIN_PYTHON, PCSC_CLIENT, "loop", READER, "--seconds", str(SECONDS), "--start", "--apdu", "00a4040000"]
    loops = [
        computer.popen(as_alice(*words) if env and isinstance(computer, Booted) else words, env, stdin=True)
        for computer, env in programs
    ]
    for loop in loops:
        loop.wait_for('"ready": true', timeout=60)
    for loop in loops:
        loop.write("go\n")
    said = [json.loads(loop.wait(60).out.splitlines()[-1])["turns"] for loop in loops]
    judged = outcome("cardferry", CARD, SECONDS, [[Turn(*turn) for turn in turns] for turns in said])
    assert judged.jain >= 0.99, judged
    assert min(judged.turns) > 5, judged


class Alice:
    """An account of the desk that shares the reader with two other computers, and attaches it for its own programs."""

    env: ClassVar = {"XDG_RUNTIME_DIR": "", "HOME": "/tmp", "USER": SECOND_USER}

    def __init__(self, desk: Desk, linked: Computer, forwarded: Computer) -> None:
        self._desk = desk.computer
        install_cardferry(linked)
        install_cardferry(forwarded, script="#!/bin/sh\nexit 1\n")
        config = "".join(self._way(Sshd(guest)) for guest in (linked, forwarded))
        self._put("config", config)
        self.share = self.run("share", linked.name, forwarded.name, "-e", "ssh -F /tmp/ssh/config")
        told = [self.share.wait_for("^ready (.*) on (.*)$") for _ in (linked, forwarded)]
        self.sockets = {one[2]: {"PCSCLITE_CSOCK_NAME": one[1]} for one in told}
        self.attach = self.run("attach", "pcscd:/run/pcscd/pcscd.comm")
        self.attached = {"PCSCLITE_CSOCK_NAME": self.attach.wait_for("export PCSCLITE_CSOCK_NAME=(.*)")[1]}

    def _way(self, sshd: Sshd) -> str:
        """How to log in at another computer, with a key that alice may read."""
        name = sshd.computer.name
        self._put(name, sshd.user_key.read_text())
        known = f"/tmp/ssh/{name}.host"
        self._put(f"{name}.host", f"{name} {sshd.host_key.with_suffix('.pub').read_text()}")
        return sshd.config(
            self._desk, options={"IdentityFile": f"/tmp/ssh/{name}", "UserKnownHostsFile": known}
        ).read_text()

    def _put(self, name: str, text: str) -> None:
        path = self._desk.folder / "tmp" / "ssh" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        os.chown(path, SECOND_UID, SECOND_UID)

    def run(self, *words: str) -> Running:
        return self._desk.popen(as_alice("cardferry", *words), self.env)

    def cardferry(self, *words: str) -> Result:
        return self._desk.run(as_alice("cardferry", *words), self.env)


@pytest.mark.alone
def test_guests_of_an_accounts_share_and_its_attached_programs_stand_in_the_one_queue(desk: Desk) -> None:
    """Each for itself, one computer with cardferry and one without; beside them a program of another account."""
    linked, forwarded = desk.lab.computer("linked"), desk.lab.computer("forwarded")
    alice = Alice(desk, linked, forwarded)
    guests = [(guest, alice.sockets[guest.name]) for guest in (linked, forwarded)]
    take_turns([*guests * 3, *[(desk.computer, alice.attached)] * 3, (desk.computer, {})])
    shown = alice.cardferry("status").out
    assert "serves ssh:alice/linked, as this computer has proved" in shown
    assert not processes(desk.computer, AGENT), "she needs no agent"
    for command in (alice.share, alice.attach):
        command.stop()
    gone = "it has said good-bye; without, the service would keep what its guests hold for 10 s"
    wait_until(lambda: "ssh:alice" not in alice.cardferry("status").out, gone, timeout=5)
    wait_until(lambda: not processes(linked, GUEST), "and so has the guest, who would wait for 120 s", timeout=5)


def attach(guest: Computer, sshd: Sshd, account: str, name: str) -> Ferry:
    """Another link to the desk, as one of its accounts."""
    config = sshd.config(guest, f"desk-{account}", options={"User": account})
    return Ferry(guest, ["attach", f"desk-{account}", *over(config), "--socket", str(guest.home / name)])


def test_every_account_sees_the_service_in_status_and_doctor_and_root_who_uses_it(desk: Desk) -> None:
    held = desk.computer.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], stdin=True)
    held.wait_for("held")
    environment = Alice.env
    alice = as_alice("cardferry")
    for command, holder in (
        (["cardferry", "status"], rf"python.*, user {os.getuid()}\) as local-user:root for"),
        ([*alice, "status"], "another account for"),
    ):
        said = desk.run(command, environment if command[0] == "runuser" else None).check().out
        assert said.startswith("system this computer: since "), said
        assert "this computer: up, /run/pcscd/pcscd.comm" in said
        assert re.search(f"held by {holder}", " ".join(said.split())), said
    assert READER in desk.run([*alice, "readers"], environment).check().out
    diagnosis = desk.run([*alice, "doctor"], environment).out
    assert "system this computer: serves at /run/pcscd/pcscd.comm" in diagnosis, diagnosis
    assert "✗" not in diagnosis, diagnosis
    held.write("go\n")
    held.wait()


def test_polkit_decides_who_uses_cards_and_which(desk: Desk, near: Computer, sshd: Sshd) -> None:
    policy, rules = desk.computer.actions / "org.debian.pcsc-lite.policy", desk.computer.etc / "polkit-1" / "rules.d"
    alice = as_alice()
    assert desk.lists(*alice), "this pcscd asks nobody"
    policy.write_text(_POLICY)
    rule = rules / "10-lab.rules"
    rule.write_text(_RULE.replace("DENIED", f'subject.user == "{SECOND_USER}" && action.id.endsWith("pcsc")'))
    rule.chmod(0o644)
    wait_until(lambda: not desk.lists(*alice), "polkit keeps cards from alice")
    assert "0x8010006a" in desk.computer.run([*alice, PLAIN_PYTHON, PCSC_CLIENT, "list"]).out, "with a word for it"
    told = desk.run([*alice, "cardferry", "status"], Alice.env).out
    assert f"polkit keeps cards from {SECOND_USER}, process" in told
    assert READER not in told, "nor does `status` tell her more"
    attach_it = desk.run([*alice, "cardferry", "attach", "pcscd:/run/pcscd/pcscd.comm"], Alice.env)
    assert attach_it.code == 32, attach_it
    assert attach_it.err.splitlines()[-2].startswith(f"error: polkit keeps cards from {SECOND_USER}, process")
    assert desk.lists("runuser", "-u", "nobody", "--"), "and from nobody else"
    assert f"user {SECOND_UID}, use cards" in desk.computer.journal(SERVICE)

    config = sshd.config(near, "desk-alice", options={"User": SECOND_USER})
    ferry = Ferry(near, ["attach", "desk-alice", *over(config), "--socket", str(near.home / "p.sock")])
    assert READER not in near.run(LIST, ferry.env).out, "nor do her guests get past it"
    ferry.stop()

    rule.write_text(
        _RULE.replace("DENIED", f'subject.user == "{SECOND_USER}" && action.lookup("reader") == "{READER}"')
    )
    wait_until(lambda: desk.lists(*alice), "alice sees readers")
    use = [*alice, PLAIN_PYTHON, PCSC_CLIENT, "apdu", READER, "00A40000"]
    assert "0x8010006a" in desk.run(use).out, "and may not connect to this one"
    assert "9000" in desk.run(use[len(alice) :]).out
    desk.run(["systemctl", "stop", "polkit"]).check()
    desk.run(["systemctl", "mask", "--runtime", "polkit"]).check()
    assert not desk.lists(*alice), "what cannot be asked says no"
    assert "polkit cannot be asked who may use cards" in desk.computer.journal(SERVICE)
    desk.run(["systemctl", "unmask", "--runtime", "polkit"]).check()
    rule.unlink()
    policy.unlink()
    assert desk.lists(*alice)


def test_another_computers_readers_are_beside_those_of_this_one(desk: Desk, near: Computer) -> None:
    fake_card(Pcscd(near))
    install_cardferry(near)
    config = Sshd(near).config(desk.computer)
    system_wide = desk.computer.etc / "ssh" / "ssh_config.d" / "lab.conf"
    system_wide.write_text(config.read_text())
    desk.setup("near")
    desk.card.insert()
    wait_until(lambda: f"{READER} (near)" in desk.run(as_alice(*LIST)).out, "both are there")
    assert desk.lists(*as_alice())
    for reader in (READER, f"{READER} (near)"):
        assert "9000" in desk.run(as_alice(PLAIN_PYTHON, PCSC_CLIENT, "apdu", reader, "00A40000")).out
    system_wide.unlink()


def test_after_a_restart_of_the_computer_it_is_there_by_itself(desk: Desk) -> None:
    desk.card.process.stop()
    desk.computer.shut_down()
    desk.computer.boot()
    desk.card.insert()
    assert desk.lists(*as_alice())
    assert desk.run(["systemctl", "is-active", SERVICE]).out == "active\n"


def test_removed_everything_is_as_it_was(desk: Desk) -> None:
    assert "removed" in desk.setup("--remove")
    after = Everything(desk.computer)
    assert after.files == desk.before.files
    assert after.unit_files == desk.before.unit_files
    assert after.units == desk.before.units
    assert desk.lists(*as_alice()), "pcscd is where it was"
    assert "nothing" in desk.setup("--remove")

"""The recipes of ``docs/machines/``, word for word: the pages' own lines are run.

The programs inside are those of Debian's unstable release, with their own libraries, and a pcsc-lite of another
version than this computer's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.compat import foreign
from tests.compat.deployments import run_pcscd
from tests.compat.foreign import SERVERS
from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import REPOSITORY
from tests.lab.ferry import Ferry, over
from tests.lab.link import install_cardferry
from tests.lab.pcscd import SOCKET, Pcscd, accepts
from tests.lab.process import Result, Running, wait_until
from tests.lab.sshd import PORT, Sshd

pytestmark = pytest.mark.usefixtures("releases")

PAGES = REPOSITORY / "docs" / "machines"
BOOKWORM, SID = SERVERS[0], SERVERS[-1]
_BLOCK = re.compile(r"```(sh|ssh_config)\n(.*?)```", re.DOTALL)


def lines(page: str, number: int) -> str:
    """A page's block of code that is meant to be run, counted from 0."""
    blocks: list[tuple[str, str]] = _BLOCK.findall((PAGES / f"{page}.md").read_text())
    return blocks[number][1]


def shell(computer: Computer, script: str, **variables: str | Path) -> Result:
    """Run lines of a page."""
    return computer.run(["bash", "-euc", script], {name: str(value) for name, value in variables.items()})


def assert_card_seen(done: Result) -> None:
    """pcsc_scan has listed the card."""
    assert "3B 80 80 01 01" in done.check().out, done


class Machine:
    """A computer with a reader of its own, and cardferry at it.

    Attributes:
        computer: it.
        root: a folder with another system in it.
        ferry: the command of the page, running.
    """

    def __init__(self, lab: Lab) -> None:
        self.computer = lab.computer("machine")
        fake_card(Pcscd(self.computer))
        self.root = self.computer.home / "root"
        (self.root / "usr").mkdir(parents=True)
        self.computer.holder.mount_bind(SID.root / "usr", self.root / "usr")
        for name in ("bin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        prepare, attach = lines("chroot", 0).splitlines()
        shell(self.computer, prepare).check()
        self._attach = attach.replace('"$HOST"', f"pcscd:{SOCKET}").replace("~", str(self.computer.home))
        self.attach()

    @property
    def socket(self) -> Path:
        return self.ferry.socket

    def attach(self) -> None:
        """Start cardferry as the page says."""
        self.ferry = Ferry(self.computer, self._attach.split()[1:])


@pytest.fixture(scope="module")
def machine(releases: None) -> Iterator[Machine]:
    with Lab() as lab:
        yield Machine(lab)


def test_program_of_another_release_needs_cardferry(machine: Machine, as_root: None) -> None:
    """What the pages are about: beside pcscd's own socket the program inside fails."""
    (machine.root / "run/pcscd").mkdir(parents=True, exist_ok=True)
    script = 'mount --bind /run/pcscd "$ROOT/run/pcscd"; chroot "$ROOT" pcsc_scan -n -t 1'
    done = shell(machine.computer, script, ROOT=machine.root)
    assert "PC/SC device scanner" in done.out, done
    assert "3B 80 80 01 01" not in done.out, done


def test_chroot(machine: Machine, as_root: None) -> None:
    script = lines("chroot", 1)
    assert_card_seen(shell(machine.computer, script, ROOT=machine.root))
    machine.ferry.stop()
    machine.attach()
    assert_card_seen(shell(machine.computer, script.splitlines()[-1], ROOT=machine.root))


def test_namespace(machine: Machine, as_root: None) -> None:
    assert_card_seen(shell(machine.computer, lines("chroot", 2)))


def test_container_with_cardferry_inside(machine: Machine, as_root: None) -> None:
    """A link instead of the programs' socket."""
    computer = machine.computer
    install_cardferry(computer)
    prepare, listen = lines("chroot", 3).splitlines()
    shell(computer, prepare).check()
    agent = computer.popen(["bash", "-euc", f"exec {listen}"])
    wait_until(lambda: accepts(computer.home / "links" / "card"), f"the agent listens: {agent}")
    assert_card_seen(shell(computer, lines("chroot", 4)))


def test_bubblewrap_as_flatpak_uses_it(machine: Machine) -> None:
    done = shell(machine.computer, lines("flatpak", 0), RUNTIME=machine.root, PCSCLITE_CSOCK_NAME=machine.socket)
    assert_card_seen(done)


#: In the place of ``socat - VSOCK-CONNECT:CID:PORT``: the same through the lab's network.
_SOCAT = """#!/bin/bash
[ "$*" = "- VSOCK-CONNECT:2:22" ] || { echo "unexpected: $*" >&2; exit 1; }
exec 3<>/dev/tcp/ADDRESS/PORT
cat <&3 & cat >&3
kill $!
"""


@pytest.mark.parametrize("command", ["attach", "share"])
def test_virtual_machine_over_ssh_through_vsock(lab: Lab, command: str) -> None:
    """The page's configuration; the machine's own network is not used by its name."""
    computer, machine = lab.computer("computer"), lab.computer("machine")
    run_pcscd(computer, BOOKWORM)
    near, far = (machine, computer) if command == "attach" else (computer, machine)
    sshd = Sshd(far)
    config = sshd.config(near, "computer", address="nowhere.invalid")
    socat = near.home / "socat"
    socat.write_text(_SOCAT.replace("ADDRESS", far.address).replace("PORT\n", f"{PORT}\n"))
    socat.chmod(0o755)
    config.write_text(lines("virtual-machines", 0).replace("socat", str(socat)) + config.read_text())
    words = lines("virtual-machines", 1).split() if command == "attach" else ["cardferry", "share", "computer"]
    ferry = Ferry(near, [*words[1:], *over(config)])
    scan: Running = machine.popen(foreign.command(SID, "usr/bin/pcsc_scan", "-n"), ferry.env)
    scan.wait_for("^0: Virtual PCD 00 00")

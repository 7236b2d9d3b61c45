"""Where the programs of a column of the table find their reader: a server, and a way from the guest to it.

Each deployment has two computers of its own: on ``host`` a pcscd with vpcd's virtual readers, on ``guest`` nothing but
what the form needs. A card dials in when the test wants it.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from tests.compat import foreign
from tests.compat.foreign import Release
from tests.lab import Computer, Lab
from tests.lab.computer import CARDFERRY, REPOSITORY
from tests.lab.ferry import Ferry, cardferry, over
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running
from tests.lab.recipe import Forward
from tests.lab.sshd import Sshd

PCSCD_READER = "Virtual PCD 00 00"
VPICC_READER = "cardferry vpicc 00 00"
_SOCKET = "/run/pcscd/pcscd.comm"


class Form(Enum):
    """How the guest's programs reach the reader."""

    ATTACH = "cardferry attach"
    SHARE = "cardferry share"
    LOCAL = "ssh -L"
    REMOTE = "ssh -R"
    LINK = "cardferry attach, both ends"
    BUILT_IN = "built-in reader"


@dataclass(frozen=True, slots=True)
class Deployment:
    """A column of the table.

    Attributes:
        form: the way.
        server: whose pcscd the host runs; None for cardferry's own reader.
    """

    form: Form
    server: Release | None

    @property
    def name(self) -> str:
        """For test names."""
        return (
            f"{self.form.value} {self.server.suite if self.server else ''}".strip().replace(",", "").replace(" ", "-")
        )

    @property
    def ferried(self) -> bool:
        """Whether cardferry is in it."""
        return self.form not in (Form.LOCAL, Form.REMOTE)


@dataclass(slots=True)
class Stage:
    """A deployment that stands.

    Attributes:
        guest: where the programs run.
        socket: what they connect to.
        reader: the reader's name.
        place: the computer where the card dials in.
        witness: a program there that sees the card come and go, where pcscd takes its time.
    """

    guest: Computer
    socket: Path
    reader: str
    place: Computer
    witness: Running | None = None
    _card: Running | None = None

    @property
    def env(self) -> dict[str, str]:
        """What leads programs to the socket."""
        return {"PCSCLITE_CSOCK_NAME": str(self.socket)}

    def insert(self) -> None:
        """Put the card in; returns when the reader has seen it."""
        words = [sys.executable, "-m", "tests.lab.card_fake", f"--port={Pcscd.port()}"]
        environment = {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}
        self._card = self.place.popen(words, environment, mounts=False)
        self._card.wait_for("^inserted$")
        if self.witness is not None:
            self.witness.wait_for("Card inserted")

    def remove(self) -> None:
        """Take it out; returns when the reader has seen it."""
        assert self._card is not None
        self._card.stop()
        if self.witness is not None:
            self.witness.wait_for("Card removed")


@contextlib.contextmanager
def deployed(deployment: Deployment) -> Iterator[Stage]:
    """Build a deployment for the block, its reader empty."""
    with Lab() as lab:
        guest = lab.computer("guest")
        if deployment.server is None:
            guest_cardferry = Ferry(guest, ["attach", f"vpicc:{Pcscd.port()}"])
            yield Stage(guest, guest_cardferry.socket, VPICC_READER, guest)
            return
        host = lab.computer("host")
        run_pcscd(host, deployment.server)
        witness = host.popen(foreign.command(deployment.server, "usr/bin/pcsc_scan", "-n"))
        for _ in range(2):  # vpcd's two readers, both empty
            witness.wait_for("Card removed")
        yield Stage(guest, _way(deployment.form, host, guest), PCSCD_READER, host, witness)


def run_pcscd(computer: Computer, server: Release, readers: int = 2) -> Pcscd:
    """The pcscd of a release, with its own libraries and vpcd, in a computer."""
    root = foreign.unpack_server(server)
    program = foreign.command(server, "usr/sbin/pcscd")
    arguments = () if server.suite == "bookworm" else ("--disable-polkit",)  # bookworm's is built without polkit
    driver = root / "usr/lib/pcsc/drivers/serial/libifdvpcd.so"
    return Pcscd(computer, readers, arguments=arguments, program=tuple(program), driver=driver)


def _way(form: Form, host: Computer, guest: Computer) -> Path:
    """The socket on the guest."""
    if form is Form.LINK:
        path = f"{CARDFERRY.parent}:{host.env['PATH']}"
        ferry = Ferry(guest, ["attach", "host", *over(Sshd(host, env={"PATH": path}).config(guest, "host"))])
        [running] = json.loads(cardferry(guest, "status", "--json").check().out)
        assert running["links"][0]["way"] == "link", running
        return ferry.socket
    if form in (Form.ATTACH, Form.LOCAL):
        host.hide_cardferry()
        config = Sshd(host).config(guest, "host")
        if form is Form.ATTACH:
            return Ferry(guest, ["attach", "host", *over(config)]).socket
        by_hand = guest.popen(["ssh", "-F", config, "-N", "-L", f"{guest.home / 'card'}:{_SOCKET}", "host"])
    else:
        guest.hide_cardferry()
        config = Sshd(guest).config(host, "guest")
        if form is Form.SHARE:
            return Ferry(host, ["share", "guest", *over(config)]).socket
        by_hand = host.popen(["ssh", "-F", config, "-N", "-R", f"{guest.home / 'card'}:{_SOCKET}", "guest"])
    return Forward(guest, by_hand, guest.home / "card").socket

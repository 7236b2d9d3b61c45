"""The ways to a card that are compared, each opened between two computers of its own.

A way leads to one reader of the host. Everything it consists of is a process of the lab: the ssh of a person who
follows the recipe by hand, or cardferry as anybody starts it.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.computer import CARDFERRY, REPOSITORY, Computer
from tests.lab.delay import DelayedPort
from tests.lab.lab import Lab
from tests.lab.link import install_cardferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.nats import NatsServer
from tests.lab.pcscd import SOCKET, accepts
from tests.lab.pool import NAME as POOL
from tests.lab.pool import configure
from tests.lab.process import LabError, Running, wait_until
from tests.lab.recipe import Forward, Recipe


class Site:
    """Two computers of which only one way makes use, so that ways do not meet at a card.

    Args:
        lab: where to build.
        number: tells sites apart.
    """

    def __init__(self, lab: Lab, number: int) -> None:
        self.recipe = Recipe(lab, names=(f"h{number}", f"g{number}"))
        self.host, self.guest = self.recipe.host, self.recipe.guest
        self.to_host, self.to_guest = self.recipe.to_host, self.recipe.to_guest
        self._ports: list[DelayedPort] = []

    def move_apart(self, round_trip: float) -> None:
        """From now on ssh needs ``round_trip`` s to the other side and back."""
        guest_side = DelayedPort(self.guest, self.host, round_trip / 2)
        host_side = DelayedPort(self.host, self.guest, round_trip / 2)
        self._ports += [guest_side, host_side]
        self.to_host = self.recipe.host_sshd.config(self.guest, "host", guest_side.address, guest_side.port)
        self.to_guest = self.recipe.guest_sshd.config(self.host, "guest", host_side.address, host_side.port)

    def new_socket(self) -> Path:
        """An unused path, good on both computers' own file systems."""
        return self.recipe.new_socket()


class OpenWay:
    """An open way, with a measuring client at its near end.

    Args:
        computer: where programs run.
        socket: for `PCSCLITE_CSOCK_NAME`; None leads to pcscd's own.
        carriers: the processes it consists of, ended with it.
        reader: what the reader is called there; None for what pcscd calls it.
    """

    def __init__(
        self, computer: Computer, socket: Path | None, carriers: tuple[Running, ...] = (), reader: str | None = None
    ) -> None:
        self.carriers = carriers
        self._reader = reader
        env = {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}
        if socket is not None:
            env["PCSCLITE_CSOCK_NAME"] = str(socket)
        self._client = computer.popen([PLAIN_PYTHON, "-m", "bench.client"], env, stdin=True)
        self._client.wait_for("^ready$")

    def ask(self, **order: Any) -> dict[str, Any]:
        """Have the client measure; see `bench.client`."""
        if self._reader is not None and "reader" in order:
            order["reader"] = self._reader
        self._client.write(json.dumps(order) + "\n")
        line = self._client.wait_for(r"^\{.*\}$", timeout=300).group()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            told = "\n".join(str(carrier) for carrier in self.carriers)
            raise LabError(f"{order} failed: {answer['error']}\n{told}")
        return answer

    def close(self) -> None:
        """End the client and the way."""
        self._client.close()
        for carrier in self.carriers:
            carrier.close()


def _direct(site: Site) -> OpenWay:
    return OpenWay(site.host, None)


def _ssh(site: Site) -> OpenWay:
    forward = site.recipe.ssh_local(config=site.to_host)
    return OpenWay(site.guest, forward.socket, (forward.ssh,))


def _terminal(site: Site) -> Forward:
    path = site.new_socket()
    command: list[str | Path] = ["ssh", "-F", site.to_host, "-tt", "-L", f"{path}:{SOCKET}", "host", "cat"]
    return Forward(site.guest, site.guest.popen(command, stdin=True), path)


def _ssh_terminal(site: Site) -> OpenWay:
    forward = _terminal(site)
    return OpenWay(site.guest, forward.socket, (forward.ssh,))


def _nothing(site: Site) -> OpenWay:
    forward, path = _terminal(site), site.new_socket()
    python = CARDFERRY.with_name("python")
    relay = site.guest.popen([python, "-m", "bench.nothing", path, forward.socket], {"PYTHONPATH": str(REPOSITORY)})
    relay.wait_for("^ready$")
    return OpenWay(site.guest, path, (relay, forward.ssh))


def _nothing_twice(site: Site) -> OpenWay:
    """A bare relay at both ends of an ssh session."""
    path, python, module = site.new_socket(), CARDFERRY.with_name("python"), ("-m", "bench.nothing")
    env = {"PYTHONPATH": str(REPOSITORY)}
    there = f"PYTHONPATH={REPOSITORY} exec {python} {shlex.join(module)} - {SOCKET}"
    ssh: list[str | Path] = ["ssh", "-F", site.to_host, "-T", "host", there]
    relay = site.guest.popen([python, *module, path, "--", *ssh], env)
    relay.wait_for("^ready$")
    return OpenWay(site.guest, path, (relay,))


def _nothing_over_tcp(site: Site) -> OpenWay:
    """A bare relay at both ends of a TCP connection, without ssh and without encryption."""
    path, python, module = site.new_socket(), CARDFERRY.with_name("python"), ("-m", "bench.nothing")
    env, where = {"PYTHONPATH": str(REPOSITORY)}, f"{site.host.address}:7764"
    far = site.host.popen([python, *module, where, SOCKET], env)
    near = site.guest.popen([python, *module, path, where], env)
    for relay in (far, near):
        relay.wait_for("^ready$")
    return OpenWay(site.guest, path, (near, far))


def _cardferry(computer: Computer, *words: str | Path) -> Running:
    running = computer.popen([CARDFERRY, *words])
    running.wait_for("^ready")
    return running


def _beside(site: Site) -> OpenWay:
    path = site.new_socket()
    return OpenWay(site.host, path, (_cardferry(site.host, "attach", "--socket", path, f"pcscd:{SOCKET}"),))


def _linked(computer: Computer, *words: str | Path) -> Running:
    running = _cardferry(computer, *words)
    running.wait_for("linked, cardferry is at both ends", stream="err")
    return running


def _attach_words(site: Site, path: Path) -> tuple[str | Path, ...]:
    return "attach", "-e", f"ssh -F {site.to_host}", "--socket", path, "host"


def _share_words(site: Site, path: Path) -> tuple[str | Path, ...]:
    return "share", "-e", f"ssh -F {site.to_guest}", "--remote-socket", path, "guest"


def _attach(site: Site) -> OpenWay:
    path = site.new_socket()
    return OpenWay(site.guest, path, (_cardferry(site.guest, *_attach_words(site, path)),))


def _share(site: Site) -> OpenWay:
    path = site.new_socket()
    return OpenWay(site.guest, path, (_cardferry(site.host, *_share_words(site, path)),))


def _attach_linked(site: Site, *words: str) -> OpenWay:
    install_cardferry(site.host)
    path = site.new_socket()
    return OpenWay(site.guest, path, (_linked(site.guest, *_attach_words(site, path), *words),))


def _share_linked(site: Site) -> OpenWay:
    install_cardferry(site.guest)
    path = site.new_socket()
    return OpenWay(site.guest, path, (_linked(site.host, *_share_words(site, path)),))


def _attach_neighbour(site: Site, *words: str) -> OpenWay:
    """Host and guest on one computer, without ssh."""
    folder = site.host.home / "links"
    folder.mkdir(mode=0o700)
    link, path = f"unix:{folder / 'card'}", site.new_socket()
    agent = site.host.popen([CARDFERRY, "host", "--listen", link])
    wait_until(lambda: accepts(folder / "card"), f"the agent listens: {agent}")
    guest = _linked(site.host, "attach", "--socket", path, link, *words)
    return OpenWay(site.host, path, (guest, agent))


def _attach_tls(site: Site, *words: str) -> OpenWay:
    """The two computers without ssh between them."""
    agent = site.host.popen([CARDFERRY, "host", "--listen", "tls::7764"])
    line = site.host.run([CARDFERRY, "invite", "bench", "--address", site.host.address]).check().out.strip()

    def joined() -> bool:
        return site.guest.run([CARDFERRY, "join", line]).code == 0

    wait_until(joined, f"the agent listens: {agent}")
    path = site.new_socket()
    guest = _linked(site.guest, "attach", "--socket", path, f"tls://{site.host.address}", *words)
    return OpenWay(site.guest, path, (guest, agent))


def _attach_fleet(site: Site, *words: str) -> OpenWay:
    """Both computers dial a NATS service, which is at the host."""
    nats = NatsServer(site.host)
    agent = site.host.popen([CARDFERRY, "host", "--fleet", nats.url, "--fleet-name", "bench"])
    agent.wait_for("in the fleet at", stream="err")
    line = site.host.run([CARDFERRY, "invite", "guest"]).check().out.strip()
    said = site.guest.run([CARDFERRY, "join", line]).check().out
    path = site.new_socket()
    host = said.split("cardferry attach ")[1].strip()
    guest = _linked(site.guest, "attach", "--socket", path, host, *words)
    return OpenWay(site.guest, path, (guest, agent, nats.process))


def _attach_pool(site: Site, *words: str) -> OpenWay:
    """A pool of one card, over TLS."""
    tls = _attach_tls(site, *words)
    configure(site.guest, [f"tls://{site.host.address}"], 'readers = "* 00"\n')
    path = site.new_socket()
    guest = _linked(site.guest, "attach", "--socket", path, f"pool:{POOL}", *words)
    return OpenWay(site.guest, path, (guest, *tls.carriers), POOL)


def _attach_direct(site: Site, *words: str) -> OpenWay:
    """ssh introduces, TLS carries."""
    install_cardferry(site.host)
    path = site.new_socket()
    guest = _linked(site.guest, *_attach_words(site, path), "--direct", *words)
    guest.wait_for("direct connection", stream="err")
    return OpenWay(site.guest, path, (guest,))


@dataclass(frozen=True, slots=True)
class Way:
    """One column of the comparison.

    Attributes:
        key: its name on the command line and in results.
        title: its name in tables.
        open: opens it at a site.
        remote: whether distance matters to it.
    """

    key: str
    title: str
    open: Callable[[Site], OpenWay]
    remote: bool = True


#: What everything is compared with.
BASELINE = "ssh"
WAYS = (
    Way("direct", "direct", _direct, remote=False),
    Way("beside", "attach pcscd:", _beside, remote=False),
    Way(BASELINE, "ssh -N -L", _ssh),
    Way("terminal", "ssh -tt -L", _ssh_terminal),
    Way("nothing", "bare relay, ssh -tt", _nothing),
    Way("attach", "attach", _attach),
    Way("share", "share", _share),
    Way("attach2", "attach, both ends", _attach_linked),
    Way("share2", "share, both ends", _share_linked),
)

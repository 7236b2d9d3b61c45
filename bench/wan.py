"""``python -m bench.wan``: whole programs over a distance, through a link and through ``ssh -N -L``, side by side.

A relay between ssh and sshd holds every byte for half a round trip each way and counts how often the conversation
went there and back. Programs run over a link without memory, over one that knows them, and on a guest that has just
come.

--round-trips MS,...   the distances of the plot, in ms
--write                write the tables into docs/link-performance.md and draw docs/images/wan.svg
--quick                one distance, a few programs; the figures mean little
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.lab.cards import CAC_PIN, PIV_PIN, cac_card, openpgp_card, piv_card
from tests.lab.computer import REPOSITORY, Computer
from tests.lab.delay import DelayedPort
from tests.lab.ferry import attach
from tests.lab.gpg import Gpg
from tests.lab.lab import Lab
from tests.lab.link import install_cardferry
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET
from tests.lab.process import LabError, Running
from tests.lab.recipe import Recipe

from bench.wan_report import COLD, LINK, LOCAL, NEW, PLOTTED, SSH, TABLE, Measured, Row, plot, table

PAGE: Final = REPOSITORY / "docs" / "link-performance.md"
PICTURE: Final = REPOSITORY / "docs" / "images" / "wan.svg"
_REPEATS: Final = {LOCAL: 5, COLD: 2, LINK: 5, NEW: 1, SSH: 1}
#: Times that a program runs over the link before it is measured: a signature is known after three.
_WARMING: Final = 4


@dataclass(frozen=True, slots=True)
class Way:
    """Where a program runs and what leads it to the card.

    Attributes:
        key: `LOCAL`, `COLD`, `LINK`, `NEW` or `SSH`.
        computer: where it runs.
        socket: for ``PCSCLITE_CSOCK_NAME``; None is pcscd's own.
        port: the relay, None where there is no distance.
    """

    key: str
    computer: Computer
    socket: Path | None
    port: DelayedPort | None = None

    @property
    def env(self) -> dict[str, str]:
        """What leads programs there."""
        return {} if self.socket is None else {"PCSCLITE_CSOCK_NAME": str(self.socket)}


#: Runs a program to its end, and returns its seconds.
Run = Callable[[Way], float]


@dataclass(frozen=True, slots=True)
class Flow:
    """Something that people do.

    Attributes:
        name: in words.
        run: does it.
        prepare: what must be done before each time, untimed.
        most_waits: calls that may wait for the host, the second time.
    """

    name: str
    run: Run
    prepare: Callable[[Way], object] = lambda way: None
    most_waits: int = 1


def program(*words: str, proof: str) -> Run:
    """A program; ``proof`` must be in its output."""

    def run(way: Way) -> float:
        done = way.computer.run(list(words), way.env, timeout=300)
        if done.code or proof not in done.all:
            raise LabError(f"{way.key}: it did not do its work: {done}")
        return done.seconds

    return run


def scan(way: Way) -> float:
    """``pcsc_scan`` until it has shown both readers."""
    began = time.monotonic()
    running = way.computer.popen(["pcsc_scan", "-n"], way.env)
    for state in ("inserted", "removed"):
        running.wait_for(f"Card state: .*Card {state}", timeout=60)
    seconds = time.monotonic() - began
    running.stop()
    return seconds


class Site:
    """A host with a card, a guest, and ways between them over each distance."""

    def __init__(self, lab: Lab, names: tuple[str, str], distances: Sequence[float]) -> None:
        self.recipe = Recipe(lab, names=names)
        install_cardferry(self.recipe.host)
        self.distances = list(distances)
        self.ways: dict[tuple[str, float], Way] = {}
        self._port = 2200

    def open(self) -> None:
        """Open all ways."""
        recipe = self.recipe
        self.local = Way(LOCAL, recipe.host, None)
        for distance in self.distances:
            port, config = self._far(distance)
            self.ways[LINK, distance] = self._link(LINK, port, config)
            self.ways[COLD, distance] = self._link(COLD, port, config, "--no-memory")
            if distance == TABLE:
                self._near_end = port, config
            port, config = self._far(distance)
            forward = recipe.ssh_local(config=config, to="far")
            self.ways[SSH, distance] = Way(SSH, recipe.guest, forward.socket, port)

    def _link(self, key: str, port: DelayedPort, config: Path, *words: str) -> Way:
        socket = self.recipe.new_socket()
        attach(self.recipe, "--socket", str(socket), *words, host="far", config=config)
        return Way(key, self.recipe.guest, socket, port)

    def newcomer(self) -> Way:
        """Another guest at the distance of the table, which has just come."""
        return self._link(NEW, *self._near_end)

    def _far(self, distance: float) -> tuple[DelayedPort, Path]:
        self._port += 1
        recipe = self.recipe
        port = DelayedPort(recipe.guest, recipe.host, distance / 2, local_port=self._port)
        config = recipe.host_sshd.config(recipe.guest, "far", port.address, port.port)
        own = config.with_name(f"ssh_config.{self._port}")
        own.write_text(config.read_text())
        return port, own

    def counting(self) -> tuple[Way, Running]:
        """The local way, with a relay that counts requests."""
        path = Path("/run/counted")
        relay = self.recipe.host.popen(
            [PLAIN_PYTHON, "-m", "bench.requests", path, SOCKET], {"PYTHONPATH": str(REPOSITORY)}, stdin=True
        )
        relay.wait_for("^listening$")
        return Way(LOCAL, self.recipe.host, path), relay


def _counters(way: Way) -> tuple[int, int, int]:
    """Calls that waited, hits, and beliefs that were refuted, of the link that serves at the way's socket."""
    if way.key in (LOCAL, SSH):
        return 0, 0, 0
    from tests.lab.link import all_running  # noqa: PLC0415

    for one in all_running(way.computer):
        for link in one.links:
            if link.socket == str(way.socket) and link.link is not None:
                counters = link.link.counters
                return counters.round_trips, counters.hits, counters.refuted
    raise LabError(f"no link serves at {way.socket}")


def measure(flow: Flow, way: Way, distance: float) -> Measured:
    """Run it some times; the median of the times, and the least of the counts, which background traffic adds to."""
    measured = []
    for _ in range(_REPEATS[way.key]):
        flow.prepare(way)
        time.sleep(0.1 + 3 * distance)  # what follows a program travels without anybody waiting for it
        before = way.port.traffic().turns if way.port else 0
        counters = _counters(way)
        seconds = flow.run(way)
        turns = way.port.traffic().turns - before if way.port else 0
        waited, hits, refuted = (now - then for now, then in zip(_counters(way), counters, strict=True))
        measured.append(Measured(seconds, turns, waited, hits, refuted))
    ordered = sorted(one.seconds for one in measured)
    return Measured(
        ordered[len(ordered) // 2],
        min(one.trips for one in measured),
        sorted(one.waited for one in measured)[len(measured) // 2],
        max(one.hits for one in measured),
        sum(one.refuted for one in measured),
    )


class Bench:
    """Measures flows at sites.

    Args:
        distances: round trips in s.
        say: told what happens.
    """

    def __init__(self, distances: Sequence[float], say: Callable[[str], None]) -> None:
        self._distances = distances
        self._say = say
        self.rows: list[Row] = []

    def site(self, lab: Lab, names: tuple[str, str], furnish: Callable[[Site], list[Flow]]) -> None:
        """Build a site, and measure its flows."""
        site = Site(lab, names, self._distances)
        flows = furnish(site)
        counted, relay = site.counting()
        for flow in flows:
            row = Row(flow.name, flow.most_waits)
            self.rows.append(row)
            flow.prepare(counted)
            flow.run(counted)
            relay.write("count\n")
            flow.prepare(counted)  # it may ask, too
            relay.write("count\n")
            relay.wait_for("^{")
            relay.wait_for("^{")
            flow.run(counted)
            relay.write("count\n")
            counts = json.loads(relay.wait_for("^{").string)
            row.requests, row.apdus = counts["requests"], counts["apdus"]
            row.ways[LOCAL, 0.0] = measure(flow, site.local, 0.0)
            for distance in self._distances:
                if distance != TABLE and flow.name not in PLOTTED:
                    continue
                newcomer = site.newcomer() if distance == TABLE else None
                for key in (COLD, LINK, NEW, SSH):
                    way = newcomer if key == NEW else site.ways[key, distance]
                    if way is None:
                        continue
                    if key == LINK:
                        self._warm(flow, way)
                    row.ways[key, distance] = one = measure(flow, way, distance)
                    self._say(f"{flow.name}, {key}, {distance * 1000:.0f} ms: {one}")

    def _warm(self, flow: Flow, way: Way) -> None:
        """Let the memory learn what the program asks."""
        for _ in range(_WARMING):
            flow.prepare(way)
            try:
                flow.run(way)
            except LabError as error:  # programs at the real pcscd have run just before, and nobody has seen them
                self._say(f"{flow.name}: {error}")


def piv_flows(site: Site) -> list[Flow]:
    """What people do with a PIV card."""
    piv_card(site.recipe.pcscd)
    site.open()
    _import_certificate(site.recipe.host)
    letter = "echo 'Dear card, please sign this.' > letter"
    for computer in (site.recipe.host, site.recipe.guest):
        computer.run(["sh", "-c", letter]).check()
    sign = ["pkcs11-tool", "--login", "--pin", PIV_PIN, "--sign", "--id", "01", "-m", "ECDSA-SHA256"]
    return [
        Flow("opensc-tool -a", program("opensc-tool", "-a", proof="3b:9d"), most_waits=0),
        Flow("pcsc_scan", scan, most_waits=0),
        Flow("pkcs15-tool --list-info", program("pkcs15-tool", "--list-info", proof="PKCS#15 Card")),
        Flow("pkcs11-tool -L", program("pkcs11-tool", "-L", proof="token label")),
        Flow("pkcs11-tool -O", program("pkcs11-tool", "-O", proof="Certificate Object")),
        Flow(
            "pkcs11-tool --sign",
            program(*sign, "-i", "letter", "-o", "signature", proof="Using signature"),
            most_waits=4,
        ),
        _login(site),
        Flow("read a 2 KB certificate", program("pkcs15-tool", "--read-certificate", "03", proof="END CERT")),
    ]


def _login(site: Site) -> Flow:
    """``ssh`` with a key of the card, to the same computer: all the distance is between the program and the card."""
    module = str(next(Path("/usr/lib").glob("*/opensc-pkcs11.so")))
    keys = site.recipe.host.run(["ssh-keygen", "-D", module]).check().out
    configs = {}
    for computer, sshd in ((site.recipe.host, site.recipe.host_sshd), (site.recipe.guest, site.recipe.guest_sshd)):
        authorized = computer.outside(Path("/run/sshd/authorized_keys"))
        authorized.write_text(authorized.read_text() + keys)
        asking = computer.home / "asking"
        computer.run(["sh", "-c", f"printf '#!/bin/sh\\necho {PIV_PIN}\\n' >{asking}; chmod 700 {asking}"]).check()
        options = {"IdentityFile": "none", "IdentitiesOnly": "no", "PKCS11Provider": module, "BatchMode": "no"}
        config = sshd.config(computer, "itself", options=options)
        configs[computer.name] = config, {"SSH_ASKPASS": str(asking), "SSH_ASKPASS_REQUIRE": "force"}

    def login(way: Way) -> float:
        config, env = configs[way.computer.name]
        done = way.computer.run(["ssh", "-F", config, "itself", "echo", "logged in"], {**env, **way.env}, timeout=300)
        if "logged in" not in done.out:
            raise LabError(f"{way.key}: it did not log in: {done}")
        return done.seconds

    return Flow("ssh, a key of the card", login, most_waits=4)


def cac_flows(site: Site) -> list[Flow]:
    """What people do with a card that nobody here wrote."""
    cac_card(site.recipe.pcscd)
    site.open()
    for computer in (site.recipe.host, site.recipe.guest):
        computer.run(["sh", "-c", "echo 'Dear card, please sign this.' > letter"]).check()
    sign = ["pkcs11-tool", "--login", "--pin", CAC_PIN, "--sign", "--id", "0001", "-m", "SHA256-RSA-PKCS"]
    sign += ["-i", "letter", "-o", "signature"]
    return [
        Flow("CAC: pkcs11-tool -L", program("pkcs11-tool", "-L", proof="token label")),
        Flow("CAC: pkcs11-tool -O", program("pkcs11-tool", "-O", proof="Certificate Object")),
        Flow("CAC: pkcs11-tool --sign", program(*sign, proof="Using signature"), most_waits=4),
    ]


def _import_certificate(host: Computer) -> None:
    """A certificate of 2 KB for the key management key."""
    names = ",".join(f"DNS:computer{number}.example.org" for number in range(67))
    tool = ["yubico-piv-tool", "-r", "Virtual"]
    host.run([*tool, "-a", "generate", "-s", "9d", "-A", "ECCP256", "-o", "public.pem"]).check()
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout"]
    request += ["key.pem", "-subj", "/CN=card", "-addext", f"subjectAltName={names}", "-out", "certificate.pem"]
    host.run(request).check()
    host.run([*tool, "-a", "import-certificate", "-s", "9d", "-i", "certificate.pem"]).check()
    der = host.run(["sh", "-c", "openssl x509 -in certificate.pem -outform der | wc -c"]).check().out
    if not 1900 < int(der) < 2200:
        raise LabError(f"the certificate has {der} bytes")


def openpgp_flows(site: Site) -> list[Flow]:
    """What people do with an OpenPGP card."""
    openpgp_card(site.recipe.pcscd)
    site.open()
    # Beside each other's: what goes past cardferry to pcscd would refuse an exclusive connection.
    shared = ("pcsc-shared",)
    first = Gpg(site.recipe.host, options=shared)
    first.card_status().check()
    first.make_keys()
    first.stop()
    homes: dict[tuple[str, Path | None], Gpg] = {(site.recipe.host.name, None): first}

    def home(way: Way) -> Gpg:
        key = (way.computer.name, way.socket)
        if key not in homes:
            homes[key] = Gpg(way.computer, way.socket, options=shared, name=f"gnupg{len(homes)}")
            exported = first.run("--armor", "--export").check().out
            homes[key].run("--import", stdin=exported).check()
            homes[key].card_status().check()
        return homes[key]

    def rest(way: Way) -> None:
        for one in homes.values():
            one.stop()
        home(way).stop()

    def status(way: Way) -> float:
        done = home(way).card_status().check()
        if "OpenPGP" not in done.out:
            raise LabError(str(done))
        return done.seconds

    def sign(way: Way) -> float:
        return home(way).sign("Dear card, please sign this.\n").check().seconds

    return [Flow("gpg --card-status", status, rest), Flow("gpg --clearsign", sign, rest, most_waits=4)]


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.wan", description="a link beside ssh -N -L, far away")
    parser.add_argument("--round-trips", default="1,10,50,150", help="ms: %(default)s")
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name} and its picture")
    parser.add_argument("--quick", action="store_true", help="one distance, the PIV card only")
    parser.add_argument("--gpg", action="store_true", help="one distance, the OpenPGP card only")
    parser.add_argument("--cac", action="store_true", help="one distance, the CAC card only")
    options = parser.parse_args()
    all_distances = [int(word) / 1000 for word in options.round_trips.split(",")]
    only = options.quick or options.gpg or options.cac
    distances = [TABLE] if only else all_distances

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    bench = Bench(distances, say)
    with Lab() as lab:
        if options.quick or not only:
            bench.site(lab, ("host", "guest"), piv_flows)
        if options.gpg or not only:
            bench.site(lab, ("hostpgp", "guestpgp"), openpgp_flows)
        if options.cac or not only:
            bench.site(lab, ("hostcac", "guestcac"), cac_flows)
    text = table(bench.rows)
    print(text)
    if options.write:
        from bench.page import write_section  # noqa: PLC0415

        write_section("the flows", text, PAGE)
        plot(bench.rows, PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Who may use a NATS service proves it with credentials, an nkey or a certificate; whom they do not know is told so."""

from __future__ import annotations

import re
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY
from tests.lab.ferry import Ferry, cardferry
from tests.lab.nats import NatsServer, configuration
from tests.lab.nats_keys import Key, Operator
from tests.lab.pcscd import Pcscd
from tests.transports.tls.tls_lab import Infrastructure

READER = "Virtual PCD 00 00"
#: A server that does not believe a computer hangs up; whether its reason is still read is a matter of time.
_UNKNOWN = "wants a certificate of this computer that it believes|hung up when TLS began"


def private(computer: Computer, name: str, text: str) -> Path:
    """A file of somebody's own."""
    path = computer.home / name
    path.touch(0o600)
    path.write_text(text)
    return path


def fleet_table(computer: Computer, server: str, **more: object) -> None:
    lines = "".join(f'{key} = "{value}"\n' for key, value in more.items())
    configuration(computer, f'[fleet]\nservers = ["{server}"]\n{lines}')


def assert_carried(host: Computer, guest: Computer) -> None:
    """A guest joins and uses a card, all through the service of both's configurations."""
    agent = host.popen([CARDFERRY, "host"])
    agent.wait_for("in the fleet at .* as LAB-7", stream="err")
    cardferry(guest, "join", cardferry(host, "invite", "guest").check().out.strip()).check()
    ferry = Ferry(guest, ["attach", "fleet:LAB-7"])
    answer = guest.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket)
    assert answer.get("answers") == ["9000"]
    assert "LAB-7" in cardferry(guest, "readers", "--fleet").check().out
    ferry.stop()


def assert_refused(guest: Computer, words: str, hint: str) -> None:
    told = cardferry(guest, "readers", "--fleet")
    assert told.code == 39, told
    assert re.search(words, told.err), told.err
    assert hint in told.err


@pytest.fixture
def ends(lab: Lab) -> tuple[Computer, Computer]:
    host, guest = lab.computer("host"), lab.computer("guest")
    fake_card(Pcscd(host))
    return host, guest


def test_tls_with_certificates_of_both_sides_and_an_nkey(lab: Lab, ends: tuple[Computer, Computer]) -> None:
    host, guest = ends
    (lab.folder / "others").mkdir()
    pki, others = Infrastructure(lab.folder), Infrastructure(lab.folder / "others")
    keys = {"host": Key.new("user"), "guest": Key.new("user")}
    nats = lab.computer("nats")
    ca, certificate, key = pki.files(
        "nats", x509.IPAddress(IPv4Address(nats.address)), x509.DNSName("nats"), server=True
    )
    users = ", ".join(f"{{ nkey: {one.public} }}" for one in keys.values())
    tls = f'tls {{ cert_file: "{certificate}", key_file: "{key}", ca_file: "{ca}", verify: true }}'
    server = NatsServer(nats, options=f"{tls}\nauthorization {{ users: [{users}] }}")
    url = server.url.replace("nats://", "tls://")

    def table(computer: Computer, seed: str, authority: str = "", *shown: str, **more: object) -> None:
        own = private(computer, "seed.nk", seed)
        files = dict(zip(("cert", "key"), shown, strict=False))
        fleet_table(computer, url, credentials=own, **({"ca": authority} if authority else {}), **files, **more)

    shown = {name: pki.files(name, x509.DNSName(name)) for name in keys}
    table(host, keys["host"].seed, *shown["host"], name="LAB-7")
    table(guest, keys["guest"].seed, *shown["guest"])
    assert_carried(host, guest)

    table(guest, Key.new("user").seed, *shown["guest"])
    assert_refused(guest, "does not let this computer in", "see credentials in the table [fleet]")
    table(guest, "SUNOSEED", *shown["guest"])
    assert_refused(guest, "seed.nk cannot be read: it has no seed of an nkey", "correct credentials in the table")
    table(guest, keys["guest"].seed, str(lab.folder / "others" / "ca.pem"), *shown["guest"][1:])
    assert_refused(guest, "is not believed", "ca in [fleet]")
    table(guest, keys["guest"].seed, ca)
    assert_refused(guest, _UNKNOWN, "cert and key in the table [fleet]")
    table(guest, keys["guest"].seed, ca, *others.files("guest", x509.DNSName("guest"))[1:])
    assert_refused(guest, _UNKNOWN, "cert and key in the table [fleet]")


def test_credentials_of_an_operator(lab: Lab, ends: tuple[Computer, Computer]) -> None:
    host, guest = ends
    operator, stranger = Operator(), Operator()
    server = NatsServer(lab.computer("nats"), options=operator.options)
    fleet_table(host, server.url, credentials=private(host, "lab.creds", operator.credentials()), name="LAB-7")
    fleet_table(guest, server.url, credentials=private(guest, "lab.creds", operator.credentials()))
    assert_carried(host, guest)
    private(guest, "lab.creds", stranger.credentials())
    assert_refused(guest, "does not let this computer in", "see credentials in the table [fleet]")
    private(guest, "lab.creds", "nothing of that kind\n")
    assert_refused(guest, "lab.creds are neither credentials nor an nkey's seed", "correct credentials in the table")

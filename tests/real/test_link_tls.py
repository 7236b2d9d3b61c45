"""Links over TLS: two computers without ssh between them; who was invited comes in, who is removed is out at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import link_of, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running, wait_until
from tests.transports.tls.tls_lab import Infrastructure

READER = "Virtual PCD 00 00"
#: 300 connections that say nothing, until somebody ends the process.
_SILENT = """
import socket, sys
kept = [socket.create_connection((sys.argv[1], 7764)) for _ in range(300)]
print("silent", flush=True)
sys.stdin.read()
"""
#: Garbage, a half handshake, TLS 1.2, and nobody's certificate.
_INTRUDERS = """
import socket, ssl, sys
where = sys.argv[1], 7764
for said in (b"GET / HTTP/1.1\\r\\n\\r\\n", b"\\x16\\x03\\x01\\x02\\x00\\x01"):
    with socket.create_connection(where) as one:
        one.sendall(said)
        one.shutdown(socket.SHUT_WR)
        one.recv(100)
for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = version
    context.set_alpn_protocols(["cardferry-link/1"])
    try:
        with context.wrap_socket(socket.create_connection(where)) as one:
            one.recv(100)
    except OSError:
        pass
print("done", flush=True)
"""


def served(lab: Lab, *words: str) -> tuple[Computer, Running]:
    """A host with a card, that listens."""
    host = lab.computer("host")
    fake_card(Pcscd(host))
    agent = host.popen([CARDFERRY, "host", "--listen", "tls::7764", *words])
    wait_until(lambda: link_of(host, "host").socket.endswith(":7764"), "the agent listens")
    return host, agent


def joined(host: Computer, guest: Computer, name: str, *words: str) -> None:
    """The guest joins."""
    line = cardferry(host, "invite", name, "--address", host.address, *words).check().out.strip()
    assert cardferry(guest, "join", line).check().out.startswith(f"joined as {name}; ")


@pytest.fixture(scope="module")
def near() -> Iterator[tuple[Computer, Running, Computer]]:
    """With an agent that runs, and a guest that has joined as build1."""
    with Lab() as lab:
        host, agent = served(lab)
        guest = lab.computer("build1")
        joined(host, guest, "build1")
        yield host, agent, guest


Near = tuple[Computer, Running, Computer]


def assert_works(guest: Computer, ferry: Ferry) -> None:
    answer = guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", ferry.socket)
    assert answer.get("answers") == ["9000", "6982"], f"without rules a guest does nothing that is not known: {answer}"


def test_an_invited_computer_joins_and_unmodified_programs_use_the_card(near: Near) -> None:
    host, _, guest = near
    ferry = Ferry(guest, ["attach", host.address])
    listed = guest.run(["opensc-tool", "--list-readers"], ferry.env).check().out
    assert READER in listed
    assert_works(guest, ferry)
    link = link_of(guest, "attach")
    assert (link.host, link.way, link.state) == (f"tls://{host.address}", "link", "up")
    there = link_of(host, "host").guest
    assert there is not None
    assert there.principal == "tls:build1"
    (known,) = json.loads(cardferry(host, "guests", "--json").check().out)
    assert (known["name"], known["here"], known["address"]) == ("build1", True, guest.address)
    assert known["software"].startswith("cardferry ")
    assert "is here" in cardferry(host, "guests").check().out
    for path in (guest.home / ".local/share/cardferry/tls").rglob("*.pem"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    assert ferry.stop().code == 0
    found = cardferry(guest, "doctor", f"tls://{host.address}").out
    assert f"link to tls://{host.address}: it works" in found


def test_rules_and_records_name_it(lab: Lab) -> None:
    host, guest = lab.computer("host"), lab.computer("ci1")
    fake_card(Pcscd(host))
    rules = host.home / "rules.toml"
    rules.write_text('[[allow]]\nwho = ["tls:ci-*"]\nmay = ["read", "verify"]\n')
    rules.chmod(0o600)
    host.popen([CARDFERRY, "host", "--listen", "tls::7764", "--config", str(rules)])
    wait_until(lambda: link_of(host, "host").socket.endswith(":7764"), "the agent listens")
    seen = {}
    for name in ("ci-1", "other"):
        joined(host, guest, name)
        ferry = Ferry(guest, ["attach", host.address])
        seen[name] = READER in guest.run(["opensc-tool", "--list-readers"], ferry.env).out
        ferry.stop()
    assert seen == {"ci-1": True, "other": False}


def test_who_is_removed_is_out_at_once_and_frees_what_it_held(near: Near) -> None:
    host, agent, _ = near
    guest = near[2]
    joined(host, guest, "build1")
    ferry = Ferry(guest, ["attach", host.address])
    holder = guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], ferry.env, stdin=True)
    holder.wait_for("held")
    assert cardferry(host, "guests", "remove", "build1").check().out == "build1 is removed\n"
    ferry.process.wait_for(
        "the session with .* is over: .*; it says: build1 is no guest of this host .*; at the host: cardferry invite",
        stream="err",
        timeout=5,
    )
    wait_until(lambda: link_of(host, "host").guest is None, "the session has ended", timeout=5)
    agent.wait_for("cut off: build1 is no guest of this host", stream="err")
    holder.write("\n")
    assert '"error"' in holder.wait(timeout=5).out
    ferry.stop()
    told = cardferry(guest, "attach", host.address)
    assert (told.code, "build1 is no guest of this host" in told.err) == (54, True)
    assert "hint: at the host: cardferry invite NAME; here: cardferry join" in told.err
    joined(host, guest, "build1")  # for the others


def test_a_line_is_good_once_and_guesses_are_counted(near: Near) -> None:
    host, agent, guest = near
    line = cardferry(host, "invite", "build2", "--address", host.address).check().out.strip()
    other = host.run(["env", f"HOME={host.home}/other", CARDFERRY, "join", line]).check()
    assert "joined as build2" in other.out
    for wrong in (line, line[:-1] + ("A" if line[-1] != "A" else "B")):
        told = cardferry(guest, "join", wrong)
        assert (told.code, "there is no such invitation" in told.err) == (37, True)
    agent.wait_for(r"a wrong secret \(2 from there\)", stream="err")
    assert f"wrong secrets of invitations: 2, the last one from {guest.address}" in cardferry(host, "guests").out
    assert_works(guest, ferry := Ferry(guest, ["attach", host.address]))
    ferry.stop()


def test_certificates_renew_themselves_while_a_program_works(lab: Lab) -> None:
    host, _ = served(lab)
    guest = lab.computer("build1")
    joined(host, guest, "build1", "--valid", "9s")
    ferry = Ferry(guest, ["attach", host.address])
    holder = guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], ferry.env, stdin=True)
    holder.wait_for("held")
    (path,) = (guest.home / ".local/share/cardferry/tls").glob("joined-*/certificate.pem")
    first = x509.load_pem_x509_certificate(path.read_bytes())

    wait_until(lambda: x509.load_pem_x509_certificate(path.read_bytes()) != first, "it is renewed", timeout=30)
    wait_for_link(guest, "attach")
    status = link_of(guest, "attach").link
    assert status is not None
    assert (status.sessions, status.resumes > 0) == (1, True), "the session goes on"
    holder.write("\n")
    assert json.loads(holder.wait().out.splitlines()[-1]) == {"answer": "9000"}, "and so does its transaction"


def test_those_who_are_no_guests_disturb_nobody(near: Near) -> None:
    host, agent, guest = near
    ferry = Ferry(guest, ["attach", host.address])
    holder = guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], ferry.env, stdin=True)
    holder.wait_for("held")
    guest.popen([PLAIN_PYTHON, "-c", _INTRUDERS, host.address]).wait_for("done")
    for told in ("does not speak TLS", "has gone before", "speaks no TLS 1.3", "shows no certificate"):
        agent.wait_for(rf"{re.escape(guest.address)} {told}", stream="err")
    guest.popen([PLAIN_PYTHON, "-c", _SILENT, host.address], stdin=True).wait_for("silent")
    another = Ferry(guest, ["attach", host.address, "--socket", str(guest.home / "another")])
    holder.write("\n")
    assert json.loads(holder.wait().out.splitlines()[-1]) == {"answer": "9000"}
    assert_works(guest, another)
    status = link_of(guest, "attach").link
    assert status is not None
    assert status.resumes == 0
    another.stop()
    ferry.stop()


def test_who_has_an_infrastructure_uses_it(lab: Lab) -> None:
    pki = Infrastructure(lab.folder)
    host = lab.computer("host")
    guest = lab.computer("guest")

    def options(*files: str) -> list[str]:
        return ["--tls-ca", files[0], "--tls-cert", files[1], "--tls-key", files[2]]

    fake_card(Pcscd(host))
    address = x509.IPAddress(ip_address(host.address))
    host.popen([CARDFERRY, "host", "--listen", "tls::7764", *options(*pki.files("host", address, server=True))])
    wait_until(lambda: ":7764" in link_of(host, "host").socket, "the agent listens")
    spiffe = x509.UniformResourceIdentifier("spiffe://example.org/ci/build1")
    ferry = Ferry(guest, ["attach", f"tls://{host.address}", *options(*pki.files("guest", spiffe))])
    assert_works(guest, ferry)
    there = link_of(host, "host").guest
    assert there is not None
    assert there.principal == f"tls:{spiffe.value}"
    ferry.stop()
    expired = options(*pki.files("old", spiffe, days=(-2, -1)))
    told = cardferry(guest, "attach", f"tls://{host.address}", *expired)
    assert (told.code, "has expired on" in told.err) == (37, True)
    Path(lab.folder / "guest.key").chmod(0o644)
    files = (str(lab.folder / one) for one in ("ca.pem", "guest.pem", "guest.key"))
    told = cardferry(guest, "attach", f"tls://{host.address}", *options(*files))
    assert (told.code, "others can read the key" in told.err) == (37, True)


def test_what_listens_already_is_left_alone(near: Near) -> None:
    host = near[0]
    other = host.home / "run2"
    other.mkdir(mode=0o700)
    told = host.run([CARDFERRY, "host", "--listen", "tls::7764"], {"XDG_RUNTIME_DIR": str(other)})
    assert (told.code, "choose another one" in told.err) == (13, True)

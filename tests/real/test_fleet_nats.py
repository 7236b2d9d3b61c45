"""A fleet on a real nats-server: hosts enter themselves, guests reach them, and nobody but the two ends sees a PIN."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, REPOSITORY
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import link_of, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.nats import NatsServer, cluster, configuration, urls
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running, wait_until
from tests.transports.tls.tls_lab import Infrastructure

READER = "Virtual PCD 00 00"
SELECT, VERIFY = "00A4040005A000000308", "0020008008313233343536FFFF"
SIGN = "0087119A267C2482008120" + "11" * 32 + "00"
#: Speaks NATS' protocol as any client does, notes all that it is sent, and sends what it is told to.
_CLIENT = """
import os, socket, sys
where, subject, path = sys.argv[1], sys.argv[2], sys.argv[3]
one = socket.create_connection((where, 4222))
one.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\\r\\n')
one.sendall(b"SUB %s 1\\r\\nPING\\r\\n" % subject.encode())
kinds = (b"\\1\\0\\0\\0\\0\\0\\0\\0\\1", b"GET / HTTP/1.1", b"\\3" + bytes(8) + b"\\x16\\x03\\x01\\0\\5", b"")
for number in range(int(sys.argv[4])):
    for kind in kinds[: int(sys.argv[5])]:
        name = b"cardferry.link.LAB-7.nobody.%d.up" % number
        one.sendall(b"PUB %s %d\\r\\n%s\\r\\n" % (name, len(kind), kind))
with open(path, "wb", buffering=0) as file:
    while data := one.recv(65536):
        file.write(data)
        if b"PONG" in data:
            print("here", flush=True)
        if b"PING" in data:
            one.sendall(b"PONG\\r\\n")
"""


def serving(host: Computer, nats: NatsServer, name: str, *words: str) -> Running:
    """A host of the fleet, once guests can come."""
    agent = host.popen([CARDFERRY, "host", "--fleet", nats.url, "--fleet-name", name, *words])
    agent.wait_for(f"in the fleet at {nats.url} as {name}", stream="err")
    return agent


def joined(host: Computer, guest: Computer, name: str) -> str:
    """The guest joins through NATS; returns what it attaches."""
    line = cardferry(host, "invite", name).check().out.strip()
    assert line.startswith("fleet:")
    out = cardferry(guest, "join", line).check().out
    assert out.startswith(f"joined as {name}; ")
    return out.split("cardferry attach ")[1].strip()


def readers(computer: Computer, nats: NatsServer) -> list[dict[str, Any]]:
    """What the directory has."""
    found: list[dict[str, Any]] = json.loads(cardferry(computer, "readers", "--fleet", nats.url, "--json").check().out)
    return found


def assert_works(guest: Computer, ferry: Ferry) -> None:
    answer = guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", ferry.socket)
    assert answer.get("answers") == ["9000", "6982"], f"without rules a guest does nothing that is not known: {answer}"


@pytest.fixture(scope="module")
def fleet() -> Iterator[tuple[NatsServer, Computer, Running, Computer]]:
    """A nats-server, a host with a card, and a guest, each on a computer of its own."""
    with Lab() as lab:
        nats = NatsServer(lab.computer("nats"))
        host = lab.computer("host")
        fake_card(Pcscd(host))
        agent = serving(host, nats, "LAB-7", "--fleet-label", "pool=signing")
        yield nats, host, agent, lab.computer("build1")


Fleet = tuple[NatsServer, Computer, Running, Computer]


def test_a_guest_that_only_reaches_nats_joins_and_uses_the_card(fleet: Fleet) -> None:
    nats, host, _, guest = fleet
    assert joined(host, guest, "build1") == "fleet:LAB-7"
    ferry = Ferry(guest, ["attach", "fleet:LAB-7"])
    assert READER in guest.run(["opensc-tool", "--list-readers"], ferry.env).check().out
    assert_works(guest, ferry)
    there = link_of(host, "host").guest
    assert there is not None
    assert there.principal == "tls:build1", "who it is its certificate says, whatever the way"
    row = readers(guest, nats)[0]
    assert (row["host"], row["reader"], row["labels"]) == ("LAB-7", READER, {"pool": "signing"})
    assert f"host ({host.address})" == row["address"]
    shown = cardferry(guest, "readers", "--fleet", nats.url).check().out
    assert "LAB-7" in shown
    assert "pool=signing" in shown
    assert ferry.stop().code == 0
    assert "it works" in cardferry(guest, "doctor", "fleet:LAB-7").out


def tap(computer: Computer, nats: NatsServer, subject: str = ">", pipes: int = 0, kinds: int = 0) -> Path:
    """Somebody at NATS who is sent all messages of a subject; returns the file with them.

    Args:
        pipes: for so many pipes it also sends `kinds` messages that are not what a guest sends.
    """
    path = computer.home / f"tap-{time.monotonic_ns()}"
    words = [nats.computer.address, subject, str(path), str(pipes), str(kinds)]
    computer.popen([PLAIN_PYTHON, "-c", _CLIENT, *words]).wait_for("here")
    return path


def apdus(guest: Computer, ferry: Ferry, *commands: str) -> list[str]:
    """Status words of commands that a program sends in one connection."""
    words = [word for apdu in commands for word in ("-s", apdu)]
    out = guest.run(["opensc-tool", "-c", "default", *words], ferry.env).out
    return ["".join(found).lower() for found in re.findall(r"SW1=0x(..), SW2=0x(..)", out)]


def test_rules_and_audit_name_the_guest_and_nats_sees_neither_pin_nor_apdu(lab: Lab) -> None:
    nats, host = NatsServer(lab.computer("nats")), lab.computer("host")
    piv_card(Pcscd(host))
    rules, audit = host.home / "rules.toml", host.home / "audit.jsonl"
    rules.write_text(
        f'audit-file = "{audit}"\n[[allow]]\nwho = "tls:one"\nmay = "all"\n'
        '[[allow]]\nwho = "tls:two"\nmay = ["read", "verify"]\n'
    )
    rules.chmod(0o600)
    serving(host, nats, "LAB-7", "--config", str(rules))
    heard = tap(lab.computer("operator"), nats)
    done = {}
    for name in ("one", "two"):
        guest = lab.computer(name)
        ferry = Ferry(guest, ["attach", joined(host, guest, name)])
        done[name] = apdus(guest, ferry, SELECT, VERIFY, SIGN)
        if name == "two":
            row = readers(guest, nats)[0]
            assert row["subjects"], "what is read without a PIN is in the directory"
            assert row["serials"]
        ferry.stop()
    assert done["one"] == ["9000", "9000", "9000"]
    assert done["two"][0] == "9000"
    assert done["two"][-1] == "6982", "a rule denies it the signature"
    wait_until(lambda: '"denied"' in audit.read_text(), "it is written down")
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert any(line.get("principal") == "tls:two" and line.get("event") == "denied" for line in lines)
    assert any(line.get("principal") == "tls:one" and line.get("event") == "done" for line in lines)
    said = heard.read_bytes()
    assert b"cardferry.link.LAB-7.one." in said, "it heard the links"
    for secret in (VERIFY, SELECT, SIGN):
        assert bytes.fromhex(secret) not in said
        assert secret.encode() not in said.upper()
    assert b"123456" not in said


def test_two_hosts_of_one_name_are_refused_with_both_addresses(fleet: Fleet) -> None:
    nats, host, agent, guest = fleet
    told = cardferry(guest, "host", "--fleet", nats.url, "--fleet-name", "LAB-7", "--readers", "virtual:")
    assert told.code == 39
    assert f"the fleet has a host LAB-7 already, at host ({host.address})" in told.err
    assert f"this one is at build1 ({guest.address})" in told.err
    assert "--fleet-name" in told.err
    other = serving(guest, nats, "LAB-8", "--readers", "virtual:")
    assert {row["host"] for row in readers(host, nats)} == {"LAB-7", "LAB-8"}
    assert other.stop().code == 0
    assert {row["host"] for row in readers(host, nats)} == {"LAB-7"}, "who says good-bye is gone at once"
    assert agent.code is None


def test_a_host_that_dies_vanishes_within_ten_seconds_and_comes_back(fleet: Fleet) -> None:
    nats, host, _, guest = fleet
    other = serving(guest, nats, "LAB-9", "--readers", "virtual:")
    other.kill()
    died = asked = time.monotonic()
    while {row["host"] for row in readers(host, nats)} != {"LAB-7"}:
        assert asked - died < 10
        asked = time.monotonic()
    serving(guest, nats, "LAB-9", "--readers", "virtual:").stop()


def test_those_who_are_no_guests_disturb_nobody(fleet: Fleet) -> None:
    nats, host, agent, guest = fleet
    ferry = Ferry(guest, ["attach", joined(host, guest, "build1")])
    holder = guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], ferry.env, stdin=True)
    holder.wait_for("held")
    before = resident(agent)
    tap(guest, nats, "cardferry.link.LAB-7.nobody.>", pipes=40, kinds=4)
    for told in ("is not cardferry: what it sends is no frame", "does not speak TLS|has gone before"):
        wait_until(lambda told=told: re.search(f"nobody through NATS ({told})", str(agent)), told)  # type: ignore[misc]
    tap(guest, nats, "cardferry.link.LAB-7.nobody.>", pipes=300, kinds=1)
    agent.wait_for("has not proved who it is, and others have come", stream="err")
    assert resident(agent) - before < 64 << 20
    holder.write("\n")
    assert json.loads(holder.wait().out.splitlines()[-1]) == {"answer": "9000"}
    another = Ferry(guest, ["attach", "fleet:LAB-7", "--socket", str(guest.home / "another")])
    assert_works(guest, another)
    status = link_of(guest, "attach").link
    assert status is not None
    assert status.resumes == 0
    another.stop()
    ferry.stop()


def resident(process: Running) -> int:
    """Bytes of memory that a process has: it is entered by way of others, of which the largest one is meant."""
    pids = [process.pid]
    for pid in pids:
        pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return max(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids) * 4096


def test_nats_goes_away_and_what_does_not_need_it_stays(lab: Lab) -> None:
    nats, host, guest = NatsServer(lab.computer("nats")), lab.computer("host"), lab.computer("build1")
    fake_card(Pcscd(host))
    agent = serving(host, nats, "LAB-7", "--listen", "tls::7764")
    joined_directly = cardferry(host, "invite", "build1", "--address", host.address).check().out.strip()
    cardferry(guest, "join", joined_directly).check()
    direct = Ferry(guest, ["attach", host.address, "--socket", str(guest.home / "direct")])
    line = cardferry(host, "invite", "other", "--address", "fleet:LAB-7").check().out.strip()
    other = lab.computer("other")
    cardferry(other, "join", line).check()
    second = cardferry(host, "invite", "build1", "--address", "fleet:LAB-7").check().out.strip()
    cardferry(guest, "join", second).check()
    both = Ferry(guest, ["attach", "fleet:LAB-7", "--socket", str(guest.home / "both")])
    assert_works(guest, both)
    assert_works(guest, direct)  # one name, one key, two ways
    both.stop()
    through = Ferry(other, ["attach", "fleet:LAB-7", "--grace", "60"])
    holder = guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], direct.env, stdin=True)
    holder.wait_for("held")
    nats.stop()
    agent.wait_for("the fleet at .* is out of reach: its guests wait", stream="err")
    through.process.wait_for("lost fleet:LAB-7", stream="err")
    holder.write("\n")
    assert json.loads(holder.wait().out.splitlines()[-1]) == {"answer": "9000"}
    assert_works(guest, direct)
    told = cardferry(guest, "readers", "--fleet", nats.url)
    assert (told.code, "no NATS service at" in told.err) == (39, True)
    nats.start()
    agent.wait_for("in the fleet at .* as LAB-7 again", stream="err")
    wait_for_link(other, "attach")
    assert_works(other, through)
    assert str(agent).count("its guests wait") == 1, "one line says so"
    for ferry in (direct, through):
        ferry.stop()


@pytest.mark.slow
def test_more_servers_keep_the_directory_when_they_are_there(lab: Lab) -> None:
    """Who only looks makes none: it would be kept by too few when one server of several is up."""
    servers, host = cluster(lab.computer("nats")), lab.computer("host")
    servers[2].stop()  # with a word: the others know at once that it is away
    words = ["readers", "--fleet", urls(servers)]
    wait_until(lambda: cardferry(host, *words).out == "the fleet has no hosts\n", "there is no directory", timeout=30)
    agent = host.popen([CARDFERRY, "host", "--fleet", urls(servers), "--fleet-name", "LAB-7", "--readers", "virtual:"])
    agent.wait_for("the directory of the fleet is made, kept by 1 server", stream="err", timeout=30)
    servers[2].start()
    agent.wait_for("the directory of the fleet is kept by 3 servers from now on", stream="err", timeout=90)
    wait_until(lambda: "LAB-7" in cardferry(host, *words).out, "it is there", timeout=30)


@pytest.mark.slow
def test_a_server_without_jetstream_and_one_that_wants_a_password(lab: Lab) -> None:
    plain = NatsServer(lab.computer("plain"), jetstream=False)
    closed = NatsServer(lab.computer("closed"), options='authorization { user: "lab", password: "secret-word" }')
    host = lab.computer("host")
    agent = host.popen([CARDFERRY, "host", "--fleet", plain.url, "--fleet-name", "LAB-7", "--readers", "virtual:"])
    agent.wait_for("keeps no directory: it runs without JetStream", stream="err")
    agent.stop()
    told = cardferry(host, "readers", "--fleet", plain.url)
    assert (told.code, "start nats-server with --jetstream" in told.err) == (39, True)
    told = cardferry(host, "readers", "--fleet", closed.url)
    assert (told.code, "does not let this computer in" in told.err) == (39, True)
    told = cardferry(host, "readers", "--fleet", closed.url.replace("//", "//lab:secret-word@"))
    assert (told.code, "would be seen by everybody" in told.err) == (2, True)
    url = closed.url.replace("//", "//lab:secret-word@")
    configuration(host, f'[fleet]\nservers = ["{url}"]\nname = "LAB-7"\nlabels = {{ pool = "signing" }}\n')
    agent = host.popen([CARDFERRY, "host", "--readers", "virtual:"])
    agent.wait_for("in the fleet at .* as LAB-7", stream="err")
    assert "LAB-7" in cardferry(host, "readers", "--fleet").check().out
    shown = cardferry(host, "config", "show").check().out
    assert "LAB-7" in shown
    everything = shown + str(agent) + cardferry(host, "status").out + cardferry(host, "invite", "build1").out
    assert "secret-word" not in everything


@pytest.mark.slow
def test_who_has_an_infrastructure_uses_it_and_others_are_turned_away(lab: Lab) -> None:
    pki, nats = Infrastructure(lab.folder), NatsServer(lab.computer("nats"))
    host, guest = lab.computer("host"), lab.computer("guest")
    fake_card(Pcscd(host))

    def options(*files: str) -> list[str]:
        return ["--tls-ca", files[0], "--tls-cert", files[1], "--tls-key", files[2]]

    agent = serving(host, nats, "LAB-7", *options(*pki.files("host", x509.DNSName("LAB-7"), server=True)))
    spiffe = x509.UniformResourceIdentifier("spiffe://example.org/ci/build1")
    dial = ["attach", "fleet:LAB-7", "--fleet", nats.url]
    ferry = Ferry(guest, [*dial, *options(*pki.files("guest", spiffe))])
    assert_works(guest, ferry)
    there = link_of(host, "host").guest
    assert there is not None
    assert there.principal == f"tls:{spiffe.value}"
    ferry.stop()
    told = cardferry(guest, *dial, *options(*pki.files("old", spiffe, days=(-2, -1))))
    assert (told.code, "has expired on" in told.err) == (37, True)
    (lab.folder / "others").mkdir()
    others = Infrastructure(lab.folder / "others")
    _, certificate, key = others.files("guest", spiffe)
    told = cardferry(guest, *dial, *options(str(lab.folder / "ca.pem"), certificate, key))
    assert (told.code, "does not want the certificate of this computer" in told.err) == (37, True), told.err
    agent.wait_for("through NATS has a certificate of somebody else", stream="err")
    told = cardferry(guest, *dial)
    assert (told.code, "has not joined" in told.err) == (37, True)
    told = cardferry(guest, "attach", "fleet:LAB-8", "--fleet", nats.url, *options(*pki.files("guest", spiffe)))
    assert (told.code, "there is no host LAB-8 in the fleet" in told.err) == (34, True), told.err


def test_the_configuration_in_the_document_permits_what_must_be_and_no_more(lab: Lab) -> None:
    page = (REPOSITORY / "docs" / "fleet.md").read_text()
    found = re.search(r"```\n(authorization \{.*?)```", page, re.DOTALL)
    assert found, "the page has a configuration to paste"
    nats, host, guest = NatsServer(lab.computer("nats"), options=found[1]), lab.computer("host"), lab.computer("build1")
    fake_card(Pcscd(host))
    where = nats.url.removeprefix("nats://")
    configuration(host, f'[fleet]\nservers = "nats://LAB-7:change-me-1@{where}"\nname = "LAB-7"\n'
                        'labels = { pool = "signing" }\n')  # fmt: skip
    host.popen([CARDFERRY, "host"]).wait_for("in the fleet at", stream="err")
    configuration(guest, f'[fleet]\nservers = "nats://build1:change-me-2@{where}"\n')
    ferry = Ferry(guest, ["attach", joined(host, guest, "build1")])
    assert_works(guest, ferry)
    assert "LAB-7" in cardferry(guest, "readers", "--fleet").check().out
    ferry.stop()
    configuration(guest, f'[fleet]\nservers = "nats://build1:change-me-2@{where}"\nname = "LAB-8"\n')
    agent = guest.popen([CARDFERRY, "host", "--readers", "virtual:"])
    agent.wait_for("not in the fleet: |permissions violation", stream="err")

"""A fleet on a real nats-server: hosts enter themselves, guests reach them, and nobody but the two ends sees a PIN."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import link_of, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.nats import NatsServer, configuration
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running, wait_until

READER = "Virtual PCD 00 00"


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
    (row,) = readers(guest, nats)
    assert (row["host"], row["reader"], row["labels"]) == ("LAB-7", READER, {"pool": "signing"})
    assert f"host ({host.address})" == row["address"]
    shown = cardferry(guest, "readers", "--fleet", nats.url).check().out
    assert "LAB-7" in shown
    assert "pool=signing" in shown
    assert ferry.stop().code == 0
    assert "it works" in cardferry(guest, "doctor", "fleet:LAB-7").out

"""A link through a cluster of three nats-servers that are killed again and again: nothing is lost or done twice."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY, REPOSITORY
from tests.lab.counting_client import COUNT
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import link_of, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.nats import NatsServer, cluster, urls
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running, wait_until
from tests.real.test_link_exactly_once import answers_of, assert_exactly_once

READER = "Virtual PCD 00 00"
PROGRAMS = 6
#: s; both ends must find another server, and each other.
MENDED = 30.0


def programs(guest: Computer, ferry: Ferry) -> list[Running]:
    """Programs at work."""
    env = {**ferry.env, "PYTHONPATH": str(REPOSITORY)}
    words = [PLAIN_PYTHON, "-m", "tests.lab.counting_client", READER]
    running = [guest.popen([*words, str(seed)], env, stdin=True) for seed in range(PROGRAMS)]
    for program in running:
        program.wait_for("^counting$")
    return running


def resumes(guest: Computer) -> int:
    """How often the session went on after a break."""
    status = link_of(guest, "attach").link
    assert status is not None
    assert status.sessions == 1, "a session has ended"
    return status.resumes


def broken(guest: Computer, servers: list[NatsServer], agent: Running, chance: random.Random) -> float:
    """Kill a server, mostly that of the host; returns how long the link was away, in s, or 0 when it was not."""
    before = resumes(guest)
    port = re.findall(r"in the fleet at nats://[0-9.]+:(\d+) as", str(agent))[-1]
    server = next(one for one in servers if str(one.port) == port)
    surely = chance.random() < 0.7
    if not surely:
        server = chance.choice(servers)
    begin = time.monotonic()
    (server.kill if chance.random() < 0.7 else server.stop)()
    time.sleep(chance.uniform(0, 0.3))
    if surely:
        wait_until(lambda: resumes(guest) > before, "the link goes on", MENDED)
    wait_for_link(guest, "attach", MENDED)
    outage = time.monotonic() - begin
    server.start()
    return outage if resumes(guest) > before else 0.0


def counted(host: Computer) -> int:
    """How many commands the card has carried out, this one as well; asked beside the link."""
    return int(host.pcsc(f"apdu\t{READER}\t{COUNT.hex()}")["answers"][0][:8], 16)


def run(lab: Lab, breaks: int, tell: Callable[[str], None]) -> None:
    servers = cluster(lab.computer("nats"))
    host, guest = lab.computer("host"), lab.computer("guest")
    fake_card(Pcscd(host), delay=0.002)
    all_servers = urls(servers)
    rules = host.home / "rules.toml"
    rules.write_text('[[allow]]\nwho = "tls:guest"\nmay = "all"\n')
    rules.chmod(0o600)
    words = ["host", "--fleet", all_servers, "--fleet-name", "LAB-7", "--grace", "60", "--config", str(rules)]
    agent = host.popen([CARDFERRY, *words])
    agent.wait_for("in the fleet at .* as LAB-7", stream="err", timeout=MENDED)
    cardferry(guest, "join", cardferry(host, "invite", "guest").check().out.strip()).check()
    ferry = Ferry(guest, ["attach", "fleet:LAB-7", "--grace", "60"])
    first = counted(host)  # the host has asked the card which one it is
    working = programs(guest, ferry)
    chance = random.Random(3)
    outages: list[float] = []
    total = 0
    while len(outages) < breaks:
        if outage := broken(guest, servers, agent, chance):
            outages.append(outage)
        total += 1
        assert total < 4 * breaks
    answers = answers_of(working)
    assert_exactly_once([[number - first for number in own] for own in answers], counted(host) - first - 1)
    outages.sort()
    figures = {
        "servers killed": total,
        "breaks": len(outages),
        "resumes": resumes(guest),
        "commands": sum(map(len, answers)),
        "mended after, median": round(outages[len(outages) // 2], 2),
        "at most": round(outages[-1], 2),
    }
    tell(json.dumps(figures))
    wait_until(
        lambda: "LAB-7" in cardferry(guest, "readers", "--fleet", all_servers).out, "it is in the directory", 60.0
    )
    ferry.stop()


@pytest.mark.timeout(200)
def test_servers_of_a_cluster_are_killed_and_each_command_is_carried_out_once(lab: Lab) -> None:
    run(lab, 8, print)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_hundred_breaks_of_the_servers(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    def tell(text: str) -> None:
        with capsys.disabled():
            print(f"\n{text}")

    run(lab, 100, tell)

"""A pool of real hosts: one reader for programs that have never heard of it, and what happens when a member dies."""

from __future__ import annotations

import json
import time

import pytest

from cardferry.fleet.bucket import LIFE
from tests.lab import Computer, Lab
from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import CARDFERRY
from tests.lab.counting_client import COUNT
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import link_of
from tests.lab.nats import NatsServer, cluster, configuration, leads, urls
from tests.lab.pcscd import Pcscd
from tests.lab.pool import NAME, Place, attach_all, configure, jain, loops, turns
from tests.lab.process import Running, wait_until

CARD = 0.02


class PoolOfHosts:
    """Hosts with a card each, and a guest of all of them."""

    def __init__(self, lab: Lab, count: int, *, piv: bool = False) -> None:
        self.lab = lab
        self.places = [Place(lab, number, 0.0 if piv else CARD, piv=piv) for number in range(count)]
        for place in self.places:
            place.ready()

    def guests(self, count: int) -> list[tuple[Computer, Ferry]]:
        """Guests that have attached the pool."""
        computers = [self.lab.computer(f"guest{number}") for number in range(count)]
        for computer in computers:
            configure(computer, [place.name for place in self.places])
        return list(zip(computers, attach_all(computers), strict=True))


@pytest.fixture
def two(lab: Lab) -> PoolOfHosts:
    return PoolOfHosts(lab, 2)


def readers(guest: Computer, ferry: Ferry) -> list[dict[str, str]]:
    found: list[dict[str, str]] = guest.pcsc("list", ferry.socket)["readers"]
    return found


def test_programs_see_one_reader_and_status_sees_the_members(two: PoolOfHosts) -> None:
    ((guest, ferry),) = two.guests(1)
    (reader,) = readers(guest, ferry)
    assert (reader["name"], reader["atr"]) == (NAME, "3b80800101")
    assert guest.pcsc(f"apdu\t{NAME}\t00a4040000", ferry.socket)["answers"] == ["9000"]
    shown = cardferry(guest, "status").check().out
    assert f"attach pool:{NAME}:" in shown
    for place in two.places:
        assert f"{place.name} (link): up, a member of pool:{NAME}" in shown
    (running,) = json.loads(cardferry(guest, "status", "--json").check().out)
    assert [slot["reader"] for slot in running["readers"]] == [NAME]
    assert [link["pool"] for link in running["links"]] == ["", f"pool:{NAME}", f"pool:{NAME}"]
    assert f"link to {two.places[1].name}: it works" in cardferry(guest, "doctor", f"pool:{NAME}").out
    assert "already attached" in cardferry(guest, "attach", f"pool:{NAME}").err
    assert cardferry(guest, "run", "--from", f"pool:{NAME}", "true").check().code == 0
    two.places[0].card.remove()
    assert guest.pcsc(f"apdu\t{NAME}\t00a4040000", ferry.socket)["answers"] == ["9000"]
    two.places[1].card.remove()
    wait_until(lambda: not readers(guest, ferry)[0]["atr"], "there is no card any more")
    two.places[0].card.insert()
    wait_until(lambda: readers(guest, ferry)[0]["atr"], "there is a card again")
    assert ferry.stop().code == 0


def test_all_cards_work_for_all_guests_and_when_one_dies_the_others_go_on(lab: Lab) -> None:
    """The goals are measured by `bench.pool`; here, that nobody is left out, whatever else the machine does."""
    pool = PoolOfHosts(lab, 3)
    guests = pool.guests(4)
    seconds = 8.0
    programs = loops(guests, seconds, "--errors", "20", apdu=COUNT.hex())
    dies = pool.places[0]
    wait_until(lambda: pool_counts(pool, guests), "all cards are used", timeout=20)
    dies.kill()
    killed = time.monotonic()
    had = turns(programs, seconds)
    assert jain([len(each) for each in had]) >= 0.8
    before = max(owned - asked for each in had for asked, owned, _ in each if owned < killed)
    after = max(owned - asked for each in had for asked, owned, _ in each if owned >= killed)
    assert after <= before + 3.0
    dies.start()
    dies.ready()
    guest, _ = guests[0]
    wait_until(lambda: f"{dies.name} (link): up" in cardferry(guest, "status").check().out, "it is a member again")


def pool_counts(pool: PoolOfHosts, guests: list[tuple[Computer, Ferry]]) -> bool:
    """Whether each member has been used by this guest."""
    guest, _ = guests[0]
    (running,) = json.loads(cardferry(guest, "status", "--json").check().out)
    members = [link for link in running["links"] if link["pool"]]
    return len(members) == len(pool.places) and all(link["link"]["counters"]["round_trips"] > 3 for link in members)


def test_what_one_guest_has_unlocked_is_locked_for_another_one_of_the_pool(lab: Lab) -> None:
    """Isolation is at the host that has the card: guests of a pool are principals like any others."""
    host = lab.computer("host")
    piv_card(Pcscd(host))
    host.popen([CARDFERRY, "host", "--listen", "tls::7764"])
    wait_until(lambda: link_of(host, "host").socket.endswith(":7764"), "the agent listens")
    guests = [lab.computer(f"build{number}") for number in range(2)]
    for guest in guests:
        line = cardferry(host, "invite", guest.name, "--address", host.address).check().out.strip()
        cardferry(guest, "join", line).check()
        configure(guest, [f"tls://{host.address}"])
    (first, second), (one, other) = guests, attach_all(guests)
    verify = "00200080"  # how many tries are left, or 9000 when the PIN is verified
    select = "00a404000ba000000308000010000100"
    mine = first.pcsc(f"apdu\t{NAME}\t{select}\t0020008008313233343536ffff\t{verify}", one.socket)["answers"]
    theirs = second.pcsc(f"apdu\t{NAME}\t{select}\t{verify}", other.socket)["answers"]
    assert mine[1:] == ["9000", "9000"]
    assert theirs[1].startswith("63c")


# --- who is a member


@pytest.mark.slow
def test_members_can_be_those_with_a_certificate(lab: Lab) -> None:
    signer, other = Place(lab, 0, piv=True), Place(lab, 1)
    for place in (signer, other):
        place.ready()
    guest = lab.computer("guest")
    configure(guest, [signer.name, other.name], 'subject = "CN=*"\n')
    (ferry,) = attach_all([guest])
    wait_until(lambda: [one["atr"] for one in readers(guest, ferry)] not in ([], [""]), "the card is known")
    (running,) = json.loads(cardferry(guest, "status", "--json").check().out)
    members = {link["host"]: [slot["reader"] for slot in link["readers"]] for link in running["links"] if link["pool"]}
    assert members == {signer.name: [signer.card.reader], other.name: []}
    certificate = guest.run(["pkcs11-tool", "--list-objects", "--type", "cert"], ferry.env).check().out
    assert "Certificate for PIV Authentication" in certificate
    signer.card.remove()
    wait_until(lambda: not readers(guest, ferry), "the card that has gone is no member")


class PoolOfFleet:
    """Hosts that enter a fleet with a label each, and a guest that they have all let in.

    Attributes:
        agents: the hosts, by name.
        ferry: the guest's pool.
    """

    def __init__(self, lab: Lab, servers: str, **labels: str) -> None:
        self.guest = lab.computer("guest")
        self.agents: dict[str, Running] = {}
        for short, label in labels.items():
            host, name = lab.computer(short), short.upper().replace("LAB", "LAB-")
            fake_card(Pcscd(host))
            words = ["--fleet", servers, "--fleet-name", name, "--fleet-label", f"pool={label}"]
            self.agents[name] = host.popen([CARDFERRY, "host", *words])
            self.agents[name].wait_for(f"in the fleet at .* as {name}", stream="err", timeout=30)
            cardferry(self.guest, "join", cardferry(host, "invite", "build1").check().out.strip()).check()
        named = json.dumps(servers.split(","))
        configuration(self.guest, f"[fleet]\nservers = {named}\n")
        (self.ferry,) = attach_all([self.guest])

    def members(self) -> list[str]:
        """Who is up."""
        (running,) = json.loads(cardferry(self.guest, "status", "--json").check().out)
        return sorted(link["host"] for link in running["links"] if link["pool"] and link["state"] == "up")

    def wait_for(self, *names: str) -> None:
        """Wait until these are up, and see that the card works."""
        wait_until(lambda: self.members() == [f"fleet:{name}" for name in names], f"{names} are members", timeout=60)
        assert [one["name"] for one in readers(self.guest, self.ferry)] == [NAME]
        assert self.guest.pcsc(f"apdu\t{NAME}\t00a4040000", self.ferry.socket)["answers"] == ["9000"]


@pytest.mark.slow
def test_members_can_be_the_hosts_of_a_fleet_with_a_label(lab: Lab) -> None:
    nats = NatsServer(lab.computer("nats"))
    pool = PoolOfFleet(lab, nats.url, lab1=NAME, lab2=NAME, lab3="other")
    pool.wait_for("LAB-1", "LAB-2")
    nats.kill()
    pool.ferry.process.wait_for("the fleet at .* is out of reach", stream="err")
    nats.start()
    pool.ferry.process.wait_for("the fleet at .* is back", stream="err", timeout=30)
    pool.wait_for("LAB-1", "LAB-2")
    pool.agents["LAB-1"].stop()
    pool.wait_for("LAB-2")
    assert "without a word" not in str(pool.ferry.process)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_pool_outlives_who_leads_the_directory_and_the_memory_of_all_servers(lab: Lab) -> None:
    servers = cluster(lab.computer("nats"))
    pool = PoolOfFleet(lab, urls(servers), lab1=NAME, lab2=NAME)
    pool.wait_for("LAB-1", "LAB-2")
    leader = next(filter(leads, servers))
    leader.kill()
    killed = time.monotonic()
    wait_until(lambda: time.monotonic() > killed + 3 * LIFE, "hosts that cannot write would be gone", timeout=60)
    pool.wait_for("LAB-1", "LAB-2")
    for server in servers:
        server.kill()
    for server in servers:
        server.forget()
        server.start()
    made = "the directory of the fleet is made"
    agents = pool.agents.values()
    wait_until(lambda: sum(str(agent).count(made) for agent in agents) >= 2, "a host has made it anew", timeout=60)
    pool.wait_for("LAB-1", "LAB-2")
    told = str(pool.ferry.process)
    assert "without a word" not in told
    assert made not in told, "guests make none"


# --- what people are told


def test_a_pool_that_nobody_has_written_down_and_one_whose_members_are_all_away(lab: Lab) -> None:
    guest = lab.computer("guest")
    unknown = cardferry(guest, "attach", "pool:signing")
    assert unknown.code == 66
    assert "error: there is no pool 'signing'" in unknown.err
    assert f"hint: write into {guest.home}/.config/cardferry/config.toml: [pool.signing]" in unknown.err
    configure(guest, ["unix:/run/nobody", "unix:/run/nobody2"])
    away = cardferry(guest, "attach", "pool:signing")
    assert away.code == 66
    assert "error: no member of pool:signing can be reached; the first: " in away.err
    assert "hint: " in away.err
    assert "[pool.signing]" in cardferry(guest, "config", "check").check().out
    shown = cardferry(guest, "config", "show").check().out
    assert "unix:/run/nobody2" in shown


def test_a_member_that_is_away_at_the_start_joins_when_it_comes(two: PoolOfHosts) -> None:
    two.places[1].agent.stop()
    ((guest, ferry),) = two.guests(1)
    assert guest.pcsc(f"apdu\t{NAME}\t00a4040000", ferry.socket)["answers"] == ["9000"]
    two.places[1].start()
    two.places[1].ready()
    wait_until(
        lambda: f"{two.places[1].name} (link): up" in cardferry(guest, "status").check().out,
        "it has joined",
        timeout=30,
    )

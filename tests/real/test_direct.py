"""``attach --direct``: ssh introduces, TLS carries. Two computers, a real sshd, unmodified programs."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from dataclasses import dataclass
from functools import partial

import pytest

from cardferry.app.runtime.status_socket import Link
from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, attach, cardferry
from tests.lab.link import AGENT, MASTER, SSHD, install_cardferry, kill, link_of, processes
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import wait_until
from tests.lab.recipe import Recipe
from tests.lab.sshd import Sshd
from tests.real.test_link_exactly_once import READER, Breakable, answers_of, assert_exactly_once, card_count, resumes

PORT = 7765
#: A certificate of nobody, none, and what is no TLS; then it is over.
_STRANGER = """
import socket, ssl, subprocess, sys
where = sys.argv[1], int(sys.argv[2])
openssl = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout k -out c -subj /CN=x"
subprocess.run(openssl.split(), check=True, capture_output=True)
for certificate in ("c", None):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["cardferry-link/1"])
    if certificate:
        context.load_cert_chain("c", "k")
    got = b""
    try:
        with context.wrap_socket(socket.create_connection(where)) as one:
            got = one.recv(100)
    except ssl.SSLError as error:
        print("turned away:", error.reason, flush=True)
    assert not got, got
with socket.create_connection(where) as one:
    one.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
    while one.recv(100):
        pass
print("done", flush=True)
"""


@pytest.fixture
def recipe(lab: Lab) -> Recipe:
    """Two computers with cardferry on both, and a card that counts; the host takes direct connections at one port."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd, delay=0.002)
    install_cardferry(recipe.host)
    configure(recipe.host, f'[host]\ndirect-ports = "{PORT}"\n')
    return recipe


def configure(computer: Computer, text: str) -> None:
    """Write the account's configuration."""
    path = computer.home / ".config/cardferry/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def own_link(recipe: Recipe) -> Link:
    return link_of(recipe.guest, "attach")


def wait_for_way(recipe: Recipe, what: str) -> None:
    """Wait until the link runs over that."""
    wait_until(lambda: (own_link(recipe).over, own_link(recipe).state) == (what, "up"), f"the link is {what}", 40)


def principal(recipe: Recipe) -> tuple[str, bool]:
    """As whom the host serves the guest, and whether directly."""
    guest = link_of(recipe.host, "host").guest
    assert guest is not None
    return guest.principal, guest.direct


def sockets(computer: Computer, state: str) -> list[str]:
    """TCP sockets of a computer in that state which are for direct connections: own port and the other end."""
    lines = computer.run(["ss", "-Htan", "state", state]).check().out.splitlines()
    return [line for line in lines if re.search(rf":{PORT}\b", line)]


def assert_works(recipe: Recipe, ferry: Ferry) -> None:
    answer = recipe.guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", ferry.socket)
    assert answer.get("answers") == ["9000", "00019000"], answer


@dataclass(frozen=True, slots=True)
class Ways:
    """A link with a relay in each of its two ways."""

    link: Breakable
    direct: DelayedPort

    def cut_both(self) -> None:
        self.link.cut()
        self.direct.cut()

    def black(self) -> None:
        """The direct way swallows everything; the one over ssh stands."""
        self.direct.black()
        wait_for_way(self.link.recipe, "ssh")
        self.direct.light()


def test_exactly_once_while_it_moves_over_and_back_whatever_breaks(recipe: Recipe) -> None:
    """The direct way is cut and goes black, ssh is cut and killed, and both at once; programs see nothing."""
    far = DelayedPort(recipe.guest, recipe.host, 0.002)
    config = recipe.host_sshd.config(recipe.guest, "far", far.address, far.port)
    ferry = attach(recipe, "--direct", host="far", config=config)
    link = Breakable(recipe, "attach", far, ferry)
    before = card_count(link) + 1  # a host with a configuration has asked the card who it is
    programs = link.programs()  # nobody listens at the direct port here yet
    wait_for_way(recipe, "ssh")
    ways = Ways(link, DelayedPort(recipe.guest, recipe.host, 0.002, PORT, PORT))
    ferry.process.wait_for("far: direct connection; ssh is kept beside it", stream="err")
    chance = random.Random(15)
    breaks = {
        "direct way cut": ways.direct.cut,
        "direct way black": ways.black,
        "ssh cut": link.cut,
        "ssh killed": lambda: kill(recipe.guest, MASTER),
        "sshd killed": lambda: kill(recipe.host, SSHD),
        "both cut": ways.cut_both,
    }
    for what, breaking in breaks.items():
        wait_for_way(recipe, "direct")
        time.sleep(chance.uniform(0.0, 0.3))
        moved = resumes(link)
        breaking()
        wait_until(partial(lambda before: resumes(link) > before, moved), f"{what} is noticed")
    wait_for_way(recipe, "direct")
    answers = answers_of(programs)
    assert_exactly_once(answers, card_count(link), before)
    assert resumes(link) >= 2 * len(breaks)
    assert principal(recipe) == (f"ssh:{recipe.host.user}", True)
    assert "(link, direct): up" in cardferry(recipe.guest, "status").out
    assert ferry.stop().code == 0


def test_behind_a_firewall_it_stays_on_ssh_and_says_so_once(recipe: Recipe) -> None:
    recipe.host.holder.ip(f"rule add sport {PORT} blackhole")
    ferry = attach(recipe, "--direct")
    line = f"host: no direct connection: nobody answers at {recipe.host.address} port {PORT}; it goes on over ssh"
    ferry.process.wait_for(line, stream="err")
    assert own_link(recipe).over == "ssh"
    assert_works(recipe, ferry)
    recipe.host.holder.ip(f"rule del sport {PORT} blackhole")
    wait_for_way(recipe, "direct")
    assert_works(recipe, ferry)
    ended = ferry.stop()
    assert ended.err.count("no direct connection") == 1


@pytest.mark.slow
def test_through_a_jump_host_it_dials_what_the_host_says(lab: Lab, recipe: Recipe) -> None:
    """There ssh is connected to nothing that can be dialled; behind a firewall, too, the link stays on ssh."""
    sshd = Sshd(lab.computer("jump"))
    config = recipe.host_sshd.config(recipe.guest, "host", options={"ProxyJump": "jump"})
    with config.open("a") as file:
        file.write(sshd.config(recipe.guest, "jump").read_text())
    recipe.host.holder.ip(f"rule add sport {PORT} blackhole")
    ferry = attach(recipe, "--direct", config=config)
    ferry.process.wait_for(f"no direct connection: nobody answers at {recipe.host.address} port {PORT}", stream="err")
    assert_works(recipe, ferry)
    recipe.host.holder.ip(f"rule del sport {PORT} blackhole")
    wait_for_way(recipe, "direct")
    assert principal(recipe) == (f"ssh:{recipe.host.user}", True)
    assert_works(recipe, ferry)
    sshd.shut_down()
    wait_for_way(recipe, "direct")
    assert_works(recipe, ferry)
    assert ferry.stop().code == 0


def test_a_key_for_nothing_else_gets_it_only_where_the_host_says_so(recipe: Recipe) -> None:
    keys = recipe.host.outside("/run/sshd/authorized_keys")
    key = keys.read_text()
    program = "/usr/local/bin/cardferry host --stdio --name build1"
    for words, way in ((program, "ssh"), (f"{program} --direct", "direct")):
        keys.write_text(f'command="{words}",restrict {key}')
        ferry = attach(recipe, "--direct")
        if way == "ssh":
            ferry.process.wait_for("host: no direct connection: the host does not allow it to this key", stream="err")
            assert not sockets(recipe.host, "listening")
        wait_for_way(recipe, way)
        assert principal(recipe) == ("ssh:build1", way == "direct")
        assert_works(recipe, ferry)
        assert ferry.stop().code == 0


def test_a_host_can_forbid_it_to_everybody(recipe: Recipe) -> None:
    configure(recipe.host, "[host]\ndirect = false\n")
    ferry = attach(recipe, "--direct")
    ferry.process.wait_for("host: no direct connection: the host does not allow it", stream="err")
    assert_works(recipe, ferry)
    assert ferry.stop().code == 0


def test_a_stranger_at_the_port_gets_nothing_and_disturbs_nobody(recipe: Recipe) -> None:
    recipe.host.holder.ip(
        f"rule add sport {PORT} to {recipe.guest.address} blackhole"
    )  # so the port is open for a while
    ferry = attach(recipe, "--direct")
    wait_until(lambda: sockets(recipe.host, "listening"), "the port is open")
    told = recipe.host.run([PLAIN_PYTHON, "-c", _STRANGER, recipe.host.address, str(PORT)]).check().out.splitlines()
    assert told == ["turned away: TLSV1_ALERT_UNKNOWN_CA", "turned away: TLSV13_ALERT_CERTIFICATE_REQUIRED", "done"]
    assert_works(recipe, ferry)
    recipe.host.holder.ip(f"rule del sport {PORT} to {recipe.guest.address} blackhole")
    wait_for_way(recipe, "direct")
    assert not sockets(recipe.host, "listening"), "nobody else is expected"
    log = (recipe.host.outside(recipe.host.runtime / "cardferry") / "agent.log").read_text()
    for what in ("has a certificate of somebody else", "shows no certificate", "does not speak TLS"):
        assert what in log, log
    assert ferry.stop().code == 0


@pytest.mark.parametrize("end", [pytest.param("guest", marks=pytest.mark.slow), "host"])
def test_whoever_is_killed_leaves_no_port_open(recipe: Recipe, end: str) -> None:
    ferry = attach(recipe, "--direct")
    wait_for_way(recipe, "direct")
    if end == "guest":
        kill(recipe.guest, r"cardferry attach ")
        wait_until(lambda: link_of(recipe.host, "host").guest is None, "the session is over")
    else:
        (agent,) = processes(recipe.host, AGENT)
        os.kill(agent, signal.SIGKILL)
        ferry.process.wait_for("the session with host is over", stream="err")
        wait_for_way(recipe, "direct")  # with a new agent
        assert ferry.stop().code == 0
    for computer in (recipe.host, recipe.guest):
        for state in ("listening", "established"):
            gone = partial(lambda where, what: not sockets(where, what), computer, state)
            wait_until(gone, f"nothing is {state} at {computer.name}")

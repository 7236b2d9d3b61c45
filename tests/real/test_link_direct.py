"""Links without ssh: a container's programs use the reader of the computer it runs on, and what breaks is mended."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cardferry.link import GuestStatus
from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, REPOSITORY
from tests.lab.counting_client import COUNT
from tests.lab.delay import DelayedSocket
from tests.lab.ferry import Ferry, cardferry
from tests.lab.link import link_of, of_version, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.neighbours import Neighbours
from tests.lab.pcscd import SOCKET, Pcscd
from tests.lab.process import Result, Running, wait_until
from tests.real.test_link_exactly_once import answers_of, assert_exactly_once
from tests.transports.machines import loopback

READER = "Virtual PCD 00 00"
PROGRAMS = 4
#: Listens, says something to each who comes, and hangs up.
_GARBAGE = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
print("listening", flush=True)
while True:
    connection, _ = listening.accept()
    connection.sendall(b"220 mail.example.org ESMTP\\r\\n" * 100)
    connection.close()
"""


def neighbours(lab: Lab, delay: float = 0.0) -> Neighbours:
    """A computer with a card that counts, and a container that has neither network nor ssh to it."""
    host, guest = lab.computer("host"), lab.computer("box")
    fake_card(Pcscd(host), delay=delay)
    return Neighbours.of(host, guest, lab.folder)


@pytest.fixture(scope="module")
def near() -> Iterator[Neighbours]:
    """With an agent that runs, for several tests, which leave it running."""
    with Lab() as lab:
        near = neighbours(lab)
        near.agent()
        yield near


def client(computer: Computer, words: str, ferry: Ferry) -> Running:
    """`pcsc_client.py` in the background."""
    return computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words.split("\t")], ferry.env, stdin=True)


def status_of(near: Neighbours) -> GuestStatus:
    """How the guest's link does."""
    status = link_of(near.guest, "attach").link
    assert status is not None
    return status


def assert_works(near: Neighbours, ferry: Ferry) -> None:
    """An unmodified program of the guest talks to the card."""
    answer = near.guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", ferry.socket)
    assert answer.get("answers") == ["9000", "00019000"], answer


def refused(near: Neighbours, path: Path, computer: Computer | None = None) -> Result:
    """An attach that must not succeed."""
    where = computer or near.guest
    return where.run([CARDFERRY, "attach", f"unix:{path}", "--socket", where.home / "no.sock"])


# --- it works


def test_both_ends_say_who_is_there(near: Neighbours) -> None:
    ferry = near.attach()
    ferry.process.wait_for(f"{near.name}: linked, cardferry is at both ends", stream="err")
    assert_works(near, ferry)
    own, there = link_of(near.guest, "attach"), link_of(near.host, "host")
    assert (own.host, own.way, own.state) == (near.name, "link", "up")
    assert re.fullmatch(r"cardferry \(process \d+, user \d+\)", there.host), there
    assert near.name in there.socket
    assert own.link is not None
    assert own.link.resumes == 0
    assert "round trip" in cardferry(near.guest, "status").check().out
    assert ferry.stop().code == 0
    wait_until(lambda: link_of(near.host, "host").guest is None, "the guest has gone")


def test_run_from_and_doctor_take_the_same_name(near: Neighbours) -> None:
    done = cardferry(near.guest, "run", "--from", near.name, "--", "opensc-tool", "--list-readers")
    assert READER in done.check().out
    found = cardferry(near.guest, "doctor", near.name).out
    assert f"link to {near.name}: it works" in found
    assert READER in found


def test_a_machines_port_does_the_same(lab: Lab) -> None:
    if not loopback():
        pytest.skip("not run: this kernel has no vsock loopback (CONFIG_VSOCKETS_LOOPBACK, modprobe vsock_loopback)")
    computer = lab.computer("host")
    fake_card(Pcscd(computer))
    computer.popen([CARDFERRY, "host", "--listen", "vsock:local:35960"])
    wait_until(lambda: link_of(computer, "host").socket.endswith("vsock:1:35960"), "the agent listens")
    ferry = Ferry(computer, ["attach", "vsock://local:35960"])
    assert computer.pcsc(f"apdu\t{READER}\t00A40000", ferry.socket).get("answers") == ["9000"]
    assert link_of(computer, "host").host == "machine 1"


# --- what breaks


def test_an_agent_that_was_killed_and_started_anew_is_found_again(lab: Lab) -> None:
    near = neighbours(lab)
    agent = near.agent()
    ferry = near.attach()
    holder = client(near.guest, f"hold\t{READER}", ferry)
    holder.wait_for("held")
    os.killpg(agent.pid, signal.SIGKILL)
    agent.wait()
    assert near.path.is_socket(), "it is stale now"
    holder.write("\n")
    near.agent()
    ferry.process.wait_for(f"{near.name} is back", stream="err")
    assert '"error"' in holder.wait().out, "the card was reset when the agent died: its program must hear of it"
    assert_works(near, ferry)


def test_an_agent_that_stops_frees_its_guests_at_once(lab: Lab) -> None:
    near = neighbours(lab)
    agent = near.agent()
    ferry = near.attach()
    holder = client(near.guest, f"hold\t{READER}", ferry)
    holder.wait_for("held")
    assert agent.stop().code == 0
    assert not near.path.exists()
    ferry.process.wait_for("the session with .* is over", stream="err", timeout=5)
    holder.write("\n")
    assert '"error": "0x80100017"' in holder.wait(timeout=5).out


def test_connections_that_break_are_resumed_and_every_command_is_carried_out_once(lab: Lab) -> None:
    near = neighbours(lab, delay=0.002)
    near.agent()
    relayed = near.path.with_name("relayed")
    relay = DelayedSocket(near.guest, relayed, near.path, 0.001)
    ferry = Ferry(near.guest, ["attach", f"unix:{relayed}"])
    programs = [
        near.guest.popen(
            [PLAIN_PYTHON, "-m", "tests.lab.counting_client", READER, str(seed)],
            {**ferry.env, "PYTHONPATH": str(REPOSITORY)},
            stdin=True,
        )
        for seed in range(PROGRAMS)
    ]
    for program in programs:
        program.wait_for("^counting$")
    for number in range(12):
        before = relay.traffic().turns
        wait_until(lambda: relay.traffic().turns > before + 20, "they are at work")  # noqa: B023
        relay.cut()
        wait_until(lambda: status_of(near).resumes > number, "the session goes on")  # noqa: B023
        wait_for_link(near.guest, "attach")
    answers = answers_of(programs)
    count = near.host.pcsc(f"apdu\t{READER}\t{COUNT.hex()}")["answers"][0]
    assert_exactly_once(answers, int(count[:8], 16) - 1)
    status = status_of(near)
    assert (status.sessions, status.resumes) == (1, 12)


# --- starting, and what is in the way


def test_a_second_agent_leaves_the_first_one_alone(near: Neighbours) -> None:
    second = cardferry(near.host, "host", "--listen", f"{near.path}2")
    assert second.code == 11
    assert "agent is in use by cardferry" in second.err
    other = near.host.home / "run"
    other.mkdir(mode=0o700, exist_ok=True)
    second = near.host.run([CARDFERRY, "host", "--listen", near.name], {"XDG_RUNTIME_DIR": str(other)})
    assert second.code == 11
    assert f"{near.path} is in use by cardferry" in second.err
    assert "--listen unix:PATH" in second.err
    assert_works(near, ferry := near.attach())
    ferry.stop()


def test_what_is_not_a_socket_is_never_touched(near: Neighbours) -> None:
    path = near.path.with_name("precious")
    path.write_text("precious")
    other = near.host.home / "run2"
    other.mkdir(mode=0o700)
    done = near.host.run([CARDFERRY, "host", "--listen", f"unix:{path}"], {"XDG_RUNTIME_DIR": str(other)})
    assert done.code == 11
    assert "not a socket" in done.err
    told = refused(near, path)
    assert (told.code, "not a socket" in told.err) == (34, True)
    assert path.read_text() == "precious"


def test_a_socket_that_was_left_and_one_that_is_not_there(near: Neighbours) -> None:
    left = near.path.with_name("left")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(left))
    told = refused(near, left)
    assert (told.code, f"error: nobody listens at {left}" in told.err) == (34, True)
    told = refused(near, near.path.with_name("nothing"))
    assert (told.code, "error: there is no socket at" in told.err) == (34, True)
    assert "hint: where the reader is: cardferry host --listen" in told.err


def test_pcscds_own_socket_is_told_from_a_link(near: Neighbours) -> None:
    told = refused(near, SOCKET, near.host)
    assert told.code == 35
    assert "error: pcscd (process" in told.err
    assert f"pcscd:{SOCKET}" in told.err


def test_somebody_else_at_the_other_end(near: Neighbours) -> None:
    path = near.path.with_name("garbage")
    near.guest.popen([PLAIN_PYTHON, "-c", _GARBAGE, path]).wait_for("listening")
    told = refused(near, path)
    assert told.code == 35
    assert "does not speak the protocol of links" in told.err


@pytest.mark.parametrize(("version", "oldest", "code"), [(2, 1, 0), (3, 2, 54)])
def test_a_guest_may_be_newer_by_one_step_and_no_more(near: Neighbours, version: int, oldest: int, code: int) -> None:
    newer = of_version(near.guest, version, oldest)
    done = near.guest.run([CARDFERRY, "run", "--from", near.name, "--", "opensc-tool", "--list-readers"], newer)
    assert done.code == code
    if code:
        assert "too far from this one in age" in done.err
        assert "hint: install the same version" in done.err


def test_thousands_of_silent_callers_disturb_nobody(near: Neighbours) -> None:
    ferry = near.attach()
    holder = client(near.guest, f"hold\t{READER}", ferry)
    holder.wait_for("held")
    silent = []
    for _ in range(3000):
        one = socket.socket(socket.AF_UNIX)
        one.connect(os.fspath(near.path))
        silent.append(one)
    holder.write("\n")
    assert json.loads(holder.wait().out.splitlines()[-1]) == {"answer": "9000"}
    assert_works(near, another := near.attach("--socket", str(near.guest.home / "another")))
    assert status_of(near).resumes == 0
    for one in silent:
        one.close()
    another.stop()
    ferry.stop()

"""cardferry at both ends, over a real ssh: programs work, it falls back where it must, and what breaks is mended."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, attach, cardferry, over
from tests.lab.link import (
    AGENT,
    MASTER,
    SESSION,
    SSHD,
    STDIO,
    all_running,
    install_cardferry,
    kill,
    link_of,
    of_version,
    processes,
    wait_for_resume,
)
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe

READER = "Virtual PCD 00 00"
#: s that a session outlives the network, in the tests that wait for its end.
GRACE = 4.0


def client(computer: Computer, words: str, socket: Path | None) -> Running:
    """`pcsc_client.py` in the background."""
    env = {} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}
    return computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words.split("\t")], env, stdin=True)


def assert_works(recipe: Recipe, socket: Path) -> None:
    """An unmodified program on the guest talks to the card."""
    answer = recipe.guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", socket)
    assert answer.get("answers") == ["9000", "00019000"], answer


def linked_recipe(lab: Lab) -> Recipe:
    """Two computers with cardferry on both, and the fake card."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host)
    return recipe


@pytest.fixture(scope="module")
def both() -> Iterator[Recipe]:
    """Two computers for several tests, which leave them as they are."""
    with Lab() as lab:
        yield linked_recipe(lab)


# --- one agent


def test_the_agent_starts_when_it_is_needed_and_says_who_is_there(both: Recipe) -> None:
    ferry = attach(both)
    ferry.process.wait_for("host: linked, cardferry is at both ends", stream="err")
    assert_works(both, ferry.socket)
    own = link_of(both.guest, "attach")
    assert (own.way, own.state) == ("link", "up")
    assert own.link is not None
    assert own.link.software.startswith("cardferry ")
    assert own.link.round_trip is not None
    assert own.link.bytes_sent > 0
    there = link_of(both.host, "host")
    assert there.host == f"guest ({both.guest.address})"
    assert there.guest is not None
    assert there.guest.connected
    said = cardferry(both.guest, "status").check().out
    assert re.search(r"round trip [\d.]+ ms, \d+ messages, .* 0 resumes", said), said
    assert f"guest ({both.guest.address})" in cardferry(both.host, "status").check().out
    assert ferry.stop().code == 0
    wait_until(lambda: link_of(both.host, "host").guest is None, "the agent has no guest any more")


def test_several_guests_that_come_at_once_find_one_agent(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    commands = [
        recipe.guest.popen(
            [CARDFERRY, "attach", "host", "-e", f"ssh -F {recipe.to_host}", "--socket", recipe.guest.home / f"card{n}"]
        )
        for n in range(4)
    ]
    for command in commands:
        command.wait_for("^ready")
    assert len(processes(recipe.host, AGENT)) == 1
    for number in range(4):
        assert_works(recipe, recipe.guest.home / f"card{number}")
    for command in commands:
        assert command.stop().code == 0


def test_the_agent_leaves_when_nobody_has_come_for_a_while(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    agent = recipe.host.popen([CARDFERRY, "host", "--idle", "3"])
    path = recipe.host.outside(recipe.host.runtime / "cardferry" / "agent")
    wait_until(path.is_socket, "the agent listens")
    ferry = attach(recipe)
    time.sleep(3.5)  # longer than it waits: it must stay as long as somebody is here
    assert_works(recipe, ferry.socket)
    assert agent.code is None
    ferry.stop()
    assert agent.wait().code == 0
    assert not path.exists()


def test_an_agent_that_was_killed_is_replaced(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    ferry = attach(recipe)
    holder = client(recipe.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    assert kill(recipe.host, AGENT)
    ferry.process.wait_for("host is back", stream="err")
    holder.write("\n")
    assert '"error"' in holder.wait().out, "the card was reset when the agent died: its program must hear of it"
    assert_works(recipe, ferry.socket)
    assert_works(recipe, ferry.socket)


def test_an_agent_that_cannot_start_says_why_to_the_guests_person(lab: Lab) -> None:
    recipe = Recipe(lab)
    install_cardferry(recipe.host)
    folder = recipe.host.outside(recipe.host.runtime / "cardferry")
    folder.mkdir(mode=0o700)
    (folder / "agent").write_text("not a socket")
    done = recipe.guest.popen([CARDFERRY, "attach", "host", "-e", f"ssh -F {recipe.to_host}"])
    said = done.wait_for("no link to host: .*", stream="err").group()
    assert "host says: " in said
    assert "not a socket" in said
    done.wait_for("^ready")  # plain forwarding needs no agent
    done.stop()


def test_the_log_of_an_agent_is_bounded(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    ferry = attach(recipe)
    log = recipe.host.outside(recipe.host.runtime / "cardferry" / "agent.log")
    with log.open("ab") as file:
        file.write(b"x" * (1 << 20))
    ferry.stop()
    wait_until(lambda: 0 < log.stat().st_size < 4096, "the next line begins a new file")


def test_a_session_without_a_runtime_folder_finds_the_same_agent(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    first = attach(recipe)
    script = f'#!/bin/sh\nunset XDG_RUNTIME_DIR\nexec {CARDFERRY} "$@"\n'
    install_cardferry(recipe.host, script=script)
    second = attach(recipe, "--socket", str(recipe.new_socket()))
    assert_works(recipe, second.socket)
    assert len(processes(recipe.host, AGENT)) == 1
    first.stop()


# --- falling back


def test_without_cardferry_over_there_its_pcscd_is_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    ferry = attach(recipe)
    ferry.process.wait_for("host: plain forwarding, cardferry is not installed there", stream="err")
    assert link_of(recipe.guest, "attach").way == "forwarding"
    assert_works(recipe, ferry.socket)


def test_no_link_forwards_although_cardferry_is_there(both: Recipe) -> None:
    ferry = attach(both, "--no-link")
    assert link_of(both.guest, "attach").way == "forwarding"
    assert_works(both, ferry.socket)
    ferry.stop()


def test_a_cardferry_that_is_one_step_newer_is_understood(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host, of_version(recipe.host, 2, 1))
    ferry = attach(recipe)
    assert link_of(recipe.guest, "attach").way == "link"
    assert_works(recipe, ferry.socket)


def test_a_guest_that_is_one_step_newer_is_understood(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    newer = recipe.guest.popen(
        [CARDFERRY, "attach", "host", "-e", f"ssh -F {recipe.to_host}"], of_version(recipe.guest, 2, 1)
    )
    newer.wait_for("linked, cardferry is at both ends", stream="err")
    path = Path(newer.wait_for("^ready (.*)")[1])
    assert_works(recipe, path)


def test_a_cardferry_that_is_too_new_is_told_of_and_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host, of_version(recipe.host, 3, 2))
    ferry = attach(recipe)
    ferry.process.wait_for("no link to host: .*too far .* in age.*version 1.*; its pcscd is forwarded", stream="err")
    assert link_of(recipe.guest, "attach").way == "forwarding"
    assert_works(recipe, ferry.socket)


def test_a_cardferry_that_does_not_start_is_told_of_and_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host, script="#!/bin/sh\necho it is broken >&2\nexit 3\n")
    ferry = attach(recipe)
    ferry.process.wait_for("no link to host: cardferry on host does not work: it is broken", stream="err")
    assert_works(recipe, ferry.socket)


def test_a_login_that_prints_into_the_streams_is_told_of_and_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.host, script=f'#!/bin/sh\necho Welcome to this computer\nexec {CARDFERRY} "$@"\n')
    ferry = attach(recipe)
    ferry.process.wait_for("no link to host: .*; its pcscd is forwarded instead", stream="err")
    assert_works(recipe, ferry.socket)


# --- a key that may do nothing else


def test_a_key_that_is_for_the_link_only_works(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    keys = recipe.host.outside("/run/sshd/authorized_keys")
    keys.write_text(f'command="/usr/local/bin/cardferry host --stdio",restrict {keys.read_text()}')
    ferry = attach(recipe)
    assert link_of(recipe.guest, "attach").way == "link"
    assert link_of(recipe.host, "host").host == f"guest ({recipe.guest.address})"
    assert_works(recipe, ferry.socket)
    assert "ssh: " not in str(ferry.process), "nothing is wrong"
    assert "no terminal" not in str(ferry.process)
    assert kill(recipe.host, SSHD)
    ferry.process.wait_for("host is back", stream="err")
    assert_works(recipe, ferry.socket)
    refused = recipe.guest.run(["ssh", "-F", recipe.to_host, "host", "true"])
    assert "error: this key is for the link only" in refused.err
    assert ferry.stop().code == 0


# --- what breaks


@pytest.mark.parametrize(
    ("side", "what"), [("guest", SESSION), ("guest", MASTER), ("host", SSHD), ("host", STDIO)], ids=str
)
def test_whatever_is_killed_a_program_in_a_transaction_goes_on(both: Recipe, side: str, what: str) -> None:
    ferry = attach(both)
    holder = client(both.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    assert kill(both.guest if side == "guest" else both.host, what)
    holder.write("\n")
    ended = holder.wait()
    assert json.loads(ended.out.splitlines()[-1]) == {"answer": "9000"}
    wait_for_resume(both.guest, "attach")
    status = link_of(both.guest, "attach").link
    assert status is not None
    assert (status.sessions, status.resumes) == (1, 1)
    ferry.stop()


def far_attach(recipe: Recipe, grace: float) -> tuple[DelayedPort, Path, Running]:
    far = DelayedPort(recipe.guest, recipe.host)
    config = recipe.host_sshd.config(recipe.guest, "far", far.address, far.port)
    ferry = attach(recipe, "--grace", f"{grace:g}", host="far", config=config)
    return far, ferry.socket, ferry.process


def test_a_network_that_is_black_for_less_than_grace_costs_nobody_anything(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    far, socket, process = far_attach(recipe, 10.0)
    holder = client(recipe.guest, f"hold\t{READER}", socket)
    holder.wait_for("held")
    far.black()
    holder.write("\n")
    process.wait_for("lost far", stream="err", timeout=5.0)  # noticed by itself: nothing was closed
    far.light()
    ended = holder.wait()
    assert json.loads(ended.out.splitlines()[-1]) == {"answer": "9000"}


@pytest.mark.parametrize("how", [pytest.param("black", marks=pytest.mark.slow), "unplugged"])
def test_beyond_grace_programs_get_an_error_and_the_next_guest_the_card(lab: Lab, how: str) -> None:
    recipe = linked_recipe(lab)
    far, socket, process = far_attach(recipe, GRACE)
    holder = client(recipe.guest, f"hold\t{READER}", socket)
    holder.wait_for("held")
    third = lab.computer("third")
    other = Ferry(third, ["attach", "host", *over(recipe.host_sshd.config(third, "host"))])
    next_one = client(third, f"hold\t{READER}", other.socket)
    began = time.monotonic()
    if how == "black":
        far.black()
    else:
        lab.network.unplug(recipe.guest)
    holder.write("\n")
    next_one.wait_for("held", timeout=GRACE + 10)
    # the guest was last heard before, so the host has let go of the card at the latest after grace
    assert time.monotonic() - began < GRACE + 1.0
    said = holder.wait(timeout=GRACE + 10).out
    assert json.loads(said.splitlines()[-1]) == {"error": "0x80100017", "call": "SCardTransmit"}
    assert process.code is None
    far.light()


def test_attach_survives_sleep_and_wakes_with_a_clean_session(lab: Lab) -> None:
    recipe = linked_recipe(lab)
    _, socket, process = far_attach(recipe, 1.0)
    watcher = client(recipe.guest, "watch", socket)
    watcher.wait_for(f'"{READER}".*3b80800101')
    for part in processes(recipe.guest, MASTER):
        os.kill(part, signal.SIGSTOP)
    process.wait_for("the session with far is over", stream="err", timeout=15)
    process.wait_for("far is back", stream="err", timeout=20)
    wait_until(lambda: "answers" in recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", socket), "it works again")
    assert [one.command for one in all_running(recipe.guest)] == ["attach"]

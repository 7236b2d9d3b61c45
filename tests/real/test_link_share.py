"""``share`` with cardferry at both ends: the guest over there, its socket, and what happens when something breaks."""

from __future__ import annotations

import itertools
import json
import re
import signal
import time
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, cardferry, over, share
from tests.lab.link import (
    GUEST,
    MASTER,
    SESSION,
    SSHD,
    STDIO,
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
from tests.lab.sshd import Sshd

READER = "Virtual PCD 00 00"
GRACE = 4.0


def client(computer: Computer, words: str, socket: Path | None) -> Running:
    """`pcsc_client.py` in the background."""
    env = {} if socket is None else {"PCSCLITE_CSOCK_NAME": str(socket)}
    return computer.popen([PLAIN_PYTHON, PCSC_CLIENT, *words.split("\t")], env, stdin=True)


def assert_works(recipe: Recipe, socket: Path) -> None:
    """An unmodified program on the guest talks to the card."""
    answer = recipe.guest.pcsc(f"apdu\t{READER}\t00A40000\t80100002", socket)
    assert answer.get("answers") == ["9000", "00019000"], answer


@pytest.fixture
def recipe(lab: Lab) -> Recipe:
    """Two computers with cardferry on both, and the fake card."""
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.guest)
    return recipe


def test_the_share_says_that_it_is_linked_shows_it_and_leaves_no_socket(recipe: Recipe) -> None:
    ferry = share(recipe)
    ferry.process.wait_for("guest: linked, cardferry is at both ends", stream="err")
    assert_works(recipe, ferry.socket)
    own = link_of(recipe.host, "share")
    assert (own.way, own.state, own.socket) == ("link", "up", str(ferry.socket))
    assert own.guest is not None
    there = link_of(recipe.guest, "guest")
    assert there.host == "host"
    assert there.link is not None
    said = cardferry(recipe.host, "status").check().out
    assert re.search(r"guest \(link\): up.*\n  serves ssh:guest, .*\n  round trip [\d.]+ ms, \d+ messages", said), said
    assert str(ferry.socket) in cardferry(recipe.guest, "env").check().out
    assert ferry.stop().code == 0
    wait_until(lambda: not processes(recipe.guest, GUEST), "the guest has heard good-bye")
    left = recipe.guest.run(["find", recipe.guest.runtime / "cardferry", "-type", "s"]).check().out
    assert not left
    again = share(recipe)
    assert again.socket == ferry.socket
    assert_works(recipe, again.socket)


def test_what_lets_a_share_come_back_is_in_no_list_of_processes(recipe: Recipe) -> None:
    """Every account can read the command lines of all (``ps``); who knows the token can take the guest over."""
    ferry = share(recipe)
    ferry.process.wait_for("guest: linked, cardferry is at both ends", stream="err")
    for computer in (recipe.host, recipe.guest):
        assert processes(computer, SESSION if computer is recipe.host else STDIO)
        assert not processes(computer, "[0-9a-f]{32}")


@pytest.mark.parametrize(
    ("side", "what"), [("host", SESSION), ("host", MASTER), ("guest", SSHD), ("guest", STDIO)], ids=str
)
def test_whatever_is_killed_a_program_in_a_transaction_goes_on(recipe: Recipe, side: str, what: str) -> None:
    ferry = share(recipe)
    holder = client(recipe.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    assert kill(recipe.guest if side == "guest" else recipe.host, what)
    holder.write("\n")
    ended = holder.wait()
    assert json.loads(ended.out.splitlines()[-1]) == {"answer": "9000"}
    wait_for_resume(recipe.guest, "guest")
    status = link_of(recipe.guest, "guest").link
    assert status is not None
    assert (status.sessions, status.resumes) == (1, 1)


def test_a_guest_that_was_killed_is_started_anew_at_the_same_path(recipe: Recipe) -> None:
    ferry = share(recipe)
    assert kill(recipe.guest, GUEST)
    ferry.process.wait_for("guest is back", stream="err")
    assert_works(recipe, ferry.socket)
    assert link_of(recipe.host, "share").socket == str(ferry.socket)


def test_a_share_that_was_killed_and_started_again_takes_its_guest_over(recipe: Recipe) -> None:
    first = share(recipe)
    watcher = client(recipe.guest, "watch", first.socket)
    watcher.wait_for(READER)
    first.process.send_signal(signal.SIGKILL)
    first.process.wait()
    wait_until(lambda: link_of(recipe.guest, "guest").state != "up", "the guest has noticed")
    second = share(recipe)
    assert second.socket == first.socket
    assert link_of(recipe.host, "share").way == "link"
    assert len(processes(recipe.guest, GUEST)) == 1
    assert watcher.code is None, "programs that wait go on waiting"
    wait_until(lambda: "answers" in recipe.guest.pcsc(f"apdu\t{READER}\t00A40000", second.socket), "it works again")


def test_a_path_that_another_share_serves_is_left_alone_and_its_name_told(recipe: Recipe) -> None:
    first = share(recipe, "--remote-socket", "/run/card")
    second = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", "/run/card")
    assert second.code == 11
    assert "/run/card is in use by cardferry of host" in second.err
    assert "hint: guest says: end that one, or choose another path" in second.err
    assert_works(recipe, first.socket)


def test_a_path_that_cannot_be_a_socket_is_refused_in_the_same_words(recipe: Recipe) -> None:
    precious = recipe.guest.home / "precious"
    precious.write_text("letter")
    refused = cardferry(recipe.host, "share", "guest", *over(recipe.to_guest), "--remote-socket", str(precious))
    assert refused.code == 11
    assert "is not a socket" in refused.err
    assert "choose another path with --remote-socket PATH" in refused.err
    assert precious.read_text() == "letter"


@pytest.mark.slow
def test_beyond_grace_the_host_has_its_card_again_and_programs_an_error(lab: Lab, recipe: Recipe) -> None:
    far = DelayedPort(recipe.host, recipe.guest)
    ferry = share(
        recipe, "--grace", f"{GRACE:g}", config=recipe.guest_sshd.config(recipe.host, "guest", far.address, far.port)
    )
    holder = client(recipe.guest, f"hold\t{READER}", ferry.socket)
    holder.wait_for("held")
    far.black()
    began = time.monotonic()
    next_one = client(recipe.host, f"hold\t{READER}", None)
    holder.write("\n")
    next_one.wait_for("held", timeout=GRACE + 10)
    assert time.monotonic() - began < GRACE + 1.0
    said = holder.wait(timeout=GRACE + 10).out
    assert json.loads(said.splitlines()[-1]) == {"error": "0x80100017", "call": "SCardTransmit"}
    next_one.write("\n")
    far.light()
    far.cut()
    ferry.process.wait_for("guest is back", stream="err", timeout=30)
    assert_works(recipe, ferry.socket)


def test_a_guest_whose_host_goes_before_it_has_said_hello_ends(recipe: Recipe) -> None:
    words = f"true | {CARDFERRY} guest --stdio --name host | cat"
    recipe.guest.run(["sh", "-c", words]).check()
    wait_until(lambda: not processes(recipe.guest, GUEST), "nobody stays for nobody")
    assert recipe.guest.run(["find", recipe.guest.runtime / "cardferry", "-type", "s"]).check().out == ""


def test_a_guest_whose_host_stays_away_ends_and_takes_its_socket_along(recipe: Recipe) -> None:
    environment = {"PYTHONPATH": str(recipe.guest.folder / "hasty")}
    (recipe.guest.folder / "hasty").mkdir()
    (recipe.guest.folder / "hasty" / "sitecustomize.py").write_text(
        "import sys\nif 'guest' in sys.argv or '-m' in sys.orig_argv:\n"
        "    import cardferry.app.sharing.remote_end as guest\n    guest.RemoteEndSettings.__init__.__defaults__ = "
        "(*guest.RemoteEndSettings.__init__.__defaults__[:-1], 1.0)\n"
    )
    install_cardferry(recipe.guest, environment)
    ferry = share(recipe)
    ferry.process.send_signal(signal.SIGKILL)
    ferry.process.wait()
    wait_until(lambda: not processes(recipe.guest, GUEST), "the guest leaves")
    assert not recipe.guest.outside(ferry.socket).exists()


# --- falling back


def test_no_link_forwards_although_cardferry_is_there(recipe: Recipe) -> None:
    ferry = share(recipe, "--no-link")
    assert link_of(recipe.host, "share").way == "forwarding"
    assert_works(recipe, ferry.socket)


def test_without_cardferry_over_there_a_socket_is_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    ferry = share(recipe)
    ferry.process.wait_for("guest: plain forwarding, cardferry is not installed there", stream="err")
    assert link_of(recipe.host, "share").way == "forwarding"
    assert_works(recipe, ferry.socket)


def test_a_cardferry_that_is_too_new_is_told_of_and_a_socket_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.guest, of_version(recipe.guest, 3, 2))
    ferry = share(recipe)
    ferry.process.wait_for("no link to guest: .*version 1.*; a socket is forwarded instead", stream="err")
    assert link_of(recipe.host, "share").way == "forwarding"
    wait_until(lambda: not processes(recipe.guest, GUEST), "the guest of no use has ended")
    assert_works(recipe, ferry.socket)


def test_a_cardferry_without_links_is_told_of_and_a_socket_forwarded(lab: Lab) -> None:
    recipe = Recipe(lab)
    fake_card(recipe.pcscd)
    install_cardferry(recipe.guest, script="#!/bin/sh\necho \"error: No such command 'guest'\" >&2\nexit 2\n")
    ferry = share(recipe)
    ferry.process.wait_for("no link to guest: .*No such command.*forwarded instead", stream="err")
    assert_works(recipe, ferry.socket)


# --- several guests


def test_a_linked_and_a_forwarded_guest_of_one_share_are_in_one_queue(lab: Lab, recipe: Recipe) -> None:
    third = lab.computer("third")
    sshd = Sshd(third)
    both = recipe.host.folder / "ssh_config.both"
    both.write_text(recipe.to_guest.read_text() + sshd.config(recipe.host, "third").read_text())
    ferry = Ferry(recipe.host, ["share", "guest", "third", *over(both)])
    first = (ferry.socket, str(ferry.process.out.text.split()[3]))
    ferry.wait_until_ready()
    sockets = {first[1]: first[0], ({"guest", "third"} - {first[1]}).pop(): ferry.socket}
    running = {"guest": recipe.guest, "third": third}
    loops = [
        running[name].popen(
            [PLAIN_PYTHON, PCSC_CLIENT, "loop", READER, "--count", "200", "--seconds", "30", "--start", "--work", "2"],
            env={"PCSCLITE_CSOCK_NAME": str(socket)},
            stdin=True,
        )
        for name, socket in sockets.items()
    ]
    for loop in loops:
        loop.wait_for('"ready": true')
    for loop in loops:
        loop.write("go\n")
    turns = [json.loads(loop.wait_for('"turns"', timeout=40).string)["turns"] for loop in loops]
    owned = sorted((turn[1], number) for number, mine in enumerate(turns) for turn in mine)
    start, end = max(mine[0][1] for mine in turns), min(mine[-1][1] for mine in turns)
    order = [number for when, number in owned if start <= when <= end]
    shares = [order.count(number) for number in range(2)]
    assert min(shares) >= 0.8 * max(shares), shares
    assert len(list(itertools.groupby(order))) > 0.5 * len(order), "they take turns"
    assert ferry.stop().code == 0

"""Programs at one card over a link of 40 ms, which act on what ``SCardBeginTransaction`` says: as at pcscd alone."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import PIV_PIN, piv_card
from tests.lab.computer import PCSC_CLIENT
from tests.lab.delay import DelayedPort
from tests.lab.ferry import Ferry, attach, cardferry
from tests.lab.link import install_cardferry, link_of, wait_for_link
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe

#: s
ONE_WAY = 0.02
SIGNATURES = 6
#: ykcs11 looks for readers of this name.
YUBIKEY = "Yubico YubiKey CCID"
W_RESET_CARD = "0x80100068"

_LOOP = "while :; do yubico-piv-tool -a read-certificate -s 9a && echo read; done"
_SIGN = "rm -f letter.sig && ssh-keygen -q -Y sign -f key.pub -n letter letter"


@dataclass(slots=True)
class Far:
    """A host with a YubiKey of ours, and a guest that is linked with it from far away."""

    recipe: Recipe
    ferry: Ferry


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    with Lab() as lab:
        recipe = Recipe(lab)
        recipe.pcscd.stop()
        recipe.pcscd = Pcscd(recipe.host, name=YUBIKEY)
        piv_card(recipe.pcscd)
        install_cardferry(recipe.host)
        port = DelayedPort(recipe.guest, recipe.host, ONE_WAY)
        config = recipe.host_sshd.config(recipe.guest, "far", port.address, port.port)
        ferry = attach(recipe, host="far", config=config)
        wait_for_link(recipe.guest, "attach")
        assert link_of(recipe.guest, "attach").way == "link"
        yield Far(recipe, ferry)


def client(far: Far, words: str) -> Running:
    command: list[str | Path] = [PLAIN_PYTHON, PCSC_CLIENT, *words.split(), YUBIKEY]
    return far.recipe.guest.popen(command, far.ferry.env, stdin=True)


def waiting(far: Far) -> bool:
    """Whether anybody waits for the card at the host."""
    (agent,) = json.loads(cardferry(far.recipe.host, "status", "--json").check().out)
    return any(reader["waiters"] for reader in agent["readers"])


def test_begin_says_that_the_card_was_reset_while_it_waited(far: Far) -> None:
    """libykpiv, yubikey.rs and pivy reconnect when begin says so, and after no other call."""
    second = client(far, "begin")
    second.wait_for("connected")
    first = client(far, "hold --reset")
    first.wait_for("held")
    second.write("\n")
    wait_until(lambda: waiting(far), "the second one waits")
    first.write("\n")
    assert first.wait().code == 0
    said = json.loads(second.wait().out.splitlines()[-1])
    assert said == {"error": W_RESET_CARD, "call": "SCardBeginTransaction"}


@contextmanager
def agent(computer: Computer, env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """ssh-agent with the key in it, by ykcs11; yields what leads programs to it."""
    home = computer.home
    ask, socket = home / "ask", home / "agent"
    ask.write_text(f"#!/bin/sh\necho {shlex.quote(PIV_PIN)}\n")
    ask.chmod(0o700)
    (home / "letter").write_text("Dear card\n")
    running = computer.popen(["ssh-agent", "-D", "-a", socket], env)
    wait_until(socket.exists, f"the agent listens: {running}")
    to_agent = {"SSH_AUTH_SOCK": str(socket)}
    asking = {"SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
    module = next(Path("/usr/lib").glob("*/libykcs11.so.2"))
    computer.run(["ssh-add", "-s", module], {**to_agent, **asking}).check()
    keys = computer.run(["ssh-add", "-L"], to_agent).check().out.splitlines()
    (home / "key.pub").write_text(keys[0] + "\n")
    yield to_agent
    running.stop()


def failures(computer: Computer, env: Mapping[str, str]) -> int:
    """How many signatures fail while another program uses the key again and again, and resets the card each time."""
    with agent(computer, env) as to_agent:
        loop = computer.popen(["sh", "-c", _LOOP], env)
        loop.wait_for("^read$")
        codes = [computer.run(["sh", "-c", _SIGN], to_agent).code for _ in range(SIGNATURES)]
        loop.wait_for("^read$")
        loop.stop()
    return SIGNATURES - codes.count(0)


def test_an_ssh_agent_with_ykcs11_signs_beside_a_loop_of_yubico_piv_tool(far: Far) -> None:
    at_pcscd = failures(far.recipe.host, {})
    assert failures(far.recipe.guest, far.ferry.env) <= at_pcscd

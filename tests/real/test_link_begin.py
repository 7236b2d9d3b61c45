"""What ``SCardBeginTransaction`` says over a link of 40 ms. `test_one_key` has the programs that act on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import piv_card
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
#: ykcs11 looks for readers of this name.
YUBIKEY = "Yubico YubiKey CCID"
W_RESET_CARD = "0x80100068"


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


def any_at_host(far: Far, what: str) -> bool:
    """Whether anybody holds the card at the host (``holder``), or waits for it (``waiters``)."""
    (agent,) = json.loads(cardferry(far.recipe.host, "status", "--json").check().out)
    return any(reader[what] for reader in agent["readers"])


def test_begin_says_that_the_card_was_reset_while_it_waited(far: Far) -> None:
    """libykpiv, yubikey.rs and pivy reconnect when begin says so, and after no other call."""
    second = client(far, "begin")
    second.wait_for("connected")
    first = client(far, "hold --reset")
    first.wait_for("held")
    wait_until(lambda: any_at_host(far, "holder"), "the first one has the card at the host, too")
    second.write("\n")
    wait_until(lambda: any_at_host(far, "waiters"), "the second one waits")
    first.write("\n")
    assert first.wait().code == 0
    said = json.loads(second.wait().out.splitlines()[-1])
    assert said == {"error": W_RESET_CARD, "call": "SCardBeginTransaction"}

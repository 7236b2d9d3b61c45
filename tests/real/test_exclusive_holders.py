"""Programs that keep the card for themselves, yubikey-agent and scdaemon, beside the host's own programs.

At pcscd the others are refused at once, and what the holder does never fails. Through cardferry the others may be
served when the holder was idle for long enough (`--max-idle`), but never wait longer; the holder fails no more often.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.compat import foreign
from tests.compat.foreign import NotAvailableError
from tests.lab import Computer, Lab
from tests.lab.agents import yubikey_agent
from tests.lab.cards import CardInReader, openpgp_card, piv_card
from tests.lab.gpg import Gpg
from tests.lab.loops import Loop
from tests.lab.process import Command, wait_until
from tests.lab.recipe import Recipe
from tests.lab.usb_reader import UsbReader
from tests.lab.ways import WAYS, Way

pytestmark = pytest.mark.alone

#: s
MAX_IDLE = 2.0
#: s beside the waiting: a loaded machine, programs far away.
_SLACK = 5.0
_READ = ("yubico-piv-tool", "-a", "read-certificate", "-s", "9a")
_ATR = ("opensc-tool", "-a")
_numbers = itertools.count()


@pytest.fixture(scope="module")
def program() -> Path:
    """yubikey-agent as Debian 12 has it; where it cannot be had it is named as missing, in CI it fails."""
    try:
        return foreign.unpack_program("yubikey-agent", "bookworm") / "usr/bin/yubikey-agent"
    except NotAvailableError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error), pytrace=False)
        pytest.skip(f"not run, missing: {error}")


def read(computer: Computer, env: Mapping[str, str] | None = None) -> int:
    """Run another program that uses the key; its exit code."""
    return computer.run(_READ, env).code


@dataclass(frozen=True, slots=True)
class Beside:
    """What came of a holder and the host's own programs.

    Attributes:
        failed: how often the holder did.
        waited: s that the longest run of the host's own took, beyond the holder's work.
    """

    failed: int
    waited: float


def beside_own_programs(host: Computer, own: Command, work: Callable[[], bool]) -> Beside:
    """A holder works (each time telling whether it succeeded) while the host's own program tries again and again.

    After that it may have lost the card, which it learns when it looks for cards next: scdaemon does so twice a second.
    """
    local = Loop(host, own, pause=0.2)
    began = time.monotonic()
    failed = [work() for _ in range(4)].count(False)
    busy = time.monotonic() - began
    waited = local.outcome().longest - busy
    wait_until(work, "it gets the card back", timeout=_SLACK)
    failed += [work() for _ in range(2)].count(False)
    return Beside(failed, waited)


# --- yubikey-agent


@dataclass(frozen=True, slots=True)
class Key:
    """A host with a YubiKey in a USB port, and a guest."""

    recipe: Recipe
    card: CardInReader
    usb: UsbReader


@pytest.fixture(scope="module")
def key() -> Iterator[Key]:
    """As yubikey-agent wants it: with an attestation certificate, by which it finds out whether it is still there."""
    with Lab() as lab:
        recipe = Recipe(lab, pcscd=UsbReader)
        assert isinstance(recipe.pcscd, UsbReader)
        card = piv_card(recipe.pcscd, stay=True)
        certificate = recipe.host.run(_READ).check().out  # both at once would be in each other's way
        recipe.host.run(
            ["yubico-piv-tool", "-a", "import-certificate", "-s", "f9", "-i", "-"], stdin=certificate
        ).check()
        yield Key(recipe, card, recipe.pcscd)


@contextmanager
def holding(program: Path, computer: Computer, env: Mapping[str, str]) -> Iterator[Callable[[], bool]]:
    """yubikey-agent has the key; yields what has it sign."""
    agent = yubikey_agent(computer, program, env, f"agent-{next(_numbers)}")
    try:
        yield lambda: computer.run(agent.signing, agent.env).code == 0
    finally:
        agent.process.stop()


def failures_after_return(key: Key, sign: Callable[[], bool]) -> int:
    """How many of some signatures fail after the reader has left and returned, before anybody far away has seen it.

    Far away it is gone for a moment longer: what is asked for in this moment is asked for again.
    """
    assert sign()
    key.usb.bounce()
    key.card.process.wait_for("^inserted$")
    key.usb.wait_for_card()
    wait_until(sign, "the agent signs again", timeout=_SLACK)
    return [sign() for _ in range(2)].count(False)


@pytest.fixture(scope="module")
def agent_at_pcscd(key: Key, program: Path) -> tuple[Beside, int]:
    """yubikey-agent beside others, and its failures after the reader's return, at pcscd alone."""
    host = key.recipe.host
    with holding(program, host, {}) as sign:
        return beside_own_programs(host, _READ, sign), failures_after_return(key, sign)


@pytest.fixture(params=WAYS, ids=str, scope="module")
def attached(request: pytest.FixtureRequest, key: Key, agent_at_pcscd: object) -> Iterator[Mapping[str, str]]:
    """The key's guest has attached its host; what leads programs there."""
    way: Way = request.param
    with way.attached(key.recipe, MAX_IDLE) as ferry:
        yield ferry.env


def test_yubikey_agent_beside_the_hosts_own_programs(
    key: Key, program: Path, agent_at_pcscd: tuple[Beside, int], attached: Mapping[str, str]
) -> None:
    with holding(program, key.recipe.guest, attached) as sign:
        through_us = beside_own_programs(key.recipe.host, _READ, sign)
    assert through_us.failed <= agent_at_pcscd[0].failed, through_us
    assert through_us.waited <= MAX_IDLE + _SLACK, through_us
    assert (read(key.recipe.guest, attached), read(key.recipe.host)) == (0, 0), "the key is free again"


def test_yubikey_agent_signs_again_when_the_reader_has_left_and_returned(
    key: Key, program: Path, agent_at_pcscd: tuple[Beside, int], attached: Mapping[str, str]
) -> None:
    with holding(program, key.recipe.guest, attached) as sign:
        assert failures_after_return(key, sign) <= agent_at_pcscd[1]
    assert (read(key.recipe.guest, attached), read(key.recipe.host)) == (0, 0), "others can use it as well"


# --- scdaemon


@pytest.fixture(scope="module")
def openpgp() -> Iterator[tuple[Recipe, Gpg, Beside]]:
    """A host with an OpenPGP card that has made its keys, who knows them, and how scdaemon fares at pcscd alone."""
    with Lab() as lab:
        recipe = Recipe(lab)
        openpgp_card(recipe.pcscd)
        gpg = Gpg(recipe.host)
        gpg.make_keys()
        alone = beside_own_programs(recipe.host, _ATR, lambda: gpg.sign("letter\n").code == 0)
        gpg.stop()
        yield recipe, gpg, alone


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_scdaemon_beside_the_hosts_own_programs(openpgp: tuple[Recipe, Gpg, Beside], way: Way) -> None:
    recipe, owner, alone = openpgp
    with way.attached(recipe, MAX_IDLE) as ferry:
        gpg = Gpg(recipe.guest, ferry.socket, name=f"gnupg-{next(_numbers)}")
        gpg.import_public(owner)
        through_us = beside_own_programs(recipe.host, _ATR, lambda: gpg.sign("letter\n").code == 0)
        gpg.stop()
        assert recipe.guest.run(_ATR, ferry.env).code == recipe.host.run(_ATR).code == 0, "the card is free again"
    assert through_us.failed <= alone.failed, through_us
    assert through_us.waited <= MAX_IDLE + _SLACK, through_us

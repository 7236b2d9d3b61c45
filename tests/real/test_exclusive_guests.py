"""A guest that has the card to itself and does nothing, and the programs on the host: none of them hangs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.computer import PCSC_CLIENT, Computer
from tests.lab.ferry import Ferry, attach, share
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.neighbours import Neighbours
from tests.lab.pcscd import SOCKET
from tests.lab.process import Running
from tests.lab.recipe import Recipe

pytestmark = pytest.mark.alone

READER = "Virtual PCD 00 00"
SHARING_VIOLATION, RESET_CARD = "0x8010000b", "0x80100068"
SELECT = f"apdu\t{READER}\t00a4040000"


@pytest.fixture(scope="module")
def recipe() -> Iterator[Recipe]:
    with Lab() as lab:
        recipe = Recipe(lab)
        fake_card(recipe.pcscd)
        yield recipe


@dataclass
class Guest:
    """How a computer has the host's card."""

    computer: Computer
    ferry: Ferry

    def holds(self) -> Running:
        """A program there that has the card to itself."""
        words: list[str | Path] = [PLAIN_PYTHON, PCSC_CLIENT, "hold", "--exclusive", READER]
        held = self.computer.popen(words, self.ferry.env, stdin=True)
        held.wait_for("held")
        return held

    def apdu(self) -> dict[str, object]:
        """What another program there gets."""
        return self.computer.pcsc(SELECT, self.ferry.socket)


@contextmanager
def guest(recipe: Recipe, way: str, *words: str) -> Iterator[Guest]:
    """A guest of the host's card."""
    if way == "linked":
        near = Neighbours(recipe.host, recipe.guest, recipe.host.folder.parent / "door")
        agent = near.agent(*words)
        found = Guest(recipe.guest, near.attach())
    elif way == "next door":
        found = Guest(recipe.host, Ferry(recipe.host, ["attach", f"pcscd:{SOCKET}", *words]))
    elif way == "shared":
        found = Guest(recipe.guest, share(recipe, "--no-link", *words))
    else:
        found = Guest(recipe.guest, attach(recipe, "--no-link", *words))
    try:
        yield found
    finally:
        found.ferry.stop()
        if way == "linked":
            agent.stop()


WAYS = pytest.mark.parametrize("way", ["next door", "forwarded", "shared", "linked"])


def is_refused_at_once(ask: Callable[[], dict[str, object]]) -> None:
    before = time.monotonic()
    answer = ask()
    assert answer.get("error") == SHARING_VIOLATION, answer
    assert time.monotonic() - before < 5


def lets_go(held: Running) -> None:
    """The holder still has the card, and ends."""
    held.write("\n")
    assert "9000" in held.wait().check().out


@WAYS
def test_a_program_on_the_host_is_refused_at_once_as_by_an_exclusive_program_there(recipe: Recipe, way: str) -> None:
    with guest(recipe, way) as exclusive:
        held = exclusive.holds()
        is_refused_at_once(lambda: recipe.host.pcsc(SELECT))
        lets_go(held)
        assert recipe.host.pcsc(SELECT)["answers"] == ["9000"]


@WAYS
def test_where_one_was_connected_before_the_next_one_is_served_when_the_lease_is_over(recipe: Recipe, way: str) -> None:
    words: list[str | Path] = [PLAIN_PYTHON, PCSC_CLIENT, "loop", READER, "--start", "--count", "1"]
    connected = recipe.host.popen(words, stdin=True)
    connected.wait_for("ready")
    with guest(recipe, way, "--max-idle", "3") as exclusive:
        held = exclusive.holds()
        before = time.monotonic()
        assert recipe.host.pcsc(SELECT)["answers"] == ["9000"]
        assert time.monotonic() - before < 15
        held.write("\n")
        assert RESET_CARD in held.wait().out
    connected.write("\n")
    assert RESET_CARD in connected.wait().out  # it was told, too


def test_a_second_forwarded_guest_is_refused_at_once_while_the_first_has_the_card_to_itself(recipe: Recipe) -> None:
    with guest(recipe, "forwarded") as first, guest(recipe, "next door") as second:
        held = first.holds()
        is_refused_at_once(second.apdu)
        lets_go(held)
        assert second.apdu()["answers"] == ["9000"]


def test_through_a_share_where_processes_cannot_be_told_apart_the_second_is_refused_at_once(recipe: Recipe) -> None:
    with guest(recipe, "shared") as only_sshd:
        held = only_sshd.holds()
        is_refused_at_once(only_sshd.apdu)
        lets_go(held)
        assert only_sshd.apdu()["answers"] == ["9000"]

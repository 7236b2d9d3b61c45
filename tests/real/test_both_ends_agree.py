"""``status``, ``readers`` and ``doctor`` say the same at both ends of a link, whatever is wrong, and it is true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import CardInReader, fake_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT
from tests.lab.ferry import Ferry, attach, cardferry
from tests.lab.link import SSHD, all_running, install_cardferry, kill
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import SOCKET
from tests.lab.process import Running, wait_until
from tests.lab.recipe import Recipe

READER = "Virtual PCD 00 00"
FALSE_PCSCD = Path(PCSC_CLIENT).with_name("false_pcscd.py")


@dataclass
class Linked:
    """A host with an agent that was started by hand, and a guest with two attachments."""

    recipe: Recipe
    card: CardInReader
    agent: Running
    ferries: tuple[Ferry, Ferry]

    def holding(self, ferry: Ferry) -> Running:
        """A program that begins a transaction, and keeps it until it is told to end."""
        return self.recipe.guest.popen([PLAIN_PYTHON, PCSC_CLIENT, "hold", READER], ferry.env, stdin=True)


def started(host: Computer, *arguments: str) -> Running:
    """An agent that is there."""
    agent = host.popen([CARDFERRY, "host", *arguments])
    wait_until(lambda: all_running(host), "the agent runs")
    return agent


@pytest.fixture(scope="module")
def linked() -> Iterator[Linked]:
    """For the whole file, whose last test leaves nothing as it was."""
    with Lab() as lab:
        recipe = Recipe(lab)
        card = fake_card(recipe.pcscd)
        install_cardferry(recipe.host)
        agent = started(recipe.host)
        ferries = attach(recipe, "--grace", "60"), attach(recipe, "--socket", str(recipe.guest.home / "other"))
        yield Linked(recipe, card, agent, ferries)


def status(computer: Computer, number: int = 0) -> dict[str, Any]:
    """What ``status`` shows of the oldest command there, or of another one."""
    found: dict[str, Any] = msgspec.to_builtins(all_running(computer)[number])
    return found


def cards(one: dict[str, Any]) -> list[tuple[Any, ...]]:
    """The readers, as both ends must show them."""
    return [(slot["reader"], slot["state"], slot["atr"], slot["protocol"]) for slot in one["readers"]]


def troubles(one: dict[str, Any]) -> list[tuple[str, str]]:
    """What keeps readers away: the cause, and the words without the host's name."""
    return [(trouble["cause"], trouble["says"].removeprefix("host: ")) for trouble in one["troubles"]]


def causes(computer: Computer, wanted: list[str]) -> bool:
    """Whether these are wrong there."""
    return [cause for cause, _ in troubles(status(computer))] == wanted


def program(words: str | None) -> str | None:
    """Without what only its own computer knows."""
    return words and re.sub(r" \(process.*?\)", "", words)


def users(one: dict[str, Any]) -> tuple[Any, ...]:
    """Who has the first reader's card, and who waits."""
    slot = one["readers"][0]
    waiting = [(program(waiter["client"]), waiter["principal"]) for waiter in slot["waiters"]]
    return program(slot["holder"]), slot["principal"], waiting


def agree(linked: Linked, cause: str | None, says: str = "", *, commands: bool = False) -> None:
    """Wait until both ends say that this is wrong.

    Args:
        commands: whether to see what ``status``, ``readers`` and ``doctor`` make of it, at both ends.
    """
    host, guest = linked.recipe.host, linked.recipe.guest
    wanted = [] if cause is None else [cause]
    for computer in (host, guest):
        wait_until(partial(causes, computer, wanted), f"{cause} at {computer.name}")
    assert troubles(status(guest)) == troubles(status(host))
    wait_until(lambda: cards(status(guest)) == cards(status(host)), "the same readers and cards")
    if cause is None:
        return
    assert re.search(says, status(host)["troubles"][0]["says"]), status(host)
    assert not status(guest)["readers"]
    linked.ferries[0].process.wait_for(f"^host: {says}", stream="err")
    linked.agent.wait_for(f"^{says}", stream="err")
    for computer in (host, guest) if commands else ():
        assert re.search(says, json.loads(cardferry(computer, "status", "--json").out)[0]["troubles"][0]["says"])
        assert re.search(says, cardferry(computer, "readers").err)
        first = json.loads(computer.run([CARDFERRY, "doctor", "--json"]).out)[0]
        assert (first["state"], bool(re.search(says, first["says"])), bool(first["hint"])) == ("problem", True, True)


def test_a_card_that_is_held_and_three_who_wait(linked: Linked) -> None:
    host, guest = linked.recipe.host, linked.recipe.guest
    holder = linked.holding(linked.ferries[0])
    holder.wait_for("held")
    waiting = []
    for ferry, number in zip((*linked.ferries, linked.ferries[0]), range(1, 4), strict=True):
        waiting.append(linked.holding(ferry))
        wait_until(lambda: len(status(host)["readers"][0]["waiters"]) == number, f"{number} wait")  # noqa: B023
    for number in range(2):
        wait_until(lambda: len(status(guest, number)["readers"][0]["waiters"]) == 3, "each link knows")  # noqa: B023
    (_, principal, queue) = said = users(status(host))
    assert said[0] == f"python3 on guest ({guest.address})"
    assert (principal, len(queue)) == (queue[0][1], 3)
    assert principal.startswith("ssh:")
    for number in range(2):
        assert users(status(guest, number)) == said
        assert status(guest, number)["readers"][0]["held"] == pytest.approx(status(host)["readers"][0]["held"], abs=2)
    rows = [json.loads(cardferry(computer, "readers", "--json").check().out)[0] for computer in (host, guest)]
    assert [users({"readers": [row]}) for row in rows] == [said, said]
    assert status(guest)["contexts"] == 3
    clients = [status(guest, number)["readers"][0]["clients"] for number in range(2)]
    assert all("python3 (process" in client for some in clients for client in some)
    assert clients[0], "its own programs that are connected, at least the holder"
    line = r"^python3 \(process .*\) on guest .* has waited 5 s for the card in .*, place 2 in the queue: python3"
    linked.ferries[1].process.wait_for(line, stream="err")
    linked.agent.wait_for(line, stream="err")
    assert linked.ferries[1].process.err.text.count("has waited") == 1, "its own program, and once"
    for one in (holder, *waiting):
        one.write("\n")
    for one in waiting:
        assert one.wait().code == 0
    wait_until(lambda: status(guest)["readers"][0]["holder"] is None, "the guest knows that nobody has it")


def test_what_keeps_readers_and_cards_away_and_a_host_that_is_away(linked: Linked) -> None:
    recipe = linked.recipe
    linked.card.remove()
    wait_until(lambda: not status(recipe.host)["readers"][0]["atr"], "no card")
    agree(linked, None)
    linked.agent.stop()
    linked.agent = started(recipe.host, "--reader", "Acme*")
    no_match = r"no reader matches --reader 'Acme\*'; there is Virtual PCD 00 00, Virtual PCD 00 01"
    agree(linked, "no_match", no_match)
    recipe.pcscd.stop()
    agree(linked, "missing", f"there is no pcscd socket at {SOCKET}", commands=True)
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    denying = recipe.host.popen([PLAIN_PYTHON, "-u", FALSE_PCSCD, "deny", SOCKET])
    denying.wait_for("^listening$")
    agree(linked, "refused", f"pcscd at {SOCKET} turned us away")
    denying.stop()
    recipe.host.outside(SOCKET).unlink(missing_ok=True)
    for entry in recipe.pcscd._configuration.iterdir():
        entry.unlink()
    recipe.pcscd.start()
    agree(linked, "no_reader", f"pcscd at {SOCKET} sees no reader")
    # A program that finds no readers may end well: then somebody must have said it.
    ran = cardferry(recipe.guest, "run", "--from", "host", "--", "true")
    assert ran.code == 0
    assert f"host: pcscd at {SOCKET} sees no reader" in ran.err
    before = len(linked.ferries[0].process.err.text)
    recipe.host_sshd.stop()
    while kill(recipe.host, SSHD):
        pass
    wait_until(lambda: status(recipe.guest)["links"][0]["state"].startswith("broken:"), "the guest has lost the host")
    wait_until(lambda: status(recipe.host)["links"][0]["state"] == "out of reach", "the host has lost the guest")
    said = linked.ferries[0].process.err.text[before:]
    assert said.count("lost host; programs wait") == 1
    assert said.count("cannot be reached") <= 1, said

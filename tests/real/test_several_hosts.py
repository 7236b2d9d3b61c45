"""Several computers in one command: hosts side by side, guests in one queue; one that is away disturbs nobody."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card, piv_card
from tests.lab.computer import CARDFERRY, PCSC_CLIENT, Computer
from tests.lab.ferry import Ferry, cardferry, over
from tests.lab.link import install_cardferry, kill
from tests.lab.namespaces import PLAIN_PYTHON
from tests.lab.pcscd import Pcscd
from tests.lab.process import wait_until
from tests.lab.recipe import Recipe
from tests.lab.sshd import Sshd

LOOP = ("loop", "Virtual PCD 00 00", "--count", "200", "--seconds", "30", "--start", "--work", "1")


class Third:
    """A third computer, with a pcscd, a card and an sshd of its own; reached as ``third`` beside ``host``."""

    def __init__(self, lab: Lab, recipe: Recipe) -> None:
        self.recipe = recipe
        self.computer = lab.computer("third")
        self.sshd = Sshd(self.computer)
        self.pcscd = Pcscd(self.computer)
        fake_card(self.pcscd)
        self.from_guest = self._config(recipe.guest, recipe.to_host)
        self.from_host = self._config(recipe.host, recipe.to_guest)

    def _config(self, computer: Computer, other: Path) -> Path:
        both = computer.folder / "ssh_config.both"
        both.write_text(other.read_text() + self.sshd.config(computer, "third").read_text())
        return both

    def attach(self) -> Ferry:
        return Ferry(self.recipe.guest, ["attach", "host", "third", *over(self.from_guest)])

    def readers(self, ferry: Ferry) -> list[str]:
        return [reader["name"] for reader in self.recipe.guest.pcsc("list", ferry.socket)["readers"]]


@pytest.fixture
def third(lab: Lab) -> Third:
    recipe = Recipe(lab)
    piv_card(recipe.pcscd)
    return Third(lab, recipe)


def test_the_readers_of_two_hosts_are_side_by_side_and_equal_names_tell_their_host(third: Third) -> None:
    ferry = third.attach()
    names = third.readers(ferry)
    assert sorted(names) == [
        "Virtual PCD 00 00",
        "Virtual PCD 00 00 (third)",
        "Virtual PCD 00 01",
        "Virtual PCD 00 01 (third)",
    ]
    listed = json.loads(cardferry(third.recipe.guest, "readers", "--json").check().out)
    assert {reader["atr"] for reader in listed if reader["atr"]} == {
        "3b9d138131fe1580fba00000030800001000010014",
        "3b80800101",
    }
    for reader in listed:
        if reader["atr"] == "3b80800101":
            answer = third.recipe.guest.pcsc(f"apdu\t{reader['reader']}\t00a4040000", ferry.socket)
            assert answer["answers"] == ["9000"]
    assert ferry.stop().code == 0


def test_a_host_that_is_away_from_the_start_does_not_keep_the_others_away_and_joins_later(third: Third) -> None:
    third.sshd.stop()
    ferry = third.attach()
    assert third.readers(ferry) == ["Virtual PCD 00 00", "Virtual PCD 00 01"]
    links = json.loads(cardferry(third.recipe.guest, "status", "--json").check().out)[0]["links"]
    assert [link["state"] == "up" for link in links] == [True, False]
    third.sshd.start()
    wait_until(lambda: len(third.readers(ferry)) == 4, "the third computer's readers come")


def test_a_host_that_goes_takes_only_its_own_readers_along(third: Third) -> None:
    ferry = third.attach()
    assert len(third.readers(ferry)) == 4
    before = third.readers(ferry)
    third.pcscd.stop()
    wait_until(lambda: len(third.readers(ferry)) == 2, "the third computer's readers go")
    answer = third.recipe.guest.pcsc(f"apdu\t{third.readers(ferry)[0]}\t00a4040000", ferry.socket)
    assert "answers" in answer
    third.pcscd.start()
    wait_until(lambda: sorted(third.readers(ferry)) == sorted(before), "they come back under their names")


def test_when_no_host_can_be_reached_the_first_ones_error_is_shown(third: Third) -> None:
    third.sshd.stop()
    third.recipe.host_sshd.stop()
    done = third.recipe.guest.run([CARDFERRY, "attach", "host", "third", *over(third.from_guest)])
    assert done.code not in (0, 1)
    assert "error: " in done.err
    assert "hint: " in done.err
    assert "Connection refused" in done.err


def test_two_guests_of_one_share_are_in_one_queue(third: Third) -> None:
    host = third.recipe.host
    command = ["share", "guest", "third", *over(third.from_host)]
    ferry = Ferry(host, command)
    first = ferry.socket
    ferry.wait_until_ready()
    sockets = {"guest": first, "third": ferry.socket}
    computers = {"guest": third.recipe.guest, "third": third.computer}
    loops = [
        computers[name].popen(
            [
                PLAIN_PYTHON,
                PCSC_CLIENT,
                "loop",
                "Virtual PCD 00 00",
                *["--count", "200", "--seconds", "30", "--start", "--work", "1"],
            ],
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
    # in one queue the two alternate: between two turns of one there is one of the other, while both run
    owned = sorted((turn[1], number) for number, mine in enumerate(turns) for turn in mine)
    end = min(mine[-1][1] for mine in turns)
    start = max(mine[0][1] for mine in turns)
    order = [number for when, number in owned if start <= when <= end]
    repeats = sum(one == other for one, other in itertools.pairwise(order))
    assert repeats <= len(order) * 0.05, f"{repeats} of {len(order)} turns did not alternate"
    assert ferry.stop().code == 0


@pytest.mark.parametrize("way", ["link", pytest.param("forwarding", marks=pytest.mark.slow)])
def test_a_guest_that_refuses_us_later_is_given_up_alone(third: Third, way: str) -> None:
    host = third.recipe.host
    if way == "link":
        install_cardferry(third.computer)
    ferry = Ferry(host, ["share", "guest", "third", *over(third.from_host)])
    first = ferry.socket
    ferry.wait_until_ready()
    third.computer.outside("/run/sshd/authorized_keys").write_text("")
    kill(host, "ssh .*-M .* third")
    ferry.process.wait_for("third refused the login: .*; it is not tried again", stream="err", timeout=40)
    links = json.loads(cardferry(host, "status", "--json").check().out)[0]["links"]
    assert "refused the login" in next(link["state"] for link in links if link["host"] == "third")
    assert third.recipe.guest.pcsc("list", first)["readers"]
    assert ferry.process.code is None
    assert ferry.stop().code == 0

"""A reader whose name is not UTF-8, as pcscd makes them when it cuts a long name: its bytes pass through."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab import Lab
from tests.lab.cards import fake_card
from tests.lab.ferry import Ferry
from tests.lab.neighbours import Neighbours
from tests.lab.pcscd import SOCKET, Pcscd

NAME = "Kartenleser f\udcfcr B\udcfcros"


@pytest.fixture(scope="module")
def near() -> Iterator[Neighbours]:
    with Lab() as lab:
        host, guest = lab.computer("host"), lab.computer("box")
        fake_card(Pcscd(host, name=NAME))
        yield Neighbours.of(host, guest, lab.folder)


@pytest.mark.parametrize("way", ["by hand", "next door", "linked"])
def test_the_name_passes_through_unchanged_and_leads_to_the_reader(near: Neighbours, way: str) -> None:
    if way == "by hand":
        computer, socket, stop = near.host, None, []
    elif way == "next door":
        ferry = Ferry(near.host, ["attach", f"pcscd:{SOCKET}"])
        computer, socket, stop = near.host, ferry.socket, [ferry.process]
    else:
        agent = near.agent()
        ferry = near.attach()
        computer, socket, stop = near.guest, ferry.socket, [ferry.process, agent]
    listed = computer.pcsc("list", socket)["readers"]
    assert [reader["name"] for reader in listed] == [f"{NAME} 00 00", f"{NAME} 00 01"]
    assert computer.pcsc(f"apdu\t{NAME}\t00a4040000", socket)["answers"] == ["9000"]
    for process in stop:
        process.stop()

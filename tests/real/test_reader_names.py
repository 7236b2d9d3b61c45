"""A reader whose name is not UTF-8, as pcscd makes them when it cuts a long name: its bytes pass through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Computer, Lab
from tests.lab.cards import fake_card
from tests.lab.ferry import Ferry, cardferry
from tests.lab.neighbours import Neighbours
from tests.lab.pcscd import SOCKET, Pcscd

NAME = "Kartenleser f\udcfcr B\udcfcros"
READERS = [f"{NAME} 00 00", f"{NAME} 00 01"]


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
    assert [reader["name"] for reader in listed] == READERS
    assert computer.pcsc(f"apdu\t{NAME}\t00a4040000", socket)["answers"] == ["9000"]
    for process in stop:
        process.stop()


def told(computer: Computer, *words: str) -> Any:
    """What a command says as JSON, which is ASCII."""
    said = cardferry(computer, *words, "--json").out
    assert said.isascii()
    return json.loads(said)


@pytest.mark.parametrize("way", ["next door", "linked"])
def test_commands_tell_the_name_to_programs(near: Neighbours, way: str) -> None:
    record = near.host.folder / f"record {way}"
    recording = ["--record", str(record)]
    if way == "next door":
        ferry = Ferry(near.host, ["attach", f"pcscd:{SOCKET}", *recording])
        computer, name, stop = near.host, f"pcscd:{SOCKET}", [ferry.process]
    else:
        agent = near.agent(*recording)
        ferry = near.attach()
        computer, name, stop = near.guest, near.name, [ferry.process, agent]
    assert computer.pcsc(f"apdu\t{NAME}\t00a4040000", ferry.socket)["answers"] == ["9000"]
    for one in {computer, near.host}:
        (running,) = told(one, "status")
        assert [reader["reader"] for reader in running["readers"]] == READERS
        assert [row["reader"] for row in told(one, "readers")] == READERS
    assert any(READERS[0] in finding["says"] for finding in told(computer, "doctor", name))
    for process in stop:
        process.stop()
    lines = record.read_text()
    assert lines.isascii()
    assert READERS[0] in [json.loads(line)["reader"] for line in lines.splitlines() if '"transmit"' in line]

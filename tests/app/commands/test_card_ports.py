"""What ``attach --native`` and ``--qemu`` are asked for, and what does not go together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cardferry.app.commands import card_ports as module
from cardferry.app.commands.card_ports import CardPortsError, card_ports
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.registry import parse_host
from cardferry.app.runtime.vpcd_slots import NoSlotsError
from cardferry.pcsc.errors import UserError

HOSTS: Sequence[HostAddress] = [parse_host("laptop")]
PATH = Path("/run/machine/ccid")


@pytest.fixture
def pcscd_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a pcscd here, with two virtual readers."""

    async def check(path: Path) -> None:
        assert path == Path("/run/pcscd/pcscd.comm")

    monkeypatch.setattr(module, "check_pcscd", check)
    monkeypatch.setattr(module, "vpcd_ports", lambda: [35963, 35964])


async def test_without_options_there_are_none() -> None:
    assert await card_ports(HOSTS, (), None, native=False) == ()


async def test_native_is_what_pcscds_configuration_has(pcscd_runs: None) -> None:
    ports = await card_ports(HOSTS, (), None, native=True)
    assert list(map(str, ports)) == [f"pcscd's virtual reader at port {port}" for port in (35963, 35964)]


async def test_ports_that_are_named_are_those(pcscd_runs: None) -> None:
    ports = await card_ports(HOSTS, (40000,), None, native=False)
    assert list(map(str, ports)) == ["pcscd's virtual reader at port 40000"]


async def test_a_machine() -> None:
    assert list(map(str, await card_ports(HOSTS, (), PATH, native=False))) == [f"the virtual machine at {PATH}"]


async def test_both_at_once_are_two_attachments(pcscd_runs: None) -> None:
    with pytest.raises(CardPortsError, match="two ways") as caught:
        await card_ports(HOSTS, (), PATH, native=True)
    assert "--socket" in caught.value.hint
    assert await card_ports(HOSTS, (), None, native=True)
    assert await card_ports(HOSTS, (), PATH, native=False)


async def test_readers_of_that_pcscd_are_in_it_already(pcscd_runs: None) -> None:
    with pytest.raises(CardPortsError, match="already") as caught:
        await card_ports([parse_host("pcscd:/run/pcscd/pcscd.comm")], (), None, native=True)
    assert "cardferry attach HOST --native" in caught.value.hint
    assert await card_ports(HOSTS, (), None, native=True)


async def test_a_path_that_no_socket_can_have() -> None:
    with pytest.raises(CardPortsError, match="107 bytes"):
        await card_ports(HOSTS, (), Path("/" + "x" * 107), native=False)
    assert await card_ports(HOSTS, (), Path("/" + "x" * 106), native=False)


async def test_without_virtual_readers_or_without_pcscd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "vpcd_ports", lambda: [35963])
    monkeypatch.setattr(module, "LOCAL_PCSCD", parse_host(f"pcscd:{tmp_path}/none"))
    with pytest.raises(UserError, match="pcscd"):
        await card_ports(HOSTS, (), None, native=True)

    def none() -> list[int]:
        raise NoSlotsError("none", "apt install vsmartcard-vpcd")

    monkeypatch.setattr(module, "vpcd_ports", none)
    with pytest.raises(NoSlotsError):
        await card_ports(HOSTS, (), None, native=True)

"""What a guest is told that finds no host where it dials."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from cardferry.pcsc.errors import UserError
from cardferry.transports.errors import NoHostError
from cardferry.transports.tls import tcp
from cardferry.transports.tls.address import TlsAddress
from cardferry.transports.tls.dialling import joined_host
from tests.transports.tls import tls_lab


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TlsAddress:
    """Was joined by this account; nobody listens there yet."""
    return tls_lab.joined_port(tmp_path, monkeypatch)


async def refusal(address: TlsAddress) -> UserError:
    with pytest.raises(UserError) as raised:
        await address.dial()
    return raised.value


async def test_nobody_listens(address: TlsAddress) -> None:
    told = await refusal(address)
    assert (type(told), told.exit_code) == (NoHostError, 34)
    assert f"cardferry host --listen tls::{address.port}" in told.hint


async def test_the_host_has_no_address(address: TlsAddress) -> None:
    joined_host(address).folder.rename(joined_host(nowhere := TlsAddress("no-such-host.invalid")).folder)
    told = await refusal(nowhere)
    assert (told.exit_code, "has no address" in told.message) == (34, True)


@pytest.mark.parametrize("said", [b"220 mail.example.org ESMTP\r\n", b""])
async def test_somebody_else_is_there(address: TlsAddress, said: bytes) -> None:
    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", address.port):
        told = await refusal(address)
    assert told.exit_code in (34, 35)
    assert "--listen" in told.hint


async def test_somebody_who_never_answers(address: TlsAddress, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_CONNECT_TIME", 0.1)
    with socket.create_server(("127.0.0.1", address.port)):
        told = await refusal(address)
    assert (told.exit_code, "nobody answers" in told.message) == (34, True)

from __future__ import annotations

import asyncio
import socket
import stat
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from cardferry.app.commands.card import dial
from cardferry.app.hosts import sources
from cardferry.app.hosts.connect import Way
from cardferry.app.hosts.sources import CardPortError, PcscdHost, VirtualHost, VpiccHost, check_pcscd
from cardferry.manager import LocalManager
from cardferry.transports.errors import PcscdDownError, PcscdMissingError, PcscdRefusesError
from cardferry.transports.listening import ListeningSocket, SocketInUseError
from cardferry.transports.probe import ask_version
from tests.link.cards import CountingCard
from tests.transports.queues import full_queue


@pytest.mark.parametrize(
    ("installed", "here"), [(True, "systemctl enable --now pcscd.socket"), (False, "apt install pcscd")]
)
async def test_no_pcscd_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: bool, here: str) -> None:
    """Not everybody who reads this has a reader: who has none must not install a pcscd."""
    path = tmp_path / "pcscd.comm"
    with pytest.raises(PcscdMissingError) as raised:
        await check_pcscd(path)
    assert raised.value.hint == "name the socket of a pcscd that runs, such as pcscd:/run/pcscd/pcscd.comm"
    if installed:
        (tmp_path / "pcscd").touch(0o755)
    monkeypatch.setattr(sources, "_SERVICES", str(tmp_path))
    monkeypatch.setattr(sources, "_PCSCD_PATHS", (path,))
    with pytest.raises(PcscdMissingError) as raised:
        await check_pcscd(path)
    assert raised.value.hint.startswith("is the reader plugged in at another computer? cardferry attach HOST; only if")
    assert raised.value.hint.endswith(here)


async def test_a_socket_that_nobody_listens_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pcscd.comm"
    with closing(socket.socket(socket.AF_UNIX)) as dead:
        dead.bind(str(path))
    with pytest.raises(PcscdDownError) as raised:
        await check_pcscd(path)
    assert raised.value.hint == "start anew what serves there"
    monkeypatch.setattr(sources, "_PCSCD_PATHS", (path,))
    with pytest.raises(PcscdDownError) as raised:
        await check_pcscd(path)
    assert raised.value.hint == "restart it: systemctl restart pcscd.socket"


async def test_a_queue_that_stays_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cardferry.app.hosts.sources.ask_version", partial(ask_version, timeout=0.01))
    path = tmp_path / "pcscd.comm"
    with full_queue(path), pytest.raises(PcscdDownError, match=f"the queue of connections at {path} is full"):
        await check_pcscd(path)


async def test_polkits_denial(tmp_path: Path) -> None:
    path = tmp_path / "pcscd.comm"

    async def deny(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_unix_server(deny, path):
        with pytest.raises(PcscdRefusesError) as raised:
            await check_pcscd(path)
    assert "polkit" in raised.value.hint


async def test_a_pcscd_that_cannot_be_reached_has_no_readers(tmp_path: Path) -> None:
    with pytest.raises(PcscdMissingError):
        async with PcscdHost(tmp_path / "pcscd.comm").open_readers(Way(tmp_path)):
            pass


async def test_the_built_in_card_is_there_at_once(tmp_path: Path) -> None:
    async with VirtualHost().open_readers(Way(tmp_path)) as readers, LocalManager([readers.source]) as manager:
        await readers.known()
        assert [bool(reader.atr) for reader in manager.snapshot.readers] == [True]
        assert readers.state() == "up"


async def test_cards_can_dial_in_once_it_is_open(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    async with VpiccHost(port).open_readers(Way(tmp_path)) as readers, LocalManager([readers.source]) as manager:
        await readers.known()
        assert len(manager.snapshot.readers) == 1
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()


async def test_a_port_for_cards_says_who_can_reach_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    async with VpiccHost(port).open_readers(Way(tmp_path)):
        assert f"any user of this computer can put a card in at port {port}" in caplog.text


async def test_a_socket_for_cards_is_for_this_account_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "card"
    async with VpiccHost(path).open_readers(Way(tmp_path)) as readers, LocalManager([readers.source]) as manager:
        await readers.known()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        before = manager.snapshot
        card = asyncio.get_running_loop().run_in_executor(None, dial, CountingCard(), path, lambda: None)
        while not (now := await manager.changed(before.serial)).readers[0].atr:
            before = now
        assert now.readers[0].atr == CountingCard().atr
        assert f"a card from {path}" in caplog.text
    await card  # it is hung up on
    assert not path.exists()
    assert "any user" not in caplog.text


async def test_a_socket_for_cards_that_is_taken_is_an_error_for_people(tmp_path: Path) -> None:
    with ListeningSocket(tmp_path / "card") as taken, pytest.raises(SocketInUseError) as raised:
        async with VpiccHost(taken.path).open_readers(Way(tmp_path)):
            pass
    assert "vpicc:unix:PATH" in raised.value.hint


async def test_a_port_that_is_taken_is_an_error_for_people(tmp_path: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CardPortError, match=f"port {port}"):
            async with VpiccHost(port).open_readers(Way(tmp_path)):
                pass

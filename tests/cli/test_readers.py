"""``cardferry readers``, also where nothing of ours runs: there it asks the pcscd of this computer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cardferry.app.commands import readers
from cardferry.cli.main import main
from cardferry.transports.errors import PcscdDownError
from tests.frontends.served import EchoCard, served


@pytest.fixture
def folder() -> Iterator[Path]:
    with TemporaryDirectory() as name:  # pytest's own are too long for sockets
        yield Path(name)


async def test_readers_of_the_pcscd_that_is_there(folder: Path) -> None:
    async with served(folder, ["A 00 00", "B 00 00"]) as pcscd:
        pcscd.readers[0].insert(EchoCard())
        found = await readers.readers_here(pcscd.path)
    assert (found.socket, found.missing) == (str(pcscd.path), "")
    assert [(slot.reader, slot.atr) for slot in found.readers] == [("A 00 00", EchoCard.atr.hex()), ("B 00 00", "")]


async def test_none_is_no_error_but_one_that_is_silent_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = (await readers.readers_here(folder / "none")).missing
    assert missing == f"nothing is attached or shared here, and there is no pcscd socket at {folder / 'none'}"

    async def hang_up_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(20))
        await reader.read()
        writer.close()

    monkeypatch.setattr(readers, "PATIENCE", 0.1)
    async with await asyncio.start_unix_server(hang_up_late, folder / "s"):
        with pytest.raises(PcscdDownError, match="its readers cannot be listed") as raised:
            await readers.readers_here(folder / "s")
    assert raised.value.hint == "start anew what serves there"


def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> str:
    """What the command prints where this computer's pcscd has two readers, or where there is none."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    with pytest.raises(SystemExit) as exited:
        main(["readers", *words])
    assert exited.value.code == 0
    return capsys.readouterr().out


def test_without_anything_of_ours_the_command_asks_pcscd(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def here() -> readers.ReadersHere:
        async with served(folder, ["A 00 00"]) as pcscd:
            return await readers.readers_here(pcscd.path)

    monkeypatch.setattr("cardferry.cli.readers.readers_here", here)
    assert shown(monkeypatch, capsys, folder) == "reader   card  through\nA 00 00  none  pcscd\n"
    (row,) = json.loads(shown(monkeypatch, capsys, folder, "--json"))
    assert (row["reader"], row["command"], row["sockets"]) == ("A 00 00", "pcscd", [str(folder / "s")])


def test_why_there_are_none(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("cardferry.cli.readers.readers_here", lambda: readers.readers_here(folder / "none"))
    assert shown(monkeypatch, capsys, folder).startswith("no readers: nothing is attached or shared here, and there is")
    assert json.loads(shown(monkeypatch, capsys, folder, "--json")) == []

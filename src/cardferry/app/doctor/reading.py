"""Which readers and cards a pcscd has, and what it speaks: one look through our own reader source."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.levels import RELEASES, library_level, refuse_each_other
from cardferry.readers.base import Reader
from cardferry.readers.pcscd import PcscdSource, unix_dial

_PATIENCE: Final = 15.0


class _Notes:
    """Observes readers and cards."""

    def __init__(self) -> None:
        self.readers: dict[str, bytes | None] = {}

    def reader_added(self, reader: Reader) -> None:
        self.readers[reader.name] = None

    def reader_removed(self, reader: Reader) -> None:
        self.readers.pop(reader.name, None)

    def card_inserted(self, reader: Reader, atr: bytes) -> None:
        self.readers[reader.name] = atr

    def card_removed(self, reader: Reader) -> None:
        self.readers[reader.name] = None


async def look(probe: str, path: Path, needed: bool) -> AsyncIterator[Finding]:
    """Look at the readers behind a pcsc-lite socket that answers.

    Args:
        probe: the name for findings.
        path: of the socket here.
        needed: whether it is a problem to have none.
    """
    notes = _Notes()
    settled: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_state(up: bool, failure: Exception | None) -> None:
        if not settled.done():
            settled.set_result("" if up else str(failure))

    source = PcscdSource(unix_dial(str(path)), str(path), on_state)
    async with asyncio.TaskGroup() as tasks:
        running = tasks.create_task(source.run(notes))
        try:
            async with asyncio.timeout(_PATIENCE):
                failure = await settled
        except TimeoutError:
            failure = "no answer"
        running.cancel()
    if failure:
        yield problem(probe, f"its readers cannot be listed: {failure}", "restart it: systemctl restart pcscd")
        return
    make = problem if needed else note
    if not notes.readers:
        yield make(probe, "pcscd sees no reader", "plug one in; for USB readers: apt install libccid, then replug")
    for name, atr in notes.readers.items():
        if atr:
            yield ok(probe, f"{name}: a card with ATR {atr.hex()}")
        elif atr is None:
            yield note(probe, f"{name}: no card")
        else:
            yield make(probe, f"{name}: the card does not answer", "turn it over, clean it, push it in again")
    if notes.readers and not any(notes.readers.values()):
        yield make(probe, "there is no card in any reader", "put one in")
    async for finding in _compare(probe, source.minor):
        yield finding


async def _compare(probe: str, level: int) -> AsyncIterator[Finding]:
    client = await library_level()
    if client is None or not level:
        return
    if refuse_each_other(client, level):
        yield note(
            probe,
            f"that pcscd speaks 4:{level} (pcsc-lite {RELEASES.get(level, 'newer')}) and this computer's library "
            f"4:{client}: forwarded by hand they refuse each other, through cardferry they work together",
        )

"""``readers`` where nothing of ours runs: what this computer's own pcscd knows, without touching a card."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from cardferry.app.hosts.sources import LOCAL_PCSCD, check_pcscd, restart_hint
from cardferry.manager.status import SlotStatus
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.pcscd import NoPcscdError, unix_connector
from cardferry.readers.pcscd.connection import Connection
from cardferry.transports.errors import PcscdDownError, PcscdMissingError
from cardferry.wire.pcsclite.messages import GetReadersState, StatesReply

#: s that pcscd gets: it answers when all cards have been powered for the first time.
PATIENCE: Final = 15.0


@dataclass(frozen=True, slots=True)
class ReadersHere:
    """The readers of this computer.

    Attributes:
        socket: where programs find them.
        missing: why there can be none, empty when there is a pcscd.
    """

    socket: str
    readers: Sequence[SlotStatus]
    missing: str = ""


async def list_readers(path: Path) -> tuple[int, list[ReaderState]]:
    """The protocol level of the pcsc-lite server at a socket here, and its readers.

    Raises:
        PcscdDownError: it answers, but does not list them.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            with closing(await Connection.open(unix_connector(str(path)))) as connection:
                states = cast(StatesReply, await connection.post(GetReadersState())).readers
                return connection.minor, [state for state in states if state.name]
    except (NoPcscdError, PcscError) as error:
        raise PcscdDownError(f"its readers cannot be listed: it {error}", restart_hint(path)) from None
    except TimeoutError:
        raise PcscdDownError(
            f"its readers cannot be listed: no answer within {PATIENCE:g} s", restart_hint(path)
        ) from None


async def readers_here(path: Path = LOCAL_PCSCD.path) -> ReadersHere:
    """Ask the pcscd of this computer; raises `TransportError` when there is one that does not answer us."""
    try:
        await check_pcscd(path)
    except PcscdMissingError as error:
        return ReadersHere(str(path), [], f"nothing is attached or shared here, and {error.message}")
    _, states = await list_readers(path)
    return ReadersHere(str(path), [SlotStatus.of(state, None, 0.0) for state in states])

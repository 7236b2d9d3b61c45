"""Which readers and cards are behind a pcsc-lite socket, and what it speaks: one look, without touching a card."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final, cast

from cardferry.app.commands.readers import PATIENCE, list_readers
from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.levels import Pair, pair, release_of
from cardferry.pcsc.card_name import card_name
from cardferry.pcsc.constants import CardState
from cardferry.pcsc.errors import PcscError
from cardferry.pcsc.reader_state import ReaderState
from cardferry.readers.pcscd import unix_connector
from cardferry.readers.pcscd.connection import Connection
from cardferry.transports.errors import PcscdDownError
from cardferry.wire.pcsclite.messages import Version, VersionReply

_EXCLUSIVE: Final = -1


async def look(
    probe: str, path: Path, *, needed: bool, library: int | None = None, direct: bool = False
) -> AsyncIterator[Finding]:
    """Look at the readers behind a pcsc-lite socket here that answers.

    Args:
        probe: the name for findings.
        path: of the socket.
        needed: whether it is a problem to have no reader or card.
        library: the level that programs here speak, None to leave it aside.
        direct: whether they use this very socket, so that it must understand them.
    """
    try:
        level, states = await list_readers(path)
    except PcscdDownError as error:
        yield problem(probe, error.message, error.hint)
        return
    for finding in about_readers(probe, states, needed):
        yield finding
    if library is not None:
        accepted = await _accepts(path, library)
        for finding in about_levels(probe, path, library, level, accepted=accepted, direct=direct):
            yield finding


def about_readers(probe: str, states: Sequence[ReaderState], needed: bool) -> list[Finding]:
    """What a list of readers tells; ``needed`` makes it a problem to have no reader or card."""
    make = problem if needed else note
    if not states:
        return [make(probe, "it sees no reader", "plug one in; USB readers need a driver: apt install libccid, replug")]
    findings = [_about_reader(probe, state) for state in states]
    if not any(state.state & CardState.PRESENT for state in states):
        findings.append(make(probe, "there is no card in any reader", "put one in"))
    findings += [
        note(
            probe,
            f"{state.name}: a program has the card for itself alone (an exclusive connection)",
            "if that is GnuPG's scdaemon: put pcsc-shared into its scdaemon.conf, or gpgconf --kill scdaemon",
        )
        for state in states
        if state.sharing == _EXCLUSIVE
    ]
    return findings


def _about_reader(probe: str, state: ReaderState) -> Finding:
    if state.state & CardState.UNKNOWN:
        return problem(probe, f"{state.name}: the reader is in error", "unplug it and plug it in again")
    if not state.state & CardState.PRESENT:
        return note(probe, f"{state.name}: no card")
    if not state.atr or state.state & CardState.SWALLOWED:
        return problem(probe, f"{state.name}: the card does not answer", "turn it over, clean it, push it in again")
    return ok(probe, f"{state.name}: {card_name(state.atr) or 'a card'} with ATR {state.atr.hex()}")


async def _accepts(path: Path, library: int) -> bool:
    """Whether that server takes a client of this level at once."""
    with closing(Connection(library)) as connection:
        try:
            async with asyncio.timeout(PATIENCE):
                await unix_connector(str(path))(lambda: connection)
                reply = cast(VersionReply, await connection.post(Version(minor=library)))
        except (OSError, PcscError):
            return False
        return reply.rv == 0


def about_levels(probe: str, path: Path, library: int, level: int, *, accepted: bool, direct: bool) -> list[Finding]:
    """Findings about a pair that is not of one mind.

    Args:
        accepted: whether the server takes the library's level.
        direct: see `look`.
    """
    outcome = pair(library, level, accepted)
    if outcome is Pair.WORKS:
        return []
    both = f"pcscd there speaks 4:{level} ({release_of(level)}), programs here 4:{library} ({release_of(library)})"
    what = {
        Pair.REFUSED: "they refuse each other",
        Pair.STUMBLES: "programs that first wait for readers, as pcsc_scan does, fail",
        Pair.DEPENDS: "some releases of these refuse each other",
    }[outcome]
    if not direct:
        return [note(probe, f"{both}: forwarded by hand {what}; through cardferry they work together")]
    make = problem if outcome is Pair.REFUSED else note
    return [make(probe, f"{both}: {what}", f"put cardferry in between: cardferry attach pcscd:{path}")]

"""Probes of this computer: its pcscd, its library, our own sockets, the environment."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final

from cardferry.app.control import Running
from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.levels import RELEASES, library_level
from cardferry.app.doctor.reading import look
from cardferry.app.origin import check_pcscd
from cardferry.app.paths import runtime_folder
from cardferry.app.run import VARIABLE, export_line
from cardferry.app.share import LOCAL_PCSCD
from cardferry.frontends.listening import MAX_SOCKET_PATH, listener
from cardferry.pcsc.errors import UserError

_CCID: Final = ("/usr/lib/pcsc/drivers/ifd-ccid.bundle", "/usr/local/lib/pcsc/drivers/ifd-ccid.bundle")


async def library() -> AsyncIterator[Finding]:
    """Is there a libpcsclite, and what does it speak?"""
    level = await library_level()
    if level is None:
        yield problem("library", "there is no libpcsclite on this computer", "apt install libpcsclite1")
    else:
        releases = RELEASES.get(level, "a newer release than this cardferry knows")
        yield ok("library", f"libpcsclite speaks 4:{level} (pcsc-lite {releases})")


async def own_pcscd(needed: bool) -> AsyncIterator[Finding]:
    """Does a pcscd run here, with readers and cards? Only those who lend readers need one."""
    try:
        await check_pcscd(LOCAL_PCSCD.path)
    except UserError as error:
        make = problem if needed else note
        yield make("pcscd here", error.message, error.hint)
        return
    yield ok("pcscd here", f"pcscd answers at {LOCAL_PCSCD.path}")
    async for finding in look("readers here", LOCAL_PCSCD.path, needed):
        yield finding
    if not any(map(os.path.exists, _CCID)):
        yield note("driver here", "the driver for USB readers (CCID) is not installed", "apt install libccid")


def sockets(running: list[Running]) -> Iterator[Finding]:
    """Do our sockets lead anywhere?"""
    served = {link.socket for one in running if one.command != "share" for link in one.links}
    for one in running:
        for link in one.links:
            if link.state == "up":
                yield ok(f"{one.command} {link.host}", f"serves at {link.socket}")
            else:
                yield problem(
                    f"{one.command} {link.host}", f"is down: {link.state}", "it tries again by itself; see its output"
                )
    for path in sorted(runtime_folder().glob("*.sock")):
        if str(path) not in served and listener(path) is None:
            yield note("sockets", f"{path} is dead, left by a killed process", "the next attach replaces it")


def environment(running: list[Running], environ: Mapping[str, str]) -> Iterator[Finding]:
    """Will programs started from this shell find our socket?"""
    attached = [one.socket for one in running if one.command != "share"]
    wanted = environ.get(VARIABLE, "")
    if not wanted:
        if attached:
            yield problem(
                "environment",
                f"{VARIABLE} is not set in this shell: programs started here do not find the attached readers",
                f'{export_line(attached[0])}, or eval "$(cardferry env)"',
            )
        else:
            yield ok("environment", f"{VARIABLE} is not set, and nothing is attached")
        return
    if len(os.fsencode(wanted)) > MAX_SOCKET_PATH:
        yield problem(
            "environment", f"{VARIABLE} is longer than {MAX_SOCKET_PATH} bytes; the library cuts it", "a shorter path"
        )
    elif wanted.startswith(("@", "\0")):
        yield problem("environment", f"{VARIABLE} names an abstract socket; the library wants a file", "use a file")
    elif not Path(wanted).exists():
        yield problem("environment", f"{VARIABLE} names {wanted}, which does not exist", _lead_to(attached))
    elif listener(Path(wanted)) is None:
        yield problem("environment", f"nobody listens at {wanted}, which {VARIABLE} names", _lead_to(attached))
    else:
        yield ok("environment", f"{VARIABLE} leads to {listener(Path(wanted))}")


def _lead_to(attached: list[str]) -> str:
    return export_line(attached[0]) if attached else "unset it, or start `cardferry attach HOST`"

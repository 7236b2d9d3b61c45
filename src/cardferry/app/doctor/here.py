"""Probes of this computer: its library, its pcscd, our own sockets, the environment."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Mapping
from glob import glob
from pathlib import Path
from typing import Final

from cardferry.app.commands.variable import VARIABLE, export_line
from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.levels import release_of
from cardferry.app.doctor.reading import look
from cardferry.app.hosts.address import HostAddress
from cardferry.app.hosts.sources import LOCAL_PCSCD, check_pcscd
from cardferry.app.runtime.status_socket import NOT_IN_USE, Running
from cardferry.pcsc.errors import UserError
from cardferry.transports.listening import listener
from cardferry.transports.sockets import PATH_LIMIT

#: Where distributions keep the driver for USB readers (shell patterns).
CCID_DRIVERS: Final = tuple(
    f"{folder}/pcsc/drivers/ifd-ccid.bundle/*" for folder in ("/usr/lib*", "/usr/lib/*", "/usr/local/lib*")
)
#: What ssh's control socket adds to the runtime folder: our folders, its name, and ssh's own temporary ending.
_CONTROL: Final = ".part-xxxxxxxx/0/ssh1/ctl" + "." + "x" * 16


def serving(running: list[Running]) -> list[Running]:
    """Those of our commands that have a socket for programs on this computer."""
    return [one for one in running if one.serves]


def library(level: int | None, needed: bool) -> Iterator[Finding]:
    """Is there a libpcsclite, and what does it speak? Only programs that use cards here need one."""
    if level is None:
        make = problem if needed else note
        yield make("library", "there is no libpcsclite on this computer", "apt install libpcsclite1")
    else:
        yield ok("library", f"libpcsclite speaks 4:{level} ({release_of(level)})")


async def own_pcscd(needed: bool, level: int | None, path: Path = LOCAL_PCSCD.path) -> AsyncIterator[Finding]:
    """Does a pcscd run here, with readers and cards? Only those who lend readers need one."""
    try:
        await check_pcscd(path)
    except UserError as error:
        if needed:
            yield problem("pcscd here", error.message, error.hint)
        else:
            yield note("pcscd here", f"{error.message}; none is needed to use readers of other computers")
        return
    yield ok("pcscd here", f"pcscd answers at {path}")
    async for finding in look("readers here", path, needed=needed, library=level, direct=needed):
        yield finding
    if not any(map(glob, CCID_DRIVERS)):
        yield no_driver("driver here", "")


def no_driver(probe: str, there: str) -> Finding:
    """The driver that almost every reader needs is missing; virtual readers do without."""
    return note(probe, f"the driver for USB readers (CCID) is not installed{there}", "apt install libccid")


def paths(folder: Path, host: HostAddress) -> Iterator[Finding]:
    """Are our sockets' paths short enough?"""
    for path in (folder / f"{host.label}.sock", folder / _CONTROL):
        size = len(os.fsencode(path))
        if size > PATH_LIMIT:
            yield problem(
                "sockets",
                f"the folder {folder} is too long for sockets: a path would have {size} bytes, and "
                f"{PATH_LIMIT} is the most",
                "set XDG_RUNTIME_DIR to a folder with a shorter path",
            )
            return


def troubles(running: list[Running]) -> Iterator[Finding]:
    """What keeps readers away from what runs: the cause of whatever else is found."""
    for one in running:
        for trouble in one.troubles:
            yield problem(f"readers of {one.command} {one.hosts}", trouble.says, trouble.hint)


async def sockets(running: list[Running], folder: Path) -> AsyncIterator[Finding]:
    """Do our sockets lead to cards?"""
    served: set[str] = set()
    for one in running:
        for link in one.links:
            probe = f"{one.command} {link.host}"
            if link.state == NOT_IN_USE:
                continue
            if link.state != "up":
                if link.state not in [trouble.says for trouble in one.troubles]:  # they were told already
                    yield problem(probe, f"is down: {link.state}", "it tries again by itself; see its output")
                continue
            yield ok(probe, f"serves at {link.socket}" + (f" ({link.way})" if link.way else ""))
        if one in serving(running) and one.socket not in served:
            served.add(one.socket)
            if one.troubles and not one.readers:
                continue
            async for finding in look(f"readers of {one.command} {one.hosts}", Path(one.socket), needed=True):
                yield finding
    for path in stale(folder):
        yield note("sockets", f"{path} is dead, left by a killed process", "the next attach replaces it")


def stale(folder: Path) -> list[Path]:
    """Sockets for programs in our runtime folder on which nobody listens."""
    return [path for path in sorted(folder.glob("*.sock")) if listener(path) is None]


async def environment(running: list[Running], environ: Mapping[str, str], level: int | None) -> AsyncIterator[Finding]:
    """Will programs started from this shell find our socket, or whatever the variable names?"""
    attached = [one.socket for one in serving(running)]
    wanted = environ.get(VARIABLE, "")
    if not wanted:
        if attached:
            yield problem(
                "environment",
                f"{VARIABLE} is not exported in this shell: programs started here do not find the attached readers",
                f'{export_line(attached[0])}, or eval "$(cardferry env)"',
            )
        else:
            yield ok("environment", f"{VARIABLE} is not set, and nothing is attached")
        return
    wrong = _unusable(wanted, attached) or await _silent(wanted, attached)
    if wrong is not None:
        yield wrong
        return
    yield ok("environment", f"{VARIABLE} leads to {listener(Path(wanted))}")
    if wanted not in attached:
        async for finding in look("readers in this shell", Path(wanted), needed=True, library=level, direct=True):
            yield finding


def _unusable(wanted: str, attached: list[str]) -> Finding | None:
    """What is wrong with a value of the variable that can be seen without using it."""
    size = len(os.fsencode(wanted))
    if size > PATH_LIMIT:
        said = f"has {size} bytes, and the library cuts it after {PATH_LIMIT}"
        hint = "choose a shorter path, as with cardferry attach --socket PATH"
    elif wanted.startswith("@"):
        said = f"names an abstract socket, {wanted}; the library wants a file"
        hint = _lead_to(attached)
    elif not wanted.startswith("/"):
        said = f"names {wanted}, which is not absolute: it means another file in every folder"
        hint = "write the whole path"
    elif not Path(wanted).exists():
        said, hint = f"names {wanted}, which does not exist", _lead_to(attached)
    elif not Path(wanted).is_socket():
        said, hint = f"names {wanted}, which is not a socket", _lead_to(attached)
    elif listener(Path(wanted)) is None:
        said, hint = f"names {wanted}, a stale socket on which nobody listens", _lead_to(attached)
    else:
        return None
    return problem("environment", f"{VARIABLE} {said}", hint)


async def _silent(wanted: str, attached: list[str]) -> Finding | None:
    try:
        await check_pcscd(Path(wanted))
    except UserError as error:
        hint = f"if ssh has forwarded it, look over there; {_lead_to(attached)}"
        return problem("environment", f"{VARIABLE}: {error.message}", hint)
    return None


def _lead_to(attached: list[str]) -> str:
    return export_line(attached[0]) if attached else f"unset {VARIABLE}, or start `cardferry attach HOST`"

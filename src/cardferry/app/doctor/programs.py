"""Probes of the programs that use cards: which do not look at the variable, and GnuPG's ways."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final

from cardferry.app.commands.run import VARIABLE
from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.here import serving
from cardferry.app.runtime.status_socket import Running
from cardferry.system.processes import environments

_USERS: Final = ("ssh", "gpg-agent", "opensc-tool", "pkcs11-tool", "ykman", "firefox", "su", "sudo", "login")
#: The first pcsc-lite whose library asks for the variable with ``secure_getenv`` (``winscard_msg.c``).
_SECURE: Final = (2, 1)
_CAPABILITY: Final = "security.capability"


async def output(*command: str) -> str | None:
    """What a program prints, None when it is not there or fails."""
    if shutil.which(command[0]) is None:
        return None
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    text, _ = await process.communicate()
    return text.decode(errors="replace") if process.returncode == 0 else None


async def privileged() -> AsyncIterator[Finding]:
    """Programs with more rights than their user ignore the variable from pcsc-lite 2.1.0 on."""
    text = await output("dpkg-query", "--show", "--showformat=${Version}\n", "libpcsclite1") or ""
    if heeds_always(text):
        return
    found = [path for name in _USERS if (path := shutil.which(name)) and has_rights(Path(path))]
    if found:
        yield note(
            "privileged programs",
            f"{', '.join(found)}: with more rights than their user (setuid, setgid or capabilities) programs ignore "
            f"{VARIABLE} from pcsc-lite 2.1.0 on",
            "where they must use a card, put the socket at /run/pcscd/pcscd.comm: cardferry share, from the host as "
            "root, --remote-socket /run/pcscd/pcscd.comm --mode 0666",
        )


def heeds_always(version: str) -> bool:
    """Whether a package's version is known to be older than 2.1: it takes the variable from everybody."""
    release = re.match(r"(?:\d+:)?(\d+)\.(\d+)", version)
    return release is not None and (int(release[1]), int(release[2])) < _SECURE


def has_rights(program: Path) -> bool:
    """Whether the kernel gives a program more rights than its user has."""
    path = program.resolve()
    try:
        if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
            return True
        return _CAPABILITY in os.listxattr(path)
    except OSError:
        return False


async def gnupg(running: list[Running], environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """GnuPG: scdaemon's own driver, its exclusive ways, and an agent with an old environment."""
    for holder in (slot.holder for one in running for slot in one.readers if slot.holder):
        if holder.startswith("scdaemon"):
            yield note(
                "gnupg",
                f"{holder} holds a card",
                "it keeps the card until it is idle and somebody waits; or put pcsc-shared into scdaemon.conf",
            )
    options = await output("gpgconf", "--list-options", "scdaemon")
    if options is None:
        return
    attached = [one.socket for one in serving(running)]
    wanted = environ.get(VARIABLE, "")
    if uses_own_driver(options):
        yield (problem if wanted or attached else note)(
            "gnupg",
            "scdaemon tries its own driver for USB readers (CCID) first, and so may not see remote ones",
            f"put the line disable-ccid into {environ.get('GNUPGHOME') or '~/.gnupg'}/scdaemon.conf, then "
            "gpgconf --kill scdaemon",
        )
    else:
        yield ok("gnupg", "scdaemon uses PC/SC")
    for finding in _agents({wanted} if wanted or not attached else set(attached)):
        yield finding


def uses_own_driver(options: str) -> bool:
    """Whether scdaemon has a driver of its own that is not switched off, in what gpgconf lists (tenth field)."""
    for line in options.splitlines():
        fields = line.split(":")
        if fields[0] == "disable-ccid":
            return len(fields) <= 9 or fields[9] in ("", "0")
    return False


def _agents(wanted: set[str]) -> Iterator[Finding]:
    """This user's gpg-agents that have another value of the variable than one of ``wanted``."""
    for pid, environ in environments("gpg-agent"):
        value = environ.get(VARIABLE, "")
        if value not in wanted:
            had = f"{VARIABLE}={value}" if value else f"{VARIABLE} not set"
            yield problem(
                "gnupg",
                f"gpg-agent (process {pid}) was started with {had}, and keeps that",
                "gpgconf --kill gpg-agent, then use gpg from a shell that has the variable",
            )

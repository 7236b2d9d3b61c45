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

from cardferry.app.control import Running
from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.run import VARIABLE

_USERS: Final = (
    "ssh",
    "ssh-agent",
    "gpg-agent",
    "opensc-tool",
    "pkcs11-tool",
    "ykman",
    "firefox",
    "su",
    "sudo",
    "login",
)
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
    text = await output("dpkg-query", "--show", "--showformat=${Version}", "libpcsclite1") or ""
    release = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    if release and release < _SECURE:
        return
    for name in _USERS:
        found = shutil.which(name)
        if found and _has_rights(found):
            yield note(
                "privileged programs",
                f"{name} runs with more rights than you have (setuid, setgid or capabilities): from pcsc-lite 2.1.0 "
                f"on it ignores {VARIABLE}",
                f"for it, bind our socket to /run/pcscd/pcscd.comm, or remove the extra rights from {found}",
            )


def _has_rights(found: str) -> bool:
    path = Path(found).resolve()
    try:
        if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID):
            return True
        return _CAPABILITY in os.listxattr(path)
    except OSError:
        return False


async def gnupg(running: list[Running], environ: Mapping[str, str]) -> AsyncIterator[Finding]:
    """GnuPG: scdaemon's own driver, its exclusive ways, and an agent with an old environment."""
    holders = [slot.holder for one in running for slot in one.readers if slot.holder]
    for holder in holders:
        if holder.startswith("scdaemon"):
            yield note(
                "gnupg",
                f"{holder} holds a card",
                "it keeps the card until it is idle and somebody waits; or put pcsc-shared into scdaemon.conf",
            )
    options = await output("gpgconf", "--list-options", "scdaemon")
    if options is None:
        return
    if not _is_set(options, "disable-ccid"):
        yield (problem if environ.get(VARIABLE) else note)(
            "gnupg",
            "scdaemon tries its own driver for USB readers first, and so may not see remote ones",
            "put the line disable-ccid into ~/.gnupg/scdaemon.conf, then gpgconf --kill scdaemon",
        )
    else:
        yield ok("gnupg", "scdaemon uses PC/SC")
    for finding in _agents(environ.get(VARIABLE, "")):
        yield finding


def _is_set(options: str, name: str) -> bool:
    """Whether an option has a value in what gpgconf lists: the tenth field of its line."""
    for line in options.splitlines():
        fields = line.split(":")
        if fields[0] == name:
            return len(fields) > 9 and fields[9] not in ("", "0")
    return False


def _agents(wanted: str) -> Iterator[Finding]:
    mounts = Path("/proc/self/ns/mnt").readlink()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid != os.getuid() or (process / "comm").read_text().strip() != "gpg-agent":
                continue
            if (process / "ns/mnt").readlink() != mounts:
                continue  # of a container, which has its own paths
            variables = dict(
                entry.split("=", 1) for entry in (process / "environ").read_text().split("\0") if "=" in entry
            )
        except OSError:
            continue
        if variables.get(VARIABLE, "") != wanted:
            yield problem(
                "gnupg",
                f"gpg-agent (process {process.name}) was started with {VARIABLE}={variables.get(VARIABLE, '')!r}",
                "gpgconf --kill gpg-agent, then use gpg from a shell that has the variable",
            )

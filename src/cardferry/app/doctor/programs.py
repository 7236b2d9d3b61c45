"""Probes of the programs that use cards: which do not look at the variable, and GnuPG's ways."""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from cardferry.app.commands.user_session import GpgAgent, gpg_agent, output
from cardferry.app.commands.variable import VARIABLE
from cardferry.app.doctor.finding import Finding, note, ok, problem
from cardferry.app.doctor.here import serving
from cardferry.app.hosts.sources import LOCAL_PCSCD
from cardferry.app.runtime.status_socket import Running
from cardferry.system.peers import process_name
from cardferry.system.processes import environment_of
from cardferry.transports.listening import listener

_USERS: Final = ("ssh", "gpg-agent", "opensc-tool", "pkcs11-tool", "ykman", "firefox", "su", "sudo", "login")
#: The first pcsc-lite whose library asks for the variable with ``secure_getenv`` (``winscard_msg.c``).
_SECURE: Final = (2, 1)
_CAPABILITY: Final = "security.capability"


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
            "where they must use a card, and no pcscd runs here: as root, "
            f"cardferry attach HOST --socket {LOCAL_PCSCD.path}",
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
    """GnuPG: scdaemon's own driver, its exclusive ways, and an agent with an old environment.

    Nothing of that is a problem for somebody who has never used gpg.
    """
    for holder in (slot.holder for one in running for slot in one.readers if slot.holder):
        if holder.startswith("scdaemon"):
            yield note(
                "gnupg",
                f"{holder} holds a card",
                "it keeps the card until it is idle and somebody waits; or put pcsc-shared into scdaemon.conf",
            )
    options = await output("gpgconf", "--list-options", "scdaemon")
    home = await output("gpgconf", "--list-dirs", "homedir")
    if options is None or home is None:
        return
    folder = Path(unquote(home.strip()))
    make = problem if _used(folder) else note
    attached = [one.socket for one in serving(running)]
    wanted = environ.get(VARIABLE, "")
    if uses_own_driver(options):
        yield (make if wanted or attached else note)(
            "gnupg",
            "scdaemon tries its own driver for USB readers (CCID) first, and so may not see remote ones",
            f"put the line disable-ccid into {folder}/scdaemon.conf, then gpgconf --kill scdaemon",
        )
    else:
        yield ok("gnupg", "scdaemon uses PC/SC")
    agent = await gpg_agent()
    if agent is not None and agent.value not in ({wanted} if wanted or not attached else set(attached)):
        yield make("gnupg", *_old_environment(agent, wanted or next(iter(attached), "")))


def _used(home: Path) -> bool:
    """Whether this user has ever run gpg."""
    return home.is_dir() and any(home.iterdir())


def _old_environment(agent: GpgAgent, wanted: str) -> tuple[str, str]:
    """What is wrong with an agent's environment, and what helps."""
    value = f"{VARIABLE}={agent.value}" if agent.value else f"{VARIABLE} not set"
    says = f"gpg-agent has {value}, and keeps that" if agent.runs else f"systemd will start gpg-agent with {value}"
    mend = "cardferry env --import" if wanted else f"systemctl --user unset-environment {VARIABLE}"
    hint = f"systemd's user manager starts it: {mend}"
    if agent.runs and agent.by_manager:
        hint += ", then gpgconf --kill gpg-agent"
    elif agent.runs:
        hint = "gpgconf --kill gpg-agent, then use gpg from a shell that has the variable"
    return says, hint


def uses_own_driver(options: str) -> bool:
    """Whether scdaemon has a driver of its own that is not switched off, in what gpgconf lists (tenth field)."""
    for line in options.splitlines():
        fields = line.split(":")
        if fields[0] == "disable-ccid":
            return len(fields) <= 9 or fields[9] in ("", "0")
    return False


def ssh_agent(running: list[Running], environ: Mapping[str, str]) -> Iterator[Finding]:
    """An ssh-agent looks for readers where its own environment says; only that of ``ssh-add -s`` needs any."""
    attached = [one.socket for one in serving(running)]
    wanted = {environ[VARIABLE]} if environ.get(VARIABLE) else set(attached)
    path = Path(environ.get("SSH_AUTH_SOCK", ""))
    if not wanted or path.name.startswith("S.gpg-agent") or not path.is_socket():
        return
    pid = _ssh_agent_at(path, environ)
    if pid is None:
        return
    its = environment_of(pid)
    if its is None or its.get(VARIABLE) not in wanted:
        yield note(
            "ssh-agent",
            f"ssh-agent (process {pid}) {'may have' if its is None else 'has'} another {VARIABLE}, and keeps that: "
            "`ssh-add -s` would look for readers there",
            'eval "$(ssh-agent)" in a shell that has the variable; or without it: cardferry run -- ssh -I PROVIDER',
        )


def _ssh_agent_at(path: Path, environ: Mapping[str, str]) -> int | None:
    """The process id of the ssh-agent at that socket; None if it is another agent, or a forwarded one."""
    told = environ.get("SSH_AGENT_PID", "")  # it forks when it has bound its socket, so the kernel names its parent
    named = re.search(r"\(process (\d+)\)$", listener(path) or "")
    pid = int(told) if told.isdecimal() else int(named[1]) if named else 0
    return pid if process_name(pid) == "ssh-agent" else None
